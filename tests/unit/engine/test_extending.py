"""docs/extending.md does what it says."""

import re
from pathlib import Path

import numpy as np
import torch

from undue_service.engine import attribution
from undue_service.engine.curvature import Damped, Dense
from undue_service.engine.solvers import Cholesky
from unit.engine.dense import gradients

PAGE = Path(__file__).resolve().parents[3] / "docs/extending.md"


def blocks():
    found = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    names = {}
    for code in found:
        exec(compile(code, str(PAGE), "exec"), names)
    return names


def test_the_method_of_the_page_scores_what_it_says(case, monkeypatch):
    page = blocks()
    c = case("cross_entropy", True)
    monkeypatch.setattr(attribution, "find", lambda name: page["GradSign"](page["spec"]))
    found = attribution.influence(c.objective, c.rows, c.rows, method="grad_sign", top_k=None)
    g = gradients(c).sign()
    np.testing.assert_allclose(found.scores, (g @ g.T / g.shape[1]).numpy(), atol=1e-6)
    assert found.diagnostics.method == "grad_sign"


def test_the_solver_of_the_page_solves(rng):
    A = torch.tensor(rng.normal(size=(9, 9)))
    curvature, rhs = Damped(Dense(A @ A.T), 0.3), torch.tensor(rng.normal(size=(9, 2)))
    eigh, cholesky = blocks()["Eigh"](), Cholesky()
    found = eigh.solve(eigh.prepare(curvature), rhs)
    torch.testing.assert_close(found.value, cholesky.solve(cholesky.prepare(curvature), rhs).value)
    assert found.residual < 1e-12
