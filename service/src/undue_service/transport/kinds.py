"""How each kind of job that CreateJob queues is read from a request and written into an answer."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from undue_service.domain.specs import RequestedJob

from . import (
    comparing,
    fidelity,
    groups,
    influence,
    leverage,
    mislabels,
    perturbing,
    retraining,
    self_influence,
)


@dataclass(frozen=True, slots=True)
class Kind:
    """The converters of a kind of job."""

    read: Callable[[Any], RequestedJob]
    """From its message."""
    write: Callable[[Any], Any]
    """Into its message."""


KINDS: Mapping[str, Kind] = {
    "influence": Kind(influence.read_spec, influence.write_spec),
    "self_influence": Kind(self_influence.read_spec, self_influence.write_spec),
    "retrain": Kind(retraining.read_spec, retraining.write_spec),
    "fidelity": Kind(fidelity.read_spec, fidelity.write_spec),
    "leverage": Kind(leverage.read_spec, leverage.write_spec),
    "mislabels": Kind(mislabels.read_spec, mislabels.write_spec),
    "group_influence": Kind(groups.read_spec, groups.write_spec),
    "compare": Kind(comparing.read_spec, comparing.write_spec),
    "perturb": Kind(perturbing.read_spec, perturbing.write_spec),
}
"""By the name that a kind has in the domain and as a field of `Job.spec`."""
