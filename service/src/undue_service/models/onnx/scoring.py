"""What is asked of a graph that ends in scores, to rewrite how it makes them."""

import math
from collections import Counter
from functools import cached_property

import onnx
from onnx import helper

from undue_service.models.refusals import malformed, quoted

from .initializers import stored_array
from .predictions import ML_DOMAIN

_POSITIVE = {"Sigmoid", "Softmax"}
_MOVES = {"Slice", "Gather", "Concat", "Reshape", "Identity", "Squeeze", "Unsqueeze", "Transpose"}
_CLASSIFIERS = {"LinearClassifier", "SVMClassifier"}
_SAME_SHAPE = {"Binarizer", "Imputer", "Normalizer", "Scaler"}
_MAX_INFERENCES = 10


class ScoringGraph:
    """Answers what a rewriting asks, each in constant time, and holds what is to be rewritten."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = model
        self._graph = model.graph
        self._replaced: dict[tuple[str, ...], list[onnx.NodeProto]] = {}
        self._reads = Counter(name for node in model.graph.node for name in node.input)
        self._reads.update(value.name for value in model.graph.output)
        self._makers = {name: node for node in model.graph.node for name in node.output if name}
        self._stored = {tensor.name: tensor for tensor in model.graph.initializer}
        self._names = {*self._makers, *self._stored, *(value.name for value in model.graph.input)}

    def maker(self, name: str) -> onnx.NodeProto | None:
        """Return the node of the default domain that computes a value."""
        node = self._makers.get(name)
        return node if node is not None and self.is_default(node) else None

    def is_default(self, node: onnx.NodeProto) -> bool:
        """Whether a node is of ONNX's own operators."""
        return node.domain in ("", "ai.onnx")

    def is_number(self, name: str, number: int) -> bool:
        """Whether a value is a constant of one number, which is the given one."""
        stored = self._stored.get(name)
        node = self.maker(name)
        if stored is None and node is not None and node.op_type == "Constant":
            stored = next((a.t for a in node.attribute if a.name == "value"), None)
            if stored is None:
                return any(a.name == "value_float" and a.f == number for a in node.attribute)
        return stored is not None and math.prod(stored.dims) == 1 and bool(stored_array(stored, name) == number)

    def readers(self, name: str) -> int:
        """Return how often a value is read, by nodes or as an output."""
        return self._reads[name]

    def scorer(self, name: str) -> onnx.NodeProto | None:
        """Return the classifier whose scores a value is."""
        node = self._makers.get(name)
        return node if node is not None and self._is_scores(node, name) else None

    def is_of_one_score(self, node: onnx.NodeProto) -> bool:
        """Whether a classifier gives two numbers of one score, see `lifting`."""
        return bool(self.integer(node, "mirrored", 0)) or self.integer(node, "pairs", 0) == 1

    def is_distribution(self, name: str) -> bool:
        """Whether each row of a value is positive and sums up to 1."""
        return name in self._distributions

    def is_positive(self, name: str) -> bool:
        """Whether a value is made of probabilities only."""
        return name in self._positive

    @cached_property
    def _distributions(self) -> set[str]:
        found: set[str] = set()
        for node in self._graph.node:
            if self.is_default(node):
                is_one = node.op_type == "Identity" and node.input[0] in found
                is_softmax = node.op_type == "Softmax" and self.integer(node, "axis", -1) in (1, -1)
                if is_one or (is_softmax and self.rank(node.output[0]) == 2):
                    found.add(node.output[0])
            elif self._is_classifier(node):
                transform = self.text(node, "post_transform")
                if transform == "SOFTMAX" or (transform == "LOGISTIC" and self.is_of_one_score(node)):
                    found.add(node.output[1])
        return found

    @cached_property
    def _positive(self) -> set[str]:
        found: set[str] = set()
        for node in self._graph.node:
            if self.is_default(node):
                moved = node.input if node.op_type == "Concat" else node.input[:1]
                is_moved = node.op_type in _MOVES and all(name in found for name in moved)
                if is_moved or node.op_type in _POSITIVE:
                    found.add(node.output[0])
            elif self._is_classifier(node) and self.text(node, "post_transform") in ("LOGISTIC", "SOFTMAX"):
                found.add(node.output[1])
        return found

    def _is_classifier(self, node: onnx.NodeProto) -> bool:
        return node.domain == ML_DOMAIN and node.op_type in _CLASSIFIERS and len(node.output) == 2

    def _is_scores(self, node: onnx.NodeProto, name: str) -> bool:
        return self._is_classifier(node) and node.output[1] == name

    def divides_by_its_sum(self, node: onnx.NodeProto) -> bool:
        """Whether a Div is p / Σ p along the columns."""
        total = self.maker(node.input[1])
        if total is None or total.op_type != "ReduceSum" or total.input[0] != node.input[0]:
            return False
        axes = next((tuple(a.ints) for a in total.attribute if a.name == "axes"), None)
        if axes is None and len(total.input) > 1 and total.input[1] in self._stored:
            axes = tuple(stored_array(self._stored[total.input[1]], total.input[1]).reshape(-1).tolist())
        return axes in ((1,), (-1,)) and self.integer(total, "keepdims", 1) == 1

    def text(self, node: onnx.NodeProto, name: str) -> str:
        """Return an attribute that is text, empty where it is missing."""
        return next((a.s.decode(errors="replace") for a in node.attribute if a.name == name), "")

    def integer(self, node: onnx.NodeProto, name: str, default: int) -> int:
        """Return an attribute that is an integer."""
        return next((int(a.i) for a in node.attribute if a.name == name), default)

    def rank(self, name: str) -> int | None:
        """Return how many axes a value has, None where that is not known."""
        shape = self._shape(name)
        return None if shape is None else len(shape)

    def columns(self, name: str) -> int | None:
        """Return the second size of a matrix."""
        shape = self._shape(name)
        return shape[1] if shape is not None and len(shape) == 2 else None

    def _shape(self, name: str) -> tuple[int, ...] | None:
        """Return the sizes that ONNX infers, 0 for those that are open."""
        return self._shapes.get(name)

    @cached_property
    def _shapes(self) -> dict[str, tuple[int, ...]]:
        """Infer shapes by ONNX, which knows nothing of `ai.onnx.ml`: those are told where their inputs are known."""
        model = self._model
        for _ in range(_MAX_INFERENCES):
            try:
                model = onnx.shape_inference.infer_shapes(model)
            except (onnx.shape_inference.InferenceError, ValueError) as error:
                raise malformed(f"the shapes in the model do not fit together: {quoted(error)}") from error
            known = _declared(model.graph)
            told = {}
            for node in model.graph.node:
                if node.domain != ML_DOMAIN or not node.input or node.input[0] not in known:
                    continue
                shape, name = known[node.input[0]], node.output[-1]
                if node.op_type in _CLASSIFIERS:
                    shape = (*shape[:1], 0)
                elif node.op_type not in _SAME_SHAPE:
                    continue
                if name not in known:
                    told[name] = shape
            if not told:
                break
            for name, shape in told.items():
                sizes = [size or None for size in shape]
                model.graph.value_info.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, sizes))
        return known

    def single(self, classifier: onnx.NodeProto, node: onnx.NodeProto | None) -> None:
        """Let a classifier give one score, under a name of its own where a node follows that hands it on."""
        classifier.attribute.append(helper.make_attribute("single", 1))
        if node is None:
            return
        score = self.fresh(f"{classifier.output[1]}.score")
        classifier.output[1] = score
        self._makers[score] = classifier
        self.replace(node, [helper.make_node("Identity", [score], node.output)])

    def fresh(self, wanted: str) -> str:
        """Return a name that nothing has."""
        while wanted in self._names:
            wanted += "'"
        self._names.add(wanted)
        return wanted

    def replace(self, node: onnx.NodeProto, by: list[onnx.NodeProto]) -> None:
        """Put other nodes in the place of one, when the graph is rewritten."""
        self._replaced[tuple(node.output)] = by
        self._makers.update((name, new) for new in by for name in new.output)

    def rewrite(self) -> None:
        """Rewrite the graph, in place."""
        if not self._replaced:
            return
        nodes = [new for one in self._graph.node for new in self._replaced.get(tuple(one.output), [one])]
        del self._graph.node[:]
        self._graph.node.extend(nodes)


def _declared(graph: onnx.GraphProto) -> dict[str, tuple[int, ...]]:
    """Return the sizes that a graph declares of its values, 0 for those that are open."""
    return {
        one.name: tuple(dim.dim_value for dim in one.type.tensor_type.shape.dim)
        for one in (*graph.value_info, *graph.output, *graph.input)
        if one.type.tensor_type.HasField("shape")
    }
