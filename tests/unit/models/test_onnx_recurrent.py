"""RNN, GRU and LSTM against onnxruntime over their attributes; and what the engine can do with them."""

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
many = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
seeds = st.integers(0, 2**31)
GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
ACTIVATIONS = {"RNN": 1, "GRU": 2, "LSTM": 3}
STEPS, ROWS, INPUT, HIDDEN = 4, 3, 2, 3


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def weights(operator, directions, seed):
    rows = GATES[operator] * HIDDEN
    return {
        "w": normal(seed, directions, rows, INPUT),
        "r": normal(seed + 1, directions, rows, HIDDEN) / 2,
        "b": normal(seed + 2, directions, 2 * rows),
    }


@st.composite
def layers(draw):
    """A node with its inputs: any of the optional ones may be missing."""
    operator = draw(st.sampled_from(list(GATES)))
    direction = draw(st.sampled_from(["forward", "reverse", "bidirectional"]))
    directions, seed = 2 if direction == "bidirectional" else 1, draw(seeds)
    inputs = {"x": normal(seed + 9, STEPS, ROWS, INPUT), **weights(operator, directions, seed)}
    attributes = {"hidden_size": HIDDEN, "direction": direction}
    names = ["x", "w", "r", "b" if draw(st.booleans()) else "", ""]
    if draw(st.booleans()):
        inputs["n"] = np.array(draw(st.lists(st.integers(1, STEPS), min_size=ROWS, max_size=ROWS)), np.int32)
        names[4] = "n"
    for name, seeded in (("h", seed + 3), ("c", seed + 4)):
        if name == "c" and operator != "LSTM":
            continue
        given_start = draw(st.booleans())
        names.append(name if given_start else "")
        if given_start:
            inputs[name] = normal(seeded, directions, ROWS, HIDDEN)
    if operator == "LSTM" and draw(st.booleans()):
        inputs["p"] = normal(seed + 5, directions, 3 * HIDDEN)
        names.append("p")
    if operator == "GRU":
        attributes["linear_before_reset"] = draw(st.integers(0, 1))
    if draw(st.booleans()):
        attributes["clip"] = 0.7
    outputs = ["y", "yh", "yc"] if operator == "LSTM" else ["y", "yh"]
    return make_node(operator, names, outputs, **attributes), inputs


@many
@given(layer=layers(), opset=st.sampled_from([9, 13, 14, 22, NEWEST]))
def test_layers(layer, opset, agrees):
    agrees(*layer, opset)


@many
@given(
    operator=st.sampled_from(list(GATES)),
    names=st.lists(
        st.sampled_from(
            ["Relu", "Tanh", "Sigmoid", "Affine", "LeakyRelu", "ThresholdedRelu", "HardSigmoid", "Elu", "Softsign",
             "Softplus"]
        ),
        min_size=6,
        max_size=6,
    ),
    both=st.booleans(),
    seed=seeds,
)  # fmt: skip
def test_activations(operator, names, both, seed, agrees):
    """Each activation that has numbers takes the next of them."""
    names = names[: ACTIVATIONS[operator] * (2 if both else 1)]
    alphas = {"Affine": 0.6, "LeakyRelu": 0.1, "ThresholdedRelu": 0.2, "HardSigmoid": 0.3, "Elu": 0.8}
    betas = {"Affine": 0.1, "HardSigmoid": 0.4}
    attributes = {
        "activations": names,
        "activation_alpha": [alphas[name] for name in names if name in alphas],
        "activation_beta": [betas[name] for name in names if name in betas],
        "direction": "bidirectional" if both else "forward",
        "hidden_size": HIDDEN,
    }
    attributes = {name: value for name, value in attributes.items() if value != []}
    inputs = {"x": normal(seed, 2, ROWS, INPUT), **weights(operator, 2 if both else 1, seed)}
    inputs = {name: value / 3 for name, value in inputs.items()}  # gates without a bound multiply rounding, too
    agrees(make_node(operator, [*inputs], ["y", "yh"], **attributes), inputs, 14)


@pytest.mark.parametrize("operator", list(GATES))
def test_rows_first_is_the_same_turned(operator, runs):
    inputs = {"x": normal(9, STEPS, ROWS, INPUT), **weights(operator, 2, 0)}
    start = normal(3, 2, ROWS, HIDDEN)
    names = ["x", "w", "r", "b", "", "h"]
    outputs = ["y", "yh"]
    attributes = {"hidden_size": HIDDEN, "direction": "bidirectional"}
    y, last = runs(make_node(operator, names, outputs, **attributes), inputs | {"h": start})
    turned = {"x": inputs["x"].swapaxes(0, 1), "h": start.swapaxes(0, 1)}
    rows_first = make_node(operator, names, outputs, layout=1, **attributes)
    y_rows, last_rows = runs(rows_first, inputs | turned)
    np.testing.assert_allclose(y_rows.transpose(1, 2, 0, 3), y, rtol=1e-6)
    np.testing.assert_allclose(last_rows.swapaxes(0, 1), last, rtol=1e-6)


def test_coupled_forget_gate(runs):
    """With i + f = 1 and c of 1 for every input, the cell nears 1 and never passes it."""
    inputs = {"x": np.abs(normal(0, STEPS, ROWS, INPUT)), **weights("LSTM", 1, 0)}
    inputs["b"][:, 3 * HIDDEN : 4 * HIDDEN] = 50.0
    node = make_node("LSTM", [*inputs], ["y", "h", "c"], hidden_size=HIDDEN, input_forget=1)
    (_, _, cell) = runs(node, inputs)
    assert (cell > 0).all()
    assert (cell <= 1).all()


@pytest.mark.parametrize("layout", [0, 1])
def test_rows_that_stay_open(layout, open_bytes, onnx_bytes):
    """An open batch in front of the layer, as exporters write it, and its states at the end."""
    stored = weights("GRU", 1, 0)
    node = make_node("GRU", ["t" if layout == 0 else "x", *stored], ["g", "h"], hidden_size=HIDDEN, layout=layout)
    axis = np.array([0 if layout == 0 else 1])
    nodes = [node, make_node("Squeeze", ["h", "axis"], ["y"])]
    if layout == 0:
        nodes = [make_node("Transpose", ["x"], ["t"], perm=[1, 0, 2]), *nodes]
    content = onnx_bytes(
        nodes, {"x": ["n", STEPS, INPUT]}, {"y": ["n", HIDDEN]}, {**stored, "axis": axis}, opset=14
    )  # fmt: skip
    opened = open_bytes(content)
    if layout == 0:  # onnxruntime has no layout 1
        for rows in (1, 5):
            assert parity(opened, {"x": normal(rows, rows, STEPS, INPUT)}) <= 1e-5
    targets = [node.target for node in opened.exported.graph.nodes if node.op == "call_function"]
    assert targets.count(torch.ops.aten.linear.default) == 1 + STEPS * 2


def test_gradient_of_each_row_by_vmap(open_bytes, onnx_bytes):
    stored = weights("LSTM", 1, 0)
    nodes = [
        make_node("Transpose", ["x"], ["t"], perm=[1, 0, 2]),
        make_node("LSTM", ["t", *stored], ["", "h"], hidden_size=HIDDEN),
        make_node("Squeeze", ["h", "axis"], ["y"]),
    ]
    content = onnx_bytes(nodes, {"x": ["n", STEPS, INPUT]}, {"y": ["n", HIDDEN]}, {**stored, "axis": np.array([0])})
    module = open_bytes(content).exported.module()
    x = torch.from_numpy(normal(5, 4, STEPS, INPUT))
    theta = dict(module.named_parameters())

    def loss(theta, row):
        return torch.func.functional_call(module, theta, (row[None],))[0].square().sum()

    together = torch.func.vmap(torch.func.grad(loss), (None, 0))(theta, x)
    for index in range(len(x)):
        alone = torch.func.grad(loss)(theta, x[index])
        for name, value in alone.items():
            torch.testing.assert_close(together[name][index], value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "attributes", "reason", "says"),
    [
        ({}, {"activations": ["Sine", "Tanh"]}, Reason.MODEL_UNSUPPORTED, "Sine"),
        ({}, {"activations": ["Affine", "Tanh"]}, Reason.MODEL_UNSUPPORTED, "alpha"),
        ({}, {"activations": ["Tanh"]}, Reason.MODEL_MALFORMED, "activations"),
        ({}, {"direction": "sideways"}, Reason.MODEL_MALFORMED, "sideways"),
        ({}, {"direction": "bidirectional"}, Reason.MODEL_MALFORMED, "instead of"),
        ({"w": normal(0, 1, 8, INPUT)}, {}, Reason.MODEL_MALFORMED, "instead of"),
        ({"x": normal(0, 10_000, 1, INPUT)}, {}, Reason.UPLOAD_TOO_LARGE, "unrolls"),
    ],
)
def test_what_is_not_handled_is_refused(change, attributes, reason, says, runs):
    inputs = {"x": normal(9, STEPS, ROWS, INPUT), **weights("GRU", 1, 0)} | change
    node = make_node("GRU", [*inputs], ["y"], hidden_size=HIDDEN, **attributes)
    with pytest.raises(Error) as caught:
        runs(node, inputs)
    assert caught.value.reason is reason
    assert says in caught.value.message


def test_time_along_the_rows_is_refused(onnx_bytes, refusal):
    stored = weights("GRU", 1, 0)
    node = make_node("GRU", ["x", *stored], ["y"], hidden_size=HIDDEN)
    content = onnx_bytes([node], {"x": ["n", ROWS, INPUT]}, {"y": ["n", 1, ROWS, HIDDEN]}, stored)
    assert "time steps" in refusal(content, Reason.MODEL_UNSUPPORTED)
