"""Files that lie where their owner can change them, and data sets of several files."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dataset_formats import FORMATS, Files, located
from dataset_tables import TABLES, Table
from undue_service.datasets import limits, parquet_files
from undue_service.datasets.files import DataFile, check_unchanged
from undue_service.datasets.opening import open_source, validate
from undue_service.datasets.parquet import ParquetSource
from undue_service.domain.errors import FailedPrecondition, InvalidArgument, Reason
from undue_service.domain.specs import FileSource, LocatedFile, SchemaSpec

X = SchemaSpec({"x": ("x",)})


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def changed(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1] + b"?")


def longer(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"\n")


def replaced_by_a_link(path: Path) -> None:
    path.rename(path.with_suffix(".real"))
    path.symlink_to(path.with_suffix(".real"))


def replaced_by_a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def replaced_by_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    "change", [changed, longer, Path.unlink, replaced_by_a_link, replaced_by_a_pipe, replaced_by_a_folder]
)
@pytest.mark.parametrize("form", ["csv-three-files", "idx", "parquet-three-files", "image-zip-located", "image-files"])
def test_a_file_that_changed_is_named(form: str, change: object, files: Files) -> None:
    (table,) = [TABLES[name] for name in TABLES if FORMATS[form].holds(TABLES[name])][:1]
    source = FORMATS[form].build(table, files)
    assert isinstance(source, FileSource)
    validate(open_source(source, files.resolve), lambda *_: None)
    last = source.files[-1]
    assert isinstance(last, LocatedFile)
    change(Path(last.path))  # type: ignore[operator]
    with pytest.raises(FailedPrecondition, match="register the data set again") as error:
        validate(open_source(source, files.resolve), lambda *_: None)
    assert error.value.reason is Reason.DATASET_CHANGED
    assert error.value.metadata["file"] == last.name


SECRET = "x\n7\n"


def lying(root: Path) -> FileSource:
    """Return what a file in a folder below a root is registered as, once a later change shows in its ctime."""
    path = root / "sub/data.csv"
    path.parent.mkdir(parents=True)
    path.write_text("x\n1\n")
    file = located("data.csv", path)
    clock = root / "clock"
    clock.touch()
    while clock.stat().st_ctime_ns == file.ctime_ns:
        clock.touch()
    return FileSource("csv", (file,), X)


def times(path: Path) -> tuple[int, int]:
    return path.stat().st_atime_ns, path.stat().st_mtime_ns


def folder_replaced_by_a_link(path: Path, secret: Path) -> None:
    path.parent.rename(path.parent.with_name("away"))
    path.parent.symlink_to(secret.parent)


def folder_above_replaced_by_a_link(path: Path, secret: Path) -> None:
    root = path.parent.parent
    root.rename(root.with_name("away"))
    (secret.parent / "sub").mkdir()
    os.link(secret, secret.parent / "sub/data.csv")
    root.symlink_to(secret.parent)


def folder_replaced_by_a_link_to_itself(path: Path, _: Path) -> None:
    path.parent.rename(path.parent.with_name("away"))
    path.parent.symlink_to("away")


def replaced_by_a_hard_link(path: Path, secret: Path) -> None:
    path.unlink()
    os.link(secret, path)


def replaced_by_a_copy_of_the_same_age(path: Path, _: Path) -> None:
    before = times(path)
    path.rename(path.with_suffix(".old"))  # kept, so that its inode is not given to the new one
    path.write_text("x\n1\n")
    os.utime(path, ns=before)


def written_in_place_with_its_time_restored(path: Path, _: Path) -> None:
    before = times(path)
    path.write_text(SECRET)
    os.utime(path, ns=before)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (folder_replaced_by_a_link, "Not a directory"),
        (folder_above_replaced_by_a_link, "Not a directory"),
        (folder_replaced_by_a_link_to_itself, "Not a directory"),
        (replaced_by_a_hard_link, "another file lies in its place"),
        (replaced_by_a_copy_of_the_same_age, "another file lies in its place"),
        (written_in_place_with_its_time_restored, "it was written to, or"),
    ],
)
def test_forged_size_and_time_are_not_enough(change: object, words: str, tmp_path: Path, files: Files) -> None:
    root, secret = tmp_path.resolve() / "root", tmp_path.resolve() / "outside/data.csv"
    source = lying(root)
    validate(open_source(source, files.resolve), lambda *_: None)
    check_unchanged(source)
    path = root / "sub/data.csv"
    secret.parent.mkdir()
    secret.write_text(SECRET)
    os.utime(secret, ns=times(path))
    change(path, secret)  # type: ignore[operator]
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (secret.stat().st_size, secret.stat().st_mtime_ns)
    for look in (lambda: open_source(source, files.resolve), lambda: check_unchanged(source)):
        with pytest.raises(FailedPrecondition, match=words) as error:
            look()
        assert (error.value.reason, error.value.metadata["file"]) == (Reason.DATASET_CHANGED, "data.csv")


def test_looking_at_files_leaves_nothing_open(tmp_path: Path) -> None:
    source = lying(tmp_path.resolve() / "root")
    (there,) = source.files
    assert isinstance(there, LocatedFile)
    before = len(os.listdir("/proc/self/fd"))
    check_unchanged(source)
    for file in (replace(there, path=f"{there.path}/x/y"), replace(there, inode=0)):
        with pytest.raises(FailedPrecondition):
            check_unchanged(FileSource("csv", (there, file), X))
        with pytest.raises(FailedPrecondition):
            DataFile("data.csv", Path(), file).open()
    assert len(os.listdir("/proc/self/fd")) == before


def test_npz_where_it_lies(files: Files) -> None:
    table = TABLES["digits"]
    source = FORMATS["npz"].build(table, files)
    assert isinstance(source, FileSource)
    path = files.resolve(source.files[0].digest)  # type: ignore[union-attr]
    there = FileSource("npz", (located("digits.npz", path),), source.schema)
    uploaded = validate(open_source(source, files.resolve), lambda *_: None)
    assert validate(open_source(there, files.resolve), lambda *_: None) == uploaded
    changed(path)
    with pytest.raises(FailedPrecondition, match=r"'digits\.npz' has changed"):
        open_source(there, files.resolve)


def parquet(folder: Path, *tables: dict[str, object]) -> list[DataFile]:
    made = []
    for number, table in enumerate(tables):
        path = folder / f"{number}.parquet"
        pq.write_table(pa.table(table), path, row_group_size=2)
        made.append(DataFile(path.name, path))
    return made


@pytest.mark.parametrize(
    ("second", "problem"),
    [
        ({"x": pa.array([1], pa.int64())}, r"'1\.parquet' holds 'int64' values in column 'x', and '0\.parquet'"),
        ({"x": pa.array([[1.0]])}, r"'1\.parquet' holds .* values in column 'x'"),
        ({"y": pa.array([1.0])}, r"'1\.parquet' has no column 'x', which '0\.parquet' has"),
    ],
)
def test_columns_that_differ(second: dict[str, object], problem: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match=problem) as error:
        ParquetSource(parquet(tmp_path, {"x": pa.array([1.0, 2.0])}, second), X)
    assert error.value.metadata["file"] == "1.parquet"


def test_columns_that_nobody_needs_may_differ(tmp_path: Path) -> None:
    source = ParquetSource(parquet(tmp_path, {"x": [1.0], "y": [1]}, {"z": ["a"], "x": [2.0]}), X)
    assert [block.inputs["x"].tolist() for block in source.batches([1, 0], 9)] == [[2.0, 1.0]]


def test_lists_of_another_length_name_file_and_row(tmp_path: Path) -> None:
    three = parquet(tmp_path, {"x": [[1.0, 2.0]] * 3}, {"x": [[1.0, 2.0]] * 2}, {"x": [[1.0, 2.0], [1.0]]})
    source = ParquetSource(three, X)
    with pytest.raises(InvalidArgument, match=r"row 6: a list of 1 .* \(in file '2\.parquet', which begins with row 5"):
        validate(source, lambda *_: None)


def test_ids_are_unique_across_files(tmp_path: Path) -> None:
    source = ParquetSource(
        parquet(tmp_path, {"x": [1.0, 2.0], "k": ["a", "b"]}, {"x": [3.0], "k": ["a"]}),
        SchemaSpec({"x": ("x",)}, id="k"),
    )
    with pytest.raises(InvalidArgument, match="rows 0 and 2 have the same id, 'a'"):
        validate(source, lambda *_: None)


def test_a_file_without_rows_comes_first(tmp_path: Path) -> None:
    empty = pa.array([], pa.list_(pa.float64()))
    source = ParquetSource(parquet(tmp_path, {"x": empty}, {"x": [[1.0, 2.0]]}), X)
    assert source.schema.inputs[0].shape == (2,)
    assert len(source) == 1


def test_only_a_few_files_are_open_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_files, "MAX_OPEN_FILES", 2)
    opened: list[str] = []
    original = DataFile.open
    monkeypatch.setattr(DataFile, "open", lambda self: opened.append(self.name) or original(self))
    before = len(os.listdir("/proc/self/fd"))
    source = ParquetSource(parquet(tmp_path, *({"x": np.arange(3.0) + 3 * n} for n in range(9))), X, cache_bytes=0)
    assert opened == [f"{n}.parquet" for n in range(9)]
    opened.clear()
    found = np.concatenate([block.inputs["x"] for block in source.batches(None, 4)])
    np.testing.assert_array_equal(found, np.arange(27.0))
    assert opened == [f"{n}.parquet" for n in range(7)] + ["7.parquet", "8.parquet"]
    assert len(os.listdir("/proc/self/fd")) - before <= 3
    opened.clear()
    assert [block.inputs["x"].tolist() for block in source.batches([13, 0, 12], 3)] == [[13.0, 0.0, 12.0]]
    assert sorted(opened) == ["0.parquet", "4.parquet"]  # no file is read that holds none of the rows


def test_a_data_set_of_several_npz_files_is_refused(files: Files) -> None:
    source = FORMATS["npz"].build(Table({"": np.zeros(2)}), files)
    assert isinstance(source, FileSource)
    with pytest.raises(InvalidArgument, match="an NPZ data set is one file"):
        open_source(FileSource("npz", source.files * 2, source.schema), files.resolve)
    with pytest.raises(InvalidArgument, match="has no files"):
        open_source(FileSource("npz", (), source.schema), files.resolve)
    assert limits.MAX_OPEN_FILES < 256  # well below what a process may open
