"""What rankings see of one fit."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from undue_service.domain.errors import Reason, ResourceExhausted
from undue_service.domain.methods import default_method
from undue_service.domain.mislabels import Mislabels, RankingName
from undue_service.engine.attribution import SelfAttribution, self_influence
from undue_service.engine.data import Rows
from undue_service.engine.diagnostics import EngineDiagnostics, begin
from undue_service.engine.methods import Problem
from undue_service.engine.objective import Objective
from undue_service.engine.progress import Progress
from undue_service.engine.retraining.edits import Edit

from .choosing import moved
from .fits import Fits
from .folds import out_of_sample
from .labels import classes_of
from .rankings import Fitted, find_ranking

ESTIMAND = (
    "how wrong a training row's label looks; self_influence: the change of the row's own loss when it is removed; loss "
    "and margin: of the model that was fitted to it; confident_learning: of models that were not"
)


@dataclass
class Sight:
    """Makes what rankings look at, for one fit after the other."""

    spec: Mislabels
    objective: Objective
    """Of the fits."""
    scoring: Objective
    """The same model in the precision of the method of self-influence."""
    train: Rows
    fits: Callable[[], Fits]
    """Made where a ranking needs some."""
    memory_bytes: int
    progress: Progress
    attribution: SelfAttribution | None = field(default=None, init=False)
    """The first that was made."""

    def scores(
        self,
        theta: Tensor,
        outputs: Tensor,
        labels: Tensor,
        rows: Rows,
        without: Callable[[NDArray[np.int64]], Edit],
        seed: int,
    ) -> dict[RankingName, Tensor]:
        """Return the scores (n,) of every ranking that was asked for.

        Args:
            theta: θ of the fit, (P,).
            outputs: f of the training rows there, (n, C).
            labels: that they have, (n,).
            rows: the training rows with these labels.
            without: these rows without some, as an edit of the training data.
            seed: of whatever is drawn.
        """

        def own_influence() -> SelfAttribution:
            found = self_influence(
                moved(self.scoring, theta),
                rows,
                method=self.spec.method or default_method(self.scoring.head is not None, self.scoring.space.dim),
                damping=self.spec.damping,
                leverage_correction=self.spec.leverage_correction,
                seed=seed,
                memory_bytes=self.memory_bytes,
                progress=self.progress,
            )
            self.attribution = self.attribution or found
            return found

        fitted = Fitted(
            loss=self.objective.loss,
            outputs=outputs,
            labels=labels.to(outputs.device),
            generator=torch.Generator().manual_seed(seed),
            self_influence=own_influence,
            out_of_sample=lambda: out_of_sample(self.fits(), labels, without, theta, folds=self.spec.folds, seed=seed),
        )
        return {name: find_ranking(name).score(fitted).cpu() for name in self.spec.rankings}

    def diagnostics(self, solver: tuple[str, str], seconds: float, warnings: tuple[str, ...]) -> EngineDiagnostics:
        """Return what is to be said of the scores: with the damping of self-influence where that was asked for."""
        diagnosis = begin(Problem(self.objective, self.train, memory_bytes=self.memory_bytes, progress=self.progress))
        program, own = self.objective.program, self.attribution
        warnings = (*diagnosis.warnings, *warnings)
        if own is not None:
            return replace(
                own.diagnostics,
                estimand=ESTIMAND,
                scale="relative",
                stationarity=diagnosis.stationarity,
                seconds=seconds,
                warnings=tuple(dict.fromkeys((*warnings, *own.diagnostics.warnings))),
            )
        return EngineDiagnostics(
            estimand=ESTIMAND,
            scale="relative",
            method="mislabels",
            damping=0.0,
            damping_source="unused",
            leverage_correction=False,
            solver=solver[0],
            solver_status=solver[1],
            residual=0.0,
            matvecs=0,
            stationarity=diagnosis.stationarity,
            dtype=str(program.dtype).removeprefix("torch."),
            device=str(program.device),
            seconds=seconds,
            warnings=warnings,
        )


def of_rankings(spec: Mislabels, objective: Objective) -> tuple[str, ...]:
    """Return what the reader should know of the rankings."""
    if classes_of(objective) == 2 and {"loss", "margin"} <= set(spec.rankings):
        return ("of two classes margin and loss are the same ranking",)
    return ()


def check_memory(objective: Objective, n: int, memory_bytes: int) -> None:
    """Hold what is kept of every row against the budget.

    Raises:
        ResourceExhausted: OUT_OF_MEMORY.
    """
    taken = 8 * n * (4 * classes_of(objective) + 4)
    if taken > memory_bytes:
        text = (
            f"the probabilities of {n:,} rows and {classes_of(objective):,} classes take {taken / 2**30:.1f} GiB, more "
            f"than the {memory_bytes / 2**30:.1f} GiB allowed: take fewer rows"
        )
        raise ResourceExhausted(Reason.OUT_OF_MEMORY, text)
