"""Small exported models and data, shared by the engine's tests."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from undue_service.domain.specs import ObjectiveSpec
from undue_service.engine.data import TensorRows
from undue_service.engine.objective import Objective
from undue_service.engine.program import Program

torch.set_num_threads(1)


def _export(module: nn.Module, *inputs: Tensor) -> torch.export.ExportedProgram:
    dynamic = tuple({0: torch.export.Dim.DYNAMIC} for _ in inputs)
    return torch.export.export(module.eval(), inputs, dynamic_shapes=dynamic)


@dataclass
class Case:
    """A model, its loss and its rows."""

    objective: Objective
    x: Tensor
    y: Tensor
    weights: Tensor | None = None

    @property
    def rows(self) -> TensorRows:
        return TensorRows({"x": self.x}, self.y, self.weights)


def _model(head: bool, outputs: int) -> nn.Module:
    torch.manual_seed(0)
    if head:
        return nn.Linear(4, outputs)
    return nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, outputs))


@pytest.fixture(scope="session")
def export() -> Callable[..., torch.export.ExportedProgram]:
    """export(module, *inputs) with a dynamic batch axis."""
    return _export


@pytest.fixture(scope="session")
def program() -> Callable[..., Program]:
    """program(module, *inputs, output=None) in float64 on the CPU."""

    def make(module: nn.Module, *inputs: Tensor, output: str | None = None) -> Program:
        return Program.from_exported(_export(module, *inputs), output).to("cpu", torch.float64)

    return make


@pytest.fixture(scope="session")
def case(program: Callable[..., Program]) -> Callable[..., Case]:
    """case(loss, head=True, outputs=None, l2=0.1, exclude=(), parameters=(), weighted=False, n=30) → random data."""
    programs: dict[tuple[bool, int], Program] = {}

    def make(
        loss: str,
        head: bool = True,
        outputs: int | None = None,
        l2: float = 0.1,
        exclude: tuple[str, ...] = (),
        parameters: tuple[str, ...] = (),
        weighted: bool = False,
        n: int = 30,
    ) -> Case:
        outputs = outputs or {"cross_entropy": 3, "squared_error": 2}.get(loss, 1)
        generator = torch.Generator().manual_seed(1)
        x = torch.randn(n, 4, generator=generator, dtype=torch.float64)
        if loss == "squared_error":
            y = torch.randn(n, outputs, generator=generator, dtype=torch.float64)
        else:
            y = torch.randint(max(outputs, 2), (n,), generator=generator)
        weights = torch.rand(n, generator=generator, dtype=torch.float64) * 2 if weighted else None
        if (head, outputs) not in programs:
            programs[head, outputs] = program(_model(head, outputs), torch.randn(3, 4))
        model = programs[head, outputs]
        temperature = 0.5 if loss == "smooth_hinge" else 0.0
        return Case(Objective(model, ObjectiveSpec(loss, l2, exclude, temperature), parameters), x, y, weights)

    return make
