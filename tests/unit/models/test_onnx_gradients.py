"""Every differentiable operator has the first and second derivatives that central differences say, in float64.

One table of cases: floating-point inputs are differentiated; integers, `Shape` values and None are passed as they are.
An operator that is not in the table is in `WITHOUT`, with the reason.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from torch.autograd import gradcheck, gradgradcheck

from undue_service.models.onnx.operators import OPERATORS
from undue_service.models.onnx.values import Node, Shape, Weight, dense

NEWEST = onnx.defs.onnx_opset_version()


def normal(*shape: int, seed: int = 0, scale: float = 1.0) -> torch.Tensor:
    """Normal numbers, none within 0.02 of zero, where many operators have a kink."""
    drawn = np.random.default_rng([seed, *shape]).normal(size=shape) * scale
    return torch.from_numpy(drawn + 0.02 * np.sign(drawn))


def positive(*shape: int, seed: int = 0) -> torch.Tensor:
    """Numbers between 0.3 and 1.7."""
    return torch.from_numpy(np.random.default_rng([seed, *shape]).uniform(0.3, 1.7, size=shape))


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    """Numbers between −0.9 and 0.9."""
    return torch.from_numpy(np.random.default_rng([seed, *shape]).uniform(-0.9, 0.9, size=shape))


def ints(*values: int) -> Shape:
    """Integers of the graph: axes, sizes, indices."""
    return Shape.of(values)


@dataclass(frozen=True)
class Case:
    """One node, called on its inputs."""

    operator: str
    inputs: tuple[Any, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    opset: int = NEWEST
    outputs: int = 1
    """How many the node gives; those that are floating-point are differentiated."""
    weight: int | None = None
    """Which input is a parameter of the model."""
    fixed: tuple[int, ...] = ()
    """Floating-point inputs that are no data, such as running statistics: passed as they are."""
    is_single: bool = False
    """Whether ONNX lets the operator give float32 alone: then the differences are coarser."""

    @property
    def data(self) -> tuple[torch.Tensor, ...]:
        """What is differentiated."""
        dtype = torch.float32 if self.is_single else torch.float64
        return tuple(value.to(dtype).clone() for index, value in enumerate(self.inputs) if self._is_data(index, value))

    def __str__(self) -> str:
        told = ",".join(f"{name}={value}" for name, value in self.attributes.items() if isinstance(value, int | str))
        return f"{self.operator}-{self.opset}-{told}" if told else f"{self.operator}-{self.opset}"

    def __call__(self, *differentiated: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the floating-point outputs as a function of the floating-point inputs."""
        left = iter(differentiated)
        values = [next(left) if self._is_data(index, value) else value for index, value in enumerate(self.inputs)]
        if self.weight is not None:
            values[self.weight] = Weight(values[self.weight])
        names = ["" if value is None else f"i{index}" for index, value in enumerate(self.inputs)]
        domain, _, kind = self.operator.rpartition("::")
        outputs = [f"o{index}" for index in range(self.outputs)]
        proto = helper.make_node(kind, names, outputs, domain=domain, **self.attributes)
        found = OPERATORS[self.operator](Node(proto, self.opset, values, lambda _: True, lambda _: None, _no_subgraph))
        listed = found if isinstance(found, tuple) else (found,)
        dense_outputs = [dense(value) for value in listed if value is not None and not isinstance(value, Shape)]
        return tuple(value for value in dense_outputs if value.is_floating_point())

    def _is_data(self, index: int, value: Any) -> bool:
        return isinstance(value, torch.Tensor) and value.is_floating_point() and index not in self.fixed


def _no_subgraph(graph: onnx.GraphProto) -> NoReturn:
    raise AssertionError("the case has a graph among its attributes")


def case(
    operator: str,
    *inputs: Any,
    opset: int = NEWEST,
    outputs: int = 1,
    weight: int | None = None,
    fixed: tuple[int, ...] = (),
    is_single: bool = False,
    **attributes: Any,
) -> Case:
    """A row of the table."""
    return Case(operator, inputs, attributes, opset, outputs, weight, fixed, is_single)


def tensor(*values: Any) -> onnx.TensorProto:
    """A tensor attribute."""
    return numpy_helper.from_array(np.array(values))


x, row, matrix = normal(2, 3), normal(3, seed=1), normal(3, 4, seed=2)
signal, image, volume = normal(2, 2, 7), normal(2, 2, 5, 4), normal(1, 2, 3, 4, 3)

LINEAR = [
    case("Add", x, row),
    case("Gemm", x, matrix, normal(4), weight=1),
    case("Gemm", normal(3, 2), normal(4, 3), normal(2, 4), transA=1, transB=1, alpha=0.5, beta=2.0),
    case("MatMul", x, matrix, weight=1),
    case("MatMul", normal(2, 2, 3), normal(2, 3, 2)),
]
CONVOLUTION_AND_POOLING = [
    case("AveragePool", image, kernel_shape=[3, 2], strides=[2, 1], pads=[1, 0, 1, 1]),
    case("AveragePool", signal, kernel_shape=[2], dilations=[2]),
    case("Conv", signal, normal(2, 2, 3), normal(2), dilations=[2]),
    case("Conv", image, normal(2, 1, 3, 3), normal(2), group=2, pads=[1, 0, 0, 1], weight=1),
    case("Conv", volume, normal(2, 2, 2, 2, 2)),
    case("GlobalAveragePool", image),
    case("GlobalMaxPool", image),
    case("MaxPool", image, kernel_shape=[2, 2], pads=[1, 0, 0, 1]),
    case("MaxPool", signal, kernel_shape=[2], outputs=2),
    case("MaxUnpool", normal(1, 2, 2), torch.tensor([[[1, 2], [4, 7]]]), kernel_shape=[2], strides=[2]),
    case("LpPool", image, kernel_shape=[2, 2], p=3, pads=[1, 0, 0, 1]),
    case("LpPool", signal, kernel_shape=[2], dilations=[2]),
    case("GlobalLpPool", image),
    case("GlobalLpPool", image, p=1),
    case("ConvTranspose", signal, normal(2, 2, 3), normal(2), strides=[2], output_padding=[1]),
    case("ConvTranspose", image, normal(2, 1, 2, 3), group=2, pads=[1, 0, 1, 1], dilations=[2, 1]),
    case("DeformConv", normal(1, 2, 4, 3), normal(2, 2, 2, 2), normal(1, 8, 3, 2), normal(2), positive(1, 4, 3, 2)),
    case("DeformConv", normal(1, 2, 3, 3), normal(2, 1, 2, 2), normal(1, 16, 2, 2), group=2, offset_group=2),
]
SAMPLING = [
    *(
        case("Resize", normal(1, 1, 4, 5), None, torch.tensor([1.0, 1.0, *scales]), fixed=(2,), **attributes)
        for scales, attributes in (
            ((1.5, 0.7), {"mode": "linear"}),
            ((0.6, 2.0), {"mode": "cubic", "exclude_outside": 1}),
            ((0.5, 0.6), {"mode": "linear", "antialias": 1}),
            ((2.0, 1.5), {"mode": "nearest"}),
        )
    ),
    case("Resize", normal(1, 1, 4, 5), None, None, ints(1, 1, 3, 7), mode="cubic"),
    case("Resize", normal(1, 1, 4), torch.tensor([0.1, 1.2]), None, ints(3), mode="linear", axes=[2], fixed=(1,),
         coordinate_transformation_mode="tf_crop_and_resize"),
    case("Upsample", normal(1, 1, 3, 2), torch.tensor([1.0, 1.0, 2.0, 1.5]), opset=9, fixed=(1,), mode="linear"),
    case("GridSample", normal(1, 2, 4, 3), unit(1, 2, 3, 2)),
    case("GridSample", normal(1, 2, 4, 3), 1.7 * unit(1, 2, 3, 2), mode="cubic", padding_mode="reflection"),
    case("GridSample", normal(1, 2, 4), 1.7 * unit(1, 3, 1), padding_mode="border", align_corners=1),
    case("GridSample", normal(1, 1, 3, 4, 2), unit(1, 2, 1, 2, 3)),
    case("GridSample", normal(1, 2, 4, 3), unit(1, 2, 3, 2), mode="nearest", fixed=(1,)),
    case("AffineGrid", normal(2, 2, 3), ints(2, 1, 3, 2), align_corners=1),
    case("AffineGrid", normal(1, 3, 4), ints(1, 1, 2, 3, 2)),
    case("RoiAlign", normal(2, 2, 5, 6), torch.tensor([[0.3, 0.6, 3.2, 4.1], [1.1, 0.2, 5.3, 3.3]]),
         torch.tensor([1, 0]), output_height=2, output_width=3, sampling_ratio=2),
    case("RoiAlign", normal(1, 1, 5, 6), torch.tensor([[0.3, 0.6, 3.2, 4.1]]), torch.tensor([0]),
         output_height=2, output_width=2, fixed=(1,), mode="max"),
]  # fmt: skip
SEQUENCES = [
    case("RNN", normal(3, 2, 2), normal(1, 2, 2), normal(1, 2, 2), normal(1, 4), outputs=2, hidden_size=2),
    case("RNN", normal(3, 2, 2), normal(2, 2, 2), normal(2, 2, 2), None, torch.tensor([3, 2]), normal(2, 2, 2),
         outputs=2, hidden_size=2, direction="bidirectional", activations=["Affine", "Elu"],
         activation_alpha=[0.7, 0.9], activation_beta=[0.1]),
    case("GRU", normal(3, 2, 2), normal(1, 6, 2), normal(1, 6, 2), normal(1, 12), outputs=2, hidden_size=2),
    case("GRU", normal(2, 3, 2), normal(1, 6, 2), normal(1, 6, 2), normal(1, 12), None, normal(2, 1, 2), outputs=2,
         hidden_size=2, linear_before_reset=1, layout=1, direction="reverse"),
    case("LSTM", normal(3, 2, 2), normal(1, 8, 2), normal(1, 8, 2), normal(1, 16), outputs=3, hidden_size=2),
    case("LSTM", normal(2, 1, 2), normal(2, 8, 2), normal(2, 8, 2), None, None, normal(2, 1, 2, seed=5),
         normal(2, 1, 2, seed=6), normal(2, 6), outputs=3, hidden_size=2, direction="bidirectional", clip=0.8),
    case("LSTM", normal(2, 1, 2), normal(1, 8, 2), normal(1, 8, 2), outputs=3, hidden_size=2, input_forget=1),
    case("Attention", normal(1, 2, 2, 3), normal(1, 1, 3, 3), normal(1, 1, 3, 2), normal(2, 3), softcap=1.5),
    case("Attention", normal(2, 3, 4), normal(2, 3, 4, seed=7), normal(2, 3, 4, seed=8), is_causal=1,
         q_num_heads=2, kv_num_heads=2),
    case("Attention", normal(1, 1, 2, 3), normal(1, 1, 2, 3, seed=1), normal(1, 1, 2, 2),
         torch.tensor([[True, False, True], [False, False, False]]), normal(1, 1, 1, 3), normal(1, 1, 1, 2), outputs=4,
         qk_matmul_output_mode=3),
    case("Attention", normal(2, 1, 2, 3), normal(2, 1, 3, 3), normal(2, 1, 3, 2), None, None, None,
         torch.tensor([3, 1]), left_window_size=1, is_causal=1),
    case("ai.onnx.preview::FlexAttention", normal(1, 2, 2, 3), normal(1, 1, 3, 3), normal(1, 1, 3, 2), opset=1),
    case("RotaryEmbedding", normal(1, 2, 2, 6), unit(4, 2), unit(4, 2, seed=1), torch.tensor([[1, 3]]),
         rotary_embedding_dim=4),
    case("RotaryEmbedding", normal(1, 2, 8), unit(1, 2, 2), unit(1, 2, 2, seed=1), num_heads=2, interleaved=1),
    case("LinearAttention", normal(1, 3, 4), normal(1, 3, 2), normal(1, 3, 3), normal(1, 1, 2, 3), normal(1, 3, 2),
         unit(1, 3, 1), outputs=2, q_num_heads=2, kv_num_heads=1),
    case("LinearAttention", normal(1, 2, 4), normal(1, 2, 4), normal(1, 2, 2), outputs=2, q_num_heads=2, kv_num_heads=2,
         update_rule="linear"),
    case("CausalConvWithState", normal(1, 2, 4), normal(2, 1, 3), normal(2), normal(1, 2, 2), outputs=2,
         activation="silu"),
]  # fmt: skip
SUMS_AND_LOSSES = [
    case("Einsum", normal(2, 3), normal(2, 3, 4), equation="bi,bij->bj"),
    case("Einsum", normal(2, 3, 3), normal(2, 3), equation="...ii,...i"),
    case("NegativeLogLikelihoodLoss", normal(3, 4), torch.tensor([0, 3, 1]), positive(4), fixed=(2,), ignore_index=3),
    case("NegativeLogLikelihoodLoss", normal(2, 3, 2), torch.tensor([[0, 1], [2, 2]]), reduction="none"),
    case("SoftmaxCrossEntropyLoss", normal(3, 4), torch.tensor([0, 3, 1]), positive(4), fixed=(2,), outputs=2),
    case("DFT", normal(2, 5, 1), ints(4), outputs=1, onesided=1),
    case("DFT", normal(2, 5, 2), None, ints(1), inverse=1),
    case("DFT", normal(2, 3, 2), inverse=1, onesided=1),
    case("DFT", normal(2, 3, 4, 2), axis=2, opset=17),
    case("STFT", normal(1, 7, 1), Shape.of([2], ()), positive(3), Shape.of([3], ())),
    case("DequantizeLinear", torch.tensor([[3, -5]], dtype=torch.int8), positive(2)),
]
NORMALISATION = [
    case("BatchNormalization", image, row[:2], normal(2), normal(2, seed=3), positive(2), fixed=(3, 4)),
    case("Dropout", x),
    case("LayerNormalization", normal(2, 3, 4), normal(4), normal(4, seed=1)),
    case("LayerNormalization", normal(2, 3, 4), normal(3, 4), axis=1),
    case("LayerNormalization", normal(2, 4), normal(4), outputs=3),
    case("RMSNormalization", normal(2, 3, 4), normal(4)),
    case("RMSNormalization", normal(2, 3, 4), normal(1), axis=1),
    case("InstanceNormalization", image, normal(2), normal(2, seed=1)),
    case("GroupNormalization", normal(2, 4, 3), normal(4), normal(4, seed=1), num_groups=2),
    case("GroupNormalization", normal(2, 4, 3), normal(2), normal(2, seed=1), num_groups=2, opset=18),
    case("MeanVarianceNormalization", normal(2, 2, 3, 2)),
    case("LRN", normal(2, 4, 3), size=4, alpha=0.3),
    case("BatchNormalization", normal(4, 2), normal(2), normal(2), normal(2, seed=3), positive(2), fixed=(3, 4),
         outputs=3, training_mode=1),
]  # fmt: skip
ACTIVATIONS = [
    case("Clip", normal(3, 3), torch.tensor(-0.8), torch.tensor(0.8)),
    case("Clip", normal(3, 3), min=-0.8, max=0.8, opset=9),
    case("Elu", x, alpha=0.5),
    case("Celu", x, alpha=0.6),
    case("Erf", x),
    case("Gelu", x),
    case("Gelu", x, approximate="tanh"),
    case("HardSigmoid", normal(4, 4, scale=3.0), alpha=0.3, beta=0.4),
    case("HardSwish", normal(4, 4, scale=3.0)),
    case("LeakyRelu", x, alpha=0.2),
    case("LogSoftmax", x),
    case("LogSoftmax", normal(2, 2, 3), opset=9),
    case("Mish", x),
    case("PRelu", x, row),
    case("Relu", x),
    case("Selu", x),
    case("Selu", x, alpha=1.2, gamma=0.9),
    case("Shrink", normal(3, 3), bias=0.2, lambd=0.4),
    case("Sigmoid", x),
    case("Softmax", normal(2, 3, 2), axis=1),
    case("Softmax", normal(2, 2, 3), opset=9),
    case("Softplus", x),
    case("Softsign", x),
    case("SwiGLU", x, normal(2, 3, seed=4), alpha=1.5),
    case("Swish", x),
    case("Swish", x, alpha=0.7),
    case("Tanh", x),
    case("ThresholdedRelu", normal(3, 3), alpha=0.3),
]
ARITHMETIC = [
    case("Abs", x),
    case("Acos", unit(2, 3)),
    case("Acosh", positive(2, 3) + 1),
    case("Asin", unit(2, 3)),
    case("Asinh", x),
    case("Atan", x),
    case("Atanh", unit(2, 3)),
    case("Ceil", x),
    case("Cos", x),
    case("Cosh", x),
    case("Div", x, positive(3)),
    case("Exp", x),
    case("Floor", x),
    case("Log", positive(2, 3)),
    case("Max", x, row, normal(2, 1)),
    case("Mean", x, row, normal(2, 1)),
    case("Min", x, row, normal(2, 1)),
    case("Mod", 3 * x, positive(3)),
    case("Mod", 3 * x, row, fmod=1),
    case("Mul", x, row),
    case("Neg", x),
    case("Pow", positive(2, 3), normal(3)),
    case("Pow", x, Shape.of([3], ())),
    case("Reciprocal", positive(2, 3)),
    case("Round", x),
    case("Sign", x),
    case("Sin", x),
    case("Sinh", x),
    case("Sqrt", positive(2, 3)),
    case("Sub", x, row),
    case("Sum", x, row, normal(2, 1)),
    case("Tan", unit(2, 3)),
    case("Where", torch.tensor([True, False, True]), x, row),
]
REDUCTIONS = [
    case("CumProd", normal(2, 4), ints(1), exclusive=1, reverse=1),
    case("CumProd", torch.tensor([[1.5, 0.0, -2.0, 0.7]]), ints(1)),
    case("CumSum", normal(2, 4), ints(-1), exclusive=1),
    case("CumSum", normal(2, 4), ints(1), reverse=1),
    case("Det", normal(2, 3, 3)),
    case("LpNormalization", normal(2, 3), p=1),
    case("LpNormalization", normal(2, 3, 2), axis=1),
    case("ReduceL1", normal(2, 3, 4), ints(1)),
    case("ReduceL2", normal(2, 3, 4), ints(1, 2), keepdims=0),
    case("ReduceLogSum", positive(2, 3), ints(1)),
    case("ReduceLogSumExp", normal(2, 3, 4), ints(2, 1)),
    case("ReduceMax", normal(2, 3, 4), ints(1)),
    case("ReduceMean", normal(2, 3, 4), ints(1, 2), keepdims=0),
    case("ReduceMin", normal(2, 3, 4), axes=[2], opset=13),
    case("ReduceProd", normal(2, 3, 2), ints(1, 2)),
    case("ReduceProd", torch.tensor([[1.5, 0.0, -2.0, 0.7]]), axes=[1], opset=13),
    case("ReduceSum", normal(2, 3, 4), ints(-1)),
    case("ReduceSumSquare", normal(2, 3, 4), ints(1)),
    case("TopK", normal(2, 5), ints(3), outputs=2),
    case("TopK", normal(2, 5), ints(2), outputs=2, largest=0),
    case("Unique", torch.tensor([1.5, 0.2, 1.3, -3.0]), outputs=4, sorted=0),
]
MOVEMENT = [
    case("CenterCropPad", image, ints(2, 3, 3, 7)),
    case("Col2Im", normal(1, 8, 6), ints(4, 3), ints(2, 2), pads=[0, 1, 0, 0], dilations=[2, 1]),
    case("Compress", normal(2, 4), torch.tensor([True, False, True]), axis=1),
    case("Concat", x, normal(2, 2), axis=1),
    case("DepthToSpace", normal(1, 8, 2, 1), blocksize=2, mode="CRD"),
    case("Expand", normal(2, 1, 3), ints(1, 4, 1)),
    case("Flatten", image),
    case("Gather", matrix, torch.tensor([[0, 2], [1, 1]]), weight=0),
    case("Gather", matrix, ints(1, -1), axis=1),
    case("GatherElements", x, torch.tensor([[0, 2, -1, 0], [1, 1, 0, 2]]), axis=1),
    case("GatherND", normal(2, 3, 2), torch.tensor([[[0], [2]], [[-1], [1]]]), batch_dims=1),
    case("GatherND", normal(2, 3, 2), torch.tensor([[0, 2], [1, -1]])),
    case("OneHot", torch.tensor([1, -1, 5]), ints(4), normal(2)),
    case("Pad", x, ints(0, 2, 0, 1), mode="reflect"),
    case("Pad", x, ints(0, 3, 1, 4), mode="edge"),
    case("Pad", x, ints(0, 4, 0, 1), mode="wrap"),
    case("Pad", x, ints(0, 1, 0, 2), torch.tensor(0.5)),
    case("Reshape", image, ints(2, -1)),
    case("ReverseSequence", normal(2, 4, 2), torch.tensor([3, 4]), batch_axis=0, time_axis=1),
    case("Scatter", normal(2, 4), torch.tensor([[0, 3], [2, 1]]), normal(2, 2), axis=1, opset=9),
    case("ScatterElements", normal(2, 4), torch.tensor([[0, 3], [2, -1]]), normal(2, 2), axis=1),
    case("ScatterElements", normal(2, 4), torch.tensor([[0, 0], [2, 1]]), normal(2, 2), axis=1, reduction="add"),
    case("ScatterElements", normal(2, 4), torch.tensor([[0, 0], [2, 1]]), normal(2, 2), axis=1, reduction="mul"),
    case("ScatterElements", normal(1, 2), torch.tensor([[1, 1]]), torch.tensor([[0.0, 2.0]]), axis=1, reduction="mul"),
    case("ScatterElements", normal(2, 4), torch.tensor([[0, 0], [2, 1]]), normal(2, 2), axis=1, reduction="max"),
    case("ScatterElements", normal(2, 4), torch.tensor([[0, 0], [2, 1]]), normal(2, 2), axis=1, reduction="min"),
    case("ScatterND", normal(3, 2), torch.tensor([[2], [0]]), normal(2, 2)),
    case("ScatterND", normal(3, 2), torch.tensor([[2], [2]]), normal(2, 2), reduction="add"),
    case("ScatterND", normal(3, 2), torch.tensor([[2, 0], [2, 0]]), normal(2), reduction="mul"),
    case("ScatterND", normal(3, 2), torch.tensor([[2], [2]]), normal(2, 2), reduction="max"),
    case("ScatterND", normal(3, 2), torch.tensor([[2], [2]]), normal(2, 2), reduction="min"),
    case("Slice", image, ints(3, 0), ints(-9, 9), ints(2, 3), ints(-2, 2)),
    case("SpaceToDepth", normal(1, 1, 4, 2), blocksize=2),
    case("Split", normal(2, 5), axis=1, outputs=3, num_outputs=3),
    case("Split", normal(2, 5), axis=1, outputs=2, split=[1, 4], opset=11),
    case("Squeeze", normal(2, 1, 3), ints(1)),
    case("TensorScatter", normal(2, 4, 3), normal(2, 2, 3), torch.tensor([1, 3]), mode="circular"),
    case("Tile", x, ints(1, 3)),
    case("Transpose", normal(2, 3, 2), perm=[1, 2, 0]),
    case("Trilu", normal(2, 3, 3), ints(-1), upper=0),
    case("Unsqueeze", x, ints(1)),
]
TYPES = [
    case("Cast", x, to=onnx.TensorProto.DOUBLE),
    case("CastLike", x, normal(1)),
    case("Identity", x),
]
MACHINE_LEARNING = [
    case("ai.onnx.ml::ArrayFeatureExtractor", x, ints(2, 0)),
    case("ai.onnx.ml::FeatureVectorizer", x, normal(2, 2), is_single=True),
    case("ai.onnx.ml::Imputer", x, normal(3), replaced_value_float=0.5),
    case("ai.onnx.ml::LinearClassifier", x, normal(2, 3), normal(2), outputs=2, post_transform="SOFTMAX"),
    case("ai.onnx.ml::LinearClassifier", x, normal(1, 3), normal(1), outputs=2, mirrored=1, post_transform="LOGISTIC"),
    case("ai.onnx.ml::LinearRegressor", x, normal(2, 3), normal(2)),
    case("ai.onnx.ml::Normalizer", x, norm="MAX", is_single=True),
    case("ai.onnx.ml::Normalizer", x, norm="L1", is_single=True),
    case("ai.onnx.ml::Normalizer", x, norm="L2", is_single=True),
    case("ai.onnx.ml::SVMClassifier", x, normal(1, 3), normal(1), outputs=2, pairs=1),
    case("ai.onnx.ml::SVMRegressor", x, normal(1, 3), normal(1)),
    case("ai.onnx.ml::Scaler", x, normal(3), positive(3)),
]
CASES = [
    *LINEAR, *CONVOLUTION_AND_POOLING, *SAMPLING, *SEQUENCES, *SUMS_AND_LOSSES, *NORMALISATION, *ACTIVATIONS,
    *ARITHMETIC, *REDUCTIONS, *MOVEMENT, *TYPES, *MACHINE_LEARNING,
]  # fmt: skip

COMPARES = "gives true or false"
COUNTS = "gives integers"
ON_BITS = "of integers"
ROUNDS = "rounds to integers; refused where gradients are asked for"
IS_CONSTANT = "does not depend on a floating-point input"
JUMPS = "constant between its jumps"
CARRIES = "carries values and computes nothing"
RUNS = "runs a graph of its own, of operators that are held against differences themselves"
WITHOUT: Mapping[str, str] = {
    "And": COMPARES,
    "ArgMax": COUNTS,
    "ArgMin": COUNTS,
    "BitCast": "reads bits as another number",
    "BitShift": ON_BITS,
    "BitwiseAnd": ON_BITS,
    "BitwiseNot": ON_BITS,
    "BitwiseOr": ON_BITS,
    "BitwiseXor": ON_BITS,
    "ConcatFromSequence": "joins the values of a sequence as Concat does",
    "BlackmanWindow": IS_CONSTANT,
    "Constant": IS_CONSTANT,
    "ConstantOfShape": IS_CONSTANT,
    "ConvInteger": ROUNDS,
    "Equal": COMPARES,
    "EyeLike": IS_CONSTANT,
    "Greater": COMPARES,
    "GreaterOrEqual": COMPARES,
    "Hardmax": JUMPS,
    "If": RUNS,
    "HammingWindow": IS_CONSTANT,
    "HannWindow": IS_CONSTANT,
    "IsInf": COMPARES,
    "IsNaN": COMPARES,
    "Less": COMPARES,
    "LessOrEqual": COMPARES,
    "Loop": RUNS,
    "MatMulInteger": ROUNDS,
    "MelWeightMatrix": IS_CONSTANT,
    "NonZero": COUNTS,
    "Not": COMPARES,
    "Optional": CARRIES,
    "OptionalGetElement": CARRIES,
    "OptionalHasElement": COMPARES,
    "Or": COMPARES,
    "QLinearConv": ROUNDS,
    "QLinearMatMul": ROUNDS,
    "QuantizeLinear": ROUNDS,
    "Range": "counts in steps that are fixed before anything is differentiated",
    "Scan": RUNS,
    "SequenceAt": CARRIES,
    "SequenceConstruct": CARRIES,
    "SequenceEmpty": CARRIES,
    "SequenceErase": CARRIES,
    "SequenceInsert": CARRIES,
    "SequenceLength": COUNTS,
    "SequenceMap": RUNS,
    "Shape": COUNTS,
    "Size": COUNTS,
    "SplitToSequence": "cuts as Split does",
    "StringConcat": "of strings",
    "StringNormalizer": "of strings",
    "StringSplit": "of strings",
    "Xor": COMPARES,
    "ai.onnx.ml::Binarizer": JUMPS,
    "ai.onnx.ml::LabelEncoder": JUMPS,
    "ai.onnx.ml::OneHotEncoder": JUMPS,
}


@pytest.mark.filterwarnings("ignore:Input .* requires gradient and is not a double")
@pytest.mark.parametrize("case", CASES, ids=str)
def test_first_and_second_derivatives(case):
    data = tuple(value.requires_grad_() for value in case.data)
    assert case(*data), "the case gives no floating-point output"
    steps = {"eps": 1e-2, "atol": 1e-2, "rtol": 1e-2} if case.is_single else {}
    assert gradcheck(case, data, **steps)
    assert gradgradcheck(case, data, **steps)


def test_every_operator_is_held_against_differences_or_has_a_reason_not_to_be():
    tested = {case.operator for case in CASES}
    assert not tested & set(WITHOUT)
    assert sorted(tested | set(WITHOUT)) == sorted(OPERATORS)
