"""Attention and what surrounds it: against onnxruntime where it has a kernel, or ONNX's own evaluator or torch."""

import numpy as np
import onnx
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from onnx.helper import make_node
from onnx.reference import ReferenceEvaluator

from undue_service.domain.errors import Error, Reason
from undue_service.models import parity

NEWEST = onnx.defs.onnx_opset_version()
many = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
seeds = st.integers(0, 2**31)


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def by_definition(node, inputs, opset):
    """Return what ONNX's evaluator gives."""
    names = [name for name in node.input if name]
    values = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(inputs[name].dtype), inputs[name].shape)
        for name in names
    ]
    outputs = [helper.make_empty_tensor_value_info(name) for name in node.output if name]
    model = helper.make_model(
        helper.make_graph([node], "graph", values, outputs),
        opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid("ai.onnx.preview", 1)],
    )
    return ReferenceEvaluator(model).run(None, {name: inputs[name] for name in names})


@st.composite
def attentions(draw):
    """A node of Attention with its inputs, over every attribute and optional input."""
    opset, seed = draw(st.sampled_from([23, 24, 25, NEWEST])), draw(seeds)
    shared = draw(st.sampled_from([(2, 2), (4, 2), (3, 1)]))
    rows, queries, keys, size, out = (
        2,
        draw(st.integers(1, 4)),
        draw(st.integers(1, 4)),
        4,
        draw(st.sampled_from([4, 3])),
    )
    past = draw(st.sampled_from([0, 0, 2]))
    packed, attributes = draw(st.booleans()), {}
    inputs = {
        "q": normal(seed, rows, shared[0], queries, size),
        "k": normal(seed + 1, rows, shared[1], keys, size),
        "v": normal(seed + 2, rows, shared[1], keys, out),
    }
    if packed:
        inputs = {name: value.swapaxes(1, 2).reshape(rows, value.shape[2], -1) for name, value in inputs.items()}
        attributes |= {"q_num_heads": shared[0], "kv_num_heads": shared[1]}
    names, rng = ["q", "k", "v"], np.random.default_rng(seed)
    mask = draw(st.sampled_from(["", "bool", "float"]))
    total = past + keys
    shape = draw(
        st.sampled_from([(queries, total), (1, queries, total), (rows, 1, queries, total), (rows, shared[0], 1, total)])
    )
    if mask:
        inputs["m"] = rng.random(shape) < 0.6 if mask == "bool" else normal(seed + 3, *shape)
    names.append("m" if mask else "")
    if past:
        inputs |= {
            "pk": normal(seed + 4, rows, shared[1], past, size),
            "pv": normal(seed + 5, rows, shared[1], past, out),
        }
        names += ["pk", "pv"]
    elif opset >= 24 and draw(st.booleans()):
        inputs["n"] = rng.integers(0, keys + 1, rows)
        names += ["", "", "n"]
    if draw(st.booleans()):
        attributes["is_causal"] = 1
    if draw(st.booleans()):
        attributes["softcap"] = 0.8
    if draw(st.booleans()):
        attributes["scale"] = 0.3
    if opset >= 25 and draw(st.booleans()):
        attributes |= {"left_window_size": draw(st.integers(-1, 2)), "right_window_size": draw(st.integers(-1, 2))}
    mode = draw(st.integers(0, 3))
    assume(mode or "softcap" not in attributes)
    outputs = ["y", "pk2", "pv2", "qk"] if past else ["y", "", "", "qk"]
    return make_node("Attention", names, outputs, qk_matmul_output_mode=mode, **attributes), inputs, opset


@many
@given(attention=attentions())
def test_attention(attention, agrees):
    node, inputs, opset = attention
    told = dict(inputs)
    if "m" in told and told["m"].shape[-2] == 1:
        # ONNX's evaluator holds every query at the first one's place where a mask has one row for them all.
        queries = inputs["q"].shape[-2 if inputs["q"].ndim == 4 else 1]
        told["m"] = np.repeat(told["m"], queries, axis=-2)
    agrees(node, inputs, opset, expected=by_definition(node, told, opset))


@pytest.mark.parametrize("causal", [False, True])
def test_attention_is_that_of_torch_and_of_onnxruntime(causal, agrees):
    q, k, v = (normal(i, 2, 3, 4, 5) for i in range(3))
    node = make_node("Attention", ["q", "k", "v"], ["y"], is_causal=int(causal))
    expected = torch.nn.functional.scaled_dot_product_attention(
        *(torch.from_numpy(value) for value in (q, k, v)), is_causal=causal
    )
    agrees(node, {"q": q, "k": k, "v": v}, 23, expected=[expected.numpy()])
    agrees(node, {"q": q, "k": k, "v": v}, 23)


def test_a_query_that_sees_no_key_gives_nothing_and_takes_no_gradient(open_bytes, onnx_bytes):
    node = make_node("Attention", ["x", "x", "x", "m"], ["y"], q_num_heads=1, kv_num_heads=1)
    mask = np.array([[False, False], [True, False]])
    opened = open_bytes(onnx_bytes([node], {"x": ["n", 2, 3]}, {"y": ["n", 2, 3]}, {"m": mask}, opset=23))
    x = torch.from_numpy(normal(0, 4, 2, 3)).requires_grad_()
    (y,) = opened.exported.module()(x)
    assert not y[:, 0].any()
    torch.testing.assert_close(y[:, 1], x[:, 0])
    y.sum().backward()
    assert torch.isfinite(x.grad).all()


def test_attention_of_open_rows(open_bytes, onnx_bytes):
    nodes = [
        make_node("MatMul", ["x", "wq"], ["q"]),
        make_node("MatMul", ["x", "wk"], ["k"]),
        make_node("Attention", ["q", "k", "x"], ["y"], q_num_heads=4, kv_num_heads=2, is_causal=1),
    ]
    stored = {"wq": normal(0, 4, 8), "wk": normal(1, 4, 4)}
    opened = open_bytes(onnx_bytes(nodes, {"x": ["n", 3, 4]}, {"y": ["n", 3, 8]}, stored, opset=23))
    for rows in (1, 5):
        assert parity(opened, {"x": normal(rows, rows, 3, 4)}) <= 1e-5
    targets = [node.target for node in opened.exported.graph.nodes if node.op == "call_function"]
    assert torch.ops.aten.scaled_dot_product_attention.default not in targets
    assert targets.count(torch.ops.aten.linear.default) == 2


def test_attention_across_the_rows_is_refused(onnx_bytes, refusal):
    nodes = [
        make_node("Unsqueeze", ["x", "zero"], ["u"]),
        make_node("Attention", ["u", "u", "u"], ["a"], q_num_heads=1, kv_num_heads=1),
        make_node("Squeeze", ["a", "zero"], ["y"]),
    ]
    content = onnx_bytes(nodes, {"x": ["n", 4]}, {"y": ["n", 4]}, {"zero": np.array([0])}, opset=23)
    assert "attends to other rows" in refusal(content, Reason.MODEL_UNSUPPORTED)


@pytest.mark.parametrize(
    ("names", "change", "attributes", "says"),
    [
        (["q", "k", "v"], {}, {"q_num_heads": 3, "kv_num_heads": 1}, "into 3 heads"),
        (["q", "k", "v", "m"], {"m": np.zeros((2, 4), np.int64)}, {}, "mask"),
        (["q", "k", "v", "m"], {"m": np.zeros((2, 9), np.float32)}, {}, "mask"),
        (["q", "k", "v", "", "p"], {"p": normal(0, 1, 2, 1, 2)}, {}, "past_value"),
        (["q", "k", "v"], {}, {"left_window_size": -2}, "windows"),
        (["q", "k", "v"], {}, {"scale": -1.0}, "positive"),
    ],
)
def test_attention_that_does_not_fit_is_refused(names, change, attributes, says, runs):
    inputs = {name: normal(i, 1, 2, 4) for i, name in enumerate("qkv")} | change
    attributes = {"q_num_heads": 2, "kv_num_heads": 2} | attributes
    with pytest.raises(Error) as caught:
        runs(make_node("Attention", names, ["y"], **attributes), inputs)
    assert says in caught.value.message


def test_scores_before_the_softcap_are_read_in_two_ways(runs):
    inputs = {name: normal(i, 1, 2, 3, 4) for i, name in enumerate("qkv")}
    node = make_node("Attention", ["q", "k", "v"], ["y", "", "", "s"], softcap=1.0)
    with pytest.raises(Error) as caught:
        runs(node, inputs)
    assert caught.value.reason is Reason.MODEL_UNSUPPORTED


@many
@given(
    packed=st.booleans(),
    interleaved=st.integers(0, 1),
    rotated=st.sampled_from([0, 4]),
    by_ids=st.booleans(),
    seed=seeds,
)
def test_rotary_embedding(packed, interleaved, rotated, by_ids, seed, agrees):
    rows, heads, length, size = 2, 2, 3, 8
    pairs = (rotated or size) // 2
    x = normal(seed, rows, heads, length, size)
    inputs = {"x": x.swapaxes(1, 2).reshape(rows, length, -1) if packed else x}
    shape = (6, pairs) if by_ids else (rows, length, pairs)
    inputs |= {"c": normal(seed + 1, *shape), "s": normal(seed + 2, *shape)}
    if by_ids:
        inputs["i"] = np.random.default_rng(seed).integers(0, 6, (rows, length))
    attributes = {"interleaved": interleaved, "rotary_embedding_dim": rotated} | (
        {"num_heads": heads} if packed else {}
    )
    node = make_node("RotaryEmbedding", [*inputs], ["y"], **attributes)
    agrees(node, inputs, 23, expected=by_definition(node, inputs, 23))


@many
@given(
    rule=st.sampled_from(["linear", "gated", "delta", "gated_delta"]),
    shared=st.sampled_from([(2, 2), (4, 2)]),
    by_key=st.booleans(),
    past=st.booleans(),
    seed=seeds,
)
def test_linear_attention(rule, shared, by_key, past, seed, agrees):
    rows, steps, size, out = 2, 4, 3, 2
    heads, own = shared
    inputs = {
        "q": normal(seed, rows, steps, heads * size),
        "k": normal(seed + 1, rows, steps, own * size) / 2,
        "v": normal(seed + 2, rows, steps, own * out),
    }
    names = ["q", "k", "v", "p" if past else "", "g" if "gated" in rule else "", "b" if "delta" in rule else ""]
    inputs |= {
        "p": normal(seed + 3, rows, own, size, out),
        "g": -np.abs(normal(seed + 4, rows, steps, own * (size if by_key else 1))),
        "b": np.abs(normal(seed + 5, rows, steps, own if by_key else 1)) / 2,
    }
    inputs = {name: inputs[name] for name in names if name}
    node = make_node("LinearAttention", names, ["y", "s"], update_rule=rule, q_num_heads=heads, kv_num_heads=own)
    agrees(node, inputs, 27, expected=by_definition(node, inputs, 27))


@many
@given(kernel=st.integers(1, 4), past=st.booleans(), bias=st.booleans(), silu=st.booleans(), seed=seeds)
def test_causal_convolution(kernel, past, bias, silu, seed, agrees):
    inputs = {"x": normal(seed, 2, 3, 5), "w": normal(seed + 1, 3, 1, kernel)}
    inputs |= {"b": normal(seed + 2, 3)} if bias else {}
    inputs |= {"p": normal(seed + 3, 2, 3, kernel - 1)} if past else {}
    names = ["x", "w", "b" if bias else "", "p" if past else ""]
    node = make_node("CausalConvWithState", names, ["y", "s"], activation="silu" if silu else "none")
    agrees(node, inputs, 27, expected=by_definition(node, inputs, 27))


def modifier(name, nodes):
    """A graph of scores to scores."""
    ends = [helper.make_tensor_value_info(end, TensorProto.FLOAT, None) for end in ("in", "out")]
    return helper.make_graph(nodes, name, ends[:1], ends[1:])


def test_flex_attention_runs_its_graphs(runs):
    """score_mod adds a distance, prob_mod halves; torch's own attention takes the same as a mask."""
    q, k, v = (normal(i, 2, 2, 3, 4) for i in range(3))
    distance = -np.abs(np.subtract.outer(np.arange(3), np.arange(3))).astype(np.float32)
    constant = make_node("Constant", [], ["d"], value=onnx.numpy_helper.from_array(distance))
    half = make_node("Constant", [], ["h"], value_float=0.5)
    node = make_node(
        "FlexAttention", ["q", "k", "v"], ["y"], domain="ai.onnx.preview",
        score_mod=modifier("score", [constant, make_node("Add", ["in", "d"], ["out"])]),
        prob_mod=modifier("prob", [half, make_node("Mul", ["in", "h"], ["out"])]),
    )  # fmt: skip
    graph = helper.make_graph(
        [node],
        "graph",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 2, 3, 4]) for name in "qkv"],
        [helper.make_empty_tensor_value_info("y")],
    )
    from undue_service.models.onnx.graphs import from_arrays, read_graph, to_arrays

    opsets = [helper.make_opsetid("", 23), helper.make_opsetid("ai.onnx.preview", 1)]
    model = helper.make_model(graph, opset_imports=opsets)
    with torch.no_grad():
        (y,) = to_arrays(read_graph(model).run(*from_arrays(graph, [q, k, v])))
    expected = torch.nn.functional.scaled_dot_product_attention(
        *(torch.from_numpy(value) for value in (q, k, v)), attn_mask=torch.from_numpy(distance)
    )
    np.testing.assert_allclose(y, expected.numpy() / 2, rtol=1e-5, atol=1e-6)
