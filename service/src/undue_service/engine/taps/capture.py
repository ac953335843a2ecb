"""One forward pass, and from it every row's gradient for as many cotangents as are asked for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, fx
from torch.func import grad, vmap
from torch.nn import functional

from undue_service.engine.graph import Graph, row_numel
from undue_service.engine.parameters import ParameterSpace
from undue_service.engine.program import Program

from .parts import Block, Dense, Outer, Part, added
from .uses import Use, Value


@dataclass(frozen=True)
class Tap:
    """A block of θ, and where the program uses it."""

    block: Block
    uses: tuple[Use, ...]
    """Empty for a parameter that is left to `vmap(grad)`."""
    swapped: tuple[bool, ...] = ()
    """Of an outer block: which uses are of the transposed weight."""

    @property
    def places(self) -> int:
        """Return T, at how many places a row uses the block; a free length counts as one."""
        if self.block.kind == "dense":
            return 1
        width = prod(self.block.shape[:2]) if self.block.kind == "outer" else self.block.shape[1]
        return max(1, self.delta_numel // width)

    @property
    def delta_numel(self) -> int:
        """Return how many numbers a row's δ are."""
        return sum(row_numel(use.output) for use in self.uses)

    @property
    def input_numel(self) -> int:
        """Return how many numbers a row has that no cotangent changes; of a dense block, its gradient."""
        if self.block.kind == "dense":
            return self.block.numel
        return self.places * (self.block.shape[0] * self.block.shape[2] if self.block.kind == "outer" else 1)

    def prepare(self, value: Value, B: int) -> tuple[Any, ...]:
        """Return what no cotangent changes, for each use; the inputs of a weight with a bias end in a one."""
        ready = tuple(use.prepare(value, B) for use in self.uses)
        return tuple(functional.pad(x, (0, 1), value=1.0) for x in ready) if self.block.has_bias else ready

    def part(self, prepared: Sequence[Any], deltas: Sequence[Tensor]) -> Part:
        """Return the sum over the uses."""
        parts = [use.part(ready, delta) for use, ready, delta in zip(self.uses, prepared, deltas, strict=True)]
        if self.block.kind == "outer":
            turned = [
                Outer(part.deltas, part.inputs) if swap else part
                for part, swap in zip(parts, self.swapped, strict=True)
            ]
            return added(turned)
        if self.block.kind == "lookup":
            return added(parts)
        values = parts[0].rows().new_zeros(len(parts[0]), self.block.numel)
        for use, part in zip(self.uses, parts, strict=True):
            values.index_add_(1, use.positions.reshape(-1).to(values.device), part.rows())
        return Dense(values)


@dataclass(frozen=True)
class Taps:
    """θ as blocks, and how to read each row's gradient in them."""

    program: Program
    space: ParameterSpace
    taps: tuple[Tap, ...]
    rest: tuple[str, ...]
    """Parameters that no tap covers."""
    graph: Graph
    """Returns f, then the values of `needs`, then those of `outputs`."""
    needs: tuple[fx.Node, ...]
    outputs: tuple[fx.Node, ...]

    @classmethod
    def of(cls, program: Program, space: ParameterSpace, taps: tuple[Tap, ...], rest: tuple[str, ...]) -> "Taps":
        """Lay out what a forward pass has to return."""
        needs = tuple(dict.fromkeys(node for tap in taps for use in tap.uses for node in use.needs))
        outputs = tuple(dict.fromkeys(use.output for tap in taps for use in tap.uses))
        graph = program.graph.ending_at(program.graph.outputs[0], *needs, *outputs)
        return cls(program, space, taps, rest, graph, needs, outputs)

    @property
    def blocks(self) -> tuple[Block, ...]:
        """Return the blocks, which together are θ. L2 is the same throughout each."""
        return tuple(tap.block for tap in self.taps)

    @property
    def row_numel(self) -> int:
        """Return how many numbers a row's gradient takes in the form in which it is captured, and on the way there."""
        rest = sum(tap.block.numel for tap in self.taps if tap.block.names[0] in self.rest)
        again = self.program.graph.row_numel(self.rest) if self.rest else 0
        return sum(tap.input_numel + tap.delta_numel for tap in self.taps) + 4 * (rest + again)

    def kept_numel(self, cotangents: int) -> int:
        """Return how many numbers the gradients of one row take for several cotangents."""
        dense = sum(tap.block.numel for tap in self.taps if tap.block.kind == "dense")
        inputs = sum(tap.input_numel for tap in self.taps) - dense
        deltas = sum(tap.delta_numel for tap in self.taps if tap.block.kind != "dense")
        return inputs + cotangents * (deltas + dense)

    def capture(self, inputs: Mapping[str, Tensor]) -> "Capture":
        """Run the program at its weights.

        Args:
            inputs: of a placed batch, by name.
        """
        with torch.enable_grad():
            values = self.program.evaluate(self.graph, {}, inputs, watched=self.outputs)
        f, *others = values
        known = dict(zip((*self.needs, *self.outputs), others, strict=True))
        B = len(f)

        def value(node: fx.Node) -> Any:
            found = known[node]
            return found.detach() if isinstance(found, Tensor) else found

        watched = tuple(known[node] for node in self.outputs)
        return Capture(self, dict(inputs), f, watched, tuple(tap.prepare(value, B) for tap in self.taps))


@dataclass(frozen=True)
class Capture:
    """A forward pass over B rows."""

    taps: Taps
    inputs: Mapping[str, Tensor]
    f: Tensor
    """The outputs, with their graph."""
    watched: tuple[Tensor, ...]
    prepared: tuple[tuple[Any, ...], ...]

    @property
    def outputs(self) -> Tensor:
        """Return f, (B, C)."""
        return self.f.detach().flatten(1) if self.f.dim() > 1 else self.f.detach()[:, None]

    def parts(self, cotangent: Tensor) -> tuple[Part, ...]:
        """Return J_iᵀ c_i of each row i, block by block.

        Args:
            cotangent: c, (B, C).
        """
        cotangent = cotangent.reshape(self.f.shape)
        deltas = dict(zip(self.taps.outputs, self._deltas(cotangent), strict=True))
        rest = self._rest(cotangent)
        return tuple(
            Dense(rest[tap.block.names[0]])
            if tap.block.names[0] in rest
            else tap.part(ready, [deltas[use.output] for use in tap.uses])
            for tap, ready in zip(self.taps.taps, self.prepared, strict=True)
        )

    def _deltas(self, cotangent: Tensor) -> Sequence[Tensor]:
        if not self.watched:
            return ()
        return torch.autograd.grad(self.f, self.watched, cotangent, retain_graph=True, materialize_grads=True)

    def _rest(self, cotangent: Tensor) -> dict[str, Tensor]:
        """Return J_iᵀ c_i by vmap(grad) in the parameters that no tap covers, (B, p) each."""
        program = self.taps.program
        if not self.taps.rest:
            return {}

        def of_row(parameters: dict[str, Tensor], inputs: dict[str, Tensor], c: Tensor) -> Tensor:
            f = program.forward(parameters, {name: tensor[None] for name, tensor in inputs.items()})
            return (f[0] * c).sum()

        parameters = {name: program.parameters[name].detach() for name in self.taps.rest}
        found = vmap(grad(of_row), in_dims=(None, 0, 0))(parameters, dict(self.inputs), cotangent)
        return {
            name: gradient.flatten(1) if gradient.dim() > 1 else gradient[:, None] for name, gradient in found.items()
        }
