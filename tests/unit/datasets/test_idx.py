"""IDX files: every type, and files that lie."""

import gzip
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fashion
from dataset_formats import idx_bytes
from undue_service.datasets.files import DataFile
from undue_service.datasets.idx import open_idx
from undue_service.datasets.opening import validate
from undue_service.datasets.scratch import Scratch
from undue_service.datasets.table import TableSource
from undue_service.domain.errors import Error, InvalidArgument, Reason, ResourceExhausted
from undue_service.domain.specs import SchemaSpec, TransformSpec

X = np.arange(60, dtype=np.float32).reshape(5, 3, 4)
SPEC = SchemaSpec({"x": ("x",)}, target="y")


def opened(folder: Path, spec: SchemaSpec = SPEC, max_bytes: int = 1 << 20, **contents: bytes) -> TableSource:
    files = []
    for name, content in contents.items():
        (folder / name).write_bytes(content)
        files.append(DataFile(name, folder / name))
    return open_idx(files, spec, Scratch(folder, max_bytes))


def outcome(folder: Path, x: bytes, y: bytes) -> Reason | None:
    try:
        validate(opened(folder, x=x, y=y), lambda *_: None)
    except Error as error:
        assert len(error.message) < 1000
        return error.reason
    return None


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "int32", "float32", "float64"])
def test_every_type(dtype: str, pack: Any, tmp_path: Path) -> None:
    low = 0 if dtype == "uint8" else -100
    x = np.random.default_rng(0).integers(low, 100, (5, 3, 4)).astype(dtype)
    source = opened(tmp_path, x=pack(idx_bytes(x)), y=pack(idx_bytes(np.arange(5, dtype=np.uint8))))
    (block,) = source.batches([4, 0], 2)
    np.testing.assert_array_equal(block.inputs["x"], x[[4, 0]], strict=True)
    assert block.targets is not None
    np.testing.assert_array_equal(block.targets, np.array([4, 0], np.uint8), strict=True)


def test_ids_and_groups_are_integers(tmp_path: Path) -> None:
    spec = SchemaSpec({"": ("x",)}, id="k", groups=("site",))
    parts = {"k": np.array([5, -3, 7, 8, 9], np.int16), "site": np.array([1, 1, 2, 2, 2], np.uint8)}
    source = opened(tmp_path, spec, x=idx_bytes(X), **{name: idx_bytes(values) for name, values in parts.items()})
    assert source.ids([1, 0]) == ["-3", "5"]
    assert source.groups([2, 0]) == {"site": ["2", "1"]}
    with pytest.raises(InvalidArgument, match="group values are strings or integers"):
        opened(tmp_path, SchemaSpec({"": ("x",)}, groups=("x",)), x=idx_bytes(X))


def header(kind: int, *sizes: int) -> bytes:
    return bytes([0, 0, kind, len(sizes)]) + struct.pack(f">{len(sizes)}I", *sizes)


LIES = {
    "more rows than there are": header(0x08, 2**32 - 1) + bytes(5),
    "one more": header(0x08, 6) + bytes(5),
    "one fewer": header(0x08, 4) + bytes(5),
    "an overflowing shape": header(0x08, *[2**31] * 4),
    "rows of nothing": header(0x08, 5, 0),
    "no rows of too much": header(0x08, 0, 2**32 - 1, 2**32 - 1),
    "too many axes": header(0x08, *[1] * 255) + b"\0",
    "no axes": header(0x08) + b"\0",
    "an unknown type": header(0x0A, 5) + bytes(5),
    "another magic": b"\0\1\x08\1\0\0\0\5" + bytes(5),
    "a cut header": header(0x08, 5, 5)[:9],
    "nothing": b"",
    "something else": b"\x89PNG\r\n\x1a\n",
}


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize("case", list(LIES))
def test_a_header_that_lies(case: str, pack: Any, tmp_path: Path) -> None:
    tracemalloc.start()
    with pytest.raises(Error) as error:
        opened(tmp_path, x=pack(LIES[case]), y=idx_bytes(np.zeros(5, np.uint8)))
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
    tracemalloc.stop()
    assert error.value.reason in (Reason.DATASET_MALFORMED, Reason.UPLOAD_TOO_LARGE)
    assert "'x'" in error.value.message


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_cut_off_anywhere(pack: Any, tmp_path: Path) -> None:
    x, y = pack(idx_bytes(X)), pack(idx_bytes(np.arange(5, dtype=np.uint8)))
    assert outcome(tmp_path, x, y) is None
    assert {outcome(tmp_path, x[:length], y) for length in range(len(x))} == {Reason.DATASET_MALFORMED}
    assert outcome(tmp_path, x + b"\0", y) in ({Reason.DATASET_MALFORMED} if pack is bytes else {None})


PACKED = gzip.compress(idx_bytes(X), mtime=0)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_changed_bytes_end_in_typed_errors(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    damaged = bytearray(data.draw(st.sampled_from([PACKED, idx_bytes(X)])))
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    found = outcome(tmp_path_factory.mktemp("idx"), bytes(damaged), idx_bytes(np.arange(5, dtype=np.uint8)))
    assert found in (
        None, Reason.DATASET_MALFORMED, Reason.UPLOAD_TOO_LARGE, Reason.ROWS_MISMATCH, Reason.NON_FINITE_DATA
    )  # fmt: skip


def test_a_changed_value_fails_the_checksum(tmp_path: Path) -> None:
    stored = bytearray(gzip.compress(idx_bytes(X), compresslevel=0))
    stored[-20] ^= 1
    with pytest.raises(InvalidArgument, match="is no gzip file, or is damaged"):
        opened(tmp_path, x=bytes(stored), y=idx_bytes(np.zeros(5, np.uint8)))


def test_a_bomb_stops_at_the_bound(tmp_path: Path) -> None:
    packed = gzip.compress(header(0x08, 1 << 24) + bytes(1 << 24))
    with pytest.raises(ResourceExhausted, match="the unpacked data in bytes"):
        opened(tmp_path, SchemaSpec({"": ("x",)}), x=packed)
    with pytest.raises(InvalidArgument, match="which deflate cannot do"):
        opened(tmp_path, SchemaSpec({"": ("x",)}), x=gzip.compress(header(0x08, 1 << 24) + bytes(1000)))
    assert len(opened(tmp_path, SchemaSpec({"": ("x",)}), 1 << 24, x=packed)) == 1 << 24


def test_missing_and_doubled_columns(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="no column 'y'; it has 'x'"):
        opened(tmp_path, x=idx_bytes(X))
    file = DataFile("x", tmp_path / "x")
    with pytest.raises(InvalidArgument, match="two files are called 'x'"):
        open_idx([file, file], SPEC, Scratch(tmp_path))
    with pytest.raises(InvalidArgument) as error:
        opened(tmp_path, x=idx_bytes(X), y=idx_bytes(np.zeros(4, np.uint8)))
    assert error.value.reason is Reason.ROWS_MISMATCH


@pytest.mark.slow
def test_fashion_mnist_as_it_comes(tmp_path: Path) -> None:
    """10,000 real images in gzip, against a reading by hand."""
    images, labels = fashion.load("test", 10_000)
    files = [
        DataFile("x", fashion.file("t10k-images-idx3-ubyte.gz", tmp_path)),
        DataFile("y", fashion.file("t10k-labels-idx1-ubyte.gz", tmp_path)),
    ]
    spec = SchemaSpec({"": ("x",)}, target="y", transforms={"": TransformSpec((1, 28, 28), std=(255,))})
    source = open_idx(files, spec, Scratch(tmp_path))
    assert validate(source, lambda *_: None).rows == 10_000
    rows = np.random.default_rng(0).permutation(10_000)
    (block,) = source.batches(rows.tolist(), 10_000)
    np.testing.assert_array_equal(block.inputs[""], images[rows], strict=True)
    np.testing.assert_array_equal(block.targets, labels[rows])
