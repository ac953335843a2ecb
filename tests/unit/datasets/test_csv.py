"""What is particular to CSV: types that hold for the whole file, and text that is no table."""

import gzip
import re
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from undue_service.datasets import csv_records, scratch
from undue_service.datasets.csv import open_csv
from undue_service.datasets.files import DataFile
from undue_service.datasets.opening import validate
from undue_service.datasets.scratch import Scratch
from undue_service.datasets.table import TableSource
from undue_service.domain.errors import Error, InvalidArgument, Reason, ResourceExhausted
from undue_service.domain.specs import SchemaSpec

X = SchemaSpec({"x": ("x",)})
FULL = SchemaSpec({"x": ("a", "b")}, target="y", id="k", groups=("site",))


def opened(folder: Path, *contents: bytes | str, spec: SchemaSpec = X, **limits: Any) -> TableSource:
    files = []
    for number, content in enumerate(contents):
        path = folder / f"{number}.csv"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        files.append(DataFile(path.name, path))
    return open_csv(files, spec, Scratch(folder, **limits))


def column(folder: Path, *contents: bytes | str) -> np.ndarray[Any, Any]:
    source = opened(folder, *contents)
    return np.concatenate([block.inputs["x"] for block in source.batches(None, 3)])


def refusal(folder: Path, *contents: bytes | str, spec: SchemaSpec = X) -> InvalidArgument:
    with pytest.raises(InvalidArgument) as error:
        validate(opened(folder, *contents, spec=spec), lambda *_: None)
    return error.value


@pytest.fixture(params=[16, 64, 8 << 20])
def block(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Where the file is cut into blocks must not matter."""
    monkeypatch.setattr(csv_records, "MAX_LINE_BYTES", request.param)
    return int(request.param)


VALUES: dict[str, tuple[list[str], np.ndarray[Any, Any]]] = {
    "integers": (["1", "-2", "007", str(2**63 - 1), str(-(2**63))], np.array([1, -2, 7, 2**63 - 1, -(2**63)])),
    "a float at the end": (["1"] * 30 + ["0.5"], np.array([1.0] * 30 + [0.5])),
    "a float at the beginning": (["0.5"] + ["1"] * 30, np.array([0.5] + [1.0] * 30)),
    "beyond 64 bits": (["1"] * 30 + [str(2**63)], np.array([1.0] * 30 + [2.0**63])),
    "−0": (["1"] * 30 + ["-0"], np.array([1.0] * 30 + [-0.0])),
    "−0 before integers": (["-0"] + ["1"] * 30, np.array([-0.0] + [1.0] * 30)),
    "odd integers": (["9007199254740993"] * 9 + ["0.5"], np.array([2.0**53] * 9 + [0.5])),
    "exponents": (["1e3", "-1.5E-2", ".5", "2.", "+3"], np.array([1000, -0.015, 0.5, 2, 3])),
    "spaces": ([" 1", "2 ", "\t3"] * 9, np.array([1, 2, 3] * 9)),
    "spaces and floats": ([" 1"] * 9 + ["2.5 "], np.array([1.0] * 9 + [2.5])),
    "quotes": (['"1"', "2"] * 9, np.array([1, 2] * 9)),
    "booleans": (["true", "False", "TRUE", " true "], np.array([True, False, True, True])),
}


@pytest.mark.parametrize("case", list(VALUES))
def test_a_type_is_decided_over_all_values(case: str, block: int, tmp_path: Path) -> None:
    tokens, expected = VALUES[case]
    text = "x\n" + "\n".join(tokens) + "\n"
    if max(map(len, tokens)) < block // 2:
        found = column(tmp_path, text)
        np.testing.assert_array_equal(found, expected, strict=True)
        np.testing.assert_array_equal(np.signbit(found), np.signbit(expected)) if found.dtype.kind == "f" else None


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_blocks_and_files_do_not_matter(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    token = st.sampled_from(
        ["0", "1", "-0", "2.5", "-7", " 3", "1e2", "0x1", "true", "False", "", "a", "99999999999999999999"]
    )
    tokens = data.draw(
        st.lists(token, min_size=1, max_size=20) | st.lists(st.sampled_from(["0", "-3", "1.5", "-0"]), min_size=1)
    )
    cut = data.draw(st.integers(0, len(tokens)))
    folder = tmp_path_factory.mktemp("csv")
    whole = "x,pad\n" + "".join(f"{one},\n" for one in tokens)
    parts = ["x,pad\n" + "".join(f"{one},\n" for one in some) for some in (tokens[:cut], tokens[cut:])]
    outcomes = []
    with pytest.MonkeyPatch.context() as patch:
        for size, contents in ((8 << 20, [whole]), (32, [whole]), (8 << 20, parts)):
            patch.setattr(csv_records, "MAX_LINE_BYTES", size)
            try:
                found = column(folder, *contents)
                outcomes.append((found.dtype, found.tobytes()))
            except InvalidArgument as error:
                outcomes.append((error.reason, error.metadata["row"]))
    assert len(set(outcomes)) == 1, outcomes


BAD = {
    "missing": ("x,y\n1,2\n,3\n", "column 'x', row 1: a value is missing"),
    "blank": ("x,y\n1,2\n  ,3\n", "column 'x', row 1: a value is missing"),
    "text": ("x\n1\n2\nabc\n", "column 'x', row 2: 'abc' is no number: encode text"),
    "hexadecimal": ("x\n1\n0x1F\n", "row 1: '0x1F' is no number"),
    "a decimal comma": ('x\n"1,5"\n', "row 0: '1,5' is no number"),
    "underscores": ("x\n1_000\n", "row 0: '1_000' is no number"),
    "a NUL": ("x\n1\n2\0\n", "row 1: .* is no number"),
    "booleans then numbers": ("x\ntrue\n1\n", "row 1: '1' follows true and false"),
    "numbers then booleans": ("x\n0.5\ntrue\n", "row 1: 'true' follows numbers"),
    "no UTF-8": (b"x\n1\n\xff\n", "row 1: .* is no number"),
    "too few": ("x,y\n1,2\n3\n", "'0.csv' has 1 values where the header names 2, at row 1: '3'"),
    "too many": ("x,y\n1,2\n3,4,5\n", "'0.csv' has 3 values where the header names 2, at row 1"),
    "too few, and no UTF-8": (b"x,y\n1,2\n\xff\n", "'0.csv' has 1 values where the header names 2, at row 1"),
    "an open quote": ('x,y\n1,2\n3,"4\n5,6\n', "'0.csv' has a quote that is not closed"),
    "an open quote at the end": ('x,y\n1,2\n3,"4\n', "'0.csv' has a quote that is not closed"),
    "nothing": ("", "does not begin with a line of column names"),
    "empty lines": ("\n\nx\n1\n", "does not begin with a line of column names"),
    "a name twice": ("x,x\n1,2\n", "'x' appears twice"),
    "UTF-16": ("x\n1\n".encode("utf-16"), "is UTF-16 text: save it as UTF-8"),
    "a header of no UTF-8": (b"x,\xff\n1,2\n", "does not begin with a line of column names"),
    "an open quote in the header": ('"x\n1\n', "does not begin with a line of column names"),
    "damaged gzip": (gzip.compress(b"x\n1\n")[:-6], "is no gzip file, or is damaged"),
    "gzip of nothing": (b"\x1f\x8b\x08", "is no gzip file, or is damaged"),
    "a wrong checksum": (gzip.compress(b"x\n1\n")[:-8] + bytes(8), "is no gzip file, or is damaged"),
}


@pytest.mark.parametrize("case", list(BAD))
def test_what_is_no_table_of_numbers(case: str, tmp_path: Path) -> None:
    content, problem = BAD[case]
    error = refusal(tmp_path, content)
    assert error.reason is Reason.DATASET_MALFORMED
    assert re.search(problem, error.message), error.message
    assert len(error.message) < 1000


def test_a_header_that_two_parsers_read_differently(tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(b"x,y\n1,2\n")
    with pytest.raises(InvalidArgument, match="first line that can be read in two ways"):
        list(csv_records.records(DataFile("data", tmp_path / "data"), ["x", "z"], ["z"]))


def test_infinities_are_named(tmp_path: Path) -> None:
    for token in ("nan", "inf", "-Infinity", "1e999", "9" * 400):
        error = refusal(tmp_path, f"x\n1\n{token}\n")
        assert error.reason is Reason.NON_FINITE_DATA
        assert error.metadata["row"] == "1"


def test_what_rfc_4180_allows(tmp_path: Path) -> None:
    text = '\ufeffk,"a b",site\r\n"one ""1"",\r\nnext",1,é\r\n\r\ntwo,2,'
    spec = SchemaSpec({"x": ("a b",)}, id="k", groups=("site",))
    source = opened(tmp_path, text, spec=spec)
    assert source.ids([0, 1]) == ['one "1",\r\nnext', "two"]
    assert source.groups([0, 1]) == {"site": ["é", ""]}
    assert column(tmp_path, "y,x\r\r2,1\r3,2").tolist() == [1, 2]


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (b"\xff", "column 'k', row 1: the id is not valid UTF-8"),
        (b"a\0b", "column 'k', row 1: the id holds a NUL"),
        (b"b" * 5000, "column 'k', row 1: the id is longer"),
        (b"a", "rows 0 and 1 have the same id"),
    ],
)
def test_ids_that_are_none(value: bytes, problem: str, tmp_path: Path) -> None:
    assert problem in refusal(tmp_path, b"k,x\na,1\n" + value + b",2\n", spec=SchemaSpec({"x": ("x",)}, id="k")).message
    text = refusal(tmp_path, b"k,x\na,1\n\xff,2\n", spec=SchemaSpec({"x": ("x",)}, groups=("k",))).message
    assert text == "column 'k', row 1: the group value is not valid UTF-8"


def test_files_follow_each_other(tmp_path: Path) -> None:
    spec = SchemaSpec({"x": ("x",)}, id="k", groups=("site",))
    source = opened(tmp_path, "k,x,site\na,1,p\n", "x,site,more,k\n2.5,q,,b\n3,p,,c\n", "site,k,x\n", spec=spec)
    (found,) = source.batches([2, 0, 1], 5)
    np.testing.assert_array_equal(found.inputs["x"], [3.0, 1.0, 2.5], strict=True)
    assert source.ids([2, 0, 1]) == ["c", "a", "b"]
    assert source.groups([2, 0, 1]) == {"site": ["p", "p", "q"]}
    assert (
        "rows 0 and 1 have the same id" in refusal(tmp_path, "k,x,site\na,1,\n", "k,x,site\na,1,\n", spec=spec).message
    )


@pytest.mark.parametrize(
    ("second", "problem", "reason"),
    [
        ("y\n1\n", "file '1.csv' has no column 'x'; it has 'y'", Reason.COLUMN_NOT_FOUND),
        ("x\n2\nb\n", "row 3: 'b' is no number.* (in file '1.csv', which begins with row 2)", Reason.DATASET_MALFORMED),
        ("x\ntrue\n", "'true' follows numbers.* (in file '1.csv'", Reason.DATASET_MALFORMED),
        ("x\n2,3\n", "file '1.csv' has 2 values where the header names 1, at row 0", Reason.DATASET_MALFORMED),
    ],
)
def test_the_file_that_differs_is_named(second: str, problem: str, reason: Reason, tmp_path: Path) -> None:
    error = refusal(tmp_path, "x\n1\n5\n", second)
    for piece in problem.split(".* "):
        assert piece in error.message
    assert error.reason is reason


LONG = {"one value": b"1" * (18 << 20), "one quote": b'"' + b"1\n" * (9 << 20), "many values": b"1," * (9 << 20)}


@pytest.mark.parametrize("case", list(LONG))
@pytest.mark.parametrize("header", [b"x\n", b""])
def test_a_line_without_end(case: str, header: bytes, tmp_path: Path) -> None:
    with pytest.raises(Error) as error:
        opened(tmp_path, header + LONG[case] + b"\n")
    assert error.value.reason in (Reason.DATASET_MALFORMED, Reason.UPLOAD_TOO_LARGE)
    assert len(error.value.message) < 1000


def test_gigabytes_of_one_line_take_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "long.csv"
    with path.open("wb") as file:
        file.write(b"x\n")
        file.truncate(10 << 30)
    tracemalloc.start()
    with pytest.raises(InvalidArgument, match="a line of more than 8,388,608 bytes"):
        open_csv([DataFile("long.csv", path)], X, Scratch(tmp_path))
    assert tracemalloc.get_traced_memory()[1] < 64 << 20
    tracemalloc.stop()


def test_a_bomb_stops_at_the_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_records, "MAX_CONVERTED_BYTES", 16 << 20)
    for line in (b"\n", b"1\n"):
        with pytest.raises(ResourceExhausted, match="once unpacked") as error:
            opened(tmp_path, gzip.compress(b"x\n" + line * (20 << 20)))
        assert error.value.reason is Reason.UPLOAD_TOO_LARGE
    with pytest.raises(ResourceExhausted, match="write it as Parquet"):
        opened(tmp_path, b"x\n" + b"1\n" * 1000, max_bytes=7999)
    assert len(opened(tmp_path, b"x\n" + b"1\n" * 1000, max_bytes=8000)) == 1000


def test_a_full_disk_is_said(tmp_path: Path) -> None:
    class Full:
        def write(self, data: bytes) -> None:
            raise OSError(28, "No space left on device")

    with pytest.raises(ResourceExhausted, match="no room") as error:
        scratch.ScratchFile(Full(), Scratch(tmp_path)).write(b"1")
    assert error.value.reason is Reason.STORAGE_FULL


def test_groups_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("undue_service.datasets.csv.MAX_GROUP_VALUES", 10)
    spec = SchemaSpec({"x": ("x",)}, groups=("x",))
    assert len(opened(tmp_path, "x\n" + "\n".join(map(str, range(10))), spec=spec)) == 10
    assert (
        "different values; a group is many rows"
        in refusal(tmp_path, "x\n" + "\n".join(map(str, range(11))), spec=spec).message
    )
    monkeypatch.setattr("undue_service.datasets.csv.MAX_GROUP_BYTES", 1000)
    text = "x,g\n" + "".join(f"1,{str(n) * 200}\n" for n in range(9))
    assert "more than 1,000 bytes" in refusal(tmp_path, text, spec=SchemaSpec({"x": ("x",)}, groups=("g",))).message


WHOLE = (
    b'k,a,b,y,site,note\r\nr1,1,0.5,0,north,"a ""note"""\r\nr2,2,1.5,1,south,\r\n'
    b'"r\n3",3,-2.5e-1,1,"east, far",x\r\nr4,4,7,0,north,"y\r\nz"\r\n'
)


def outcome(folder: Path, content: bytes) -> Reason | None:
    try:
        validate(opened(folder, content, spec=FULL), lambda *_: None)
    except Error as error:
        assert len(error.message) < 1000
        return error.reason
    return None


ALLOWED = {
    None, Reason.DATASET_MALFORMED, Reason.COLUMN_NOT_FOUND, Reason.DUPLICATE_ID, Reason.DATASET_EMPTY,
    Reason.NON_FINITE_DATA,
}  # fmt: skip


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_cut_off_anywhere(pack: Any, tmp_path: Path) -> None:
    whole = pack(WHOLE)
    assert outcome(tmp_path, whole) is None
    outcomes = {outcome(tmp_path, whole[:length]) for length in range(2, len(whole))}
    if pack is gzip.compress:  # its checksum stands at the end
        assert outcomes == {Reason.DATASET_MALFORMED}
    assert outcomes <= ALLOWED


@settings(max_examples=300, deadline=None)
@given(changes=st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_changed_bytes_end_in_typed_errors(
    changes: list[tuple[int, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    damaged = bytearray(WHOLE)
    for at, value in changes:
        damaged[at] = value
    assert outcome(tmp_path_factory.mktemp("csv"), bytes(damaged)) in ALLOWED
