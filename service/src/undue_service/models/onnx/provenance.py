"""Where the tensors of an ONNX file come from: which of them were trained, and what the exporter did to them.

ONNX knows initialisers, not parameters. What tells them apart is the part that a tensor plays, and what
`torch.onnx.export(dynamo=True)` writes into its files: the signature of the exported program, the call that each node
came from, and the rewriting rules that made it. A file of another exporter says nothing of the kind.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

import onnx

from undue_service.models.refusals import quoted

from .element_types import FLOATS
from .operators import qualified

_FIXED_INPUTS: Mapping[str, tuple[int, ...]] = {
    "Attention": (3,), "BatchNormalization": (3, 4), "Clip": (1, 2), "DequantizeLinear": (1, 2), "Dropout": (1,),
    "MelWeightMatrix": (3, 4), "NegativeLogLikelihoodLoss": (2,), "OneHot": (1, 2), "Pad": (2,), "Pow": (1,),
    "QLinearConv": (1, 4, 6), "QLinearMatMul": (1, 4, 6), "QuantizeLinear": (1, 2), "Range": (0, 1, 2),
    "Resize": (1, 2), "RoiAlign": (1,), "RotaryEmbedding": (1, 2), "SoftmaxCrossEntropyLoss": (2,), "STFT": (2,),
    "Upsample": (1,), "ai.onnx.ml::Imputer": (1,), "ai.onnx.ml::Scaler": (1, 2),
}  # fmt: skip
"""Inputs that no training changes: running statistics, bounds, ratios, exponents, scales, masks, windows."""
_SIGNATURE = "pkg.torch.export.ExportedProgram.graph_signature"
_SIGNATURE_LINE = re.compile(r"^(\w+): (PARAMETER|BUFFER|CONSTANT_TENSOR) target='([^'\n]+)'", re.MULTILINE)
_CALL = "pkg.torch.onnx.fx_node"
_RULES = "pkg.onnxscript.rewriter.rule_name"
_NAMELESS = re.compile(r"onnx::Conv(Transpose)?_[0-9]+")
"""What torch.onnx.export(dynamo=False) calls a weight of a convolution that it computed itself."""
_TURNED = re.compile(r"onnx::(MatMul|Gemm|Add|Mul|Gather)_[0-9]+")
"""What it calls any other: the weight of a Linear on sequences, transposed, among them."""
_MAX_NAMED = 5


@dataclass(frozen=True)
class Provenance:
    """What is known of a graph's tensors."""

    untrained: frozenset[str]
    warnings: tuple[str, ...]


def give_statistics_their_own(graph: onnx.GraphProto) -> None:
    """Undo, in place, that exporters store tensors of equal values once, where one of them is trained and one is fixed.

    The running mean of a fresh BatchNorm equals its bias, and becomes the same initialiser; a gradient would then flow
    into the statistics.
    """
    uses = _Uses(graph)
    taken = {name for node in graph.node for name in (*node.input, *node.output)} | set(uses.stored)
    for node in graph.node:
        for index in _fixed_inputs(node):
            owner = uses.owner(node.input[index])
            if owner not in uses.stored or all(_is_fixed(user, place) for user, place in uses.readers(owner)):
                continue
            name = f"{node.output[0]}.input{index}"
            while name in taken:
                name += "'"
            taken.add(name)
            copy = graph.initializer.add()
            copy.CopyFrom(uses.stored[owner])
            copy.name = node.input[index] = name


def trace_provenance(graph: onnx.GraphProto) -> Provenance:
    """Return which tensors of a graph are not trained, and what a user should know of the others."""
    uses = _Uses(graph)
    fixed = {name for name in uses.tensors if uses.readers(name) and all(_is_fixed(*u) for u in uses.readers(name))}
    folded = [name for name in uses.tensors if name not in fixed and _is_folded(uses.readers(name))]
    signature = _Signature.of(graph)
    told: list[str] = []
    if signature.parameters.keys() & set(uses.tensors):
        more, told = _by_signature(uses, signature, fixed, folded)
        fixed |= more
    folded = [name for name in folded if name not in fixed]
    warnings = [_folded(f"folded BatchNorm into {_named(folded)}", "optimize=False")] if folded else []
    return Provenance(frozenset(fixed), (*warnings, *told, *_aliases(graph, uses), *_nameless(uses), *_quantised(uses)))


def _by_signature(
    uses: "_Uses", signature: "_Signature", fixed: Collection[str], folded: Collection[str]
) -> tuple[set[str], list[str]]:
    """Hold the tensors against the exported program's signature; return those not trained, and what to tell.

    A tensor that the signature does not name is a constant that the exporter wrote, or was computed from a parameter
    that the file no longer holds: then the call that reads it names that parameter's placeholder.
    """
    missing = {placeholder: name for name, placeholder in signature.parameters.items() if name not in uses.tensors}
    more, accounted = set(), set()
    renamed: dict[tuple[str, ...], list[str]] = {}
    for name in uses.tensors:
        calls = [_metadata(node).get(_CALL) for node, _ in uses.readers(name)]
        lost = {missing[p] for call in calls if call for p in re.findall(r"%(\w+)", call) if p in missing}
        if name in folded:
            accounted |= lost
        if name in signature.parameters or name in fixed:
            continue
        is_scalar = name in uses.stored and not uses.stored[name].dims
        may_be_computed = missing and not is_scalar and None in calls
        if name in signature.fixed or not (lost or may_be_computed):
            more.add(name)
        elif name not in folded:
            accounted |= lost
            renamed.setdefault(tuple(sorted(lost)), []).append(name)
    told = []
    pairs = [f"{', '.join(old)} as {', '.join(new)}" for old, new in renamed.items() if old]
    if pairs:
        told.append(f"the exporter holds {_named(pairs)}, transposed or otherwise computed; name them so in parameters")
    rest = sorted(set(missing.values()) - accounted)
    if rest:
        text = "unused, or of the same values as another tensor and merged with it"
        computed = [name for name in uses.stored if name in more - signature.fixed and _is_matrix(uses.stored[name])]
        if computed:
            text += f", or folded into the constants {_named(computed)}; no score runs over them"
        told.append(f"the file does not hold the parameters {_named(rest)} of the exported module: {text}")
    return more, told


class _Uses:
    """Which nodes read a tensor, directly or by an Identity."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.stored = {tensor.name: tensor for tensor in graph.initializer}
        constants = (n.output[0] for n in graph.node if n.op_type == "Constant" and n.output)
        self.tensors = tuple(dict.fromkeys((*self.stored, *constants)))
        self._aliased = {
            n.output[0]: n.input[0] for n in graph.node if n.op_type == "Identity" and n.input and n.output
        }
        self._readers: dict[str, list[tuple[onnx.NodeProto, int]]] = {}
        for node in graph.node:
            if node.op_type == "Identity":
                continue
            for index, name in enumerate(node.input):
                self._readers.setdefault(self.owner(name), []).append((node, index))

    def owner(self, name: str) -> str:
        """Return the name behind a chain of Identity."""
        seen = set()
        while name in self._aliased and name not in seen:
            seen.add(name)
            name = self._aliased[name]
        return name

    def readers(self, name: str) -> list[tuple[onnx.NodeProto, int]]:
        """Return the nodes that read a stored tensor, each with the index of the input."""
        return self._readers.get(name, [])


@dataclass(frozen=True)
class _Signature:
    """What an exported program says of its inputs; empty where the file does not carry it."""

    parameters: Mapping[str, str]
    """Parameter to the placeholder that stands for it in the calls."""
    fixed: frozenset[str]

    @classmethod
    def of(cls, graph: onnx.GraphProto) -> "_Signature":
        text = next((entry.value for entry in graph.metadata_props if entry.key == _SIGNATURE), "")
        lines = _SIGNATURE_LINE.findall(text)
        parameters = {name: placeholder for placeholder, kind, name in lines if kind == "PARAMETER"}
        return cls(parameters, frozenset(name for _, kind, name in lines if kind != "PARAMETER"))


def _fixed_inputs(node: onnx.NodeProto) -> Iterator[int]:
    for index in _FIXED_INPUTS.get(qualified(node), ()):
        if index < len(node.input) and node.input[index]:
            yield index


def _is_fixed(node: onnx.NodeProto, index: int) -> bool:
    return index in _fixed_inputs(node)


def _is_matrix(tensor: onnx.TensorProto) -> bool:
    return tensor.data_type in FLOATS and len(tensor.dims) > 1


def _is_folded(readers: Iterable[tuple[onnx.NodeProto, int]]) -> bool:
    return any("BatchNorm" in _metadata(node).get(_RULES, "") for node, _ in readers)


def _metadata(node: onnx.NodeProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in node.metadata_props}


def _aliases(graph: onnx.GraphProto, uses: _Uses) -> Iterator[str]:
    """Name the trained tensors that one Identity makes two of: tied weights, or weights that happened to be equal."""
    pairs = []
    for node in graph.node:
        if node.op_type == "Identity" and node.input and node.input[0] in uses.stored:
            owner, name = node.input[0], node.output[0]
            trained = [(user, index) for user, index in uses.readers(owner) if not _is_fixed(user, index)]
            names = {user.input[index] for user, index in trained}
            if name in names and len(names) > 1:
                pairs.append(f"{name} and {owner}")
    if pairs:
        yield f"{_named(pairs)} have the same values and are stored once; each pair counts as one, tied parameter"


def _nameless(uses: _Uses) -> Iterator[str]:
    computed = [name for name in uses.stored if _NAMELESS.fullmatch(name) and uses.readers(name)]
    if computed:
        yield _folded(
            f"computed {_named(computed)} and kept no names, as it does where it folds BatchNorm into a convolution",
            "do_constant_folding=False",
        )
    turned = [name for name in uses.stored if _TURNED.fullmatch(name) and uses.readers(name)]
    if turned:
        yield (
            f"the exporter computed {_named(turned)} and kept no names, as it does where it transposes the weight of a "
            "Linear; name them so in parameters, or export with dynamo=True"
        )


def _quantised(uses: _Uses) -> Iterator[str]:
    stored = [n for n in uses.tensors if any(qualified(r) == "DequantizeLinear" and not i for r, i in uses.readers(n))]
    if stored:
        yield (
            f"{_named(stored)} are stored as quantised integers: they are constants here, and no influence runs over "
            "them; register the model as it was before it was quantised"
        )


def _folded(what: str, option: str) -> str:
    return (
        f"the exporter {what}: these are not the parameters that were trained, so scores over them and the L2 term on "
        "them are not the trained model's; scores over the other parameters are. To keep BatchNorm, export with "
        f"{option}, or register the torch module itself"
    )


def _named(names: Iterable[str]) -> str:
    listed = list(names)
    more = f" and {len(listed) - _MAX_NAMED} more" if len(listed) > _MAX_NAMED else ""
    return quoted(", ".join(listed[:_MAX_NAMED])) + more
