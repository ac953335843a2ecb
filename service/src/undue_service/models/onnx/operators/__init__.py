"""ONNX operators by family. One table: adding an operator is one function and one line."""

from collections.abc import Mapping

import onnx

from undue_service.models.onnx.values import Operator

from . import activations, arithmetic, convolution, linear, movement, normalisation, pooling, reductions, shapes
from .structural import cast, cast_like, constant, dropout, identity

OPERATORS: Mapping[str, Operator] = {
    "Abs": arithmetic.absolute,
    "Add": linear.add,
    "AveragePool": pooling.average_pool,
    "BatchNormalization": normalisation.batch_normalization,
    "Cast": cast,
    "CastLike": cast_like,
    "Clip": arithmetic.clip,
    "Concat": movement.concat,
    "Constant": constant,
    "ConstantOfShape": shapes.constant_of_shape,
    "Conv": convolution.conv,
    "Div": arithmetic.divide,
    "Dropout": dropout,
    "Elu": activations.elu,
    "Equal": arithmetic.equal,
    "Erf": arithmetic.error_function,
    "Exp": arithmetic.exponential,
    "Expand": shapes.expand,
    "Flatten": shapes.flatten,
    "Gather": movement.gather,
    "Gelu": activations.gelu,
    "Gemm": linear.gemm,
    "GlobalAveragePool": pooling.global_average_pool,
    "GlobalMaxPool": pooling.global_max_pool,
    "Greater": arithmetic.greater,
    "GreaterOrEqual": arithmetic.greater_or_equal,
    "HardSigmoid": activations.hard_sigmoid,
    "HardSwish": activations.hard_swish,
    "Identity": identity,
    "LayerNormalization": normalisation.layer_normalization,
    "LeakyRelu": activations.leaky_relu,
    "Less": arithmetic.less,
    "LessOrEqual": arithmetic.less_or_equal,
    "Log": arithmetic.logarithm,
    "LogSoftmax": activations.log_softmax,
    "MatMul": linear.matmul,
    "Max": arithmetic.maximum,
    "MaxPool": pooling.max_pool,
    "Min": arithmetic.minimum,
    "Mul": arithmetic.multiply,
    "Neg": arithmetic.negative,
    "PRelu": activations.parametric_relu,
    "Pad": movement.pad,
    "Pow": arithmetic.power,
    "Reciprocal": arithmetic.reciprocal,
    "ReduceMax": reductions.reduce_max,
    "ReduceMean": reductions.reduce_mean,
    "ReduceMin": reductions.reduce_min,
    "ReduceSum": reductions.reduce_sum,
    "Relu": activations.relu,
    "Reshape": shapes.reshape,
    "Shape": shapes.shape,
    "Sigmoid": activations.sigmoid,
    "Slice": movement.slice_,
    "Softmax": activations.softmax,
    "Softplus": activations.softplus,
    "Sqrt": arithmetic.square_root,
    "Squeeze": movement.squeeze,
    "Sub": arithmetic.subtract,
    "Tanh": activations.tanh,
    "Transpose": movement.transpose,
    "Unsqueeze": movement.unsqueeze,
    "Where": arithmetic.where,
}
"""What a model may be made of: operators of the default domain by their names, others as `domain::name`."""


def qualified(node: onnx.NodeProto) -> str:
    """Return the name of a node's operator as the table has it."""
    return node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}::{node.op_type}"
