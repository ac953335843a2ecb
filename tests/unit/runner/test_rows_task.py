"""The instances of some rows, from the data set to what the service reads."""

import os
from pathlib import Path

import numpy as np
import pytest

from dataset_formats import FORMATS, Files, located
from dataset_tables import TABLES, Table
from undue_service.datasets import opening
from undue_service.domain.errors import Error, FailedPrecondition, InvalidArgument, Reason, ResourceExhausted
from undue_service.domain.reports import Produced, RowsReport, TaskResult
from undue_service.domain.results import Instances
from undue_service.domain.specs import ArraysSource, DataSource, FileSource, SchemaSpec, TensorRef, TransformSpec
from undue_service.domain.tasks import DatasetTask, RowsTask
from undue_service.runner import sources
from undue_service.runner.tasks import Workshop
from undue_service.transport import responses
from undue_service.wire.results import SafetensorsResults


class Runner:
    """A workshop with its folders."""

    def __init__(self, folder: Path) -> None:
        self.files = Files(folder)
        self.workshop = Workshop("cpu")
        self._folder = folder

    def run(self, task: DatasetTask | RowsTask) -> tuple[TaskResult, Path]:
        scratch = self._folder / f"scratch-{len(list(self._folder.iterdir()))}"
        scratch.mkdir()
        digests = task.source.digests()
        artifacts = {digest: self.files.resolve(digest) for digest in digests}
        return self.workshop.run(task, artifacts, scratch, lambda *_: None), scratch

    def rows(self, source: DataSource, rows: tuple[int, ...]) -> Instances:
        result, scratch = self.run(RowsTask(source, rows))
        assert result == TaskResult(RowsReport(len(rows)), (Produced("rows", "rows.safetensors"),))
        return SafetensorsResults().rows(scratch / "rows.safetensors")


@pytest.fixture
def runner(tmp_path: Path) -> Runner:
    return Runner(tmp_path)


ROWS = (17, 3, 3, 150)


@pytest.mark.parametrize(("table", "form"), [(t, f) for f in FORMATS for t in TABLES if FORMATS[f].holds(TABLES[t])])
def test_rows_come_as_they_are(table: str, form: str, runner: Runner) -> None:
    held = TABLES[table]
    found = runner.rows(FORMATS[form].build(held, runner.files), ROWS)
    rows = list(ROWS)
    assert found.rows == ROWS
    assert found.ids == tuple((held.ids or [str(row) for row in range(len(held))])[row] for row in rows)
    assert found.groups == {name: tuple(values[row] for row in rows) for name, values in held.groups.items()}
    assert found.inputs.keys() == held.inputs.keys()
    for name, values in held.inputs.items():
        np.testing.assert_array_equal(found.inputs[name], values[rows], strict=True)
    np.testing.assert_array_equal(found.targets, held.targets[rows], strict=True)
    assert (found.weights is None) == (held.weights is None)
    if held.weights is not None:
        np.testing.assert_array_equal(found.weights, held.weights[rows], strict=True)


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint16", "uint32", "uint64", "float16", "float64"])
def test_every_type_travels(dtype: str, runner: Runner) -> None:
    values = np.array([[0, 1], [1, 0], [1, 1]], dtype)
    found = runner.rows(FORMATS["arrays"].build(Table({"": values}), runner.files), (2, 0))
    np.testing.assert_array_equal(found.inputs[""], values[[2, 0]], strict=True)
    assert (found.targets, found.weights, found.ids) == (None, None, ("2", "0"))


def test_rows_are_as_the_model_sees_them(runner: Runner) -> None:
    source = FORMATS["idx"].build(TABLES["small_types"], runner.files)
    assert isinstance(source, FileSource)
    spec = SchemaSpec({"x": ("image.column",)}, transforms={"x": TransformSpec((1, 8, 8), scale=1 / 16)})
    found = runner.rows(FileSource("idx", source.files, spec), (5,))
    expected = TABLES["small_types"].inputs["image"][[5]].reshape(1, 1, 8, 8).astype(np.float32) / 16
    np.testing.assert_array_equal(found.inputs["x"], expected, strict=True)


def test_a_result_beyond_the_limit_says_how_many_rows_fit(runner: Runner, tmp_path: Path) -> None:
    path = tmp_path / "x"
    with path.open("wb") as file:
        file.truncate(100 << 20)
    source = ArraysSource({"": TensorRef("float32", (100, 1 << 18), runner.files.keep(path))})
    with pytest.raises(ResourceExhausted, match="ask for 63 at once") as error:
        runner.run(RowsTask(source, tuple(range(65))))
    assert error.value.violations[0].field == "rows"
    assert runner.run(RowsTask(source, tuple(range(63))))[0].report == RowsReport(63)


def long_groups(runner: Runner) -> DataSource:
    """Twenty columns of groups with 4 kB in each row: no more than kilobytes as a file."""
    texts = {f"group-{number}": [f"{number:04000}"] * 1000 for number in range(20)}
    return FORMATS["parquet"].build(Table({"": np.arange(1000.0)}, groups=texts), runner.files)


def test_texts_count_towards_the_limit(runner: Runner) -> None:
    source = long_groups(runner)
    with pytest.raises(ResourceExhausted, match="ask for 838 at once") as error:
        runner.run(RowsTask(source, tuple(range(1000))))
    assert error.value.metadata["rows"] == "838"
    assert runner.run(RowsTask(source, tuple(range(838))))[0].report == RowsReport(838)
    with pytest.raises(ResourceExhausted):
        runner.run(RowsTask(source, tuple(range(839))))


def test_messages_of_long_texts_are_bounded_in_bytes(runner: Runner) -> None:
    found = runner.rows(long_groups(runner), tuple(range(60)))
    parts = list(found.parts(1 << 20))
    sizes = [responses.row_block(part).ByteSize() for part in parts]
    assert max(sizes) <= (1 << 20) + 4096
    assert len(parts) == 5
    assert sum((part.rows for part in parts), ()) == found.rows
    assert sum((part.groups["group-7"] for part in parts), ()) == found.groups["group-7"]
    assert [part.rows for part in found.parts(1)] == [(row,) for row in range(60)]  # never less than one


@pytest.mark.parametrize(("rows", "reason"), [((0, 1797), Reason.ROW_OUT_OF_RANGE), ((), Reason.INVALID_FIELD)])
def test_rows_that_do_not_exist(rows: tuple[int, ...], reason: Reason, runner: Runner) -> None:
    with pytest.raises(InvalidArgument) as error:
        runner.run(RowsTask(FORMATS["parquet"].build(TABLES["digits"], runner.files), rows))
    assert error.value.reason is reason


def test_a_data_set_stays_open_for_the_next_question(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[DataSource] = []

    def recorded(source: DataSource, *rest: object) -> object:
        opened.append(source)
        return opening.open_source(source, *rest)

    monkeypatch.setattr(sources, "open_source", recorded)
    csv = FORMATS["csv"].build(TABLES["breast_cancer"], runner.files)
    assert runner.rows(csv, (3,)).rows == runner.rows(csv, (3,)).rows
    assert opened == [csv]
    for _ in range(2):  # validation asks for it once
        runner.run(DatasetTask(FORMATS["npz"].build(TABLES["digits"], runner.files)))
    assert len(opened) == 3
    for number in range(sources.KEPT):
        runner.rows(ArraysSource({f"{number}": _tensor(runner.files)}), (0,))
    runner.rows(csv, (3,))
    assert opened.count(csv) == 2


def _tensor(files: Files) -> TensorRef:
    path = files.new()
    path.write_bytes(bytes(4))
    return TensorRef("int8", (4,), files.keep(path))


def test_a_file_that_changes_is_no_longer_read(runner: Runner, tmp_path: Path) -> None:
    source = FORMATS["csv-three-files"].build(TABLES["breast_cancer"], runner.files)
    assert isinstance(source, FileSource)
    before = runner.rows(source, (3,))
    path = Path(source.files[1].path)
    path.write_text(path.read_text() + path.read_text().splitlines()[-1] + "\n")
    with pytest.raises(FailedPrecondition, match=r"'part-1\.csv' has changed.*register the data set again") as error:
        runner.rows(source, (3,))
    assert error.value.reason is Reason.DATASET_CHANGED
    again = FileSource("csv", tuple(located(file.name, Path(file.path)) for file in source.files), source.schema)
    after = runner.rows(again, (3,))
    np.testing.assert_array_equal(before.inputs[""], after.inputs[""])


def test_what_stays_open_is_looked_at_before_it_is_read(
    runner: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = FORMATS["idx"].build(TABLES["small_types"], runner.files)
    assert isinstance(source, FileSource)
    shelf = sources.Shelf()
    opened = shelf.open(source, runner.files.resolve, tmp_path, keep=True)
    assert shelf.open(source, runner.files.resolve, tmp_path) is opened
    path = Path(source.files[0].path)
    os.utime(path, ns=(0, 0))  # a file that is cut off while it is mapped would end the process
    with pytest.raises(FailedPrecondition):
        shelf.open(source, runner.files.resolve, tmp_path)
    monkeypatch.setattr(sources, "check_unchanged", lambda _: None)
    with pytest.raises(FailedPrecondition):  # it was not kept, but is opened again
        shelf.open(source, runner.files.resolve, tmp_path)


def test_a_file_that_changes_while_it_is_read(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    source = FORMATS["parquet-three-files"].build(TABLES["digits"], runner.files)
    assert isinstance(source, FileSource)
    task = DatasetTask(source)
    report = runner.run(task)[0].report
    assert report.files == ("part-0.parquet", "part-1.parquet", "part-2.parquet")
    monkeypatch.setattr(
        "undue_service.runner.reports.validate", lambda *_: os.utime(source.files[0].path, ns=(0, 0)) or report
    )
    with pytest.raises(Error) as error:
        runner.run(task)
    assert error.value.reason is Reason.DATASET_CHANGED


def test_a_folder_of_images_reports_its_classes(runner: Runner) -> None:
    for form, files in (("image-zip", ("digits.zip",)), ("image-files", ())):
        report = runner.run(DatasetTask(FORMATS[form].build(TABLES["digit_images"], runner.files)))[0].report
        assert report.classes == tuple(str(label) for label in range(10))
        assert report.files == files
