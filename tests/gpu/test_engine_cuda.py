"""The same numbers on CUDA as on the CPU, in float64."""

import numpy as np
import pytest
import torch
from torch import nn

from undue_service.domain.specs import ObjectiveSpec
from undue_service.engine.attribution import influence, self_influence
from undue_service.engine.data import TensorRows
from undue_service.engine.index import Drift, drifted, fit_index
from undue_service.engine.methods import REGISTRY, Checkpoint, Problem
from undue_service.engine.objective import Objective
from undue_service.engine.program import Program

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

HEAD = nn.Linear(12, 4)
NETWORK = nn.Sequential(nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 4), nn.Softmax(-1))


def objective(module: nn.Module, device: str) -> Objective:
    exported = torch.export.export(
        module.eval(), (torch.zeros(3, 12),), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)
    )
    program = Program.from_exported(exported).to(device, torch.float64)
    return Objective(program, ObjectiveSpec("cross_entropy", l2=0.1))


def checkpoints(at: Objective) -> list[Checkpoint]:
    return [Checkpoint({name: scale * value for name, value in at.program.parameters.items()}, 0.1) for scale in (1, 2)]


@pytest.mark.parametrize("module", [HEAD, NETWORK], ids=["head", "network"])
@pytest.mark.parametrize("method", REGISTRY)
def test_scores_are_those_of_the_cpu(module, method):
    generator = torch.Generator().manual_seed(0)
    rows = TensorRows(
        {"x": torch.randn(200, 12, generator=generator)},
        torch.randint(4, (200,), generator=generator),
        torch.rand(200, generator=generator),
    )
    settings = {"method": method, "damping": 0.5}
    if REGISTRY[method].spec.uses_checkpoints:
        settings["checkpoints"] = checkpoints(objective(module, "cpu"))
    found = [influence(objective(module, device), rows, rows, top_k=None, **settings) for device in ("cpu", "cuda")]
    scale = abs(found[0].scores).max()
    np.testing.assert_allclose(found[1].scores, found[0].scores, rtol=1e-6, atol=1e-7 * scale)
    assert (found[1].helpful_rows == found[0].helpful_rows).all()
    assert [f.diagnostics.device for f in found] == ["cpu", "cuda"]
    if not REGISTRY[method].spec.has_self_influence:
        return
    ranked = [self_influence(objective(module, device), rows, **settings) for device in ("cpu", "cuda")]
    np.testing.assert_allclose(ranked[1].scores, ranked[0].scores, rtol=1e-6)
    assert (ranked[1].train.rows == ranked[0].train.rows).all()


def test_rows_are_appended_to_an_index_twice():
    """The second time goes on from the drift that was written, which is read on the CPU."""
    generator = torch.Generator().manual_seed(0)
    rows = TensorRows({"x": torch.randn(200, 12, generator=generator)}, torch.randint(4, (200,), generator=generator))
    found = []
    for device in ("cpu", "cuda"):
        of = objective(NETWORK, device)
        fitted = fit_index(Problem(of, rows, damping=0.5), "ekfac")
        drift = Drift.none(fitted)
        for _ in range(2):
            drift = drifted(drift, fitted, of, rows)
            drift = Drift.of({name: tensor.cpu() for name, tensor in drift.tensors().items()})
        found.append((drift.rows, [one.numpy() for one in drift.squares], drift.staleness(fitted)))
    assert [rows for rows, _, _ in found] == [400, 400]
    for one, other in zip(found[0][1], found[1][1], strict=True):
        np.testing.assert_allclose(other.sum(), one.sum(), rtol=1e-6)
    assert max(staleness for _, _, staleness in found) < 1e-6
