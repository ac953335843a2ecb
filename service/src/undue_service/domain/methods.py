"""The registry of attribution methods: what each one estimates. The engine holds how."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from .errors import InvalidArgument, Reason

DENSE_PARAMETER_LIMIT = 12_000
"""P above which no dense matrix is made: at 12,000 it takes 1.2 GB, its factor and inverse as much each."""

INDEX_METHODS = ("exact", "gauss_newton", "ekfac")
"""Methods whose scores are a form of two gradients that an index can hold."""
INDEX_GAUSS_NEWTON_LIMIT = 4_096
"""P up to which an index holds the Gauss–Newton matrix of a model that is no linear head."""


@dataclass(frozen=True, slots=True)
class MethodSpec:
    """One attribution method."""

    name: str
    scale: Literal["removal", "relative"]
    """ "removal": scores are changes of the cost in its own unit; "relative": only order and ratio mean something."""
    estimand: str
    uses_damping: bool
    has_leverage_correction: bool
    is_iterative: bool = False
    """Whether it takes a tolerance and a number of iterations."""
    has_self_influence: bool = True
    """Whether score(i, i) tells rows apart."""
    parameter_limit: int | None = None
    """The largest P that it can work on; None for any."""
    precision: Literal["float64", "float32"] = "float64"
    """Of the model and the scores; what is decomposed is decomposed in float64."""
    rank: str = ""
    """What `rank` truncates; empty where the method takes none."""
    has_normalization: bool = False
    uses_checkpoints: bool = False
    """Whether it works over the registered checkpoints by itself, where there are any."""
    needs_checkpoints: bool = False
    """Whether it does not work without them."""
    draws_at_random: bool = False
    """Whether `seed` changes the scores."""


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
            parameter_limit=DENSE_PARAMETER_LIMIT,
        ),
        MethodSpec(
            name="cg",
            scale="removal",
            estimand="change of the test row's cost when the training row is removed and the model is retrained, "
            "to first order, by conjugate gradients on the damped Hessian",
            uses_damping=True,
            has_leverage_correction=False,
            is_iterative=True,
        ),
        MethodSpec(
            name="lissa",
            scale="removal",
            estimand="change of the test row's cost when the training row is removed and the model is retrained, "
            "to first order, by the stochastic recursion LiSSA on the damped Gauss–Newton matrix, which for a linear "
            "head is the Hessian",
            uses_damping=True,
            has_leverage_correction=False,
            is_iterative=True,
            draws_at_random=True,
        ),
        MethodSpec(
            name="arnoldi",
            scale="removal",
            estimand="change of the test row's cost when the training row is removed and the model is retrained, "
            "to first order, by the leading eigenpairs of the damped Gauss–Newton matrix, which for a linear head is "
            "the Hessian; beyond them the data counts as flat",
            uses_damping=True,
            has_leverage_correction=False,
            rank="eigenpairs of the curvature that are kept; 128 unless said otherwise",
            draws_at_random=True,
        ),
        MethodSpec(
            name="gauss_newton",
            scale="removal",
            estimand="change of the test row's cost when the training row is removed and the model is retrained, "
            "to first order, by the damped Gauss–Newton matrix",
            uses_damping=True,
            has_leverage_correction=True,
            is_iterative=True,
            precision="float32",
            rank="rows of a square root of the Gauss–Newton matrix, the largest first",
        ),
        MethodSpec(
            name="ekfac",
            scale="removal",
            estimand="change of the test row's cost when the training row is removed and the model is retrained, "
            "to first order, with EK-FAC for the Gauss-Newton matrix",
            uses_damping=True,
            has_leverage_correction=False,
            precision="float32",
            rank="terms of the damped inverse's eigenvalues in each weight",
            draws_at_random=True,
        ),
        MethodSpec(
            name="grad_dot",
            scale="relative",
            estimand="inner product of the test and the training row's gradients over n: "
            "the influence with the identity for a Hessian",
            uses_damping=False,
            has_leverage_correction=False,
        ),
        MethodSpec(
            name="grad_cos",
            scale="relative",
            estimand="cosine of the angle between the test and the training row's gradients",
            uses_damping=False,
            has_leverage_correction=False,
            has_self_influence=False,
        ),
        MethodSpec(
            name="tracin",
            scale="relative",
            estimand="inner product of the test and the training row's gradients over n, summed over the registered "
            "checkpoints with their learning rates: what gradient steps on the training row did to the test row's cost",
            uses_damping=False,
            has_leverage_correction=False,
            precision="float32",
            uses_checkpoints=True,
            needs_checkpoints=True,
        ),
        MethodSpec(
            name="trak",
            scale="relative",
            estimand="effect of the training row in a linear model of randomly projected gradients, over the "
            "registered checkpoints",
            uses_damping=False,
            has_leverage_correction=False,
            precision="float32",
            rank="dimensions of the random projection",
            uses_checkpoints=True,
            draws_at_random=True,
        ),
        MethodSpec(
            name="relatif",
            scale="relative",
            estimand="influence of the training row on the test row's cost, over the size of what its removal does to "
            "the whole model",
            uses_damping=True,
            has_leverage_correction=False,
            precision="float32",
            has_normalization=True,
        ),
        MethodSpec(
            name="representation",
            scale="relative",
            estimand="cosine of what the last layer reads of the test and of the training row, negative where the two "
            "rows' costs pull the outputs in opposite directions",
            uses_damping=False,
            has_leverage_correction=False,
            has_self_influence=False,
            precision="float32",
        ),
    )
}


def default_method(linear_head: bool, dim: int) -> str:
    """Return the method of a job that names none, for P = `dim` selected parameters."""
    if linear_head and dim <= DENSE_PARAMETER_LIMIT:
        return "exact"
    return "gauss_newton"


def default_index_method(linear_head: bool, dim: int) -> str:
    """Return the method of an index that names none, for P = `dim` selected parameters."""
    return "exact" if linear_head and dim <= DENSE_PARAMETER_LIMIT else "ekfac"


def method_spec(name: str) -> MethodSpec:
    """Return the method of that name.

    Raises:
        InvalidArgument: METHOD_UNKNOWN.
    """
    if name not in METHODS:
        text = f"there is no method {name!r}; there are {', '.join(sorted(METHODS))}"
        raise InvalidArgument.at("method", text, Reason.METHOD_UNKNOWN)
    return METHODS[name]


def works_over_checkpoints(name: str, ensemble: bool) -> bool:
    """Return whether the scores of a method are taken at the registered checkpoints.

    Raises:
        InvalidArgument: METHOD_UNKNOWN.
    """
    return ensemble or method_spec(name).uses_checkpoints


def self_influence_spec(name: str) -> MethodSpec:
    """Return the method of that name, which has to tell rows apart by their score for themselves.

    Raises:
        InvalidArgument: METHOD_UNKNOWN; INVALID_FIELD where every row has the same.
    """
    spec = method_spec(name)
    if not spec.has_self_influence:
        there_are = ", ".join(repr(name) for name, spec in METHODS.items() if spec.has_self_influence)
        text = f"{name!r} gives every row the same score for itself, so it ranks none; use one of {there_are}"
        raise InvalidArgument.at("method", text)
    return spec
