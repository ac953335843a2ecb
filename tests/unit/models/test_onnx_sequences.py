"""Sequences, optionals, strings and element types that only flow: against onnxruntime."""

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from onnx.helper import make_node

from undue_service.domain.errors import Error, Reason
from undue_service.models import parity, predict
from undue_service.models.limits import MAX_SHAPE_NUMBERS
from undue_service.models.onnx.graphs import from_arrays, read_graph, to_arrays
from undue_service.models.onnx.values import Shape

FLOAT, INT64, STRING = TensorProto.FLOAT, TensorProto.INT64, TensorProto.STRING
many = settings(max_examples=40, deadline=None)


def model(nodes, inputs, outputs, opset=20):
    graph = helper.make_graph(nodes, "g", inputs, [helper.make_empty_tensor_value_info(name) for name in outputs])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def value(name, kind=FLOAT, shape=None):
    return helper.make_tensor_value_info(name, kind, shape)


def ours(built, *arrays):
    return to_arrays(read_graph(built).run(*from_arrays(built.graph, arrays)))


def theirs(built, *arrays):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(built.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, dict(zip((given.name for given in session.get_inputs()), arrays, strict=True)))


def equal(found, expected):
    for got, want in zip(found, expected, strict=True):
        if isinstance(want, list):
            equal(got, want)
        else:
            assert (got.dtype.kind, got.shape) == (np.asarray(want).dtype.kind, np.asarray(want).shape)
            np.testing.assert_array_equal(got, want)


ARRAYS = [np.arange(n * 2, dtype=np.float32).reshape(n, 2) + n for n in (1, 2, 3)]


@many
@given(place=st.integers(-4, 4), where=st.sampled_from(["insert", "erase", "at"]), is_given=st.booleans())
def test_places_in_a_sequence_count_from_either_end(place, where, is_given):
    build = make_node("SequenceConstruct", ["a", "b", "c"], ["s"])
    last = [make_node("SequenceLength", ["t"], ["n"]), make_node("ConcatFromSequence", ["t"], ["y"], axis=0)]
    takes = ["p"] if is_given or where == "at" else []
    step = {
        "insert": [make_node("SequenceInsert", ["s", "b", *takes], ["t"]), *last],
        "erase": [make_node("SequenceErase", ["s", *takes], ["t"]), *last],
        "at": [make_node("SequenceAt", ["s", *takes], ["y"]), make_node("SequenceLength", ["s"], ["n"])],
    }[where]
    inputs = [value("a", shape=[1, 2]), value("b", shape=[2, 2]), value("c", shape=[3, 2]), value("p", INT64, [])]
    built = model([build, *step], inputs, ["y", "n"])
    arrays = [*ARRAYS, np.array(place)]
    lowest, highest = -3, 3 if where == "insert" else 2
    if takes and not lowest <= place <= highest:
        with pytest.raises(Error) as caught:
            ours(built, *arrays)
        assert caught.value.reason is Reason.MODEL_MALFORMED
    else:
        equal(ours(built, *arrays), theirs(built, *arrays))


@many
@given(
    axis=st.integers(-2, 1), how=st.sampled_from(["ones", "dropped", "size", "sizes"]), new_axis=st.booleans(),
)  # fmt: skip
def test_splitting_and_joining(axis, how, new_axis):
    x = np.arange(24, dtype=np.float32).reshape(4, 6)
    size = x.shape[axis]
    split = {"size": np.array(3), "sizes": np.array([1, size - 1])}.get(how)
    names = ["x"] if split is None else ["x", "split"]
    nodes = [make_node("SplitToSequence", names, ["s"], axis=axis, keepdims=int(how != "dropped"))]
    if new_axis and how in ("ones", "dropped"):
        nodes.append(make_node("ConcatFromSequence", ["s"], ["y"], axis=0, new_axis=1))
    else:
        nodes.append(make_node("SequenceAt", ["s", "last"], ["y"]))
    nodes.append(make_node("SequenceLength", ["s"], ["n"]))
    inputs = [value("x", shape=[4, 6]), value("last", INT64, [])]
    arrays = [x, np.array(-1)]
    if split is not None:
        inputs, arrays = [*inputs, value("split", INT64, split.shape)], [*arrays, split]
    used = [name for node in nodes for name in node.input]
    kept = [(i, a) for i, a in zip(inputs, arrays, strict=True) if i.name in used]
    built = model(nodes, [i for i, _ in kept], ["y", "n"])
    equal(ours(built, *(a for _, a in kept)), theirs(built, *(a for _, a in kept)))


def test_a_row_is_split_and_joined_with_its_gradient(open_bytes, onnx_bytes):
    nodes = [
        make_node("SplitToSequence", ["x", "two"], ["s"], axis=1),
        make_node("SequenceAt", ["s", "one"], ["a"]),
        make_node("SequenceErase", ["s", "one"], ["t"]),
        make_node("SequenceInsert", ["t", "a", "zero"], ["u"]),
        make_node("ConcatFromSequence", ["u"], ["j"], axis=-1),
        make_node("MatMul", ["j", "w"], ["y"]),
    ]
    rng = np.random.default_rng(0)
    w, x = rng.normal(size=(6, 3)).astype(np.float32), rng.normal(size=(5, 6)).astype(np.float32)
    weights = {"w": w, "two": np.array(2), "one": np.array(1), "zero": np.array(0)}
    opened = open_bytes(onnx_bytes(nodes, {"x": ["n", 6]}, {"y": ["n", 3]}, weights))
    np.testing.assert_allclose(predict(opened, {"x": x})["y"], x[:, [2, 3, 0, 1, 4, 5]] @ w, rtol=1e-5, atol=1e-6)
    assert parity(opened, {"x": x}) <= 1e-5


def test_a_sequence_of_rows_and_a_sequence_as_output_are_refused(refusal, onnx_bytes):
    of_rows = [
        make_node("SplitToSequence", ["x"], ["s"], axis=0),
        make_node("ConcatFromSequence", ["s"], ["y"], axis=0),
    ]
    assert "splits the rows" in refusal(
        onnx_bytes(of_rows, {"x": ["n", 4]}, {"y": ["n", 4]}, {}), Reason.MODEL_UNSUPPORTED
    )
    given = [make_node("SequenceConstruct", ["x"], ["y"])]
    content = onnx.load_model_from_string(onnx_bytes(given, {"x": ["n", 4]}, {"y": ["n", 4]}, {}))
    content.graph.output[0].type.CopyFrom(helper.make_sequence_type_proto(helper.make_tensor_type_proto(FLOAT, None)))
    refusal(content.SerializeToString(), Reason.MODEL_UNSUPPORTED)


@pytest.mark.parametrize("given", [None, np.ones(3, np.float32)])
def test_an_optional_holds_something_or_nothing(given):
    kind = helper.make_optional_type_proto(helper.make_tensor_type_proto(FLOAT, [3]))
    has = model([make_node("OptionalHasElement", ["o"], ["y"])], [helper.make_value_info("o", kind)], ["y"])
    assert ours(has, given)[0] == (given is not None)
    get = model([make_node("OptionalGetElement", ["o"], ["y"])], [helper.make_value_info("o", kind)], ["y"])
    if given is None:
        with pytest.raises(Error, match="holds nothing"):
            ours(get, given)
    else:
        np.testing.assert_array_equal(ours(get, given)[0], given)


# Strings

WORDS = ["", "Monday", "monday", "ÄRGER", "a b  c", "x,y,,z", "ß"]


@many
@given(words=st.lists(st.sampled_from(WORDS), min_size=1, max_size=5), other=st.sampled_from(WORDS))
def test_strings_are_joined(words, other):
    built = model(
        [make_node("StringConcat", ["a", "b"], ["y"])], [value("a", STRING, [None]), value("b", STRING, [1])], ["y"]
    )
    arrays = np.array(words, object), np.array([other], object)
    equal(ours(built, *arrays), theirs(built, *arrays))


@many
@given(
    words=st.lists(st.sampled_from(["Monday", "monday", "TUESDAY", "rain"]), min_size=1, max_size=5),
    action=st.sampled_from(["NONE", "LOWER", "UPPER"]),
    is_case_sensitive=st.integers(0, 1),
    stopwords=st.lists(st.sampled_from(["monday", "TUESDAY"]), max_size=2),
)
def test_stop_words_are_left_out(words, action, is_case_sensitive, stopwords):
    attributes = {"stopwords": stopwords} if stopwords else {}  # an empty list has no type
    node = make_node(
        "StringNormalizer",
        ["x"],
        ["y"],
        case_change_action=action,
        is_case_sensitive=is_case_sensitive,
        locale="C",
        **attributes,
    )
    built, x = model([node], [value("x", STRING, [None])], ["y"]), np.array(words, object)
    equal(ours(built, x), theirs(built, x))


@many
@given(
    words=st.lists(st.sampled_from(WORDS), min_size=1, max_size=4),
    delimiter=st.sampled_from(["", ",", " ", "b"]),
    maxsplit=st.sampled_from([None, 1, 2]),
)
def test_strings_are_split(words, delimiter, maxsplit):
    attributes = {} if maxsplit is None else {"maxsplit": maxsplit}
    node = make_node("StringSplit", ["x"], ["y", "z"], delimiter=delimiter, **attributes)
    built, x = model([node], [value("x", STRING, [None])], ["y", "z"]), np.array(words, object)
    if delimiter and "" in words:
        with pytest.raises(Error, match="counted in two ways"):
            ours(built, x)
    else:
        equal(ours(built, x), theirs(built, x))


def test_numbers_are_not_made_of_strings():
    built = model([make_node("Relu", ["x"], ["y"])], [value("x", STRING, [None])], ["y"])
    with pytest.raises(Error) as caught:
        ours(built, np.array(["1"], object))
    assert caught.value.reason is Reason.MODEL_UNSUPPORTED
    assert "computes with strings" in caught.value.message


# Types

WHOLE = [np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64]
CODES = {
    np.dtype(t): helper.np_dtype_to_tensor_dtype(np.dtype(t))
    for t in (*WHOLE, np.float16, np.float32, np.float64, np.bool_)
}


@many
@given(
    source=st.sampled_from(WHOLE),
    target=st.sampled_from([*WHOLE, np.float16, np.float32, np.float64, np.bool_]),
    rank=st.integers(0, 2),
    seed=st.integers(0, 99),
)
def test_integers_become_any_type_as_data_and_as_a_shape(source, target, rank, seed):
    limits = np.iinfo(source)
    x = np.random.default_rng(seed).integers(limits.min, limits.max, (2,) * rank, source, endpoint=True)
    node = make_node("Cast", ["x"], ["y"], to=CODES[np.dtype(target)])
    built = model([node], [value("x", CODES[np.dtype(source)], x.shape)], ["y"])
    with np.errstate(over="ignore"):
        expected = np.asarray(x).astype(target)
    (found,) = ours(built, np.asarray(x))
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)
    built.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(x), "x"))
    del built.graph.input[:]
    (held,) = ours(built)
    assert held.dtype == expected.dtype
    np.testing.assert_array_equal(held, expected)


def test_bfloat16_keeps_its_bits():
    x = np.array([1.0, -2.5, np.inf, 3e38], ml_dtypes.bfloat16)
    built = model([make_node("Identity", ["x"], ["y"])], [value("x", TensorProto.BFLOAT16, [4])], ["y"])
    (found,) = ours(built, x)
    assert found.dtype == x.dtype
    np.testing.assert_array_equal(found.view(np.uint16), x.view(np.uint16))


@pytest.mark.parametrize("kind", [ml_dtypes.int4, ml_dtypes.float8_e4m3fn])
def test_types_that_torch_does_not_compute_in_are_refused_by_name(kind):
    code = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    built = model([make_node("Cast", ["x"], ["y"], to=FLOAT)], [value("x", code, [2])], ["y"], 23)
    with pytest.raises(Error) as caught:
        ours(built, np.zeros(2, kind))
    assert caught.value.reason is Reason.MODEL_UNSUPPORTED
    assert np.dtype(kind).name in caught.value.message


def test_half_precision_inside_a_model_is_computed_as_it_says(open_bytes, onnx_bytes):
    nodes = [
        make_node("Cast", ["x"], ["h"], to=TensorProto.FLOAT16),
        make_node("Mul", ["h", "h"], ["s"]),
        make_node("Cast", ["s"], ["y"], to=FLOAT),
    ]
    opened = open_bytes(onnx_bytes(nodes, {"x": ["n", 4]}, {"y": ["n", 4]}, {}))
    x = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    np.testing.assert_array_equal(predict(opened, {"x": x})["y"], (x.astype(np.float16) ** 2).astype(np.float32))


def test_integers_without_end_are_not_computed_one_by_one(refusal, onnx_bytes):
    nodes = [
        make_node("ConstantOfShape", ["many"], ["t"], value=helper.make_tensor("v", INT64, [1], [1])),
        make_node("Reshape", ["x", "t"], ["y"]),
    ]
    content = onnx_bytes(nodes, {"x": ["n", 4]}, {"y": ["n", 4]}, {"many": np.array([2**24])})
    refusal(content, Reason.UPLOAD_TOO_LARGE, Reason.MODEL_UNSUPPORTED)
    with pytest.raises(Error) as caught:
        Shape.of(range(MAX_SHAPE_NUMBERS + 1))
    assert caught.value.reason is Reason.UPLOAD_TOO_LARGE


def test_ids_that_are_stored_may_be_many(open_bytes, onnx_bytes):
    ids = np.arange(MAX_SHAPE_NUMBERS + 1) % 4
    nodes = [
        make_node("Gather", ["x", "ids"], ["g"], axis=1),
        make_node("ReduceMean", ["g", "axes"], ["y"], keepdims=1),
    ]
    content = onnx_bytes(nodes, {"x": ["n", 4]}, {"y": ["n", 1]}, {"ids": ids, "axes": np.array([1])})
    x = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    np.testing.assert_allclose(predict(open_bytes(content), {"x": x})["y"], x[:, ids].mean(1, keepdims=True), rtol=1e-3)
