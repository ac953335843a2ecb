"""Ids that look rows up in a table, held against its size before an operator meets them: CUDA would abort."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from undue_service.domain.errors import InvalidArgument, Reason

from .graph import Graph, ancestors, argument
from .program import Program
from .rewrites import aten


@dataclass(frozen=True)
class Lookups:
    """The embeddings of a program whose ids come from its inputs alone."""

    program: Program
    graph: Graph
    """Returns the ids of each."""
    tables: tuple[tuple[str, int], ...]
    """Name and number of rows of each table, in the same order."""

    def check(self, inputs: Mapping[str, Tensor], index: Tensor) -> None:
        """Require that every id is a row of its table.

        Args:
            inputs: of a placed batch, by name.
            index: the batch's row numbers, (B,).

        Raises:
            InvalidArgument: INPUT_MISMATCH, naming the row, the id and the table.
        """
        for (name, size), ids in zip(self.tables, self.program.evaluate(self.graph, {}, inputs), strict=True):
            bad = (ids < 0) | (ids >= size)
            if not bool(bad.any()):
                continue
            place = tuple(int(i) for i in bad.nonzero()[0])
            row = f"row {int(index[place[0]])}" if ids.dim() and len(ids) == len(index) else "a row"
            text = f"{row} looks up the id {int(ids[place])}, and {name!r} has the rows 0 to {size - 1}"
            raise InvalidArgument.at("inputs", text, Reason.INPUT_MISMATCH)


def find_lookups(program: Program) -> Lookups | None:
    """Return the embeddings of a program; None where it has none."""
    graph = program.graph
    found = [n for n in graph.nodes if n.target is aten.embedding.default and _from_inputs(graph, n)]
    if not found:
        return None
    tables = []
    for node in found:
        weight = argument(node, "weight")
        feed = graph.feeds.get(weight)
        tables.append((feed.name if feed is not None else weight.name, int(weight.meta["val"].shape[0])))
    return Lookups(program, graph.ending_at(*(argument(node, "indices") for node in found)), tuple(tables))


def _from_inputs(graph: Graph, node: fx.Node) -> bool:
    indices = argument(node, "indices")
    value = indices.meta.get("val")
    feeds = [graph.feeds[one] for one in ancestors((indices,)) if one in graph.feeds]
    return isinstance(value, torch.Tensor) and all(feed.kind != "parameter" for feed in feeds)
