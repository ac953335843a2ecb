"""Where a perturbed row may lie, and the steps inside it."""

import torch
from torch import Tensor

from undue_service.domain.errors import InvalidArgument
from undue_service.domain.perturbation import LEVELS, SAME_LEVEL, AttackSettings

_OFF_LEVEL = 1e-3
"""In levels: farther from a level than rounding of a stored value explains."""


class Region:
    """The set Π of rows near some originals, for the settings' bound, range and fixed columns."""

    def __init__(self, originals: Tensor, rows: Tensor, settings: AttackSettings) -> None:
        """Bind rows.

        Args:
            originals: (K, M, …).
            rows: their numbers, (K, M), for messages.
            settings: checked by `AttackSettings.check`.

        Raises:
            InvalidArgument: INVALID_FIELD where a column is not there, a row lies outside of the range, or a value is
                no 8-bit level.
        """
        self._settings = settings
        self._originals = originals
        self.free = free_columns(originals.shape[2:], settings).to(originals.device)
        low = _columns(settings.minimum, "minimum", originals)
        high = _columns(settings.maximum, "maximum", originals)
        if settings.bound == "same_8bit":
            low = torch.zeros_like(originals[0, 0]) if low is None else low
            high = low + LEVELS * settings.level if high is None else high
            _check_levels(originals, rows, low, settings)
        _check_range(originals, rows, low, high, self.free, settings)
        self._low, self._high = low, high

    def step(self, at: Tensor, inputs: Tensor, direction: Tensor) -> Tensor:
        """Return Π(z̃ + step · sign(direction)) of the rows of the attacks `at` (A,): (A, M, …).

        For the bound "l2" a step is along the direction itself, scaled to the step's length.
        """
        settings = self._settings
        direction = direction.to(inputs.dtype)
        direction = torch.where(self.free, direction, 0)
        length = settings.step * settings.level
        if settings.bound == "l2":
            norms = _norms(direction)
            move = torch.where(norms > 0, length / norms.where(norms > 0, 1), 0) * direction
        else:
            move = length * torch.sign(direction)
        return self.project(at, inputs + move)

    def project(self, at: Tensor, inputs: Tensor) -> Tensor:
        """Return the rows of the attacks `at`, moved into their regions, (A, M, …): what lies inside stays.

        It is the nearest point of the cube or of the ball, then of the range.
        """
        settings, originals = self._settings, self._originals[at]
        if settings.bound == "l2":
            moved = inputs - originals
            norms, radius = _norms(moved), settings.radius * settings.level
            inside = originals + moved * torch.where(norms > radius, radius / norms.where(norms > 0, 1), 1)
            found = torch.where(norms > radius, inside, inputs)
        else:
            half = (SAME_LEVEL if settings.bound == "same_8bit" else settings.radius) * settings.level
            found = torch.minimum(torch.maximum(inputs, originals - half), originals + half)
        found = found if self._low is None else torch.maximum(found, self._low)
        found = found if self._high is None else torch.minimum(found, self._high)
        return torch.where(self.free, found, originals)

    def lengths(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return the L∞ and L2 lengths of the moves of all rows (K, M, …) in levels, (K, M) float64 each."""
        moved = (inputs.to(torch.float64) - self._originals.to(torch.float64)).flatten(2) / self._settings.level
        return moved.abs().amax(dim=2), torch.linalg.vector_norm(moved, dim=2)


def free_columns(shape: torch.Size | tuple[int, ...], settings: AttackSettings) -> Tensor:
    """Return which values of a row may move, bool of the row's shape.

    Raises:
        InvalidArgument: INVALID_FIELD for a column that is not there, or where none is left.
    """
    free = torch.ones(shape, dtype=torch.bool)
    flat = free.view(-1)
    wrong = next((column for column in settings.fixed if not 0 <= column < len(flat)), None)
    if wrong is not None:
        raise InvalidArgument.at("fixed", f"a row has the columns 0…{len(flat) - 1}, and no column {wrong}")
    flat[list(settings.fixed)] = False
    if not bool(flat.any()):
        raise InvalidArgument.at("fixed", "holds every column: leave at least one that may move")
    return free


def _columns(values: tuple[float, ...] | None, name: str, originals: Tensor) -> Tensor | None:
    """Return one number for each value of a row."""
    if values is None:
        return None
    row = originals[0, 0]
    if len(values) not in (1, row.numel()):
        text = f"holds {len(values)} numbers; a row has {row.numel()} columns: pass as many, or one for all"
        raise InvalidArgument.at(name, text)
    given = torch.tensor(values, dtype=row.dtype, device=row.device)
    return given.expand(row.numel()).reshape(row.shape)


def _check_levels(originals: Tensor, rows: Tensor, low: Tensor, settings: AttackSettings) -> None:
    levels = (originals.to(torch.float64) - low.to(torch.float64)) / settings.level
    off = (levels - levels.round()).abs() > _OFF_LEVEL
    if bool(off.any()):
        k, m = off.flatten(2).any(dim=2).nonzero()[0].tolist()
        value = float(originals[k, m][off[k, m]][0])
        text = (
            f"same_8bit keeps the 8-bit level of each value, but training row {int(rows[k, m])} holds {value:.6g}, "
            f"which is no multiple of the level {settings.level:.6g}"
            + (f" above the minimum {settings.minimum[0]:g}" if settings.minimum else "")
            + ': pass level= as the input has it (1 where it holds 0…255), or bound="linf" with a radius'
        )
        raise InvalidArgument.at("bound", text)


def _check_range(
    originals: Tensor,
    rows: Tensor,
    low: Tensor | None,
    high: Tensor | None,
    free: Tensor,
    settings: AttackSettings,
) -> None:
    slack = _OFF_LEVEL * settings.level
    for name, bad in (
        ("minimum", None if low is None else originals < low - slack),
        ("maximum", None if high is None else originals > high + slack),
    ):
        if bad is None or not bool((bad & free).any()):
            continue
        k, m, column = (bad & free).flatten(2).nonzero()[0].tolist()
        value = float(originals[k, m].reshape(-1)[column])
        bound = float((low if name == "minimum" else high).reshape(-1)[column])
        text = (
            f"training row {int(rows[k, m])} has {value:.6g} in column {column}, outside of the range that ends at "
            f"{bound:.6g}: widen the range, name other candidate_rows, or hold the column fixed"
        )
        raise InvalidArgument.at(name, text)


def _norms(rows: Tensor) -> Tensor:
    """Return the Euclidean norm of each row (A, M, …), with the row's axes kept."""
    return torch.linalg.vector_norm(rows.flatten(2), dim=2).view(*rows.shape[:2], *[1] * (rows.dim() - 2))
