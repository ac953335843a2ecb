"""Reading between the elements of (rows, channels, *sizes): what grid, region and deformable sampling share.

By indexing and weights, since torch's own samplers have no second derivative.
"""

import itertools
from collections.abc import Callable, Sequence

import torch

Taps = Sequence[tuple[torch.Tensor, torch.Tensor]]
"""For one axis: the whole positions that are read, each with its weight, of one shape (rows, …)."""
Places = Callable[[torch.Tensor, int], tuple[torch.Tensor, torch.Tensor | None]]
"""A whole position and the size of its axis, to a position within the axis and whether anything is there (None: all)."""


def linear_taps(position: torch.Tensor) -> Taps:
    """Return the two neighbours of a position, weighted by how near they are."""
    low = position.detach().floor()
    share = position - low
    return ((low, 1 - share), (low + 1, share))


def cubic_taps(position: torch.Tensor, a: float = -0.75) -> Taps:
    """Return the four neighbours of a position, weighted by cubic convolution (Keys 1981, equation 4)."""
    low = position.detach().floor()
    share = position - low

    def near(x: torch.Tensor) -> torch.Tensor:
        return ((a + 2) * x - (a + 3)) * x * x + 1

    def far(x: torch.Tensor) -> torch.Tensor:
        return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a

    weights = (far(share + 1), near(share), near(1 - share), far(2 - share))
    return tuple((low + step, weight) for step, weight in zip((-1, 0, 1, 2), weights, strict=True))


def zero_outside(position: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return where to read, with nothing beyond the ends of the axis."""
    return position.clamp(0, size - 1), (position >= 0) & (position <= size - 1)


def sample(x: torch.Tensor, taps: Sequence[Taps], places: Places = zero_outside) -> torch.Tensor:
    """Return Σ over all combinations of the axes' taps of their weights' product times what `x` has there.

    Args:
        x: (rows, C, *sizes).
        taps: for each spatial axis, of shape (rows, *outputs).
        places: what lies beyond the ends.

    Returns:
        (rows, C, *outputs).
    """
    sizes = [int(size) for size in x.shape[2:]]
    flat = x.flatten(2)
    outputs = taps[0][0][0].shape[1:]
    total: torch.Tensor | None = None
    for combination in itertools.product(*taps):
        index, weight = None, None
        for (position, share), size in zip(combination, sizes, strict=True):
            inside, exists = places(position, size)
            share = share if exists is None else share * exists.to(share.dtype)
            index = inside if index is None else index * size + inside
            weight = share if weight is None else weight * share
        assert index is not None and weight is not None
        found = flat.gather(2, index.long().flatten(1).unsqueeze(1).expand(-1, flat.shape[1], -1))
        part = found.unflatten(2, outputs) * weight.unsqueeze(1).to(x.dtype)
        total = part if total is None else total + part
    assert total is not None
    return total
