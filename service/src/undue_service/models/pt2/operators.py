"""What a `.pt2` graph may call: functional ATen operators by family, and integer arithmetic on shapes.

An operator is on the list when it computes numbers from its arguments and nothing else. `aten::from_file` opens files,
`aten::set_` and its like rewire memory: whatever is not listed is refused.
"""

import operator
import re
from collections.abc import Mapping

import torch

POINTWISE = """
    abs add addcdiv addcmul bitwise_and bitwise_not bitwise_or celu clamp clamp_max clamp_min cos div elu eq
    erf exp expm1 floor ge gelu gt hardsigmoid hardswish hardtanh isnan le leaky_relu log log1p log_sigmoid
    logical_and logical_not logical_or logit lt masked_fill maximum minimum mish mul ne neg pow prelu
    reciprocal relu relu6 round rsqrt rsub selu sigmoid sign silu sin softplus sqrt square sub tanh threshold
    where
"""
LINEAR = "linear matmul mm mv bmm addmm baddbmm addmv dot outer einsum bilinear"
REDUCTIONS = """
    all amax amin any argmax argmin cumsum linalg_vector_norm log_softmax _log_softmax logsumexp max mean min
    norm prod softmax _softmax std sum var
"""
SHAPES = """
    alias cat chunk clone constant_pad_nd contiguous detach diagonal expand expand_as flatten flip gather
    index_select mT movedim narrow numpy_T pad permute repeat repeat_interleave reshape reshape_as roll select
    slice split split_with_sizes squeeze stack t transpose tril triu unbind unflatten _unsafe_view unsqueeze
    view view_as
"""
CREATION = "zeros ones full zeros_like ones_like full_like empty_like arange scalar_tensor new_zeros new_ones new_full"
NETWORKS = """
    adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d _adaptive_avg_pool2d _adaptive_avg_pool3d
    adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d alpha_dropout avg_pool1d avg_pool2d avg_pool3d
    batch_norm conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d convolution dropout embedding
    feature_dropout glu group_norm instance_norm layer_norm max_pool1d max_pool2d max_pool3d
    max_pool1d_with_indices max_pool2d_with_indices max_pool3d_with_indices _native_batch_norm_legit_no_training
    native_group_norm native_layer_norm one_hot pixel_shuffle rms_norm scaled_dot_product_attention
    upsample_bilinear2d upsample_nearest2d
"""
RECURRENT = "gru lstm rnn_relu rnn_tanh"
CONVERSIONS = "to _to_copy type_as lift_fresh_copy lift_fresh _assert_tensor_metadata sym_size sym_numel _assert_scalar"
_OF_SIZES = ("sym_size", "sym_numel")

NAMES = frozenset(" ".join((POINTWISE, LINEAR, REDUCTIONS, SHAPES, CREATION, NETWORKS, RECURRENT, CONVERSIONS)).split())
"""ATen operators, in every overload that takes its arguments as they are and returns tensors."""
_IN_PLACE = frozenset(f"{name}_" for name in (*POINTWISE.split(), "dropout", "detach"))

ARITHMETIC: Mapping[str, object] = {
    f"_operator.{name}": getattr(operator, name)
    for name in ("add", "sub", "mul", "floordiv", "mod", "neg", "eq", "ne", "lt", "le", "gt", "ge")
}
"""Integer arithmetic on sizes."""
TARGET = re.compile(r"torch\.ops\.aten\.(?P<name>[A-Za-z_][A-Za-z0-9_]*)\.(?P<overload>[A-Za-z_][A-Za-z0-9_]*)")


def resolve(target: str) -> torch._ops.OpOverload | None:
    """Return the operator that a well-formed target names, None where it is not on the list."""
    match = TARGET.fullmatch(target)
    if match is None or match["name"] not in NAMES | _IN_PLACE or "__" in target:
        return None
    if match["name"] in RECURRENT.split() and match["overload"] != "input":
        return None  # sequences of different lengths, packed along the rows
    packet = getattr(torch.ops.aten, match["name"], None)
    found = getattr(packet, match["overload"], None)
    if not isinstance(found, torch._ops.OpOverload) or found._schema.is_mutable != match["name"].endswith("_"):
        return None
    of_tensors = all(str(returned.type) in ("Tensor", "List[Tensor]") for returned in found._schema.returns)
    return found if of_tensors or match["name"] in _OF_SIZES else None


def writes(op: torch._ops.OpOverload) -> bool:
    """Return whether an operator changes its first argument in place."""
    return bool(op._schema.is_mutable)


def shares(op: torch._ops.OpOverload) -> bool:
    """Return whether an operator's result may be its argument's memory."""
    return any(argument.alias_info is not None for argument in op._schema.arguments)
