"""The light architectures of the onnx wheel: real graphs without weights, which are drawn here."""

import math
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

FOLDER = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
NAMES = ("bvlc_alexnet", "densenet121", "inception_v1", "inception_v2", "resnet50", "shufflenet", "squeezenet", "vgg19",
         "zfnet512")  # fmt: skip


def light_model(name: str, seed: int = 0) -> onnx.ModelProto:
    """Return an architecture with weights drawn at random and any number of rows.

    A ConstantOfShape that stands for weights becomes an initialiser: of two axes and more by He et al. 2015, with the
    factor 2 before a Relu alone; scales and variances around 1, scales of what a residual connection adds around 0.3,
    as trained networks have them small; the rest around 0. What it ends in is logits, (rows, classes), without the
    softmax, which such weights would saturate.
    """
    model = onnx.load(FOLDER / f"light_{name}.onnx")
    graph = model.graph
    _draw_weights(graph, np.random.default_rng(seed))
    _end_in_logits(graph)
    _free_rows(graph)
    model.ir_version = 4  # before it, weights had to be inputs too
    del graph.value_info[:]
    return model


def _draw_weights(graph: onnx.GraphProto, rng: np.random.Generator) -> None:
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    around, rectified = _scales(graph), _rectified(graph)
    kept, weights = [], []
    for node in graph.node:
        if node.op_type != "ConstantOfShape" or node.input[0] not in stored:
            kept.append(node)
            continue
        shape = tuple(int(size) for size in stored[node.input[0]])
        array = rng.standard_normal(shape)
        if len(shape) > 1:
            array *= math.sqrt((2 if node.output[0] in rectified else 1) / math.prod(shape[1:]))
        else:
            array *= 0.05
        array += around.get(node.output[0], 0.0)
        weights.append(numpy_helper.from_array(array.astype(np.float32), node.output[0]))
    del graph.node[:]
    graph.node.extend(kept)
    graph.initializer.extend(weights)
    read = {name for node in kept for name in node.input}
    used = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.initializer[:]
    graph.initializer.extend(used)
    inputs = [value for value in graph.input if value.name in read - {tensor.name for tensor in used}]
    del graph.input[:]
    graph.input.extend(inputs)


def _scales(graph: onnx.GraphProto) -> dict[str, float]:
    """Return the means of scales and variances: of BatchNormalization, and of the Mul that Caffe has after it."""
    added = {name for node in graph.node if node.op_type == "Sum" for name in node.input}
    behind = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "Unsqueeze"}
    found: dict[str, float] = {}
    for node in graph.node:
        if node.op_type == "BatchNormalization":
            found |= {node.input[1]: 0.3 if node.output[0] in added else 1.0, node.input[4]: 1.0}
        elif node.op_type == "Mul":
            name = node.input[1]
            while name in behind:
                name = behind[name]
            found[name] = 1.0
    return found


def _rectified(graph: onnx.GraphProto) -> set[str]:
    """Return the names of weights whose products a Relu halves: He's factor 2 is for these alone."""
    reader = {name: node for node in graph.node for name in node.input}
    found = set()
    for node in graph.node:
        if node.op_type in ("Conv", "Gemm"):
            after = reader.get(node.output[0])
            while after is not None and after.op_type in ("BatchNormalization", "Mul", "Add"):
                after = reader.get(after.output[0])
            if after is not None and after.op_type == "Relu":
                found.add(node.input[1])
    return found


def _end_in_logits(graph: onnx.GraphProto) -> None:
    [output] = graph.output
    last = graph.node[-1]
    if last.op_type == "Softmax":
        source = last.input[0]
        del graph.node[-1]
    else:
        source, last.output[0] = "logits_of_every_place", "logits_of_every_place"
    graph.node.append(onnx.helper.make_node("Flatten", [source], [output.name], axis=1))
    kind = output.type.tensor_type
    classes = kind.shape.dim[1].dim_value
    output.CopyFrom(onnx.helper.make_tensor_value_info(output.name, kind.elem_type, [1, classes]))


def _free_rows(graph: onnx.GraphProto) -> None:
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "rows"
    shapes = {node.input[1] for node in graph.node if node.op_type == "Reshape"}
    for tensor in graph.initializer:
        if tensor.name in shapes:
            sizes = numpy_helper.to_array(tensor).copy()
            if sizes[0] == 1:
                sizes[0] = 0
            tensor.CopyFrom(numpy_helper.from_array(sizes, tensor.name))
