"""What the demonstration says of each misread digit, and what retraining says to it."""

from collections.abc import Sequence
from dataclasses import dataclass

import undue
from demo_classifier import Classifier, Digits, fit

SIGN = (
    "A positive score is helpful: removing that training row would raise the loss on this test digit by about so much."
    " A negative one is harmful: removing it would lower the loss."
)

DOUBTS_SHOWN = 8


@dataclass(frozen=True, slots=True)
class Removal:
    """Some training rows taken away: what their scores foretold for a test digit, and what retraining gave."""

    rows: tuple[int, ...]
    foretold: float
    """Change of the test digit's loss: the sum of the rows' scores."""
    measured: float
    """Change of the test digit's loss after retraining without them."""
    read_as: int
    """What the retrained model reads."""


@dataclass(frozen=True, slots=True)
class Case:
    """A misread test digit."""

    explanation: undue.Explanation
    single: Removal
    """Without the most harmful row."""
    group: Removal
    """Without all harmful rows that are listed."""

    @property
    def title(self) -> str:
        """What went wrong, in a few words."""
        label = self.explanation.target
        return f"{'An' if label == 8 else 'A'} {label}, read as {self.explanation.prediction}"

    @property
    def why(self) -> str:
        """The ranking in two sentences."""
        read_as, harmful = self.explanation.prediction, self.explanation.harmful
        worst, alike = harmful[0], sum(e.target == read_as for e in harmful)
        doubt = f" but read as {worst.prediction} by the model itself" if worst.prediction != worst.target else ""
        return (
            f"The most harmful training row is {worst.row}, labelled {worst.target}{doubt}: without it the loss would"
            f" be {-worst.score:.3f} lower. {alike} of the {len(harmful)} most harmful rows"
            f" {'is' if alike == 1 else 'are'} labelled {read_as}."
        )

    @property
    def check(self) -> str:
        """What retraining gave, in two sentences."""
        before, group = self.explanation.loss, self.group
        verb = "still reads" if group.read_as == self.explanation.prediction else "reads"
        return (
            f"Retrained without that row, the loss is {-self.single.measured:.3f} lower. Retrained without all"
            f" {len(group.rows)}, it goes from {before:.2f} to {before + group.measured:.2f}"
            f" (the scores said {before + group.foretold:.2f}) and the model {verb} {group.read_as}."
        )


@dataclass(frozen=True, slots=True)
class Doubt:
    """A training row that harms and whose label the model does not believe: mislabelled, or merely hard."""

    example: undue.ScoredExample
    harm: float
    """Sum of its negative scores over the misread digits that rank it."""
    harms: int
    """How many of them it harms."""
    helps: int
    """How many of them it helps."""


@dataclass(frozen=True, slots=True)
class Findings:
    """All that the demonstration shows."""

    cases: tuple[Case, ...]
    doubts: tuple[Doubt, ...]
    """Labels worth a second look, those that do most harm first."""
    diagnostics: undue.Diagnostics

    @property
    def agreement(self) -> str:
        """How well the scores foretold what retraining gave, in one sentence."""
        measured = [case.single.measured for case in self.cases]
        errors = [case.single.foretold - case.single.measured for case in self.cases]
        return (
            f"retraining without the most harmful row of each digit changed its loss by up to"
            f" {max(map(abs, measured)):.3f}; no score was off by more than {max(map(abs, errors)):.3f}."
        )


def most_explained(explanations: Sequence[undue.Explanation], count: int) -> list[undue.Explanation]:
    """Return the explanations that hinge most on a single training row: the most harmful score first."""
    return sorted((e for e in explanations if e.harmful), key=lambda e: e.harmful[0].score)[:count]


def find(
    digits: Digits, classifier: Classifier, result: undue.InfluenceResult, shown: Sequence[undue.Explanation]
) -> Findings:
    """Retrain without the rows that the shown explanations blame, and gather what there is to say."""
    retrained: dict[tuple[int, ...], Classifier] = {}

    def remove(explanation: undue.Explanation, blamed: Sequence[undue.ScoredExample]) -> Removal:
        rows = tuple(sorted(e.row for e in blamed))
        if rows not in retrained:  # several digits may blame the same rows
            retrained[rows] = fit(digits, without=rows, start=classifier)
        x = digits.x_test[[explanation.row]]
        before, after = (-model.log_probabilities(x)[0, explanation.target] for model in (classifier, retrained[rows]))
        return Removal(rows, sum(e.score for e in blamed), float(after - before), int(retrained[rows].read(x)[0]))

    cases = tuple(Case(e, remove(e, e.harmful[:1]), remove(e, e.harmful)) for e in shown)
    return Findings(cases, tuple(_doubts(result.explanations)[:DOUBTS_SHOWN]), result.diagnostics)


def _doubts(explanations: Sequence[undue.Explanation]) -> list[Doubt]:
    ranked: dict[int, list[undue.ScoredExample]] = {}
    for example in (e for explanation in explanations for e in (*explanation.helpful, *explanation.harmful)):
        if example.prediction != example.target:
            ranked.setdefault(example.row, []).append(example)
    doubts = []
    for examples in ranked.values():
        harmful = [e.score for e in examples if e.score < 0]
        if harmful:
            doubts.append(Doubt(examples[0], sum(harmful), len(harmful), len(examples) - len(harmful)))
    return sorted(doubts, key=lambda doubt: doubt.harm)
