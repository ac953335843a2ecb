"""What a job asks to be different about training rows."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class InlineTensor:
    """An array that travels with its job."""

    dtype: str
    shape: tuple[int, ...]
    content: str
    """Its little-endian bytes in C order, as base64."""


@dataclass(frozen=True, slots=True)
class EditSpec:
    """One counterfactual: training rows that are left out, or have other inputs, targets or weights."""

    without: tuple[int, ...] = ()
    replaced: tuple[int, ...] = ()
    inputs: dict[str, InlineTensor] = field(default_factory=dict)
    """By name, a row for each of `replaced`, as the model sees them; a single one may have the empty name."""
    relabelled: tuple[int, ...] = ()
    targets: InlineTensor | None = None
    """A row for each of `relabelled`."""
    reweighted: tuple[int, ...] = ()
    weights: tuple[float, ...] = ()
    """One for each of `reweighted`."""

    def rows(self) -> dict[str, tuple[int, ...]]:
        """Return the rows of each part, by its field."""
        return {
            "without": self.without,
            "replaced": self.replaced,
            "relabelled": self.relabelled,
            "reweighted": self.reweighted,
        }
