"""`ai.onnx.ml`: what prepares features. Statistics of the data are constants of the model, not parameters."""

import torch

from undue_service.models.onnx.element_types import to_tensor
from undue_service.models.onnx.initializers import stored_array
from undue_service.models.onnx.values import Node, Shape, Value
from undue_service.models.refusals import malformed, quoted, unsupported


def scaler(node: Node) -> torch.Tensor:
    """Y = (X − offset) · scale, of one number or one for each feature."""
    offset, scale = node.tensor(1), node.tensor(2)
    x = node.tensor(0).to(scale.dtype)
    if any(len(one) not in (1, x.shape[-1]) for one in (offset, scale)):
        raise malformed(f"{node} scales {x.shape[-1]} features by {len(offset)} offsets and {len(scale)} scales")
    return (x - offset) * scale


def normalizer(node: Node) -> torch.Tensor:
    """Y = X / n, n each row's largest value (MAX), sum of absolute values (L1) or length (L2); X where n = 0."""
    x = node.tensor(0).to(torch.float32)
    norm = node.text("norm", "MAX")
    if x.dim() != 2:
        raise unsupported(f"{node} takes a matrix of rows, not the shape {tuple(x.shape)}")
    node.keep_rows_apart(x, [1], "normalises across the rows")
    if norm == "MAX":
        n = x.amax(1, keepdim=True)
    elif norm == "L1":
        n = x.abs().sum(1, keepdim=True)
    elif norm == "L2":
        squares = (x * x).sum(1, keepdim=True)
        # The root of 0 has no derivative: such rows take another way.
        n = torch.where(squares == 0, 1.0, squares).sqrt()
        return x / n
    else:
        raise unsupported(f"{node} has the norm {quoted(norm)}; there are MAX, L1 and L2")
    return x / torch.where(n == 0, 1.0, n)


def imputer(node: Node) -> torch.Tensor:
    """Y = X, with `imputed` in the place of what equals `replaced_value`, which may be NaN."""
    x = node.tensor(0)
    if x.is_floating_point():
        replaced = float(node.attribute("replaced_value_float", 0.0))
        imputed = node.optional(1)
    else:
        replaced = int(node.attribute("replaced_value_int64", 0))
        values = node.axes("imputed_value_int64s")
        imputed = None if values is None else torch.tensor(values, dtype=x.dtype)
    if imputed is None or len(imputed) not in (1, x.shape[-1]):
        raise malformed(f"{node} lacks a value for each of {x.shape[-1]} features of the type of its input")
    missing = torch.isnan(x) if replaced != replaced else x == replaced
    return torch.where(missing, imputed.to(x.dtype), x)


def binarizer(node: Node) -> torch.Tensor:
    """Y = 1 where X > threshold, else 0: a constant almost everywhere."""
    x = node.tensor(0)
    return (x > float(node.attribute("threshold", 0.0))).to(x.dtype)


def feature_vectorizer(node: Node) -> torch.Tensor:
    """Y = the inputs one after the other along the features, as floating-point numbers."""
    widths = node.axes("inputdimensions")
    tensors = [node.tensor(index).to(torch.float32) for index in range(len(node.inputs))]
    tensors = [tensor if tensor.dim() > 1 else tensor.unsqueeze(1) for tensor in tensors]
    if any(tensor.dim() != 2 for tensor in tensors):
        raise unsupported(f"{node} takes matrices of rows")
    if widths is not None and list(widths) != [tensor.shape[1] for tensor in tensors]:
        raise malformed(f"{node} names the widths {widths} of inputs of other widths")
    return torch.cat(tensors, 1)


def array_feature_extractor(node: Node) -> Value:
    """Y = the features of X, along its last axis, that the indices name; of a list, as one row of them."""
    x, places = node.value(0), node.integers(1)
    chosen = [int(place) for place in places.values]
    if isinstance(x, Shape):
        listed = x.array.reshape(1, -1) if x.array.ndim < 2 else x.array
        if any(not 0 <= place < listed.shape[-1] for place in chosen):
            raise malformed(f"{node} reads beyond the {listed.shape[-1]} features")
        return Shape(listed[..., chosen])
    data = node.tensor(0)
    data = data.reshape(1, -1) if data.dim() == 1 else data
    node.keep_rows_apart(data, [data.dim() - 1], "picks single rows")
    if any(not 0 <= place < data.shape[-1] for place in chosen):
        raise malformed(f"{node} reads beyond the {data.shape[-1]} features")
    return data.index_select(-1, torch.tensor(chosen, dtype=torch.int64))


def one_hot_encoder(node: Node) -> torch.Tensor:
    """Y = for each number of X, a 1 at the category that it is and 0 elsewhere, along a new last axis.

    A number that is no category gives zeros; NaN where `zeros` = 0, where onnxruntime stops.
    """
    categories = node.axes("cats_int64s")
    if categories is None:
        raise unsupported(f"{node} takes text; give the model numbers")
    x = node.tensor(0)
    hits = x.unsqueeze(-1).to(torch.int64) == torch.tensor(categories, dtype=torch.int64)
    found = hits.to(torch.float32)
    if node.attribute("zeros", 1):
        return found
    return torch.where(hits.any(-1, keepdim=True), found, float("nan"))


def label_encoder(node: Node) -> torch.Tensor:
    """Y = the value of the key that X is, `default` elsewhere: numbers to numbers, a constant almost everywhere.

    Keys and values are lists before opset 4 of the domain, and may be tensors from then on.
    """
    keys, values = _listed(node, "keys"), _listed(node, "values")
    if keys is None or values is None or keys.dim() != 1 or keys.shape != values.shape:
        raise unsupported(f"{node} reads or writes text, or has keys and values of different numbers; give it numbers")
    x = node.tensor(0)
    if keys.is_floating_point() != x.is_floating_point():
        raise malformed(f"{node} has keys of another type than its input")
    default = _default(node, values)
    hits = x.unsqueeze(-1) == keys.to(x.dtype)
    if keys.is_floating_point():
        hits = hits | (torch.isnan(x).unsqueeze(-1) & torch.isnan(keys))
    chosen = values[hits.to(torch.int64).argmax(-1)]
    return torch.where(hits.any(-1), chosen, default)


def _listed(node: Node, name: str) -> torch.Tensor | None:
    for attribute in node.proto.attribute:
        if attribute.name == f"{name}_floats":
            return torch.tensor(list(attribute.floats), dtype=torch.float32)
        if attribute.name == f"{name}_int64s":
            return torch.tensor(list(attribute.ints), dtype=torch.int64)
        if attribute.name == f"{name}_tensor":
            return to_tensor(stored_array(attribute.t, str(node)), str(node))
    return None


def _default(node: Node, values: torch.Tensor) -> torch.Tensor:
    for attribute in node.proto.attribute:
        if attribute.name == "default_tensor":
            stored = to_tensor(stored_array(attribute.t, str(node)), str(node))
            if stored.numel() != 1 or stored.dtype != values.dtype:
                raise malformed(f"{node} has a default of another type than its values")
            return stored.reshape(())
    name, fallback = ("default_float", -0.0) if values.is_floating_point() else ("default_int64", -1)
    return torch.tensor(node.attribute(name, fallback), dtype=values.dtype)
