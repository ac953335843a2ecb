"""Which input is perturbed, and whether the loss depends on it."""

from torch import Tensor

from undue_service.domain.errors import InvalidArgument, Reason
from undue_service.engine.exported import InputSpec
from undue_service.engine.objective import Objective

_EMBED = "where the model looks up tokens, perturb embeddings instead: register a model whose input is the embedding"


def chosen_input(objective: Objective, name: str | None) -> InputSpec:
    """Return the input that is perturbed: the one named, or the only one of floating-point numbers.

    Raises:
        InvalidArgument: INVALID_FIELD where there is no such input, or none is named and there are several;
            INPUT_NOT_DIFFERENTIABLE where it holds integers.
    """
    inputs = objective.program.inputs
    listed = ", ".join(repr(one.name) for one in inputs)
    if name is not None:
        chosen = next((one for one in inputs if one.name == name), None)
        if chosen is None:
            raise InvalidArgument.at("input", f"the model has no input {name!r}; it has {listed}")
    else:
        floating = [one for one in inputs if one.dtype.is_floating_point]
        if len(floating) > 1:
            text = f"the model has several floating-point inputs, {listed}: name the one to perturb with input="
            raise InvalidArgument.at("input", text)
        chosen = floating[0] if floating else inputs[0]
    if not chosen.dtype.is_floating_point:
        kind = str(chosen.dtype).removeprefix("torch.")
        raise cut_off(f"the model's input {chosen.name!r} holds {kind}, along which nothing has a derivative")
    if -1 in chosen.shape:
        text = f"the rows of the input {chosen.name!r} may differ in length, {chosen.shape}: only fixed shapes can move"
        raise InvalidArgument.at("input", text)
    return chosen


def reached(gradient: Tensor | None, name: str) -> Tensor:
    """Return a gradient with respect to the input.

    Raises:
        InvalidArgument: INPUT_NOT_DIFFERENTIABLE where there is none.
    """
    if gradient is None:
        raise cut_off(f"the model cuts its loss off from the input {name!r}, as by rounding it to integers")
    return gradient


def cut_off(what: str) -> InvalidArgument:
    """Return the error for an input that no derivative reaches."""
    return InvalidArgument.at("input", f"{what}; {_EMBED}", Reason.INPUT_NOT_DIFFERENTIABLE)
