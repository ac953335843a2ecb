"""Weights into a module: exactly those that it has, in their shapes."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from undue_service.domain.architectures import ArchitectureChoice
from undue_service.domain.errors import InvalidArgument, Reason

COUNTER = "num_batches_tracked"
"""Of a BatchNorm: no prediction reads it, and files do without it."""


def load(module: nn.Module, weights: Mapping[str, Tensor], choice: ArchitectureChoice) -> None:
    """Put weights in the place of a module's parameters and buffers. Floating-point numbers become of one type.

    That is float64 where any of them is, float32 otherwise: both hold float16 and bfloat16 exactly. A parameter that
    has several names may be in the file under one of them.

    Raises:
        InvalidArgument: WEIGHTS_MISMATCH, names the first that is missing, strange or of another shape or kind.
    """
    state = module.state_dict(keep_vars=True)
    names: dict[int, list[str]] = {}
    for name, tensor in state.items():
        names.setdefault(id(tensor), []).append(name)
    dtype = torch.float64 if any(tensor.dtype == torch.float64 for tensor in weights.values()) else torch.float32
    _refuse_strange(weights, state, choice)
    for same in names.values():
        old = state[same[0]]
        found = [name for name in same if name in weights]
        if not found and same[0].rpartition(".")[2] == COUNTER:
            _set(module, same, torch.zeros_like(old, device="cpu"))
            continue
        if not found:
            raise _mismatch(same[0], f"the file has no weights {same[0]!r}", weights, choice)
        given = _fitting(found[0], old, weights, choice)
        for name in found[1:]:
            if not torch.equal(weights[name], weights[found[0]]):
                raise _mismatch(name, f"{name!r} and {found[0]!r} are one parameter and differ", weights, choice)
        given = given.to(dtype) if given.is_floating_point() else given
        is_parameter = isinstance(old, nn.Parameter)
        _set(module, same, nn.Parameter(given, requires_grad=old.requires_grad) if is_parameter else given)


def _refuse_strange(weights: Mapping[str, Tensor], state: Mapping[str, Tensor], choice: ArchitectureChoice) -> None:
    for name in sorted(weights.keys() - state.keys()):
        if name.rpartition(".")[2] != COUNTER:
            raise _mismatch(name, f"the file has weights {name!r}, which the architecture has not", weights, choice)


def _fitting(name: str, old: Tensor, weights: Mapping[str, Tensor], choice: ArchitectureChoice) -> Tensor:
    given = weights[name]
    if given.shape != old.shape:
        shapes = f"{tuple(given.shape)} in the file and {tuple(old.shape)} in the architecture"
        raise _mismatch(name, f"{name!r} is {shapes}", weights, choice)
    if given.is_floating_point() != old.is_floating_point():
        kinds = f"{given.dtype} in the file and {old.dtype} in the architecture"
        raise _mismatch(name, f"{name!r} is {kinds}".replace("torch.", ""), weights, choice)
    return given if given.is_floating_point() else given.to(old.dtype)


def _set(module: nn.Module, names: list[str], tensor: Tensor) -> None:
    for name in names:
        path, _, attribute = name.rpartition(".")
        owner = module.get_submodule(path)
        if isinstance(tensor, nn.Parameter):
            owner.register_parameter(attribute, tensor)
        else:
            owner.register_buffer(attribute, tensor)


def _mismatch(name: str, what: str, weights: Mapping[str, Tensor], choice: ArchitectureChoice) -> InvalidArgument:
    hint = ""
    prefix = next(iter(weights), "").partition(".")[0]
    if prefix in ("module", "model", "_orig_mod") and all(one.startswith(f"{prefix}.") for one in weights):
        hint = f"; every name in the file begins with {prefix!r}: write it without"
    text = f"{what}: it is {choice}{hint}"
    return InvalidArgument(Reason.WEIGHTS_MISMATCH, text, metadata={"parameter": name})
