"""Arrays that are not what they are declared to be end in a typed error."""

import os
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from undue_service.datasets.opening import open_source, validate
from undue_service.domain.errors import Error, InvalidArgument, Reason
from undue_service.domain.specs import ArraysSource, TensorRef


def opened(folder: Path, files: dict[str, bytes], source: ArraysSource) -> Any:
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return open_source(source, lambda digest: folder / digest)


def numbers(folder: Path, dtype: str, shape: tuple[int, ...], content: bytes) -> Any:
    return opened(folder, {"x": content}, ArraysSource({"x": TensorRef(dtype, shape, "x")}))


@pytest.mark.parametrize(
    ("dtype", "shape", "size"),
    [
        ("float32", (4, 3), 47),
        ("float32", (4, 3), 49),
        ("float32", (4, 3), 0),
        ("float64", (2**61,), 0),
        ("int8", (2**62, 4), 0),
        ("int8", (2**62, 0), 0),
        ("int8", (0, 2**40), 0),
        ("int8", (-4, -3), 12),
        ("int8", (), 1),
        ("int8", (1,) * 40, 1),
        ("object", (4,), 32),
        ("O", (4,), 32),
        ("float128", (1,), 16),
        ("complex64", (1,), 8),
        ("utf8", (2,), 4),
        ("<f4,<f4", (1,), 8),
        ("", (1,), 8),
    ],
)
def test_size_type_and_shape_must_agree(dtype: str, shape: tuple[int, ...], size: int, tmp_path: Path) -> None:
    with pytest.raises(Error) as error:
        numbers(tmp_path, dtype, shape, bytes(size))
    assert error.value.reason in (Reason.DATASET_MALFORMED, Reason.UPLOAD_TOO_LARGE)


def test_booleans_are_0_or_1(tmp_path: Path) -> None:
    source = numbers(tmp_path, "bool", (3, 2), bytes([0, 1, 0, 0, 0, 7]))
    with pytest.raises(InvalidArgument, match="row 2: a boolean"):
        list(source.batches([0, 2], 2))
    with pytest.raises(InvalidArgument, match="row 2: a boolean"):
        validate(source, lambda *_: None)
    (block,) = source.batches([1, 0], 2)
    np.testing.assert_array_equal(block.inputs["x"], [[False, False], [False, True]], strict=True)


@pytest.mark.parametrize(
    ("content", "rows", "problem"),
    [
        (b"a\0b", 2, "holds 1 strings where 2"),
        (b"a\0b\0c", 2, "ends in a string without its NUL"),
        (b"a\0b\0c\0", 2, "more strings than the 2"),
        (b"\0" * 100, 2, "more strings than the 2"),
        (b"", 2, "declares 2 strings in 0 bytes"),
        (b"a\0", 2, "holds 1 strings"),
        (b"a\0\xff\0", 2, "row 1: the id is not valid UTF-8"),
        (b"a\0" + b"b" * 5000 + b"\0", 2, "row 1: the id is longer than 4,096 bytes"),
    ],
)
def test_ids_that_are_no_strings(content: bytes, rows: int, problem: str, tmp_path: Path) -> None:
    source = ArraysSource({"x": TensorRef("int8", (2,), "x")}, ids=TensorRef("utf8", (rows,), "ids"))
    with pytest.raises(InvalidArgument, match=problem) as error:
        validate(opened(tmp_path, {"x": bytes(2), "ids": content}, source), lambda *_: None)
    assert error.value.reason is Reason.DATASET_MALFORMED


def test_ids_may_be_integers(tmp_path: Path) -> None:
    source = ArraysSource({"x": TensorRef("int8", (2,), "x")}, ids=TensorRef("uint16", (2,), "ids"))
    assert opened(tmp_path, {"x": bytes(2), "ids": bytes([7, 0, 0, 1])}, source).ids([1, 0]) == ["256", "7"]


def test_arrays_of_different_lengths(tmp_path: Path) -> None:
    x, short = TensorRef("int8", (3,), "x"), TensorRef("int8", (2,), "short")
    files = {"x": bytes(3), "short": bytes(2), "ids": b"a\0b\0"}
    for source in (
        ArraysSource({"x": x}, targets=short),
        ArraysSource({"x": x, "z": short}),
        ArraysSource({"x": x}, weights=short),
        ArraysSource({"x": x}, ids=TensorRef("utf8", (2,), "ids")),
    ):
        with pytest.raises(InvalidArgument, match=r"has 3 rows and .* has 2") as error:
            opened(tmp_path, files, source)
        assert error.value.reason is Reason.ROWS_MISMATCH


def test_no_input(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="names no input"):
        opened(tmp_path, {"y": bytes(2)}, ArraysSource({}, targets=TensorRef("int8", (2,), "y")))


def test_random_access_reads_only_its_rows(tmp_path: Path) -> None:
    rows, width = 1 << 21, 1024
    path = tmp_path / "x"
    with path.open("wb") as file:  # 8 GiB without a byte of content but the last row
        file.seek((rows - 1) * width * 4)
        file.write(np.arange(width, dtype="<f4").tobytes())
    assert os.stat(path).st_size == rows * width * 4
    tracemalloc.start()
    source = open_source(ArraysSource({"x": TensorRef("float32", (rows, width), "x")}), lambda _: path)
    (block,) = source.batches([rows - 1, 5], 2)
    np.testing.assert_array_equal(block.inputs["x"], [np.arange(width), np.zeros(width)])
    assert len(next(source.batches(None, 10)).index) == 10
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()
