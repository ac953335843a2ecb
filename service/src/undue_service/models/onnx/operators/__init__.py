"""ONNX operators by family. One table: adding an operator is one function and one line."""

from collections.abc import Mapping

from undue_service.models.onnx.values import Operator

from .activations import relu, sigmoid, softmax, tanh
from .linear import add, gemm, matmul
from .shapes import concat, flatten, gather, reshape, shape, squeeze, transpose, unsqueeze
from .structural import constant, identity

OPERATORS: Mapping[str, Operator] = {
    "Add": add,
    "Constant": constant,
    "Flatten": flatten,
    "Gemm": gemm,
    "Identity": identity,
    "MatMul": matmul,
    "Relu": relu,
    "Reshape": reshape,
    "Sigmoid": sigmoid,
    "Softmax": softmax,
    "Tanh": tanh,
}
"""What a model may be made of."""

SHAPE_OPERATORS: Mapping[str, Operator] = {
    "Concat": concat,
    "Gather": gather,
    "Shape": shape,
    "Squeeze": squeeze,
    "Transpose": transpose,
    "Unsqueeze": unsqueeze,
}
"""What exporters write around a Reshape, and the Transpose of a weight; not for data."""
