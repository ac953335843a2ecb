"""Training images that look the same and flip predictions: the attack of Koh & Liang 2017, section 5.2.

Pullovers against coats of Fashion-MNIST, through a frozen EfficientNet-Lite0 down to the pixels of its 96×96×3 input; a
logistic regression on its 1,280 features is trained. An attack moves a few of the 1,800 training images, no pixel out
of its 8-bit level, until a test image that was predicted rightly is predicted wrongly.

Usage: python examples/training_set_attack.py [--quick] [--targets 100] [--iterations 100]
"""

import argparse
import time
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

import undue
from figures import panels, save, table
from sources import Images, efficientnet_lite0, fashion_mnist, kept

PULLOVER, COAT = 2, 4
SIDE = 96
TRAIN, TEST = 900, 300
"""Images of each class."""
STRENGTHS = (1e-4, 1e-3, 1e-2)
"""Of the L2 term on the head."""
TOGETHER = 30
"""Test images that one training image is turned against at once."""
HEADER = ("attack", "flipped", "share", "interval", "random signs", "not confirmed", "seconds")


class Enlarged(nn.Module):
    """Grey 28×28 pixels as the 96×96×3 ones that the network takes."""

    def forward(self, pixels: Tensor) -> Tensor:
        """Map (B, 1, 28, 28) to (B, 3, 96, 96)."""
        large = nn.functional.interpolate(pixels, size=(SIDE, SIDE), mode="bilinear", align_corners=False)
        return large.expand(-1, 3, -1, -1)


class Clothes(nn.Module):
    """The score of a coat, from pixels in 0…255."""

    def __init__(self, head: nn.Linear, before: nn.Module | None = None) -> None:
        super().__init__()
        self.before, self.network, self.head = before or nn.Identity(), efficientnet_lite0(), head

    def forward(self, pixels: Tensor) -> Tensor:
        """Map (B, 3, 96, 96), or what comes before it, to (B, 1)."""
        return self.head(self.network(self.before(pixels) / 255))


@dataclass(frozen=True)
class Clothing:
    """Pictures of one split."""

    small: npt.NDArray[np.float32]
    """(n, 1, 28, 28), 0…255."""
    large: npt.NDArray[np.float32]
    """(n, 3, 96, 96), whole numbers."""
    coats: npt.NDArray[np.int64]
    """(n,), 1 for a coat."""

    @classmethod
    def of(cls, images: Images) -> "Clothing":
        """Enlarge images to 8-bit ones."""
        small = images.pixels[:, None].astype(np.float32)
        large = Enlarged()(torch.from_numpy(small)).round().clamp(0, 255).contiguous().numpy()
        return cls(small, large, (images.labels == COAT).astype(np.int64))

    def data(self, small: bool) -> undue.Arrays:
        """Return them as a data set."""
        return undue.Arrays(self.small if small else self.large, self.coats)


def clothing(count: int, first: int) -> Clothing:
    """Return so many images of each class, from a place in the order of Fashion-MNIST's training set on."""
    images = fashion_mnist("train")
    rows = [np.flatnonzero(images.labels == label)[first : first + count] for label in (PULLOVER, COAT)]
    return Clothing.of(images[np.concatenate(rows)])


def features(name: str, pixels: npt.NDArray[np.float32], before: nn.Module) -> Tensor:
    """Return the network's features of pixels, (n, 1280) float64."""

    def compute() -> dict[str, npt.NDArray[np.float32]]:
        with torch.no_grad():
            parts = [efficientnet_lite0()(before(part) / 255) for part in torch.from_numpy(pixels).split(100)]
        return {"features": torch.cat(parts).numpy()}

    return torch.from_numpy(kept(f"clothes-{name}", {"rows": len(pixels)}, compute)["features"]).double()


def fit(x: Tensor, coats: npt.NDArray[np.int64], l2: float) -> nn.Linear:
    """Minimise the mean logistic loss + l2/2 ‖θ‖² over a weight for each feature and a bias, by L-BFGS in float64."""
    head = nn.Linear(x.shape[1], 1, dtype=torch.float64)
    y = torch.from_numpy(coats).double()[:, None]
    for parameter in head.parameters():
        nn.init.zeros_(parameter)
    optimizer = torch.optim.LBFGS(
        head.parameters(), max_iter=3000, history_size=50, tolerance_grad=1e-8, line_search_fn="strong_wolfe"
    )

    def objective() -> Tensor:
        optimizer.zero_grad()
        penalty = sum(parameter.square().sum() for parameter in head.parameters())
        value = nn.functional.binary_cross_entropy_with_logits(head(x), y) + l2 / 2 * penalty
        value.backward()
        return value

    optimizer.step(objective)
    return head


class Bench:
    """A service, the data sets, and a model for each strength of L2."""

    def __init__(self, client: undue.Client, train: Clothing, test: Clothing, arguments: argparse.Namespace) -> None:
        self.client, self.train, self.test, self.arguments = client, train, test, arguments
        self.rows: list[tuple[str, ...]] = []
        self.found: dict[str, undue.PerturbResult] = {}

    def model(self, l2: float, small: bool = False) -> tuple[undue.Model, undue.Dataset, undue.Dataset, list[int]]:
        """Register a model and its data; return them with the test rows that it predicts rightly, in a fixed order."""
        kind, before = ("small", Enlarged()) if small else ("large", nn.Identity())
        pixels = [one.small if small else one.large for one in (self.train, self.test)]
        seen, asked = (features(f"{kind}-{name}", x, before) for name, x in zip(("train", "test"), pixels, strict=True))
        head = fit(seen, self.train.coats, l2)
        with torch.no_grad():
            right = ((head(asked)[:, 0] > 0).numpy() == self.test.coats).nonzero()[0]
        print(f"L2 {l2:g}, {kind} images: {len(right)} of {len(asked)} test images are predicted rightly", flush=True)
        train, test = (
            self.client.datasets.register(f"{kind}-{name}", one.data(small))
            for name, one in (("train", self.train), ("test", self.test))
        )
        model = self.client.models.register(
            f"clothes-{kind}-{l2:g}".replace(".", "-"),
            Clothes(head.float(), before),
            objective=undue.Objective("binary_logistic", l2=l2),
            parameters=["head.*"],
            example_inputs=torch.from_numpy(pixels[0][:2]),
        )
        order = np.random.default_rng(0).permutation(right)
        return model, train, test, [int(row) for row in order]

    def attack(self, name: str, l2: float, images: int, *, small: bool = False, together: bool = False) -> None:
        """Run one job and note what it found."""
        model, train, test, right = self.model(l2, small)
        rows: list[int] | list[list[int]] = right[: self.arguments.targets]
        if together:
            rows = [right[:TOGETHER]]
        started = time.perf_counter()
        job = self.client.perturb(
            model,
            train=train,
            test=test,
            rows=rows,
            candidates=images,
            prefilter=max(self.arguments.prefilter, images),
            iterations=self.arguments.iterations,
            step=self.arguments.step,
            momentum=self.arguments.momentum,
            level=1.0,
            control=images == 1,
        )
        found = job.result()
        flipped = found.flipped
        line = (
            name,
            f"{flipped.count} of {flipped.total}",
            f"{flipped.value:.0%}",
            f"{flipped.low:.0%} to {flipped.high:.0%}",
            f"{found.control.value:.0%}" if found.control else "not run",
            str(found.unconfirmed),
            f"{time.perf_counter() - started:,.0f}",
        )
        print(table(HEADER, [line]), flush=True)
        self.rows.append(line)
        self.found[name] = found


def draw(bench: Bench, name: str) -> None:
    """Draw how many flip after how many iterations, and an image that flips one, with what was added to it."""
    figure, axes = panels(4)
    for label, found in bench.found.items():
        axes[0].plot(np.array(found.flips) / max(1, found.flipped.total), label=label, linewidth=1)
    axes[0].set(title="flipped", xlabel="iterations", ylim=(0, 1))
    axes[0].legend(fontsize=5, frameon=False)
    result = bench.found[name]
    place = next((at for at, one in enumerate(result.attacks) if one.flipped), 0)
    poisoned = result.poisoned(place)
    original = bench.train.large[poisoned.rows[0]]
    moved = poisoned.values[0] - original
    if not np.array_equal(np.rint(poisoned.values[0]), original):
        raise RuntimeError("the 8-bit image has changed")
    for panel, image, title in (
        (axes[1], original[0], "training image"),
        (axes[2], np.rint(poisoned.values[0][0]), "perturbed, in 8 bits"),
        (axes[3], moved[0], f"difference, ±{np.abs(moved).max():.3f} of a level"),
    ):
        panel.imshow(image, cmap="gray")
        panel.set(title=title, xticks=[], yticks=[])
    save(figure, "training_set_attack")


def main() -> None:
    """Attack through one, two and ten training images."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="80 training images, 8 targets, 40 iterations")
    parser.add_argument("--targets", type=int, default=100, help="test images that are attacked, each by itself")
    parser.add_argument("--iterations", type=int, default=100, help="steps of an attack at most")
    parser.add_argument("--step", type=float, help="of a pixel in one iteration, in levels; 0.02 in the paper")
    parser.add_argument("--momentum", type=float, help="of the direction that steps follow; 0 in the paper")
    parser.add_argument("--prefilter", type=int, default=64, help="training images that are ranked by their pixels")
    parser.add_argument("--only", action="append", metavar="NAME", help="an attack of the table, such as 0.0001/1")
    arguments = parser.parse_args()
    count = TRAIN, TEST
    if arguments.quick:
        count, arguments.targets, arguments.iterations = (40, 20), 8, 40
    smallest = STRENGTHS[0]
    plan = {f"{l2:g}/{images}": (l2, images, {}) for l2 in STRENGTHS for images in (1, 2, 10)}
    plan[f"{smallest:g}/28×28"] = smallest, 1, {"small": True}
    plan[f"{smallest:g}/{TOGETHER} at once"] = smallest, 1, {"together": True}
    chosen = arguments.only or ([f"{smallest:g}/1"] if arguments.quick else list(plan))
    if unknown := set(chosen) - set(plan):
        parser.error(f"no attack is called {', '.join(sorted(unknown))}; there are {', '.join(plan)}")
    with undue.Client.local() as client:
        bench = Bench(client, clothing(count[0], 0), clothing(count[1], count[0]), arguments)
        for name in chosen:
            l2, images, variant = plan[name]
            bench.attack(name, l2, images, **variant)
        print()
        print(table(HEADER, bench.rows))
        draw(bench, next(iter(bench.found)))


if __name__ == "__main__":
    main()
