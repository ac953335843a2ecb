"""Scores and probabilities that a graph computes in several steps, written as the one step that they are.

The engine looks behind a softmax at a model's end, so that the loss takes the logits. It cannot do so where a
classifier joins 1 − σ(s) and σ(s), or divides scores by their sum. Of positive scores p, p / Σ p = softmax(log p); and
(1 − σ(s), σ(s)) = softmax(0, s). Likewise skl2onnx multiplies s by −1 to give (−s, s), or picks s out of that again.
"""

import onnx
from onnx import helper

from .predictions import ML_DOMAIN, needed
from .scoring import ScoringGraph


def simplify_scores(model: onnx.ModelProto) -> dict[str, int]:
    """Rewrite, in place, what is a softmax of logits or of the logarithms of positive scores, and what is one score.

    Returns:
        The outputs of which one column is left, and which.
    """
    graph = ScoringGraph(model)
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
    graph.rewrite()
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


def _is_decision(graph: ScoringGraph, output: onnx.ValueInfoProto) -> bool:
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


def _passes_on(graph: ScoringGraph, node: onnx.NodeProto) -> bool:
    is_float = graph.integer(node, "to", 0) == onnx.TensorProto.FLOAT
    return node.op_type == "Identity" or (node.op_type == "Cast" and is_float)


def _normalised(graph: ScoringGraph, node: onnx.NodeProto) -> None:
    x = node.input[0]
    if graph.is_distribution(x):
        graph.replace(node, [helper.make_node("Identity", [x], node.output)])
    elif graph.is_positive(x) and graph.rank(x) == 2:
        log = graph.fresh(f"{node.output[0]}.log")
        last = helper.make_node("Softmax", [log], node.output, axis=1)
        graph.replace(node, [helper.make_node("Log", [x], [log]), last])


def _joined(graph: ScoringGraph, node: onnx.NodeProto) -> None:
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


def _picked(graph: ScoringGraph, node: onnx.NodeProto) -> None:
    """S of a classifier that gives (−s, s), where nothing else reads that."""
    classifier = graph.scorer(node.input[0])
    if classifier is None or not graph.is_number(node.input[1], 1) or graph.readers(node.input[0]) != 1:
        return
    is_plain = graph.text(classifier, "post_transform") in ("", "NONE") and graph.is_of_one_score(classifier)
    if not is_plain or classifier.op_type != "LinearClassifier":
        return
    graph.single(classifier, node)
