import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import undue
from undue._tensors import decode, encode, encode_texts
from undue.v1 import tensors_pb2

DTYPES = [np.dtype(name) for name in ("bool", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")]
SHAPES = hnp.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=5)


def message(array: object) -> tensors_pb2.Tensor:
    sent = encode("x", array)
    return tensors_pb2.Tensor(dtype=sent.dtype, shape=sent.shape, data=bytes(sent.content))


@given(st.sampled_from(DTYPES).flatmap(lambda dtype: hnp.arrays(dtype, SHAPES)), st.sampled_from("<>"))
def test_arrays_come_back_bit_by_bit(array, order) -> None:
    swapped = array.astype(array.dtype.newbyteorder(order))
    for variant in (array, swapped, np.asfortranarray(array), array[::-1][::-1]):
        back = decode(message(variant))
        assert back.dtype == array.dtype
        assert back.shape == array.shape
        assert back.tobytes() == array.tobytes()  # also NaN


def test_the_bytes_are_little_endian_and_in_c_order() -> None:
    sent = encode("x", np.asfortranarray(np.array([[1, 2], [3, 4]], dtype=">u2")))
    assert bytes(sent.content) == bytes([1, 0, 2, 0, 3, 0, 4, 0])
    assert (sent.dtype, sent.shape, sent.rows) == (tensors_pb2.DATA_TYPE_UINT16, (2, 2), 2)


def test_contiguous_arrays_are_not_copied() -> None:
    array = np.arange(10, dtype="<f8")
    assert np.shares_memory(np.frombuffer(encode("x", array).content, dtype=np.uint8), array)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64, torch.bool, torch.float16])
def test_torch_tensors_are_arrays(dtype) -> None:
    tensor = torch.tensor([[1, 0], [1, 1]]).to(dtype).t()
    assert np.array_equal(decode(message(tensor)), tensor.numpy())


def test_a_tensor_that_needs_gradients_is_detached() -> None:
    assert decode(message(torch.ones(2, requires_grad=True))).tolist() == [1, 1]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (3.5, "rows"),
        (["a", "b"], "encode text"),
        (np.array([1, None], dtype=object), "object"),
        (np.array([1 + 2j]), "complex"),
        (np.array(["2020-01-01"], dtype="datetime64[D]"), "datetime"),
        (np.array([1.0], dtype=np.longdouble), "float64"),
        ([[1, 2], [3]], "no array"),
        (torch.ones(2, dtype=torch.bfloat16), "bfloat16"),
    ],
)
def test_what_is_no_array_of_numbers_is_refused_with_advice(value, words) -> None:
    with pytest.raises(undue.InvalidArgument, match=words) as caught:
        encode("targets", value)
    assert [violation.field for violation in caught.value.violations] == ["targets"]


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))))
def test_string_ids_come_back(ids) -> None:
    sent = encode_texts("ids", np.array(ids, dtype=object))
    assert sent.dtype == tensors_pb2.DATA_TYPE_UTF8
    assert sent.shape == (len(ids),)
    assert bytes(sent.content).decode().split("\0")[:-1] == ids


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1))
def test_integer_ids_are_written_in_decimal(ids) -> None:
    assert bytes(encode_texts("ids", np.array(ids, dtype=np.int64)).content).decode() == "".join(f"{i}\0" for i in ids)


@pytest.mark.parametrize(
    "ids",
    [[1.5], [True], [None], ["a\0b"], ["\ud800"], [["a"]], "abc"],
    ids=["float", "bool", "none", "nul", "surrogate", "2d", "0d"],
)
def test_other_ids_are_refused(ids) -> None:
    with pytest.raises(undue.InvalidArgument):
        encode_texts("ids", np.array(ids, dtype=object))


@pytest.mark.parametrize(
    "tensor",
    [
        tensors_pb2.Tensor(dtype=tensors_pb2.DATA_TYPE_FLOAT32, shape=[2], data=b"1234"),
        tensors_pb2.Tensor(dtype=tensors_pb2.DATA_TYPE_FLOAT32, shape=[-1, -1], data=b"1234"),
        tensors_pb2.Tensor(dtype=tensors_pb2.DATA_TYPE_UTF8, shape=[1], data=b"a\0"),
        tensors_pb2.Tensor(dtype=99, shape=[1], data=b"a"),
    ],
    ids=["short", "negative", "strings", "unknown"],
)
def test_a_tensor_that_does_not_fit_together_is_not_read(tensor) -> None:
    with pytest.raises(undue.Internal):
        decode(tensor)
