"""The parameters that influence runs over, as one flat vector θ."""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

import torch
from torch import Tensor

from undue_service.domain.errors import InvalidArgument, Reason

from .program import Program


class ParameterSpace:
    """P numbers: the selected parameters of a program, each flattened in C order, one after the other."""

    def __init__(self, program: Program, patterns: Sequence[str] = ()) -> None:
        """Select parameters by fnmatch patterns; none means all.

        Raises:
            InvalidArgument: PARAMETERS_NOT_FOUND where a pattern matches nothing.
        """
        candidates = [name for name, tensor in program.parameters.items() if tensor.is_floating_point()]
        self.names = tuple(matching(program, patterns, candidates, "parameters")) if patterns else tuple(candidates)
        if not self.names:
            text = f"no trainable parameter reaches the output {program.output!r}"
            raise InvalidArgument.at("parameters", text, Reason.PARAMETERS_NOT_FOUND)
        self.shapes = {name: tuple(program.parameters[name].shape) for name in self.names}
        self.offsets: dict[str, int] = {}
        self.dim = 0
        for name in self.names:
            self.offsets[name] = self.dim
            self.dim += program.parameters[name].numel()

    def flatten(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """Return θ, (P,), of the parameters by name."""
        return torch.cat([parameters[name].reshape(-1) for name in self.names])

    def unflatten(self, theta: Tensor) -> dict[str, Tensor]:
        """Return the parameters by name, as views of θ, (P,)."""
        parts = torch.split(theta, [self._numel(name) for name in self.names])
        return {name: part.view(self.shapes[name]) for name, part in zip(self.names, parts, strict=True)}

    def slice(self, name: str) -> slice:
        """Return where a parameter lies in θ."""
        return slice(self.offsets[name], self.offsets[name] + self._numel(name))

    def _numel(self, name: str) -> int:
        return torch.Size(self.shapes[name]).numel()


def matching(program: Program, patterns: Sequence[str], names: Sequence[str], field: str) -> list[str]:
    """Return the names that a pattern matches, in order; a tied parameter answers to all of its names.

    Raises:
        InvalidArgument: PARAMETERS_NOT_FOUND where a pattern matches nothing.
    """
    called = {name: [name, *(alias for alias, owner in program.aliases.items() if owner == name)] for name in names}
    for pattern in patterns:
        if not any(fnmatchcase(alias, pattern) for aliases in called.values() for alias in aliases):
            there_are = ", ".join(names)
            text = f"{pattern!r} matches no parameter that {program.output!r} depends on; there are {there_are}"
            raise InvalidArgument.at(field, text, Reason.PARAMETERS_NOT_FOUND)
    return [
        name for name in names if any(fnmatchcase(alias, pattern) for alias in called[name] for pattern in patterns)
    ]
