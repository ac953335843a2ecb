"""RelatIF: both normalizations on both curvatures, and what they mean."""

import numpy as np
import pytest
import torch

from undue_service.domain.errors import InvalidArgument
from undue_service.engine.attribution import influence, self_influence
from undue_service.engine.objective import Objective
from unit.engine.dense import lists_to_matrix
from unit.engine.test_methods import DAMPING, relative


@pytest.mark.parametrize("loss", ["cross_entropy", "binary_logistic", "squared_error"])
@pytest.mark.parametrize("head", [True, False])
@pytest.mark.parametrize(("normalization", "power"), [("theta", 2), ("loss", 1), (None, 2)])
def test_each_normalization_is_its_formula(case, loss, head, normalization, power):
    c = case(loss, head, weighted=True)
    c.weights[4] = 0
    settings = {"method": "relatif", "damping": DAMPING, "normalization": normalization}
    wanted = relative(c, c.weights, power).numpy()
    found = lists_to_matrix(influence(c.objective, c.rows, c.rows, top_k=len(c.x), **settings), len(c.x))
    np.testing.assert_allclose(found, wanted, rtol=1e-8, atol=1e-10)
    assert (found[:, 4] == 0).all()
    own = self_influence(c.objective, c.rows, **settings)
    np.testing.assert_allclose(own.scores, np.diag(wanted)[own.train.rows], rtol=1e-8)


def test_by_loss_a_row_is_more_to_itself_than_to_any_other(case):
    """Cauchy–Schwarz in the norm of H⁻¹: |score(i, t)| ≤ score(t, t)."""
    for head in (True, False):
        c = case("cross_entropy", head)
        scores = influence(c.objective, c.rows, c.rows, method="relatif", normalization="loss", top_k=None).scores
        assert (abs(scores) <= np.diag(scores)[:, None] * (1 + 1e-6)).all()


def test_a_head_in_float32_is_normalised_in_float64(case):
    c = case("cross_entropy")
    single = Objective(c.objective.program.to("cpu", torch.float32), c.objective.spec)
    found, wanted = (
        influence(objective, c.rows, c.rows, method="relatif", top_k=None).scores for objective in (single, c.objective)
    )
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)


def test_only_relatif_takes_a_normalization(case):
    c = case("cross_entropy")
    with pytest.raises(InvalidArgument, match="one normalization"):
        influence(c.objective, c.rows, c.rows, method="exact", normalization="theta")
    with pytest.raises(InvalidArgument, match="leverage correction"):
        influence(c.objective, c.rows, c.rows, method="relatif", leverage_correction=True)
