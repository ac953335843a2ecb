"""NPZ archives that lie, explode or carry code end in a typed error, and nothing in them runs."""

import io
import random
import struct
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from undue_service.datasets import limits
from undue_service.datasets.files import DataFile
from undue_service.datasets.npz import open_npz
from undue_service.datasets.opening import validate
from undue_service.domain.errors import Error, InvalidArgument, Reason, ResourceExhausted
from undue_service.domain.specs import SchemaSpec

X = np.arange(60, dtype=np.float32).reshape(20, 3)
SPEC = SchemaSpec({"x": ("x",)})
FULL = SchemaSpec({"x": ("x",)}, target="y", id="k")


def full(save: Any = np.savez) -> bytes:
    file = io.BytesIO()
    save(file, x=X, y=np.arange(20), k=np.array([f"k{row}" for row in range(20)]))
    return file.getvalue()


def archive(path: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


def npy(descr: str = "'<f4'", shape: str = "(20, 3)", order: str = "False", data: bytes = X.tobytes()) -> bytes:
    header = f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data


def read(path: Path, spec: SchemaSpec = SPEC) -> list[np.ndarray[Any, Any]]:
    source = open_npz(DataFile("data", path), spec)
    validate(source, lambda *_: None)
    return [block.inputs["x"] for block in source.batches(None, 7)]


class Payload:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("spec", [SchemaSpec({"x": ("bad",)}), SchemaSpec({"x": ("x",)}, id="bad"), SPEC])
def test_a_pickle_never_runs(save: Any, spec: SchemaSpec, tmp_path: Path) -> None:
    path, marker = tmp_path / "data", tmp_path / "marker"
    with path.open("wb") as file:
        save(file, x=X, bad=np.array([Payload(marker)] * 20, dtype=object))
    if spec is SPEC:  # what the schema does not name is not looked at
        assert len(read(path)) == 3
    else:
        with pytest.raises(InvalidArgument, match=r"'bad' is an object array.*astype\(str\)") as error:
            read(path, spec)
        assert error.value.reason is Reason.DATASET_MALFORMED
    assert not marker.exists()
    np.load(path, allow_pickle=True)["bad"]
    assert marker.exists()  # the payload was a live one


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_cut_off_at_any_length(save: Any, tmp_path: Path) -> None:
    whole = full(save)
    path = tmp_path / "data"
    for length in [*range(0, len(whole), 7), len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(InvalidArgument) as error:
            read(path, FULL)
        assert error.value.reason is Reason.DATASET_MALFORMED, length
        path.unlink()


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_changed_bytes_end_in_typed_errors(save: Any, tmp_path: Path) -> None:
    whole = full(save)
    picked = random.Random(0)
    outcomes = set()
    for number in range(400):
        damaged = bytearray(whole)
        for _ in range(picked.choice([1, 1, 3])):
            damaged[picked.randrange(len(damaged))] = picked.choice([0, 255, 127, 128, picked.randrange(256)])
        path = tmp_path / str(number)
        path.write_bytes(damaged)
        try:
            read(path, FULL)
        except Error as error:
            outcomes.add(error.reason)
    assert outcomes <= {Reason.DATASET_MALFORMED, Reason.COLUMN_NOT_FOUND, Reason.UPLOAD_TOO_LARGE}
    assert Reason.DATASET_MALFORMED in outcomes


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_changed_value_fails_the_checksum(save: Any, tmp_path: Path) -> None:
    whole = full(save)
    at = whole.index(X.tobytes()) if save is np.savez else whole.index(b"x.npy") + 100
    damaged = bytearray(whole)
    damaged[at + 20] ^= 1
    path = tmp_path / "data"
    path.write_bytes(damaged)
    with pytest.raises(InvalidArgument) as error:
        read(path)
    assert error.value.reason is Reason.DATASET_MALFORMED


HEADERS = {
    "more rows than there are": npy(shape="(1000000000000, 3)"),
    "fewer rows than there are": npy(shape="(19, 3)"),
    "an overflowing shape": npy(shape="(4294967296, 4294967296, 4294967296)"),
    "a negative shape": npy(shape="(-20, 3)"),
    "a shape that is code": npy(shape="(__import__('os').getpid(), 3)"),
    "no rows": npy(shape="()", data=b"\0\0\0\0"),
    "endless rows of nothing": npy(shape="(1000000000000000000, 0)", data=b""),
    "strings without length": npy("'<U0'", "(1000000000,)", data=b""),
    "strings of any length": npy("'<U999999999'", "(1,)", data=b""),
    "object": npy("'|O'", "(20,)"),
    "structured": npy("[('a', '<f4'), ('b', '<f4')]", "(30,)"),
    "a subarray": npy("('<f4', (3,))", "(20,)"),
    "complex": npy("'<c8'", "(10, 3)"),
    "datetime": npy("'<M8[s]'", "(30,)"),
    "long double": npy("'<f16'", "(15,)"),
    "text as numbers": npy("'<U3'", "(20,)"),
    "an order that is no boolean": npy(order="1"),
    "no magic": b"NUMPY" + npy()[5:],
    "version 9": npy()[:6] + b"\x09\x00" + npy()[8:],
    "a header beyond its end": npy()[:8] + b"\xff\xff" + npy()[10:],
    "a header of 4 GB": b"\x93NUMPY\x02\x00\xff\xff\xff\xff{",
    "a header of brackets": npy("(" * 5000, data=b""),
    "a key twice": npy("'<f4', 'descr': '<f4'"),
    "nothing": b"",
}


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("case", list(HEADERS))
def test_a_header_that_lies(case: str, compression: int, tmp_path: Path) -> None:
    path = archive(tmp_path / "data", {"x.npy": HEADERS[case]}, compression)
    with pytest.raises(InvalidArgument) as error:
        read(path)
    assert error.value.reason is Reason.DATASET_MALFORMED
    assert len(error.value.message) < 1000


def test_headers_of_other_writers_are_read(tmp_path: Path) -> None:
    header = b"""{"shape": (20L, 3L), "fortran_order": False, "descr": "<f4"}   \n"""
    content = b"\x93NUMPY\x02\x00" + struct.pack("<I", len(header)) + header + X.tobytes()
    np.testing.assert_array_equal(np.concatenate(read(archive(tmp_path / "data", {"x.npy": content}))), X)


def test_a_bomb_is_refused_before_memory_is_asked_for(tmp_path: Path) -> None:
    zeros = np.zeros((1 << 21, 4), np.float32)  # 32 MiB in 32 KiB
    path = tmp_path / "data"
    with path.open("wb") as file:
        np.savez_compressed(file, x=zeros, y=zeros)
    tracemalloc.start()
    with pytest.raises(ResourceExhausted, match="data to hold in memory") as error:
        open_npz(DataFile("data", path), SchemaSpec({"x": ("x",), "y": ("y",)}), max_bytes=zeros.nbytes - 1)
    assert error.value.reason is Reason.UPLOAD_TOO_LARGE
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
    tracemalloc.stop()
    with pytest.raises(ResourceExhausted):  # the bound is on all columns together
        open_npz(DataFile("data", path), SchemaSpec({"x": ("x",), "y": ("y",)}), max_bytes=2 * zeros.nbytes - 1)
    assert len(
        open_npz(DataFile("data", path), SchemaSpec({"x": ("x",), "y": ("y",)}), max_bytes=2 * zeros.nbytes)
    ) == len(zeros)


def test_a_directory_that_declares_more_than_deflate_can_hold(tmp_path: Path) -> None:
    path = archive(
        tmp_path / "data", {"x.npy": npy(shape="(1000000, 3)", data=bytes(12_000_000))}, zipfile.ZIP_DEFLATED
    )
    content = bytearray(path.read_bytes())
    at = content.rindex(b"PK\x01\x02")
    content[at + 24 : at + 28] = struct.pack("<I", 0xFFFFFFF0)
    path.write_bytes(content)
    with pytest.raises(InvalidArgument, match="which deflate cannot do"):
        read(path)


def test_a_table_of_contents_beyond_the_limit(tmp_path: Path) -> None:
    content = bytearray(full())
    at = content.rindex(b"PK\x05\x06")
    content[at + 12 : at + 16] = struct.pack("<I", limits.MAX_DIRECTORY_BYTES + 1)
    content[at + 16 : at + 20] = struct.pack("<I", 0)
    content = bytearray(limits.MAX_DIRECTORY_BYTES) + content
    path = tmp_path / "data"
    path.write_bytes(content)
    with pytest.raises(ResourceExhausted, match="table of contents"):
        read(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_the_same_member_twice(tmp_path: Path) -> None:
    path = tmp_path / "data"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("x.npy", npy())
        file.writestr("x.npy", npy(data=bytes(X.nbytes)))
    with pytest.raises(InvalidArgument, match=r"'x\.npy' twice"):
        read(path)


def test_a_local_header_that_differs_from_the_directory(tmp_path: Path) -> None:
    path = archive(tmp_path / "data", {"x.npy": npy()})
    path.write_bytes(path.read_bytes().replace(b"x.npy", b"z.npy", 1))
    with pytest.raises(InvalidArgument) as error:
        read(path)
    assert error.value.reason is Reason.DATASET_MALFORMED


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compressions_are_refused(compression: int, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match=r"write the archive with numpy\.savez"):
        read(archive(tmp_path / "data", {"x.npy": npy()}, compression))


def test_booleans_are_0_or_1(tmp_path: Path) -> None:
    values = bytearray(60)
    values[31] = 2
    path = archive(tmp_path / "data", {"x.npy": npy("'|b1'", data=bytes(values))})
    with pytest.raises(InvalidArgument, match="row 10: a boolean is stored as a byte other than 0 and 1"):
        read(path)


@pytest.mark.parametrize(
    ("ids", "problem"),
    [
        (np.array(["a", "\ud800"]), "row 1: the id .* is not valid Unicode"),
        (np.frombuffer(struct.pack("<II", 97, 0x110000), "<U1"), "row 1: the id is not valid Unicode"),
        (np.array([b"a", b"\xff"]), "row 1: the id is not valid UTF-8"),
        (np.array(["a\0b", "c"]), "row 0: the id holds a NUL"),
        (np.array(["a", "é" * 2049]), "row 1: the id is longer than 4,096 bytes"),
        (np.array([0.5, 1.5]), "ids are strings or integers"),
        (np.array([["a"], ["b"]]), "ids are strings or integers"),
    ],
)
def test_ids_that_are_no_text(ids: Any, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "data"
    with path.open("wb") as file:
        np.savez(file, x=X[:2], k=ids)
    with pytest.raises(InvalidArgument, match=problem) as error:
        read(path, SchemaSpec({"x": ("x",)}, id="k"))
    assert error.value.reason is Reason.DATASET_MALFORMED


@pytest.mark.parametrize("ids", [np.array([7, -3]), np.array(["7", "-3"]), np.array([b"7", b"-3"])])
def test_ids_of_any_kind_are_text(ids: Any, tmp_path: Path) -> None:
    path = tmp_path / "data"
    with path.open("wb") as file:
        np.savez(file, x=X[:2], k=ids)
    assert open_npz(DataFile("data", path), SchemaSpec({"x": ("x",)}, id="k")).ids([1, 0]) == ["-3", "7"]


def test_columns_of_different_lengths(tmp_path: Path) -> None:
    path = tmp_path / "data"
    with path.open("wb") as file:
        np.savez(file, x=X, y=np.arange(19))
    with pytest.raises(InvalidArgument, match="'x' has 20 rows and 'y' has 19") as error:
        open_npz(DataFile("data", path), SchemaSpec({"x": ("x",)}, target="y"))
    assert error.value.reason is Reason.ROWS_MISMATCH


def test_a_stored_archive_is_read_in_place(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(1 << 14, 256))  # 32 MiB
    path = tmp_path / "data"
    with path.open("wb") as file:
        np.savez(file, x=values)
    tracemalloc.start()
    source = open_npz(DataFile("data", path), SPEC)
    (block,) = source.batches([16_000, 3], 2)
    validate(source, lambda *_: None)
    assert tracemalloc.get_traced_memory()[1] < 2.5 * limits.BLOCK_BYTES
    tracemalloc.stop()
    np.testing.assert_array_equal(block.inputs["x"], values[[16_000, 3]])
