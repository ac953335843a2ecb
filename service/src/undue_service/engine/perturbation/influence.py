"""I_pert of training rows on test rows: how moving their inputs moves a cost."""

from collections.abc import Sequence

import torch
from torch import Tensor

from undue_service.domain.errors import InvalidArgument
from undue_service.engine.data import Batch, Rows
from undue_service.engine.gradients import block_rows, each_block
from undue_service.engine.methods import Problem, find
from undue_service.engine.methods.base import Columns
from undue_service.engine.objective import Objective
from undue_service.engine.progress import Progress, silent
from undue_service.engine.queries import Asked, asked_rows

from .double_backward import double_backward
from .reach import chosen_input


def perturbation_influence(
    objective: Objective,
    train: Rows,
    test: Rows,
    *,
    tests: Sequence[int] | None = None,
    rows: Sequence[int] | None = None,
    input: str | None = None,  # noqa: A002 - the setting's name
    method: str = "cg",
    damping: float | None = None,
    measurement: str = "loss",
    memory_bytes: int = 2**30,
    progress: Progress = silent,
) -> Tensor:
    """Return I_pert(i, T) = −s_Tᵀ ∇ₓ∇_θ ℓ_i at the registered weights, (r, …) of the input's shape.

    s_T = (H + λI)⁻¹ ∇m_T for the mean cost m_T of the test rows: moving x_i by δ changes m_T by (w_i/n) I_pert · δ to
    first order (Koh & Liang 2017, section 2.2).

    Args:
        objective: of any model whose loss depends on the input.
        train: the n rows that it was trained on.
        test: where the cost is.
        tests: rows of `test`, T; None means all.
        rows: rows of `train`, r of them; None means all.
        input: name of the input x; None is the only floating-point one.
        method: which curvature, and how it is solved with: one that returns s_T as a vector ("exact", "cg", "lissa",
            "arnoldi").
        damping: λ.
        measurement: the cost.
        memory_bytes: budget of a block.
        progress: called between blocks.

    Raises:
        InvalidArgument: INVALID_FIELD, ROW_OUT_OF_RANGE, METHOD_UNKNOWN; INPUT_NOT_DIFFERENTIABLE; INPUT_MISMATCH,
            TARGET_MISMATCH, TARGETS_MISSING.
        FailedPrecondition: what the solver raises.
    """
    name = chosen_input(objective, input).name
    wanted = asked_rows(rows, len(train))
    chosen = find(method)
    problem = Problem(objective, train, damping, leverage_correction=False, memory_bytes=memory_bytes // 2)
    factors = chosen.fit(problem)
    asked = Asked(test, asked_rows(tests, len(test)), measurement, mean=True, memory_bytes=memory_bytes // 4)
    queries = chosen.query(factors, problem, asked)
    if not isinstance(queries, Columns):
        raise InvalidArgument.at("method", f"{method} returns no s_T: pass exact, cg, lissa or arnoldi")
    size = block_rows(objective, memory_bytes // 4, graph_numel(objective, name))

    def work(batch: Batch) -> Tensor:
        return double_backward(objective, objective.theta, batch, name, queries.values[:, 0])

    found = []
    for _, values in each_block(objective, train, size, work, wanted):
        found.append(values)
        progress("perturbation", sum(map(len, found)), len(wanted))
    return torch.cat(found)


def graph_numel(objective: Objective, name: str) -> int:
    """Return how many numbers the double backward pass of one row keeps, about."""
    return 8 * objective.program.graph.row_numel(objective.space.names, (name,))
