"""Why two models say the same of an image: a kernel machine sees what is near, a deep network what is alike.

Koh & Liang 2017, section 5 and figure 4. A support vector machine with a radial kernel on pixels, and a logistic
regression on the features of a network that was pretrained on photographs (EfficientNet-Lite0), tell pullovers from
coats (Fashion-MNIST; the paper has dogs and fish, and Inception). For test images of which both are right: does
influence fall with the distance in pixels, and do the two models learn from the same training images?

Usage: python examples/rbf_vs_deep.py [--quick]
"""

import argparse
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression
from sklearn.svm import SVC
from torch import Tensor, nn

import undue
from figures import panels, save, table
from sources.efficientnet import PACKAGE, efficientnet_lite0
from sources.images import FASHION, fashion_mnist
from sources.packages import kept

PULLOVER, COAT = 2, 4
SIDE = 96
"""Pixels of the network's input, to which the 28 are enlarged."""
DEEP_L2 = 1e-3
KERNEL_L2 = 1e-3
TEMPERATURE = 0.01
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Clothes:
    """Images of two kinds."""

    pixels: npt.NDArray[np.float32]
    """(n, 784), 0 to 1."""
    features: npt.NDArray[np.float32]
    """(n, 1280)."""
    coat: npt.NDArray[np.int64]
    """(n,) 1 for a coat."""

    def arrays(self) -> undue.Arrays:
        """Return the data set of both models: each takes its own input."""
        return undue.Arrays({"pixels": self.pixels, "features": self.features}, self.coat)


def clothes(part: str, each: int) -> Clothes:
    """Return the first images of each kind."""
    images = fashion_mnist("train" if part == "train" else "test")
    rows = np.sort(np.concatenate([np.flatnonzero(images.labels == kind)[:each] for kind in (PULLOVER, COAT)]))
    settings = {"network": PACKAGE.sha256, "images": FASHION.sha256, "part": part, "each": each, "side": SIDE}
    held = kept("pullovers-coats-features", settings, lambda: {"features": _features(images.pixels[rows])})
    pixels = (images.pixels[rows].reshape(len(rows), -1) / 255).astype(np.float32)
    return Clothes(pixels, held["features"], (images.labels[rows] == COAT).astype(np.int64))


def _features(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    network = efficientnet_lite0()
    found = []
    with torch.no_grad():
        for some in torch.from_numpy(pixels).split(100):
            grey = some[:, None].float() / 255
            large = nn.functional.interpolate(grey, size=(SIDE, SIDE), mode="bilinear", align_corners=False)
            found.append(network(((large - 0.5) / 0.5).expand(-1, 3, -1, -1)))
    return torch.cat(found).numpy()


class Kernel(nn.Module):
    """f(x) = φ(x)ᵀ w with φ(x) = K^(−1/2) k(x), k_j(x) = exp(−γ ‖x − z_j‖²): a machine with a radial kernel.

    The training images are the z_j, so ‖w‖ is the norm of f in the kernel's space and L2 on w is the machine's own.
    """

    def __init__(self, landmarks: Tensor, gamma: float) -> None:
        super().__init__()
        self.gamma = gamma
        self.register_buffer("landmarks", landmarks)
        values, vectors = torch.linalg.eigh(self._kernel(landmarks))
        held = values > 1e-10 * values.max()
        self.register_buffer("root", vectors[:, held] / values[held].sqrt())
        self.head = nn.Linear(int(held.sum()), 1, bias=False, dtype=torch.float64)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the score of each image, (B, 1)."""
        return self.head(self.mapped(pixels.double()))

    def mapped(self, pixels: Tensor) -> Tensor:
        """Return φ, (B, m)."""
        return self._kernel(pixels) @ self.root

    def _kernel(self, x: Tensor) -> Tensor:
        z = self.landmarks
        squares = (x * x).sum(dim=1, keepdim=True) + (z * z).sum(dim=1) - 2 * x @ z.T
        return torch.exp(-self.gamma * squares)

    def fit(self, coat: npt.NDArray[np.int64]) -> None:
        """Minimise the mean smooth hinge with L2 on w, by Newton's method from the machine with the hinge itself."""
        with torch.no_grad():
            phi = self.mapped(self.landmarks).numpy()
        signs = 2.0 * coat - 1
        machine = SVC(C=1 / (len(phi) * KERNEL_L2), kernel="linear", tol=1e-6).fit(phi, signs)
        x = phi * signs[:, None]

        def value(w: Floats) -> tuple[float, Floats]:
            u = (1 - x @ w) / TEMPERATURE
            slope = -np.exp(-np.logaddexp(0, -u))
            gradient = x.T @ slope / len(x) + KERNEL_L2 * w
            return TEMPERATURE * np.logaddexp(0, u).mean() + KERNEL_L2 / 2 * w @ w, gradient

        found = minimize(
            value,
            machine.coef_[0],
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": 20_000, "maxfun": 50_000, "ftol": 0, "gtol": 1e-9, "maxcor": 50},
        )
        with torch.no_grad():
            self.head.weight.copy_(torch.from_numpy(found.x)[None])


class Deep(nn.Module):
    """A logistic regression on the network's features."""

    def __init__(self, machine: LogisticRegression, mean: Tensor, spread: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("spread", spread)
        self.head = nn.Linear(len(mean), 1, dtype=torch.float64)
        with torch.no_grad():
            self.head.weight.copy_(torch.from_numpy(machine.coef_))
            self.head.bias.copy_(torch.from_numpy(machine.intercept_))

    def forward(self, features: Tensor) -> Tensor:
        """Return the score of each image, (B, 1)."""
        return self.head((features.double() - self.mean) / self.spread)


def deep(train: Clothes) -> Deep:
    """Fit the regression on standardised features."""
    features = train.features.astype(np.float64)
    mean, spread = features.mean(axis=0), features.std(axis=0) + 1e-6
    machine = LogisticRegression(C=1 / (len(features) * DEEP_L2), solver="newton-cholesky", tol=1e-10, max_iter=1000)
    machine.fit((features - mean) / spread, train.coat)
    return Deep(machine, torch.from_numpy(mean), torch.from_numpy(spread))


def main() -> None:
    """Print the tables and write the figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="150 + 150 training images and 10 test images")
    quick = parser.parse_args().quick
    train, test = clothes("train", 150 if quick else 900), clothes("test", 50 if quick else 300)
    pixels = torch.from_numpy(train.pixels).double()
    near = torch.pdist(pixels).square().median()
    kernel = Kernel(pixels, float(2 / near))
    kernel.fit(train.coat)
    network = deep(train)
    with torch.no_grad():
        scores = {"kernel": kernel(torch.from_numpy(test.pixels)), "deep": network(torch.from_numpy(test.features))}
    right = {name: (score[:, 0].numpy() > 0) == test.coat for name, score in scores.items()}
    both = np.flatnonzero(right["kernel"] & right["deep"])
    asked = both[np.random.default_rng(0).permutation(len(both))[: 10 if quick else 50]]

    with undue.Client.local() as client:
        of_train = client.datasets.register("clothes", train.arrays())
        of_test = client.datasets.register("unseen-clothes", test.arrays())
        kernel_model = client.models.register(
            "kernel",
            kernel,
            objective=undue.Objective("smooth_hinge", l2=KERNEL_L2, temperature=TEMPERATURE),
            parameters=["head.*"],
            sample=of_train,
            example_inputs={"pixels": torch.zeros(2, 784)},
        )
        deep_model = client.models.register(
            "deep",
            network,
            objective=undue.Objective("binary_logistic", l2=DEEP_L2, l2_exclude=["head.bias"]),
            parameters=["head.*"],
            sample=of_train,
            example_inputs={"features": torch.zeros(2, 1280)},
        )
        job = client.compare(
            kernel_model,
            deep_model,
            train=of_train,
            test=of_test,
            rows=asked,
            measurement="margin",  # beyond the hinge's margin the loss itself is 0, and with it all influence
            damping=0,
            distance="pixels",
            scatter=len(train.coat),
        )
        found = job.result()

    for name, told in (("kernel", found.diagnostics), ("deep", found.other_diagnostics)):
        print(f"{name}: gradient of the objective over that of a row {told.stationarity.relative:.1e}", *told.warnings)
    accuracy = {name: f"{said.mean():.1%}" for name, said in right.items()}
    print(f"{len(train.coat):,} training images; {len(asked)} test images of which both models are right")
    lines = []
    for name, views in (("kernel", [r.view for r in found]), ("deep", [r.other for r in found])):
        nearer = [_nearer(row, view) for row, view in zip(found, views, strict=True)]
        helpful = [np.mean([e.target == v.target for e in v.helpful]) for v in views]
        lines.append(
            [
                name,
                accuracy[name],
                f"{np.mean([v.nearness.spearman for v in views]):+.2f}",
                f"{np.mean([v.nearness.pearson for v in views]):+.2f}",
                f"{np.mean(nearer):.0%}",
                f"{np.mean(helpful):.0%}",
                *(f"{np.mean([v.ablations[a].spearman for v in views]):.2f}" for a in ("no_curvature", "no_loss")),
            ]
        )
    columns = ("model", "right", "influence and nearness: Spearman", "Pearson", "images nearer", "of its class")
    print(table([*columns, "without H⁻¹", "without loss"], lines))
    print("images nearer: share of the training images that are nearer than one of the 10 most influential ones")
    agreements = [r.agreement for r in found]
    print(
        f"the two models' rankings: Spearman {np.mean([a.spearman for a in agreements]):.2f}, of the 10 most helpful "
        f"images {np.mean([a.jaccard_helpful for a in agreements]):.1%} in both lists, rank-biased overlap "
        f"{np.mean([a.overlap_helpful for a in agreements]):.2f}"
    )
    _figure(found, train)


def _nearer(row: undue.RowComparison, view: undue.ModelView) -> float:
    """Return which share of the training images is nearer than one of the ten most influential ones, on average."""
    top = sorted((*view.helpful, *view.harmful), key=lambda each: -abs(each.score))[:10]
    distances = row.scatter.distances
    return float(np.mean([(distances < distances[row.scatter.rows == each.row]).mean() for each in top]))


def _figure(found: undue.CompareResult, train: Clothes) -> None:
    """Scatter influence over distance for one image: the one whose correlation is the median."""
    order = np.argsort([row.view.nearness.spearman for row in found])
    row = found.rows[int(order[len(order) // 2])]
    scatter = row.scatter
    same = train.coat[scatter.rows] == row.view.target
    figure, axes = panels(2, side=3.2)
    for panel, (name, scores) in zip(
        axes, (("kernel machine", scatter.scores), ("deep network", scatter.other_scores)), strict=True
    ):
        for of, colour, label in ((same, "C2", "same class"), (~same, "C3", "other class")):
            panel.scatter(scatter.distances[of], scores[of], s=4, c=colour, linewidths=0, alpha=0.6, label=label)
        panel.set(title=f"{name}, test image {row.row}", xlabel="distance in pixels", ylabel="influence")
    axes[0].legend(frameon=False)
    save(figure, "rbf_vs_deep")


if __name__ == "__main__":
    main()
