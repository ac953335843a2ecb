"""Scores and probabilities that a graph computes in several steps, written as the one step that they are.

The engine looks behind a softmax at a model's end, so that the loss takes the logits. It cannot do so where a
classifier joins 1 − σ(s) and σ(s), or divides scores by their sum. Of positive scores p, p / Σ p = softmax(log p); and
(1 − σ(s), σ(s)) = softmax(0, s). Likewise skl2onnx multiplies s by −1 to give (−s, s), or picks s out of that again.
"""

import math

import onnx
from onnx import helper

from undue_service.models.refusals import malformed, quoted

from .initializers import stored_array
from .predictions import ML_DOMAIN, needed

_POSITIVE = {"Sigmoid", "Softmax"}
_MOVES = {"Slice", "Gather", "Concat", "Reshape", "Identity", "Squeeze", "Unsqueeze", "Transpose"}
_CLASSIFIERS = {"LinearClassifier", "SVMClassifier"}
_SAME_SHAPE = {"Binarizer", "Imputer", "Normalizer", "Scaler"}
_MAX_INFERENCES = 10


def simplify_scores(model: onnx.ModelProto) -> dict[str, int]:
    """Rewrite, in place, what is a softmax of logits or of the logarithms of positive scores, and what is one score.

    Returns:
        The outputs of which one column is left, and which.
    """
    graph = _Graph(model)
    for node in list(model.graph.node):
        if (node.op_type == "Normalizer" and node.domain == ML_DOMAIN and graph.text(node, "norm") == "L1") or (
            node.op_type == "Div" and graph.is_default(node) and graph.divides_by_its_sum(node)
        ):
            _normalised(graph, node)
        elif node.op_type == "Concat" and graph.is_default(node):
            _joined(graph, node)
        elif node.op_type == "ArrayFeatureExtractor" and node.domain == ML_DOMAIN:
            _picked(graph, node)
    found = {value.name: 0 for value in model.graph.output if _is_decision(graph, value)}
    _drop_orphans(model.graph)
    return found


def _drop_orphans(graph: onnx.GraphProto) -> None:
    """Leave out, in place, what reads a value that is rewritten by now, and that no output needs."""
    wanted = needed(graph, (value.name for value in graph.output))
    made = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    kept = []
    for place, node in enumerate(graph.node):
        if place in wanted or all(name in made for name in node.input if name):
            kept.append(node)
            made.update(node.output)
    del graph.node[:]
    graph.node.extend(kept)


def _is_decision(graph: "_Graph", output: onnx.ValueInfoProto) -> bool:
    """Leave of an SVMClassifier's (d, −d) at a graph's end the first; return whether that was so.

    Its label is the second class where d > 0, contrary to the order of the columns: only by itself is d what a loss of
    the second class takes.
    """
    name, node = output.name, graph.maker(output.name)
    while node is not None and _passes_on(graph, node) and graph.readers(name) == 1:
        name, node = node.input[0], graph.maker(node.input[0])
    classifier = graph.scorer(name)
    if classifier is None or classifier.op_type != "SVMClassifier" or graph.readers(name) != 1:
        return False
    if not graph.is_of_one_score(classifier) or graph.text(classifier, "post_transform") not in ("", "NONE"):
        return False
    graph.single(classifier, graph.maker(output.name))
    output.type.CopyFrom(helper.make_tensor_type_proto(output.type.tensor_type.elem_type, None))
    return True


def _passes_on(graph: "_Graph", node: onnx.NodeProto) -> bool:
    is_float = graph.integer(node, "to", 0) == onnx.TensorProto.FLOAT
    return node.op_type == "Identity" or (node.op_type == "Cast" and is_float)


def _normalised(graph: "_Graph", node: onnx.NodeProto) -> None:
    x = node.input[0]
    if graph.is_distribution(x):
        graph.replace(node, [helper.make_node("Identity", [x], node.output)])
    elif graph.is_positive(x) and graph.rank(x) == 2:
        log = graph.fresh(f"{node.output[0]}.log")
        last = helper.make_node("Softmax", [log], node.output, axis=1)
        graph.replace(node, [helper.make_node("Log", [x], [log]), last])


def _joined(graph: "_Graph", node: onnx.NodeProto) -> None:
    """(1 − σ(s), σ(s)) or (−1 · s, s) of one column s."""
    if len(node.input) != 2 or graph.integer(node, "axis", 0) not in (1, -1):
        return
    product = graph.maker(node.input[0])
    if product is not None and product.op_type == "Mul" and node.input[1] in product.input:
        if any(graph.is_number(factor, -1) for factor in product.input):
            graph.replace(product, [helper.make_node("Neg", [node.input[1]], product.output)])
        return
    sub, sigmoid = graph.maker(node.input[0]), graph.maker(node.input[1])
    if sub is None or sigmoid is None or sub.op_type != "Sub" or sigmoid.op_type != "Sigmoid":
        return
    if sub.input[1] != node.input[1] or not graph.is_number(sub.input[0], 1) or graph.columns(node.input[1]) != 1:
        return
    s = sigmoid.input[0]
    zero, logits = graph.fresh(f"{node.output[0]}.zero"), graph.fresh(f"{node.output[0]}.logits")
    graph.replace(
        node,
        [
            helper.make_node("Sub", [s, s], [zero]),
            helper.make_node("Concat", [zero, s], [logits], axis=1),
            helper.make_node("Softmax", [logits], node.output, axis=1),
        ],
    )


def _picked(graph: "_Graph", node: onnx.NodeProto) -> None:
    """S of a classifier that gives (−s, s), where nothing else reads that."""
    classifier = graph.scorer(node.input[0])
    if classifier is None or not graph.is_number(node.input[1], 1) or graph.readers(node.input[0]) != 1:
        return
    is_plain = graph.text(classifier, "post_transform") in ("", "NONE") and graph.is_of_one_score(classifier)
    if not is_plain or classifier.op_type != "LinearClassifier":
        return
    graph.single(classifier, node)


class _Graph:
    """What is asked of a graph."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = model
        self._graph = model.graph
        self._makers = {name: node for node in model.graph.node for name in node.output if name}
        self._stored = {tensor.name: tensor for tensor in model.graph.initializer}
        self._names = {*self._makers, *self._stored, *(value.name for value in model.graph.input)}
        self._shapes: dict[str, tuple[int, ...]] | None = None

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
        reads = sum(list(node.input).count(name) for node in self._graph.node)
        return reads + sum(value.name == name for value in self._graph.output)

    def scorer(self, name: str) -> onnx.NodeProto | None:
        """Return the classifier whose scores a value is."""
        node = self._makers.get(name)
        return node if node is not None and self._is_scores(node, name) else None

    def is_of_one_score(self, node: onnx.NodeProto) -> bool:
        """Whether a classifier gives two numbers of one score, see `lifting`."""
        return bool(self.integer(node, "mirrored", 0)) or self.integer(node, "pairs", 0) == 1

    def is_distribution(self, name: str) -> bool:
        """Whether each row of a value is positive and sums up to 1."""
        node = self._makers.get(name)
        if node is None:
            return False
        if self.is_default(node):
            if node.op_type == "Identity":
                return self.is_distribution(node.input[0])
            return node.op_type == "Softmax" and self.rank(name) == 2 and self.integer(node, "axis", -1) in (1, -1)
        if not self._is_scores(node, name):
            return False
        transform = self.text(node, "post_transform")
        return transform == "SOFTMAX" or (transform == "LOGISTIC" and self.is_of_one_score(node))

    def is_positive(self, name: str) -> bool:
        """Whether a value is made of probabilities only."""
        seen: set[str] = set()
        waiting = [name]
        while waiting:
            one = waiting.pop()
            if one in seen:
                continue
            seen.add(one)
            node = self._makers.get(one)
            if node is None:
                return False
            if self.is_default(node) and node.op_type in _MOVES:
                waiting.extend(node.input if node.op_type == "Concat" else node.input[:1])
            elif self.is_default(node):
                if node.op_type not in _POSITIVE:
                    return False
            elif not (self._is_scores(node, one) and self.text(node, "post_transform") in ("LOGISTIC", "SOFTMAX")):
                return False
        return True

    def _is_scores(self, node: onnx.NodeProto, name: str) -> bool:
        is_classifier = node.domain == ML_DOMAIN and node.op_type in _CLASSIFIERS
        return is_classifier and len(node.output) == 2 and node.output[1] == name

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
        if self._shapes is None:
            self._shapes = self._infer()
        return self._shapes.get(name)

    def _infer(self) -> dict[str, tuple[int, ...]]:
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
        """Put other nodes in the place of one."""
        replaced = list(node.output)
        nodes = [new for one in self._graph.node for new in (by if list(one.output) == replaced else [one])]
        del self._graph.node[:]
        self._graph.node.extend(nodes)
        self._makers.update((name, new) for new in by for name in new.output)


def _declared(graph: onnx.GraphProto) -> dict[str, tuple[int, ...]]:
    """Return the sizes that a graph declares of its values, 0 for those that are open."""
    return {
        one.name: tuple(dim.dim_value for dim in one.type.tensor_type.shape.dim)
        for one in (*graph.value_info, *graph.output, *graph.input)
        if one.type.tensor_type.HasField("shape")
    }
