"""Where perturbed rows may lie: projections on fresh rows."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from undue_service.domain.perturbation import AttackSettings
from undue_service.engine.perturbation.region import Region

K, M, D = 2, 3, 7


@st.composite
def regions(draw):
    """Originals on 8-bit levels, anything else on top of them, and a region around them."""
    seed = draw(st.integers(0, 2**31))
    generator = torch.Generator().manual_seed(seed)
    level = draw(st.sampled_from([1.0, 1 / 255, 2 / 255]))
    low = draw(st.sampled_from([0.0, -1.0]))
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    originals = (low + level * torch.randint(256, (K, M, D), generator=generator).to(torch.float64)).to(dtype)
    bound = draw(st.sampled_from(["same_8bit", "linf", "l2"]))
    settings_ = AttackSettings(
        bound=bound,
        radius=None if bound == "same_8bit" else draw(st.floats(0.01, 50)),
        level=level,
        step=draw(st.floats(0.01, 5)),
        minimum=(low,) if draw(st.booleans()) or bound == "same_8bit" else None,
        maximum=tuple([low + 255 * level] * D) if draw(st.booleans()) else None,
        fixed=tuple(draw(st.sets(st.integers(0, D - 1), max_size=D - 1))),
    )
    settings_.check()
    spread = draw(st.sampled_from([0.1, 1.0, 100.0])) * level
    moved = originals + spread * torch.randn(K, M, D, generator=generator, dtype=dtype)
    return originals, settings_, moved


@given(regions())
def test_a_projection_lies_inside_and_stays(drawn):
    originals, settings, moved = drawn
    region = Region(originals, torch.arange(K * M).view(K, M), settings)
    at = torch.arange(K)
    found = region.project(at, moved)
    away = (found.double() - originals.double()) / settings.level
    slack = 1e-3 if originals.dtype is torch.float32 else 1e-9
    if settings.bound == "same_8bit":
        assert float(away.abs().max()) < 0.5
        low = settings.minimum[0]
        assert torch.equal(
            ((found.double() - low) / settings.level).round(), ((originals.double() - low) / settings.level).round()
        )
    elif settings.bound == "linf":
        assert float(away.abs().max()) <= settings.radius * (1 + 1e-6) + slack
    else:
        assert float(away.norm(dim=2).max()) <= settings.radius * (1 + 1e-6) + slack
    if settings.minimum is not None:
        assert bool((found >= torch.tensor(settings.minimum[0], dtype=found.dtype)).all())
    if settings.maximum is not None:
        assert bool((found <= torch.tensor(settings.maximum[0], dtype=found.dtype)).all())
    fixed = list(settings.fixed)
    assert torch.equal(found[..., fixed], originals[..., fixed])
    again = region.project(at, found)
    if settings.bound == "l2":
        torch.testing.assert_close(again, found, rtol=1e-6, atol=slack * settings.level)
    else:
        assert torch.equal(again, found)


@given(regions())
def test_what_lies_inside_stays_and_a_step_has_its_length(drawn):
    originals, settings, moved = drawn
    region = Region(originals, torch.arange(K * M).view(K, M), settings)
    at = torch.arange(K)
    assert torch.equal(region.project(at, originals), originals)
    direction = moved - originals
    found = region.step(at, originals, direction)
    inner = [column for column in range(D) if column not in settings.fixed]
    away = (found.double() - originals.double())[..., inner] / settings.level
    length = settings.step if settings.bound != "l2" else None
    slack = 1e-3 if originals.dtype is torch.float32 else 1e-9
    if length is not None:
        assert float(away.abs().max()) <= length + slack
        assert bool((away * direction[..., inner].double() >= -slack).all())
    else:
        assert float(away.norm(dim=2).max()) <= settings.step + slack
    some = region.project(at[1:], moved[1:])
    torch.testing.assert_close(some, region.project(at, moved)[1:], rtol=0, atol=0)


@pytest.mark.parametrize("bound", ["same_8bit", "linf", "l2"])
def test_lengths_are_in_levels(bound):
    radius = None if bound == "same_8bit" else 4.0
    originals = torch.full((1, 1, 4), 10 / 255, dtype=torch.float64)
    region = Region(originals, torch.zeros(1, 1, dtype=torch.int64), AttackSettings(bound=bound, radius=radius))
    moved = originals + torch.tensor([0.3, -0.4, 0.0, 0.0], dtype=torch.float64) / 255
    linf, l2 = region.lengths(moved)
    assert float(linf) == pytest.approx(0.4)
    assert float(l2) == pytest.approx(0.5)
