"""Why were these digits misread? Fits a classifier, asks undue, prints the answer and writes it as an HTML page.

Usage: python examples/demo.py [--output demo-report.html] [--digits 8] [--top-k 5]
"""

import argparse
import inspect
import sys
import tempfile
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import undue

if TYPE_CHECKING:
    from demo_classifier import Digits


class Stages:
    """Prints each stage with the seconds it took."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._stage: tuple[str, float] | None = None
        self._terminal = sys.stdout.isatty()

    def __call__(self, stage: str) -> None:
        """End the stage before and begin this one."""
        self.end()
        self._stage = stage, time.perf_counter()
        if self._terminal:
            print(f"    …    {stage}", end="", flush=True)

    def end(self) -> None:
        """End the stage that runs."""
        if self._stage:
            stage, start = self._stage
            print("\r" * self._terminal + f"{time.perf_counter() - start:5.1f} s  {stage}", flush=True)
        self._stage = None

    @property
    def total(self) -> float:
        """Seconds since the beginning."""
        return time.perf_counter() - self._start


def explain(
    digits: "Digits", onnx_file: Path, l2: float, misread: Sequence[int], top_k: int, stage: Stages
) -> undue.InfluenceResult:
    """Ask undue which training digits made the classifier misread those test digits."""
    stage("start an embedded undue service")
    with undue.Client.local() as client:
        stage("register the training and test digits")
        train = client.datasets.register("digits-train", undue.Arrays(inputs=digits.x_train, targets=digits.y_train))
        test = client.datasets.register("digits-test", undue.Arrays(inputs=digits.x_test, targets=digits.y_test))
        stage("register the model: checked in torch and onnxruntime")
        objective = undue.Objective("cross_entropy", l2=l2)
        model = client.models.register("digits", onnx_file, objective=objective, sample=train)
        stage(f"score {len(train):,} training digits for each of {len(misread)} misread ones")
        job = client.influence(model, train=train, test=test, rows=misread, method="exact", top_k=top_k)
        result = job.result()
        stage("stop the service")
    return result


def listing() -> str:
    """Return the body of `explain`, which is what the page shows, without its stages."""
    body = inspect.getsource(explain).partition('"""\n')[2]
    lines = [line for line in body.splitlines() if not line.lstrip().startswith(("stage(", "return "))]
    return "import undue\n\n" + textwrap.dedent("\n".join(lines))


def main() -> None:
    """Run the demonstration."""
    parser = argparse.ArgumentParser(description="Explains misread digits: a table here, an HTML page beside it.")
    parser.add_argument("--output", type=Path, default=Path("demo-report.html"), help="the page (%(default)s)")
    parser.add_argument("--digits", type=_positive, metavar="N", default=8, help="misread digits to show (%(default)s)")
    parser.add_argument(
        "--top-k",
        type=int,
        choices=range(2, 11),
        metavar="K",
        default=5,
        help="training rows a side, 2 to 10 (%(default)s)",
    )
    options = parser.parse_args()
    if not options.output.absolute().parent.is_dir():
        parser.error(f"--output: there is no folder {options.output.absolute().parent}")

    print("\nWhy were these digits misread?\n", flush=True)
    stage = Stages()
    stage("load torch and scikit-learn")
    import torch

    import demo_cases
    import demo_classifier
    import demo_page
    import demo_table

    torch.set_num_threads(1)  # 650 parameters: more threads only wait for each other
    digits = demo_classifier.load()
    stage(f"fit a softmax regression to {len(digits.y_train):,} handwritten digits")
    classifier = demo_classifier.fit(digits)
    misread = np.flatnonzero(classifier.read(digits.x_test) != digits.y_test).tolist()
    with tempfile.TemporaryDirectory() as folder:
        stage("export it to ONNX")
        onnx_file = Path(folder) / "digits.onnx"
        demo_classifier.export(classifier, onnx_file)
        result = explain(digits, onnx_file, demo_classifier.L2, misread, options.top_k, stage)
    shown = demo_cases.most_explained(result.explanations, options.digits)
    stage("retrain without the blamed rows, to check the scores")
    findings = demo_cases.find(digits, classifier, result, shown)
    stage.end()

    print(f"\n  {len(misread)} of {len(digits.y_test)} test digits are misread.", end=" ")
    print(f"Shown: the {len(shown)} that hinge most on a single training row.\n")
    print(demo_table.report(findings))
    page = demo_page.render(findings, digits, misread=len(misread), code=listing())
    options.output.write_text(page, encoding="utf-8")
    print(f"\n  {stage.total:.0f} seconds in all. The same with pictures:\n{options.output.resolve()}")


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


if __name__ == "__main__":
    main()
