"""The benchmark of an attacked image: its loop takes the engine's steps, and its section says what was measured."""

import numpy as np
import torch
from torch import nn

from benchmarks import perturbation
from undue_service.domain.specs import ObjectiveSpec
from undue_service.engine.data import TensorRows
from undue_service.engine.objective import Objective
from undue_service.engine.perturbation.influence import perturbation_influence
from undue_service.engine.program import Program


def test_the_loop_takes_the_engines_steps():
    torch.manual_seed(0)
    body = nn.Sequential(nn.Flatten(), nn.Linear(27, 1280), nn.Tanh()).eval()
    x = torch.randint(256, (40, 3, 3, 3)).to(torch.float32)
    y = torch.arange(40) % 2
    with torch.no_grad():
        features = np.concatenate([body(x / 255).double().numpy(), np.ones((40, 1))], axis=1)
    theta = perturbation._fitted(features, y.numpy())
    p = 1 / (1 + np.exp(-features @ theta))
    gradient = features.T @ (p - y.numpy()) / 40 + perturbation.L2 * theta
    assert np.linalg.norm(gradient) < 1e-5
    module = perturbation.Whole(body).eval()
    with torch.no_grad():
        module.head.weight[0] = torch.tensor(theta[:-1])
        module.head.bias[0] = float(theta[-1])
    exported = torch.export.export(module, (x[:3],), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    program = Program.from_exported(exported).to("cpu", torch.float64)
    objective = Objective(program, ObjectiveSpec("binary_logistic", perturbation.L2), ("head.*",))
    rows = TensorRows({"x": x}, y)
    along = perturbation_influence(objective, rows, rows, tests=[3], rows=[8], method="exact")
    hessian = (features * (p * (1 - p) / 40)[:, None]).T @ features + perturbation.L2 * np.eye(1281)
    s = np.linalg.solve(hessian, (p[3] - float(y[3])) * features[3])
    moved = perturbation._stepped(body, x[8:9], x[8:9], float(y[8]), theta, s)
    expected = (x[8:9] + perturbation.STEP * along.sign()).clamp(0, 255).to(torch.float32)
    assert ((moved - expected).abs() < 1e-4).float().mean() > 0.9
    assert float((moved - x[8:9]).abs().max()) > 0.9 * perturbation.STEP


def test_the_section_says_what_was_measured():
    record = {
        "machine": {"date": "2026-01-02", "processor": "a processor", "threads": 2},
        "targets": 100,
        "ours": {"attacks": 80, "seconds": 2.0, "cpu_seconds": 1.6, "seconds_each": 0.025},
        "loop": {"seconds": 1.0, "cpu_seconds": 0.8},
        "ratio": 40.0,
    }
    text = perturbation.section(record)
    assert "| loop over the engine |  | 40 × | 40 × |" in text
    assert "the engine, 80 attacks at once | 2.00 | 0.025 | 0.020" in text
    assert "Measured on 2026-01-02, a processor, 2 threads." in text
