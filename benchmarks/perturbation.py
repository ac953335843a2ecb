"""An attacked image: the engine's batch of attacks against the loop that a user would write with torch and scipy.

`python -m benchmarks.perturbation`. Fashion-MNIST's pullovers and coats through EfficientNet-Lite0, frozen, to the
8-bit 96×96×3 pixels; a logistic head on its 1,280 features.
"""

import argparse
import time
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import scipy.optimize
import torch
from torch import Tensor, nn

from . import machine, results

NAME = "perturbation"
CLASSES = (2, 4)
L2 = 1e-3
STEP = 0.02
SAYS = """\
`python -m benchmarks.perturbation`: 900 + 900 pullovers and coats of Fashion-MNIST as 8-bit 96×96×3 images,
EfficientNet-Lite0 frozen below a logistic head of 1,281 coefficients (l2 1e-3), {targets} test images with one training
image each, same 8-bit image, step 0.02 of a level. *Loop*: for one target after the other, each iteration a double
backward pass through the whole network, the head's Hessian written down and solved with, the perturbed image passed
through the network, and the head fitted from zero by scipy's L-BFGS-B with all features at hand; candidates are those
that the engine chose. Both compute in float32 below the head and in float64 in it, on the same threads. Ranking and the
features of the unperturbed rows are left out of both. Processor seconds are those of all threads, and depend less on
what else the machine does.
"""


@dataclass(frozen=True)
class World:
    """A frozen network with its head, and its images with 8-bit values 0…255."""

    body: nn.Module
    x: Tensor
    y: Tensor
    test_x: Tensor
    test_y: Tensor

    @classmethod
    def of(cls, train: int, test: int) -> "World":
        """Take the first images of each class."""
        from examples.sources.efficientnet import efficientnet_lite0
        from examples.sources.images import fashion_mnist

        def images(split: Any, count: int) -> tuple[Tensor, Tensor]:
            held = fashion_mnist(split)
            at = np.sort(np.concatenate([np.flatnonzero(held.labels == c)[:count] for c in CLASSES]))
            grey = torch.from_numpy(held.pixels[at]).to(torch.float32)[:, None]
            wide = nn.functional.interpolate(grey, size=(96, 96), mode="bilinear", align_corners=False)
            y = torch.from_numpy((held.labels[at] == CLASSES[1]).astype(np.int64))
            return wide.round().expand(-1, 3, -1, -1).contiguous(), y

        return cls(efficientnet_lite0(), *images("train", train), *images("test", test))


class Whole(nn.Module):
    """Pixels 0…255 to one logit."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body, self.head = body, nn.Linear(1280, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logit, (B, 1)."""
        return self.head(self.body(x / 255))


def measure(threads: int = 1, *, quick: bool = False) -> dict[str, Any]:
    """Measure both and write them down."""
    machine.limit(threads)
    world = World.of(*((60, 30) if quick else (900, 100)))
    targets, iterations = (4, 2) if quick else (100, 6)
    ours = in_engine(world, targets, iterations)
    print({name: value for name, value in ours.items() if name != "rows"}, flush=True)
    plain = loop(world, ours.pop("rows"), targets=2 if quick else 3, iterations=1)
    record = {
        "machine": machine.describe(threads, "cpu", ""),
        "targets": targets,
        "ours": ours,
        "loop": plain,
        "ratio": plain["seconds"] / ours["seconds_each"],
    }
    print(record, flush=True)
    if not quick:
        results.write(NAME, record)
    return record


def in_engine(world: World, targets: int, iterations: int) -> dict[str, Any]:
    """Attack all targets at once, and time every iteration but the first."""
    from undue_service.domain.perturbation import AttackSettings
    from undue_service.domain.specs import ObjectiveSpec
    from undue_service.engine.data import TensorRows
    from undue_service.engine.objective import Objective
    from undue_service.engine.perturbation.attack import attack
    from undue_service.engine.perturbation.state import AttackState
    from undue_service.engine.program import Program

    torch.manual_seed(0)
    exported = torch.export.export(
        Whole(world.body).eval(), (world.x[:3],), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)
    )
    objective = Objective(Program.from_exported(exported), ObjectiveSpec("binary_logistic", L2), ("head.*",))
    marks: list[tuple[float, float, int]] = []
    states: list[AttackState] = []

    def told(state: AttackState) -> None:
        marks.append((time.perf_counter(), time.process_time(), int(state.attack.batch.numel())))
        states[:] = [state]

    settings = AttackSettings(
        step=STEP, momentum=0.0, level=1.0, iterations=iterations, prefilter=20, control=False, confirm=False
    )
    rows, test = TensorRows({"x": world.x}, world.y), TensorRows({"x": world.test_x}, world.test_y)
    sets = [[t] for t in range(targets)]
    attack(objective, rows, test, sets, settings, on_iteration=told, memory_bytes=4 * 2**30)
    wall = [after[0] - before[0] for before, after in pairwise(marks)]
    cpu = [after[1] - before[1] for before, after in pairwise(marks)]
    each = [seconds / mark[2] for seconds, mark in zip(wall, marks[1:], strict=True)]
    return {
        "attacks": marks[-1][2],
        "seconds": float(np.median(wall)),
        "cpu_seconds": float(np.median(cpu)),
        "seconds_each": float(np.median(each)),
        "rows": [(t, int(states[0].candidates[t, 0])) for t in range(targets) if bool(states[0].attack.taken[t] > 0)],
    }


def loop(world: World, chosen: list[tuple[int, int]], *, targets: int, iterations: int) -> dict[str, Any]:
    """Attack one target after the other, as plain code does; the first is not timed."""
    with torch.no_grad():
        features, test_features = (
            torch.cat([world.body(part / 255) for part in x.split(100)]).double().numpy()
            for x in (world.x, world.test_x)
        )
    all_rows, tests = (np.concatenate([one, np.ones((len(one), 1))], axis=1) for one in (features, test_features))
    y, ty = world.y.numpy(), world.test_y.numpy()
    n, seconds, cpu = len(all_rows), [], []
    for t, i in chosen[: targets + 1]:
        image, original, mine = world.x[i : i + 1].clone(), world.x[i : i + 1], all_rows.copy()
        theta = _fitted(mine, y)
        for _ in range(iterations):
            started, used = time.perf_counter(), time.process_time()
            p = 1 / (1 + np.exp(-mine @ theta))
            hessian = (mine * (p * (1 - p) / n)[:, None]).T @ mine + L2 * np.eye(len(theta))
            s = np.linalg.solve(hessian, (1 / (1 + np.exp(-tests[t] @ theta)) - ty[t]) * tests[t])
            image = _stepped(world.body, image, original, float(y[i]), theta, s)
            with torch.no_grad():
                mine[i, :-1] = world.body(image / 255).double().numpy()[0]
            theta = _fitted(mine, y)
            seconds.append(time.perf_counter() - started)
            cpu.append(time.process_time() - used)
    return {"seconds": float(np.median(seconds[iterations:])), "cpu_seconds": float(np.median(cpu[iterations:]))}


def _stepped(body: nn.Module, image: Tensor, original: Tensor, y: float, theta: np.ndarray, s: np.ndarray) -> Tensor:
    """Return the image one step on: ∇ₓ(s · ∇_θ ℓ) by a double backward pass through the whole network."""
    x = image.clone().requires_grad_()
    weights = torch.tensor(theta, dtype=torch.float32, requires_grad=True)
    logit = body(x / 255) @ weights[:-1] + weights[-1]
    cost = nn.functional.binary_cross_entropy_with_logits(logit[0], torch.tensor(y))
    (gradient,) = torch.autograd.grad(cost, weights, create_graph=True)
    (along,) = torch.autograd.grad(gradient @ torch.tensor(s, dtype=torch.float32), x)
    moved = image - STEP * along.sign()
    return torch.minimum(torch.maximum(moved, original - 0.499), original + 0.499).clamp(0, 255)


def _fitted(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the minimiser of R from zero by L-BFGS-B."""
    sign = 1 - 2 * y

    def risk(theta: np.ndarray) -> tuple[float, np.ndarray]:
        z = sign * (x @ theta)
        r = sign / (1 + np.exp(-z)) / len(x)
        return float(np.logaddexp(0, z).mean() + L2 / 2 * theta @ theta), x.T @ r + L2 * theta

    options = {"maxiter": 10_000, "maxfun": 20_000, "ftol": 0, "gtol": 1e-8}
    return scipy.optimize.minimize(risk, np.zeros(x.shape[1]), jac=True, method="L-BFGS-B", options=options).x


def section(record: dict[str, Any]) -> str:
    """Return the part of the page."""
    ours, plain = record["ours"], record["loop"]
    rows = [
        ["", "an iteration s", "of one image s", "processor s of one image"],
        [
            f"the engine, {ours['attacks']} attacks at once",
            f"{ours['seconds']:.2f}",
            f"{ours['seconds_each']:.3f}",
            f"{ours['cpu_seconds'] / ours['attacks']:.3f}",
        ],
        ["loop", f"{plain['seconds']:.2f}", f"{plain['seconds']:.3f}", f"{plain['cpu_seconds']:.3f}"],
        ["loop over the engine", "", f"{record['ratio']:.0f} ×", f"{_processor_ratio(record):.0f} ×"],
    ]
    says = SAYS.format(targets=record["targets"])
    return "\n\n".join(["## An attacked image", says.strip(), results.table(rows), machine.line(record["machine"])])


def _processor_ratio(record: dict[str, Any]) -> float:
    ours = record["ours"]["cpu_seconds"] / record["ours"]["attacks"]
    return float(record["loop"]["cpu_seconds"] / ours)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.perturbation", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few images, nothing written")
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    measure(asked.threads, quick=asked.quick)
