"""What is particular to Parquet: nulls, lists, row groups, and files that lie."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from undue_service.datasets import limits
from undue_service.datasets.files import DataFile
from undue_service.datasets.opening import validate
from undue_service.datasets.parquet import ParquetSource
from undue_service.domain.errors import Error, InvalidArgument, Reason
from undue_service.domain.reports import ColumnSchema
from undue_service.domain.specs import SchemaSpec

SPEC = SchemaSpec({"x": ("x",)})


def written(path: Path, columns: dict[str, Any], **options: Any) -> Path:
    pq.write_table(pa.table(columns), path, **options)
    return path


def read(path: Path, spec: SchemaSpec = SPEC, **options: Any) -> np.ndarray[Any, Any]:
    source = ParquetSource([DataFile("data", path)], spec, **options)
    validate(source, lambda *_: None)
    return np.concatenate([block.inputs["x"] for block in source.batches(None, 7)])


def lists(rows: list[Any], kind: pa.DataType | None = None) -> pa.Array:
    return pa.array(rows, kind or pa.list_(pa.float64()))


NESTED = pa.list_(pa.list_(pa.int32()))
BAD_ROWS = {
    "a null": (pa.array([1.0, 2.0, None, 4.0, None]), "row 2: a value is missing"),
    "a null list": (lists([[1.0], [2.0], None]), "row 2: a value is missing"),
    "a null list first": (lists([None, [2.0]]), "row 0: a value is missing"),
    "a null in a list": (lists([[1.0, 2.0], [3.0, None]]), "row 1: a value is missing"),
    "a null in the first list": (lists([[1.0, None], [3.0, 4.0]]), "row 0: a value is missing"),
    "a ragged list": (lists([[1.0, 2.0]] * 9 + [[3.0]]), "row 9: a list of 1 on axis 0 where row 0 has 2"),
    "an empty list later": (lists([[1.0, 2.0], []]), "row 1: a list of 0 on axis 0 where row 0 has 2"),
    "sums that hide raggedness": (lists([[1.0, 2.0], [3.0], [4.0, 5.0, 6.0]]), "row 1: a list of 1"),
    "ragged deep inside": (pa.array([[[1, 2], [3, 4]], [[1, 2], [3]]], NESTED), "row 1: a list of 1 on axis 1"),
    "ragged within row 0": (pa.array([[[1, 2], [3]], [[1, 2], [3, 4]]], NESTED), "row 0: a list of 1 on axis 1"),
    "a null deep inside": (pa.array([[[1, 2]], [[1, 2]], [[1, None]]], NESTED), "row 2: a value is missing"),
    "a null fixed list": (pa.array([[1.0, 2.0], None], pa.list_(pa.float64(), 2)), "row 1: a value is missing"),
}


@pytest.mark.parametrize("case", list(BAD_ROWS))
@pytest.mark.parametrize("row_group_size", [1, 2, 100])
def test_the_first_bad_row_is_named(case: str, row_group_size: int, tmp_path: Path) -> None:
    column, problem = BAD_ROWS[case]
    path = written(tmp_path / "data", {"x": column}, row_group_size=row_group_size)
    with pytest.raises(InvalidArgument, match=f"column 'x', {problem}") as error:
        read(path)
    assert error.value.reason is Reason.DATASET_MALFORMED
    assert error.value.metadata["column"] == "x"
    assert f"row {error.value.metadata['row']}:" in problem


TYPES = {
    "strings": (pa.array(["a"]), "'string'.*encode text"),
    "categories": (pa.array(["a"]).dictionary_encode(), "'string'.*encode text"),
    "lists of strings": (pa.array([["a"]]), "'string'"),
    "bytes": (pa.array([b"a"]), "'binary'"),
    "decimals": (pa.array([1]).cast(pa.decimal128(22, 2)), "decimal.*cast"),
    "timestamps": (pa.array([1], pa.timestamp("us")), "timestamp.*cast"),
    "structs": (pa.array([{"a": 1}]), "struct"),
    "maps": (pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int64())), "map"),
    "nothing": (pa.array([None]), "null"),
}


@pytest.mark.parametrize("part", ["input", "target", "weight"])
@pytest.mark.parametrize("case", list(TYPES))
def test_only_numbers_are_data(case: str, part: str, tmp_path: Path) -> None:
    column, problem = TYPES[case]
    path = written(tmp_path / "data", {"x": pa.array([1.0]), "bad": column})
    spec = SchemaSpec(
        {"x": ("bad" if part == "input" else "x",)},
        target="bad" if part == "target" else None,
        weight="bad" if part == "weight" else None,
    )
    with pytest.raises(InvalidArgument, match=f"column 'bad' holds .*{problem}") as error:
        read(path, spec)
    assert error.value.reason is Reason.DATASET_MALFORMED


IDS = {
    "strings": pa.array(["7", "-3"]),
    "large strings": pa.array(["7", "-3"], pa.large_string()),
    "string views": pa.array(["7", "-3"], pa.string_view()),
    "categories": pa.array(["7", "-3"]).dictionary_encode(),
    "integers": pa.array([7, -3], pa.int16()),
}


@pytest.mark.parametrize("case", list(IDS))
def test_ids_are_text(case: str, tmp_path: Path) -> None:
    path = written(tmp_path / "data", {"x": [1.0, 2.0], "k": IDS[case]})
    assert ParquetSource([DataFile("data", path)], SchemaSpec({"x": ("x",)}, id="k")).ids([1, 0]) == ["-3", "7"]


def test_a_column_may_be_both_id_and_input(tmp_path: Path) -> None:
    path = written(tmp_path / "data", {"x": pa.array([5, 6])})
    source = ParquetSource([DataFile("data", path)], SchemaSpec({"x": ("x",)}, id="x"))
    assert source.ids([0, 1]) == ["5", "6"]
    np.testing.assert_array_equal(next(source.batches([1, 0], 2)).inputs["x"], [6, 5], strict=True)


@pytest.mark.parametrize(
    ("ids", "problem"),
    [
        (pa.array(["a", None]), "row 1: a value is missing"),
        (pa.array(["a", None]).dictionary_encode(), "row 1: a value is missing"),
        (pa.array(["a", "b\0"]), "row 1: the id holds a NUL"),
        (pa.array(["a", "b" * 5000]), "row 1: the id is longer"),
        (pa.array([0.5, 1.5]), "ids are strings or integers"),
        (pa.array([b"a", b"b"]), "ids are strings or integers"),
        (
            pa.StringArray.from_buffers(2, pa.py_buffer(np.array([0, 1, 2], np.int32)), pa.py_buffer(b"a\xff")),
            "row 1: .* UTF-8",
        ),
    ],
)
def test_ids_that_are_no_text(ids: pa.Array, problem: str, tmp_path: Path) -> None:
    path = written(tmp_path / "data", {"x": [1.0, 2.0], "k": ids})
    with pytest.raises(InvalidArgument, match=problem):
        read(path, SchemaSpec({"x": ("x",)}, id="k"))


def test_the_first_row_of_a_value_that_comes_again_is_named(tmp_path: Path) -> None:
    path = written(tmp_path / "data", {"x": np.zeros(5), "site": ["a", "a", "b", "c\0", "c\0"]}, row_group_size=4)
    source = ParquetSource([DataFile("data", path)], SchemaSpec({"x": ("x",)}, groups=("site",)))
    with pytest.raises(InvalidArgument, match="column 'site', row 3: the group value holds a NUL"):
        source.groups([0])


def test_categories_of_numbers_are_numbers(tmp_path: Path) -> None:
    path = written(tmp_path / "data", {"x": pa.array([3.5, 1.5, 3.5]).dictionary_encode()})
    np.testing.assert_array_equal(read(path), [3.5, 1.5, 3.5], strict=True)


def test_names_with_dots_are_names(tmp_path: Path) -> None:
    path = written(tmp_path / "data", {"a": pa.array([{"b": 1.0}]), "a.b": pa.array([2.0]), "a.b.c": pa.array([3.0])})
    np.testing.assert_array_equal(read(path, SchemaSpec({"x": ("a.b",)})), [2.0])


def test_a_name_twice(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_arrays([pa.array([1.0]), pa.array([2.0])], ["x", "x"]), tmp_path / "data")
    with pytest.raises(InvalidArgument, match="'x' appears twice"):
        read(tmp_path / "data")


def test_empty_row_groups(tmp_path: Path) -> None:
    schema = pa.schema({"x": pa.list_(pa.float32())})
    with pq.ParquetWriter(tmp_path / "data", schema) as writer:
        for rows in ([], [[1.0, 2.0]], [], [[3.0, 4.0], [5.0, 6.0]], []):
            writer.write_table(pa.table({"x": pa.array(rows, schema.field("x").type)}))
    source = ParquetSource([DataFile("data", tmp_path / "data")], SPEC)
    assert source.schema.inputs == (ColumnSchema("x", "float32", (2,)),)
    (block,) = source.batches([2, 0, 1], 5)
    np.testing.assert_array_equal(block.inputs["x"], np.array([[5, 6], [1, 2], [3, 4]], np.float32), strict=True)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Row groups in the order in which they are decoded."""
    groups: list[int] = []
    original = pq.ParquetFile.iter_batches

    def recorded(self: Any, *args: Any, row_groups: list[int], **options: Any) -> Any:
        groups.extend(row_groups)
        return original(self, *args, row_groups=row_groups, **options)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", recorded)
    return groups


@pytest.fixture
def ten_groups(tmp_path: Path) -> Path:
    return written(
        tmp_path / "data", {"x": np.arange(100.0), "k": [f"k{row}" for row in range(100)]}, row_group_size=10
    )


def values(blocks: Any) -> list[float]:
    return [value for block in blocks for value in block.inputs["x"].tolist()]


@pytest.mark.parametrize("cache_bytes", [0, limits.CACHE_BYTES])
def test_rows_in_order_decode_each_row_group_once(cache_bytes: int, ten_groups: Path, decoded: list[int]) -> None:
    source = ParquetSource([DataFile("data", ten_groups)], SPEC, cache_bytes)
    assert values(source.batches(None, 3)) == list(range(100))
    assert decoded == list(range(10))
    decoded.clear()
    rows = [25, 25, 26, 29, 71]
    assert values(ParquetSource([DataFile("data", ten_groups)], SPEC, cache_bytes).batches(rows, 2)) == rows
    assert decoded == [2, 7]


def test_rows_in_any_order_decode_only_their_row_groups(ten_groups: Path, decoded: list[int]) -> None:
    source = ParquetSource([DataFile("data", ten_groups)], SchemaSpec({"x": ("x",)}, id="k"))
    rows = [93, 41, 95, 40, 49, 90]
    assert values(source.batches(rows, 2)) == rows
    assert sorted(decoded) == [4, 9]
    assert source.ids(rows) == [f"k{row}" for row in rows]
    assert sorted(decoded) == [4, 4, 9, 9]


def test_the_cache_keeps_to_its_budget(ten_groups: Path, decoded: list[int]) -> None:
    source = ParquetSource([DataFile("data", ten_groups)], SPEC, cache_bytes=2 * 10 * 8)
    for rows, expected in (
        ([1, 0], [0]),
        ([11, 10], [1]),
        ([2, 1], []),
        ([21, 20], [2]),
        ([3, 1], []),
        ([11, 10], [1]),
    ):
        decoded.clear()
        assert values(source.batches(rows, 2)) == rows
        assert decoded == expected


def test_the_cache_counts_text_and_equal_texts_once(tmp_path: Path, decoded: list[int]) -> None:
    columns = {"x": np.arange(100.0), "k": [f"{row:0200}" for row in range(100)], "site": ["s" * 200] * 100}
    path = written(tmp_path / "data", columns, row_group_size=10)
    spec = SchemaSpec({"x": ("x",)}, id="k", groups=("site",))
    source = ParquetSource([DataFile("data", path)], spec, cache_bytes=1000)  # 10 texts of 200 do not fit, 1 does
    for _ in range(2):
        source.ids([3])
    assert decoded == [0, 0]
    for _ in range(2):
        source.groups([3])
    assert decoded == [0, 0, 0]


def test_memory_is_bounded_by_the_block(tmp_path: Path) -> None:
    path = written(tmp_path / "data", {"x": np.ones(3_000_000)}, row_group_size=1 << 22)
    assert path.stat().st_size < 100_000
    source = ParquetSource([DataFile("data", path)], SPEC, cache_bytes=1 << 20)
    before, peak = pa.total_allocated_bytes(), [0]
    validate(source, lambda *_: peak.append(pa.total_allocated_bytes() - before))
    assert max(peak) < 2 * limits.BLOCK_BYTES


@pytest.fixture(params=["none", "zstd"])
def whole(request: pytest.FixtureRequest, tmp_path: Path) -> bytes:
    columns = {"x": lists([[1.0, 2.0], [3.0, 4.0]] * 10), "y": np.arange(20), "k": [f"k{row}" for row in range(20)]}
    path = written(tmp_path / "whole", columns, row_group_size=8, compression=request.param, write_page_checksum=True)
    return path.read_bytes()


FULL = SchemaSpec({"x": ("x",)}, target="y", id="k")


def test_cut_off_at_any_length(whole: bytes, tmp_path: Path) -> None:
    path = tmp_path / "data"
    for length in [*range(0, len(whole), 13), len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(InvalidArgument) as error:
            read(path, FULL)
        assert error.value.reason is Reason.DATASET_MALFORMED, length
        path.unlink()


def test_changed_bytes_end_in_typed_errors(whole: bytes, tmp_path: Path) -> None:
    picked = random.Random(0)
    outcomes = set()
    for number in range(300):
        damaged = bytearray(whole)
        for _ in range(picked.choice([1, 1, 3])):
            damaged[picked.randrange(len(damaged))] = picked.choice([0, 255, 127, 128, picked.randrange(256)])
        path = tmp_path / str(number)
        path.write_bytes(damaged)
        try:
            read(path, FULL)
        except Error as error:
            outcomes.add(error.reason)
    # Names and row counts stand in the footer, which has no checksum.
    assert outcomes <= {
        Reason.DATASET_MALFORMED,
        Reason.COLUMN_NOT_FOUND,
        Reason.UPLOAD_TOO_LARGE,
        Reason.OUT_OF_MEMORY,
    }
    assert Reason.DATASET_MALFORMED in outcomes


def test_a_changed_value_fails_the_page_checksum(tmp_path: Path) -> None:
    options = {"compression": "none", "use_dictionary": False, "write_statistics": False, "write_page_checksum": True}
    content = np.arange(1000.0)
    whole = bytearray(written(tmp_path / "whole", {"x": content}, **options).read_bytes())
    whole[whole.index(content[500:510].tobytes())] ^= 1
    (tmp_path / "data").write_bytes(whole)
    with pytest.raises(InvalidArgument, match="damaged"):
        read(tmp_path / "data")


@pytest.mark.parametrize(
    "content", [b"", b"PAR1", b"PAR1PAR1", b"PK\x03\x04" + bytes(100), b"a,b\n1,2\n", b"PAR1" + b"\xff" * 64 + b"PAR1"]
)
def test_other_files(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(content)
    with pytest.raises(InvalidArgument, match="no Parquet file") as error:
        read(tmp_path / "data")
    assert error.value.reason is Reason.DATASET_MALFORMED
