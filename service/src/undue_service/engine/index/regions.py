"""The regions of θ in which an index scores, each with an orthonormal basis that makes the curvature diagonal."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from undue_service.engine.curvature.eigenbasis import (
    Basis,
    DenseBasis,
    LookupBasis,
    OuterBasis,
    sum_of_squares,
    weighted_squares,
)
from undue_service.engine.gradients import FactoredGradients
from undue_service.engine.taps import Block, Dense, Outer, Part


@dataclass(frozen=True)
class Region:
    """A block of θ, or all of it."""

    block: int | None
    """Its place among the taps' blocks; None: all of θ, in its order."""
    basis: Basis
    inverse: Tensor
    """1/(Λ + l2 + λ) in the basis, (q,)."""
    eigenvalues: Tensor
    """Λ, (q,)."""

    def of(self, gradients: FactoredGradients) -> Part:
        """Return the rows' gradients here, in θ's coordinates."""
        return Dense(gradients.dense()) if self.block is None else gradients.parts[self.block]

    def rotated(self, gradients: FactoredGradients) -> Part:
        """Return them in the basis."""
        return self.basis.rotated(self.of(gradients))

    def self_products(self, rotated: Part) -> Tensor:
        """Return gᵀ (curvature + λI)⁻¹ g of rotated rows, (B,)."""
        return weighted_squares(rotated, self.inverse)

    def squares(self, gradients: FactoredGradients) -> Tensor:
        """Return Σ_i (Qᵀ g_i)² over the rows, (q,)."""
        return sum_of_squares(self.rotated(gradients))

    def solve(self, gradients: FactoredGradients) -> Tensor:
        """Return (curvature + λI)⁻¹ g_t of each row, (q, m)."""
        turned = self.basis.to_basis(self.of(gradients).rows().T)
        return self.basis.from_basis(self.inverse[:, None] * turned)

    def tensors(self) -> dict[str, Tensor]:
        """Return what `read_region` needs, by name."""
        named: dict[str, Tensor | None] = {"inverse": self.inverse, "eigenvalues": self.eigenvalues}
        match self.basis:
            case OuterBasis(outputs=outputs, inputs=inputs):
                named |= {"outputs": outputs, "inputs": inputs}
            case LookupBasis(outputs=outputs):
                named |= {"outputs": outputs}
            case DenseBasis(vectors=vectors):
                named |= {"vectors": vectors}
        return {name: tensor for name, tensor in named.items() if tensor is not None}

    def settings(self) -> dict[str, Any]:
        """Return the rest of what `read_region` needs, as JSON."""
        kinds = {OuterBasis: "outer", LookupBasis: "lookup", DenseBasis: "dense"}
        return {"block": self.block, "basis": kinds[type(self.basis)]}


def read_region(tensors: Mapping[str, Tensor], settings: Mapping[str, Any]) -> Region:
    """Return the region again that `tensors` and `settings` describe."""
    basis: Basis
    match settings["basis"]:
        case "outer":
            basis = OuterBasis(tensors["outputs"], tensors["inputs"])
        case "lookup":
            basis = LookupBasis(tensors["outputs"])
        case _:
            basis = DenseBasis(tensors.get("vectors"))
    return Region(settings["block"], basis, tensors["inverse"], tensors["eigenvalues"])


def pair_scores(queries: Tensor, part: Part, block: Block | None) -> Tensor:
    """Return the inner products of solved queries with the rows they are paired with, (m, k).

    Args:
        queries: (curvature + λI)⁻¹ g_t in one region, (q, m).
        part: gradients of m·k rows there: k for the first query, then k for the second.
        block: what the region is, None for all of θ.
    """
    m = queries.shape[1]
    if isinstance(part, Outer) and block is not None and part.inputs.shape[1] == 1:
        _, O, I = block.shape  # noqa: E741
        _, _, T, _ = part.inputs.shape
        S = queries.T.reshape(m, O, I)
        x, d = (values.reshape(m, -1, values.shape[3]) for values in (part.inputs, part.deltas))
        # Through the longer factor first: what is left is the smaller.
        products = torch.bmm(x, S.mT) * d if I >= O else torch.bmm(d, S) * x
        return products.view(m, -1, T * products.shape[2]).sum(dim=2)
    k = len(part) // m
    return torch.stack([part[at * k : (at + 1) * k].dot(queries[:, at : at + 1])[:, 0] for at in range(m)])


def gathered(part: Part, at: Tensor) -> Part:
    """Return the gradients of some rows of a part, in any order and as often as they are named."""
    fields = {name: value[at] if isinstance(value, Tensor) else value for name, value in vars(part).items()}
    return type(part)(**fields)


def total(values: Sequence[Tensor]) -> Tensor:
    """Return the sum of at least one tensor."""
    first, *others = values
    for one in others:
        first = first + one
    return first
