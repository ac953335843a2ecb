"""The registry of attribution methods: what each one estimates. The engine holds how."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from .errors import InvalidArgument, Reason


@dataclass(frozen=True, slots=True)
class MethodSpec:
    """One attribution method."""

    name: str
    scale: Literal["removal", "relative"]
    """ "removal": scores are changes of the cost in its own unit; "relative": only order and ratio mean something."""
    estimand: str
    uses_damping: bool
    has_leverage_correction: bool


METHODS: Mapping[str, MethodSpec] = {
    spec.name: spec
    for spec in (
        MethodSpec(
            name="exact",
            scale="removal",
            estimand="change of the test row's cost when the training row is removed and the model is retrained, "
            "to first order, by the dense damped Hessian",
            uses_damping=True,
            has_leverage_correction=True,
        ),
        MethodSpec(
            name="grad_dot",
            scale="relative",
            estimand="inner product of the test and the training row's gradients over n: "
            "the influence with the identity for a Hessian",
            uses_damping=False,
            has_leverage_correction=False,
        ),
    )
}


def method_spec(name: str) -> MethodSpec:
    """Return the method of that name.

    Raises:
        InvalidArgument: METHOD_UNKNOWN.
    """
    if name not in METHODS:
        text = f"there is no method {name!r}; there are {', '.join(sorted(METHODS))}"
        raise InvalidArgument.at("method", text, Reason.METHOD_UNKNOWN)
    return METHODS[name]
