"""Reading between the elements of (rows, channels, *sizes): what grid, region and deformable sampling share.

By indexing and weights, since torch's own samplers have no second derivative.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence

import torch

from undue_service.models.onnx.values import as_type

Taps = Sequence[tuple[torch.Tensor, torch.Tensor]]
"""For one axis: the whole positions that are read, each with its weight, of one shape (rows, …)."""
Places = Callable[[torch.Tensor, int], tuple[torch.Tensor, torch.Tensor | None]]
"""A whole position and the size of its axis, to a position within and whether anything is there (None: everywhere)."""


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
    """Return the sum of `sampled_parts`."""
    return sum(sampled_parts(x, taps, places), start=x.new_zeros(()))


def sampled_parts(x: torch.Tensor, taps: Sequence[Taps], places: Places) -> Iterator[torch.Tensor]:
    """Yield, for each combination of the axes' taps, the product of their weights times what `x` has there.

    Args:
        x: (rows, C, *sizes).
        taps: for each spatial axis, of shape (rows, *outputs).
        places: what lies beyond the ends.

    Yields:
        (rows, C, *outputs).
    """
    sizes = [int(size) for size in x.shape[2:]]
    flat = x.flatten(2)
    outputs = taps[0][0][0].shape[1:]
    for combination in itertools.product(*taps):
        index, weight = torch.zeros_like(combination[0][0], dtype=torch.int64), torch.ones_like(combination[0][1])
        for (position, share), size in zip(combination, sizes, strict=True):
            inside, exists = places(position, size)
            index = index * size + inside.long()
            weight = weight * (share if exists is None else share * exists.to(share.dtype))
        found = flat.gather(2, index.flatten(1).unsqueeze(1).expand(-1, flat.shape[1], -1))
        yield found.unflatten(2, outputs) * as_type(weight, x.dtype).unsqueeze(1)
