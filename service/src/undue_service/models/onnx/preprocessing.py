"""Which tensors of a scikit-learn pipeline prepare its features: statistics of the data, not weights of a loss."""

from collections.abc import Iterable, Mapping

import onnx

_PRODUCER = "skl2onnx"
_ELEMENTWISE = frozenset({"Add", "Div", "Mul", "Pow", "Sub"})
_PRODUCTS = frozenset({"Gemm", "MatMul"})
_WEIGHTED = frozenset({"LinearClassifier", "LinearRegressor", "SVMClassifier", "SVMRegressor"})


def preprocessing(model: onnx.ModelProto) -> frozenset[str]:
    """Return the tensors that skl2onnx wrote for transformers; none where another tool wrote the file.

    Those are single numbers, what is added or multiplied elementwise before any weight (StandardScaler, MinMaxScaler),
    and a product without an intercept that something else takes (PCA).
    """
    if model.producer_name != _PRODUCER:
        return frozenset()
    graph = model.graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    weighted: set[str] = set()
    trained: set[str] = set()
    for node in graph.node:
        names = [name for name in node.input if name in stored and stored[name].dims]
        is_weighted = any(name in weighted for name in node.input)
        is_projection = node.op_type in _PRODUCTS and _is_projection(node, readers, stored)
        if is_weighted or (not is_projection and node.op_type not in _ELEMENTWISE):
            trained.update(names)
        if is_weighted or node.op_type in _WEIGHTED or (node.op_type in _PRODUCTS and not is_projection):
            weighted.update(node.output)
    return frozenset(name for name in stored if name in readers and name not in trained)


def _is_projection(
    node: onnx.NodeProto, readers: Mapping[str, Iterable[onnx.NodeProto]], stored: Mapping[str, onnx.TensorProto]
) -> bool:
    """Whether a product has no intercept, in it or added to it, and is not what the pipeline ends with."""
    taken = list(readers.get(node.output[0], ()))
    if not taken or len(node.input) > 2:
        return False
    return not any(user.op_type == "Add" and any(name in stored for name in user.input) for user in taken)
