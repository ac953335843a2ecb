"""The model of the demonstration: softmax regression on scikit-learn's handwritten digits, fitted to a minimum."""

import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

L2 = 1e-3
"""Strength of the L2 term, over weights and biases alike."""


@dataclass(frozen=True, slots=True)
class Digits:
    """8×8 grey levels in [0, 1], flattened, and the digit they show."""

    x_train: npt.NDArray[np.float32]
    y_train: npt.NDArray[np.int64]
    x_test: npt.NDArray[np.float32]
    y_test: npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Classifier:
    """A fitted softmax regression."""

    linear: torch.nn.Linear

    def log_probabilities(self, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """Return (rows, 10) log-probabilities."""
        with torch.no_grad():
            return torch.log_softmax(self.linear(torch.as_tensor(x, dtype=torch.float64)), 1).numpy()

    def read(self, x: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
        """Return the digit that each row is read as."""
        return self.log_probabilities(x).argmax(1)


def load() -> Digits:
    """Return scikit-learn's 1,797 digits, 70 % of each class for training."""
    data = load_digits()
    x = (data.data / 16).astype(np.float32)
    x_train, x_test, y_train, y_test = train_test_split(
        x, data.target.astype(np.int64), test_size=0.3, random_state=0, stratify=data.target
    )
    return Digits(x_train, y_train, x_test, y_test)


def fit(digits: Digits, without: Sequence[int] = (), start: Classifier | None = None) -> Classifier:
    """Minimise R(θ) = (1/n) Σ ℓ_i(θ) + l2/2 · ‖θ‖² by L-BFGS in float64.

    Rows in `without` lose their loss while 1/n stays: that is the removal whose effect a score estimates.
    R is strictly convex, so `start` changes how long it takes and not what is found.
    """
    x, y = torch.as_tensor(digits.x_train, dtype=torch.float64), torch.as_tensor(digits.y_train)
    kept = torch.ones(len(y), dtype=torch.float64)
    kept[list(without)] = 0
    linear = torch.nn.Linear(x.shape[1], 10, dtype=torch.float64)
    if start is None:
        torch.nn.init.zeros_(linear.weight)
        torch.nn.init.zeros_(linear.bias)
    else:
        linear.load_state_dict(start.linear.state_dict())
    optimizer = torch.optim.LBFGS(
        linear.parameters(),
        max_iter=2000,
        history_size=50,
        tolerance_grad=1e-7,
        tolerance_change=0,
        line_search_fn="strong_wolfe",
    )

    def objective() -> torch.Tensor:
        optimizer.zero_grad()
        losses = torch.nn.functional.cross_entropy(linear(x), y, reduction="none")
        penalty = sum(parameter.square().sum() for parameter in linear.parameters())
        value = kept @ losses / len(y) + L2 / 2 * penalty
        value.backward()
        return value

    optimizer.step(objective)
    return Classifier(linear)


def export(classifier: Classifier, path: Path) -> None:
    """Write the classifier as a float32 ONNX file that takes any number of rows."""
    module = torch.nn.Linear(classifier.linear.in_features, classifier.linear.out_features).eval()
    module.load_state_dict(classifier.linear.state_dict())
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it reports each package that it could do without
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            (torch.zeros(2, module.in_features),),
            path,
            dynamo=True,
            verbose=False,
            external_data=False,
            input_names=["pixels"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
        )
