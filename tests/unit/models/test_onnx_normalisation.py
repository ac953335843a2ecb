"""Normalisation, losses and sums of products: against onnxruntime, or ONNX's own evaluator where that lacks them."""

import numpy as np
import onnx
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx.helper import make_node

from undue_service.domain.errors import Error, Reason
from undue_service.models import parity

NEWEST = onnx.defs.onnx_opset_version()
many = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
seeds = st.integers(0, 2**31)


def normal(seed, *shape, dtype=np.float32):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


@pytest.mark.parametrize("opset", [9, 17, NEWEST])
@pytest.mark.parametrize("sizes", [(5,), (4, 3), (2, 3, 4), (1,)])
def test_instance_normalization(sizes, opset, agrees):
    inputs = {"x": normal(0, 2, 3, *sizes), "s": normal(1, 3), "b": normal(2, 3)}
    agrees(make_node("InstanceNormalization", ["x", "s", "b"], ["y"], epsilon=0.01), inputs, opset)


@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize("opset", [18, 21])
def test_group_normalization(groups, opset, agrees):
    sizes = 6 if opset >= 21 else groups
    inputs = {"x": normal(0, 2, 6, 3, 4), "s": normal(1, sizes), "b": normal(2, sizes)}
    agrees(make_node("GroupNormalization", ["x", "s", "b"], ["y"], num_groups=groups), inputs, opset)


@pytest.mark.parametrize(("axis", "sizes"), [(-1, (5,)), (1, (4, 5)), (2, (5,)), (1, (1,)), (1, (5,))])
@pytest.mark.parametrize("operator", ["LayerNormalization", "RMSNormalization"])
def test_normalization_from_an_axis_on(operator, axis, sizes, agrees):
    node = make_node(operator, ["x", "s"], ["y"], axis=axis, epsilon=0.02)
    inputs = {"x": normal(0, 2, 4, 5), "s": normal(1, *sizes)}
    x = inputs["x"].astype(np.float64)
    axes = tuple(range(axis % 3, 3))
    centred = x - x.mean(axes, keepdims=True) if operator == "LayerNormalization" else x
    expected = centred / np.sqrt((centred**2).mean(axes, keepdims=True) + 0.02) * inputs["s"]
    agrees(node, inputs, 23, expected=[expected.astype(np.float32)])


def test_mean_and_deviation_of_layer_normalization(agrees):
    inputs = {"x": normal(0, 2, 3, 4), "s": normal(1, 3, 4), "b": normal(2, 3, 4)}
    agrees(make_node("LayerNormalization", ["x", "s", "b"], ["y", "m", "d"], axis=1), inputs, 17)


def test_half_precision_is_normalised_in_single(runs):
    inputs = {"x": 300 * normal(0, 2, 64, dtype=np.float16), "s": np.ones(64, np.float16)}
    (y,) = runs(make_node("RMSNormalization", ["x", "s"], ["y"]), inputs)
    x = inputs["x"].astype(np.float64)
    assert y.dtype == np.float16
    np.testing.assert_allclose(y, x / np.sqrt((x**2).mean(-1, keepdims=True)), rtol=1e-3)


@many
@given(
    size=st.integers(1, 6), sizes=st.sampled_from([(3,), (2, 3), (2, 3, 2)]), opset=st.integers(9, NEWEST), seed=seeds
)
def test_local_response_normalization(size, sizes, opset, seed, runs):
    x, channels = normal(seed, 2, 5, *sizes), 5
    node = make_node("LRN", ["x"], ["y"], size=size, alpha=0.3, beta=0.6, bias=1.2)
    low, high = (size - 1) // 2, -(-(size - 1) // 2)
    sums = [(x[:, max(0, c - low) : c + high + 1] ** 2).sum(1) for c in range(channels)]
    expected = x / (1.2 + 0.3 / size * np.stack(sums, 1)) ** 0.6
    np.testing.assert_allclose(runs(node, {"x": x}, opset=opset)[0], expected, rtol=1e-5)


@pytest.mark.parametrize("axes", [None, [1], [1, 2], [2, 3]])
def test_mean_variance_normalization(axes, agrees):
    attributes = {} if axes is None else {"axes": axes}
    agrees(make_node("MeanVarianceNormalization", ["x"], ["y"], **attributes), {"x": normal(0, 2, 3, 4, 5)}, 13)


@pytest.mark.parametrize("opset", [14, 15])
def test_batch_normalization_of_the_rows(opset, agrees):
    names = ["x", "s", "b", "m", "v"]
    inputs = {
        "x": normal(0, 4, 3, 2),
        **{name: normal(i, 3) for i, name in enumerate("sbm", 1)},
        "v": normal(5, 3) ** 2,
    }
    x = inputs["x"].astype(np.float64)
    mean, variance = x.mean((0, 2)), x.var((0, 2))
    scaled = (x - mean[:, None]) / np.sqrt(variance + 1e-5)[:, None] * inputs["s"][:, None] + inputs["b"][:, None]
    running = [0.7 * inputs["m"] + 0.3 * mean, 0.7 * inputs["v"] + 0.3 * variance]
    node = make_node("BatchNormalization", names, ["y", "rm", "rv"], training_mode=1, momentum=0.7)
    agrees(node, inputs, opset, expected=[value.astype(np.float32) for value in (scaled, *running)])


MIXING = {
    "mean and variance": (make_node("MeanVarianceNormalization", ["x"], ["y"], axes=[0, 2, 3]), (3, 4, 5), {}, 4),
    "layer": (make_node("LayerNormalization", ["x", "s"], ["y"], axis=0), (5,), {"s": normal(0, 5)}, 2),
    "batch": (
        make_node("BatchNormalization", ["x", "s", "s", "s", "s"], ["y", "m", "v"], training_mode=1),
        (5,), {"s": np.abs(normal(0, 5))}, 2,
    ),
    "loss": (make_node("NegativeLogLikelihoodLoss", ["x", "t"], ["y"]), (5,), {"t": np.zeros(3, np.int64)}, 0),
    "sum": (make_node("Einsum", ["x"], ["y"], equation="ij->j"), (5,), {}, 1),
    "pairs": (make_node("Einsum", ["x", "x"], ["y"], equation="ij,kj->ik"), (5,), {}, 2),
    "pairs of ...": (make_node("Einsum", ["x", "x"], ["y"], equation="...j,kj->...k"), (5,), {}, 2),
}  # fmt: skip


@pytest.mark.parametrize("what", MIXING)
def test_what_mixes_rows_is_refused(what, onnx_bytes, refusal):
    node, sizes, weights, rank = MIXING[what]
    content = onnx_bytes([node], {"x": ["n", *sizes]}, {"y": [f"?{i}" for i in range(rank)]}, weights)
    assert "rows" in refusal(content, Reason.MODEL_UNSUPPORTED)


@pytest.mark.parametrize("equation", ["ij,jk", "ij,jk->ki", "...j,jk->...k", "ij,ij,jk->ik"])
def test_sums_that_keep_rows_apart(equation, onnx_bytes, open_bytes, outcome):
    names = ["x"] * (equation.partition("->")[0].count(",")) + ["w"]
    node = make_node("Einsum", names, ["y"], equation=equation)
    content = onnx_bytes([node], {"x": ["n", 5]}, {"y": ["?0", "?1"]}, {"w": normal(0, 5, 2)})
    if equation.endswith("ki"):
        assert outcome(content, "onnx") == "MODEL_UNSUPPORTED"
    else:
        assert parity(open_bytes(content), {"x": normal(1, 4, 5)}) <= 1e-5


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("ignored", [None, 1, -1])
@pytest.mark.parametrize("sizes", [(), (4,), (2, 3)])
def test_losses(reduction, weighted, ignored, sizes, agrees):
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 3, (5, *sizes))
    if ignored is not None:
        targets[rng.random(targets.shape) < 0.3] = ignored
    inputs = {"x": normal(1, 5, 3, *sizes), "t": targets}
    if weighted:
        inputs["w"] = np.abs(normal(2, 3))
    attributes = {"reduction": reduction} | ({} if ignored is None else {"ignore_index": ignored})
    for opset in (12, 13):
        agrees(make_node("NegativeLogLikelihoodLoss", [*inputs], ["y"], **attributes), inputs, opset)
        agrees(make_node("SoftmaxCrossEntropyLoss", [*inputs], ["y", "p"], **attributes), inputs, opset)


EQUATIONS = [
    ("ij,jk->ik", [(2, 3), (3, 4)]), ("bij, bjk", [(2, 3, 4), (2, 4, 5)]), ("ii->i", [(3, 3)]),
    ("...ij->...ji", [(2, 3, 4)]),
    ("...i,...i->...", [(2, 1, 3), (4, 3)]), ("i,j->ij", [(2,), (3,)]), ("ij->", [(2, 3)]),
    ("bhqd,bhkd->bhqk", [(2, 2, 3, 4), (2, 2, 5, 4)]),
    ("Ab,bA", [(2, 3), (3, 2)]), ("ij,jk,kl->il", [(2, 3), (3, 4), (4, 2)]), (",ij->ji", [(), (2, 3)]),
]  # fmt: skip


@pytest.mark.parametrize(("equation", "shapes"), EQUATIONS)
def test_einsum(equation, shapes, agrees):
    inputs = {f"x{i}": normal(i, *shape) for i, shape in enumerate(shapes)}
    expected = np.einsum(equation.replace(" ", ""), *(x.astype(np.float64) for x in inputs.values()))
    node = make_node("Einsum", [*inputs], ["y"], equation=equation)
    agrees(node, inputs, 12, expected=[np.asarray(expected, np.float32)])


@pytest.mark.parametrize("equation", ["ij,jk->ik->", "ij,j", "i1->i", "....i", "ij", "", "__import__('os')"])
def test_equations_that_do_not_fit_are_refused(equation, runs):
    with pytest.raises(Error) as caught:
        runs(make_node("Einsum", ["x"], ["y"], equation=equation), {"x": normal(0, 3)})
    assert caught.value.reason is Reason.MODEL_MALFORMED


def test_dropout_in_training_is_refused_unless_it_drops_nothing(runs):
    inputs = {"x": normal(0, 2, 3), "r": np.float32(0.0), "t": np.array(True)}
    node = make_node("Dropout", ["x", "r", "t"], ["y", "m"])
    y, mask = runs(node, inputs)
    assert mask.all()
    np.testing.assert_array_equal(y, inputs["x"])
    with pytest.raises(Error) as caught:
        runs(node, inputs | {"r": np.float32(0.5)})
    assert caught.value.reason is Reason.MODEL_UNSUPPORTED


@pytest.mark.parametrize("operator", ["RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial"])
def test_random_operators_are_refused_with_the_reason(operator, onnx_bytes, refusal):
    content = onnx_bytes([make_node(operator, ["x"], ["y"])], {"x": ["n", 3]}, {"y": None}, {})
    message = refusal(content, Reason.UNSUPPORTED_OPERATORS)
    assert operator in message
    assert "another one each time" in message


def test_normalisations_become_one_operator_of_the_weights(open_bytes, onnx_bytes):
    """So that the engine sees where their scale and shift act."""
    names = ["s", "b"]
    nodes = [
        make_node("InstanceNormalization", ["x", *names], ["i"]),
        make_node("GroupNormalization", ["i", *names], ["g"], num_groups=2),
        make_node("RMSNormalization", ["g", "r"], ["y"]),
    ]
    weights = {"s": normal(0, 4), "b": normal(1, 4), "r": normal(2, 5)}
    opened = open_bytes(onnx_bytes(nodes, {"x": ["n", 4, 5]}, {"y": ["n", 4, 5]}, weights, opset=23))
    targets = [n.target for n in opened.exported.graph.nodes if n.op == "call_function"]
    assert targets == [torch.ops.aten.group_norm.default] * 2 + [torch.ops.aten.rms_norm.default]
