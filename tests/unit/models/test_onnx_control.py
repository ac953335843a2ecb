"""Control flow whose course is known, subgraphs and what they see, definitions of operators: against onnxruntime."""

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto
from onnx.helper import (
    make_function,
    make_graph,
    make_model,
    make_node,
    make_opsetid,
    make_tensor,
    make_tensor_value_info,
)

from undue_service.domain.errors import Error, Reason
from undue_service.models import parity, predict
from undue_service.models.onnx.graphs import from_arrays, read_graph, to_arrays

FLOAT, BOOL, INT64 = TensorProto.FLOAT, TensorProto.BOOL, TensorProto.INT64
few = settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
X, Y = {"x": ["n", 3]}, {"y": ["n", 3]}


def normal(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def value(name, kind=FLOAT, shape=None):
    return make_tensor_value_info(name, kind, shape)


def stored(name, array):
    return onnx.numpy_helper.from_array(np.asarray(array), name)


def body(nodes, inputs, outputs, tensors=()):
    return make_graph(nodes, "body", list(inputs), list(outputs), list(tensors))


def run(model, *arrays):
    return to_arrays(read_graph(model).run(*from_arrays(model.graph, arrays)))


ITERATION, HOLDS, GOES_ON = value("i", INT64, []), value("c", BOOL, []), value("c2", BOOL, [])


def halving(extra=(), outputs=(), tensors=()):
    """h ← h · scale + x, with what it sees around it."""
    nodes = [
        make_node("Identity", ["c"], ["c2"]),
        make_node("Mul", ["h", "scale"], ["scaled"]),
        make_node("Add", ["scaled", "x"], ["h2"]),
        *extra,
    ]
    return body(nodes, [ITERATION, HOLDS, value("h")], [GOES_ON, value("h2"), *outputs], tensors)


@few
@given(trips=st.integers(0, 5), opset=st.sampled_from([11, 13, 16, 19, 21]))
def test_loops_are_unrolled_and_differentiable_with_respect_to_what_they_see(trips, opset, open_bytes, onnx_bytes):
    loop = make_node("Loop", ["trips", "", "x"], ["y"], body=halving())
    weights = {"trips": np.array(trips), "scale": normal(3)}
    opened = open_bytes(onnx_bytes([loop], X, Y, weights, opset=opset))
    x = normal(4, 3)
    expected = x
    for _ in range(trips):
        expected = expected * weights["scale"] + x
    np.testing.assert_allclose(predict(opened, {"x": x})["y"], expected, rtol=1e-5)
    assert parity(opened, {"x": x}) <= 1e-5
    assert [name for name, _ in opened.exported.named_parameters()] == ["scale"]


def test_a_weight_that_lies_in_the_body_is_a_parameter(open_bytes, onnx_bytes):
    loop = make_node("Loop", ["trips", "", "x"], ["y"], body=halving(tensors=[stored("scale", normal(3))]))
    opened = open_bytes(onnx_bytes([loop], X, Y, {"trips": np.array(2)}))
    assert [name for name, _ in opened.exported.named_parameters()] == ["scale"]
    assert parity(opened, {"x": normal(4, 3)}) <= 1e-5


@pytest.mark.parametrize("holds", [True, False])
def test_a_branch_is_chosen_and_weights_of_the_same_name_are_told_apart(holds, open_bytes, onnx_bytes):
    branches = [
        body([make_node("Gemm", ["x", "w"], [f"y{k}"])], [], [value(f"y{k}")], [stored("w", normal(3, 3) * k)])
        for k in (1, 2)
    ]
    choose = make_node("If", ["cond"], ["y"], then_branch=branches[0], else_branch=branches[1])
    opened = open_bytes(onnx_bytes([choose], X, Y, {"cond": np.array(holds)}))
    x = normal(4, 3)
    np.testing.assert_allclose(predict(opened, {"x": x})["y"], x @ normal(3, 3) * (1 if holds else 2), rtol=1e-5)


def test_a_condition_that_is_computed_from_shapes_is_known(open_bytes, onnx_bytes):
    nodes = [
        make_node("Shape", ["x"], ["sizes"], start=1),
        make_node("Gather", ["sizes", "zero"], ["columns"]),
        make_node("Equal", ["columns", "three"], ["cond"]),
        make_node(
            "If",
            ["cond"],
            ["y"],
            then_branch=body([make_node("Tanh", ["x"], ["a"])], [], [value("a")]),
            else_branch=body([make_node("Relu", ["x"], ["b"])], [], [value("b")]),
        ),
    ]
    opened = open_bytes(onnx_bytes(nodes, X, Y, {"zero": np.array(0), "three": np.array(3)}))
    assert parity(opened, {"x": normal(4, 3)}) <= 1e-6
    np.testing.assert_allclose(predict(opened, {"x": normal(4, 3)})["y"], np.tanh(normal(4, 3)), rtol=1e-5)


ON_DATA = make_node("Greater", ["s", "zero"], ["cond"])
BRANCHES = {
    "then_branch": body([make_node("Tanh", ["x"], ["a"])], [], [value("a")]),
    "else_branch": body([make_node("Relu", ["x"], ["b"])], [], [value("b")]),
}


@pytest.mark.parametrize(
    ("nodes", "says"),
    [
        (
            [make_node("ReduceSum", ["x"], ["s"]), ON_DATA, make_node("If", ["cond"], ["y"], **BRANCHES)],
            "ReduceSum",
        ),
        ([make_node("ReduceMax", ["w"], ["s"]), ON_DATA, make_node("If", ["cond"], ["y"], **BRANCHES)], "If"),
        ([make_node("Loop", ["", "", "x"], ["y"], body=halving())], "the number of ONNX nodes that run"),
        ([make_node("Loop", ["many", "", "x"], ["y"], body=halving())], "the number of ONNX nodes that Loop"),
        (
            [
                make_node(
                    "Scan",
                    ["h0", "x"],
                    ["last", "y"],
                    num_scan_inputs=1,
                    body=body(
                        [make_node("Add", ["h", "r"], ["h2"]), make_node("Identity", ["h2"], ["o"])],
                        [value("h"), value("r")],
                        [value("h2"), value("o")],
                    ),
                )
            ],
            "scans over the rows",
        ),
    ],
)
def test_what_follows_the_data_or_the_rows_or_never_ends_is_refused(nodes, says, refusal, onnx_bytes, monkeypatch):
    monkeypatch.setattr("undue_service.models.onnx.interpreting.MAX_STEPS", 500)
    weights = {
        "w": normal(3, 3), "scale": normal(3), "zero": np.zeros((), np.float32), "many": np.array(2**40),
        "h0": np.zeros(3, np.float32),
    }  # fmt: skip
    reasons = (Reason.MODEL_UNSUPPORTED, Reason.UPLOAD_TOO_LARGE)
    assert says in refusal(onnx_bytes(nodes, X, Y, weights), *reasons)


def test_loops_inside_loops_count_together(refusal, onnx_bytes, monkeypatch):
    monkeypatch.setattr("undue_service.models.onnx.interpreting.MAX_STEPS", 500)
    inner = halving()
    nodes = [
        make_node("Identity", ["c"], ["d2"]),
        make_node("Loop", ["dozen", "", "g"], ["g2"], body=inner),
    ]
    outer = body(nodes, [value("j", INT64, []), value("c", BOOL, []), value("g")], [value("d2", BOOL, []), value("g2")])
    loop = make_node("Loop", ["dozen", "", "x"], ["y"], body=outer)
    content = onnx_bytes([loop], X, Y, {"dozen": np.array(12), "scale": normal(3)})
    assert "loops unrolled" in refusal(content, Reason.UPLOAD_TOO_LARGE)


@few
@given(
    axis=st.sampled_from([1, -1, 2]), backwards=st.booleans(), out_axis=st.sampled_from([1, -1]),
    opset=st.sampled_from([11, 16, 21]),
)  # fmt: skip
def test_scan_over_an_axis_of_a_row(axis, backwards, out_axis, opset, open_bytes, onnx_bytes):
    step = body(
        [make_node("Add", ["h", "r"], ["h2"]), make_node("Tanh", ["h2"], ["o"])],
        [value("h", FLOAT, [None, 4]), value("r", FLOAT, [None, 4])],
        [value("h2", FLOAT, [None, 4]), value("o", FLOAT, [None, 4])],
    )
    scan = make_node(
        "Scan", ["h0", "x"], ["last", "y"], num_scan_inputs=1, body=step,
        scan_input_axes=[axis], scan_input_directions=[int(backwards)], scan_output_axes=[out_axis],
    )  # fmt: skip
    nodes = [make_node("ReduceSum", ["x", "one"], ["sum"], keepdims=0) if opset >= 13 else
             make_node("ReduceSum", ["x"], ["sum"], axes=[1], keepdims=0),
             make_node("Mul", ["sum", "zero"], ["h0"]), scan]  # fmt: skip
    weights = {"zero": np.zeros((), np.float32), "one": np.array([1])}
    if opset < 13:
        del weights["one"]
    outputs = {"last": [None, 4], "y": [None, None, None]}
    opened = open_bytes(onnx_bytes(nodes, {"x": ["n", 4, 4]}, outputs, weights, opset=opset))
    assert parity(opened, {"x": normal(5, 4, 4)}) <= 1e-5


def test_conditions_of_fixed_size_graphs_are_data():
    graph = make_graph(
        [make_node("If", ["cond"], ["y"], **BRANCHES)], "g", [value("cond", BOOL, []), value("x", FLOAT, [2])],
        [value("y", FLOAT, [2])],
    )  # fmt: skip
    model = make_model(graph, opset_imports=[make_opsetid("", 20)])
    x = np.array([-1, 2], np.float32)
    np.testing.assert_allclose(run(model, np.array(True), x)[0], np.tanh(x), rtol=1e-6)
    np.testing.assert_allclose(run(model, np.array(False), x)[0], np.maximum(x, 0))


def test_a_subgraph_that_takes_other_values_than_it_is_given_is_malformed():
    graph = make_graph(
        [make_node("Loop", ["n", "", "x"], ["y"], body=body([make_node("Not", ["c"], ["c2"])], [HOLDS], [GOES_ON]))],
        "g", [value("n", INT64, []), value("x", FLOAT, [2])], [value("y", FLOAT, [2])],
    )  # fmt: skip
    model = make_model(graph, opset_imports=[make_opsetid("", 20)])
    with pytest.raises(Error) as caught:
        run(model, np.array(1), normal(2))
    assert caught.value.reason is Reason.MODEL_MALFORMED


# Definitions


def test_an_operator_outside_the_table_runs_as_its_definition(monkeypatch, open_bytes, onnx_bytes):
    from undue_service.models.onnx import operators

    nodes = [
        make_node("Selu", ["x"], ["a"], alpha=1.5),
        make_node("Softmax", ["a"], ["b"]),
        make_node("Clip", ["b", "low"], ["y"]),
    ]
    content = onnx_bytes(nodes, X, Y, {"low": np.array(0.2, np.float32)}, opset=18)
    x = {"x": normal(4, 3)}
    direct = predict(open_bytes(content), x)["y"]
    shorter = {name: found for name, found in operators.OPERATORS.items() if name not in ("Selu", "Softmax", "Clip")}
    for module in ("interpreting", "support"):
        monkeypatch.setattr(f"undue_service.models.onnx.{module}.OPERATORS", shorter)
    opened = open_bytes(content)
    np.testing.assert_allclose(predict(opened, x)["y"], direct, rtol=1e-5)
    assert parity(opened, x) <= 1e-6


def test_a_definition_of_operators_that_are_lacking_is_refused_by_the_operator_that_it_defines(
    monkeypatch, refusal, onnx_bytes
):
    from undue_service.models.onnx import operators

    shorter = {name: found for name, found in operators.OPERATORS.items() if name not in ("Selu", "Elu", "Exp")}
    for module in ("interpreting", "support"):
        monkeypatch.setattr(f"undue_service.models.onnx.{module}.OPERATORS", shorter)
    message = refusal(onnx_bytes([make_node("Selu", ["x"], ["y"])], X, Y, {}), Reason.UNSUPPORTED_OPERATORS)
    assert message.startswith("the model uses Selu; ")


def test_functions_with_graphs_inside_are_inlined(open_bytes, onnx_bytes):
    nodes = [
        make_node("Constant", [], ["cond"], value=make_tensor("t", BOOL, [], [True])),
        make_node(
            "If", ["cond"], ["b"],
            then_branch=body([make_node("Tanh", ["a"], ["p"])], [], [value("p")]),
            else_branch=body([make_node("Relu", ["a"], ["q"])], [], [value("q")]),
        ),
    ]  # fmt: skip
    function = make_function("mine", "chosen", ["a"], ["b"], nodes, [make_opsetid("", 20)])
    calls = [make_node("chosen", ["x"], ["h"], domain="mine"), make_node("chosen", ["h"], ["y"], domain="mine")]
    content = onnx_bytes(calls, X, Y, {}, functions=[function], opsets=[make_opsetid("mine", 1)])
    x = normal(4, 3)
    np.testing.assert_allclose(predict(open_bytes(content), {"x": x})["y"], np.tanh(np.tanh(x)), rtol=1e-5)
