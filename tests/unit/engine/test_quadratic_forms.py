"""x_iᵀ A_ce x_i against the sum written out, where it is packed and where it is not."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from undue_service.engine import quadratic_forms
from undue_service.engine.head import LinearHead
from undue_service.engine.quadratic_forms import QuadraticForms


def head(C, d, seed):
    positions = torch.randperm(C * d, generator=torch.Generator().manual_seed(seed)).view(C, d)
    return LinearHead(None, None, True, False, positions)


@settings(deadline=None)
@given(st.integers(1, 9), st.integers(1, 40), st.integers(1, 12), st.integers(0, 100))
def test_every_shape(C, d, B, seed):
    rng = np.random.default_rng(seed)
    own = head(C, d, seed)
    matrix = torch.as_tensor(rng.normal(size=(C * d, C * d)))
    matrix = matrix + matrix.T
    x = torch.as_tensor(rng.normal(size=(B, d)))
    forms = QuadraticForms(own, matrix)
    blocks = matrix[own.positions.reshape(-1)][:, own.positions.reshape(-1)].view(C, d, C, d)
    expected = torch.einsum("bj,cjek,bk->bce", x, blocks, x)
    torch.testing.assert_close(forms.of(x), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("products", [1, 700, 2**17])
def test_how_much_is_made_at_once_changes_nothing(monkeypatch, products):
    own = head(8, 33, 0)
    matrix = torch.randn(264, 264, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x = torch.randn(50, 33, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    forms = QuadraticForms(own, matrix + matrix.T)
    whole = forms.of(x)
    monkeypatch.setattr(quadratic_forms, "_PRODUCTS", products)
    torch.testing.assert_close(forms.of(x), whole, rtol=1e-11, atol=1e-11)
