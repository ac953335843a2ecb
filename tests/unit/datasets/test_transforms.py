"""Transforms against NumPy, and groups where the formats do not matter."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dataset_formats import FORMATS, Files
from dataset_tables import Table
from undue_service.datasets import checks
from undue_service.datasets.opening import open_source, validate
from undue_service.datasets.transforms import Transform
from undue_service.domain.errors import InvalidArgument, Reason
from undue_service.domain.reports import ColumnSchema
from undue_service.domain.specs import ArraysSource, FileSource, SchemaSpec, TensorRef, TransformSpec

NUMBER = st.floats(-100, 100, width=32)
POSITIVE = st.floats(1e-3, 100)


@given(data=st.data())
def test_each_step_is_one_of_float32(data: st.DataObject) -> None:
    shape = data.draw(hnp.array_shapes(min_dims=1, max_dims=3, max_side=3))
    dtype = np.dtype(data.draw(st.sampled_from(["uint8", "int64", "float32", "float64", "bool"])))
    elements = {"elements": NUMBER} if dtype.kind == "f" else {}
    x = data.draw(hnp.arrays(dtype, (2, *shape), **elements))
    reshaped = data.draw(st.sampled_from([(), (int(np.prod(shape)),), (1, *shape), (*shape, 1)]))
    result = reshaped or shape

    def numbers(kind: Any) -> tuple[float, ...]:
        return tuple(data.draw(st.lists(kind, max_size=1) | st.lists(kind, min_size=result[0], max_size=result[0])))

    spec = TransformSpec(reshaped, data.draw(NUMBER), numbers(NUMBER), numbers(POSITIVE))
    transform = Transform(spec, ColumnSchema("x", dtype.name, shape))
    assert transform.column == ColumnSchema("x", "float32", result)
    f = np.float32
    expected = np.empty((2, *result), f)
    for place in np.ndindex(*expected.shape):
        first = place[1]
        mean = f((spec.mean * result[0])[first] if spec.mean else 0)
        std = f((spec.std * result[0])[first] if spec.std else 1)
        expected[place] = f(f(f(f(x.reshape(expected.shape)[place]) * f(spec.scale)) - mean) / std)
    given_ = x.copy()
    np.testing.assert_array_equal(transform(x), expected, strict=True)
    np.testing.assert_array_equal(x, given_)


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        (TransformSpec((5,)), r"rows of shape \(2, 3\), 6 values, and none of shape \(5,\)"),
        (TransformSpec((2, 0)), "none of shape"),
        (TransformSpec((-2, -3)), "none of shape"),
        (TransformSpec((1,) * 15 + (2, 3)), "none of shape"),
        (TransformSpec(mean=(1.0, 2.0, 3.0)), "3 numbers as mean: give one, or one for each entry of the first axis"),
        (TransformSpec((6,), std=(1.0, 2.0)), "2 numbers as std"),
        (TransformSpec(std=(0.0,)), "std that is not positive"),
        (TransformSpec(std=(1e-60,)), "std that is not positive in float32"),
        (TransformSpec(scale=1e60), "scale that is not finite in float32"),
        (TransformSpec(mean=(float("nan"),)), "mean that is not finite"),
    ],
)
def test_a_transform_that_does_not_fit(spec: TransformSpec, problem: str) -> None:
    with pytest.raises(InvalidArgument, match=problem) as error:
        Transform(spec, ColumnSchema("x", "uint8", (2, 3)))
    assert error.value.reason is Reason.DATASET_MALFORMED


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


COLUMNS = Table({"x": np.arange(12.0).reshape(3, 4)}, stacked={"x": ("a", "b", "c", "d")})


@pytest.mark.parametrize("form", ["npz", "parquet", "csv"])
def test_stacked_columns_are_transformed_together(form: str, files: Files) -> None:
    source = FORMATS[form].build(COLUMNS, files)
    assert isinstance(source, FileSource)
    transforms = {"x": TransformSpec((2, 2), scale=2, mean=(1, 2))}
    opened = open_source(
        FileSource(form, source.files, SchemaSpec({"x": ("d", "b", "c", "a")}, transforms=transforms)), files.resolve
    )
    (block,) = opened.batches([2], 1)
    expected = np.array([[[2 * 11 - 1, 2 * 9 - 1], [2 * 10 - 2, 2 * 8 - 2]]], np.float32)
    np.testing.assert_array_equal(block.inputs["x"], expected, strict=True)
    report = validate(opened, lambda *_: None)
    assert report.inputs == (ColumnSchema("x", "float32", (2, 2)),)


def test_the_column_behind_a_reshaped_value_is_named(files: Files) -> None:
    values = COLUMNS.inputs["x"].copy()
    values[1, 2] = 1e300  # finite, but not in float32
    source = FORMATS["npz"].build(Table({"x": values}, stacked=COLUMNS.stacked), files)
    assert isinstance(source, FileSource)
    spec = SchemaSpec(source.schema.inputs, transforms={"x": TransformSpec((2, 2))})
    with pytest.raises(InvalidArgument, match="the first inf at row 1, column 'c'"):
        validate(open_source(FileSource("npz", source.files, spec), files.resolve), lambda *_: None)


def test_only_inputs_are_transformed(files: Files) -> None:
    source = FORMATS["npz"].build(COLUMNS, files)
    assert isinstance(source, FileSource)
    spec = SchemaSpec(source.schema.inputs, transforms={"y": TransformSpec()})
    with pytest.raises(InvalidArgument, match="transforms 'y', which is no input"):
        open_source(FileSource("npz", source.files, spec), files.resolve)


def test_groups_of_integers_are_text(files: Files) -> None:
    path = files.new()
    path.write_bytes(np.array([7, -1, 7], "<i2").tobytes())
    ref = TensorRef("int16", (3,), files.keep(path))
    source = open_source(ArraysSource({"": ref}, groups={"b": ref, "ids": ref}), files.resolve)
    assert source.groups([1, 2]) == {"b": ["-1", "7"], "ids": ["-1", "7"]}
    report = validate(source, lambda *_: None)
    assert [(group.name, group.values) for group in report.groups] == [("b", 2), ("ids", 2)]
    strings = FORMATS["arrays"].build(
        Table({"": np.array([7, -1, 7], np.int16)}, groups={"b": ["7", "-1", "7"], "ids": ["7", "-1", "7"]}), files
    )
    assert report.digest == validate(open_source(strings, files.resolve), lambda *_: None).digest


@pytest.mark.parametrize("dtype", ["float32", "bool"])
def test_groups_of_other_types_are_refused(dtype: str, files: Files) -> None:
    path = files.new()
    path.write_bytes(bytes(3 * np.dtype(dtype).itemsize))
    ref = TensorRef(dtype, (3,), files.keep(path))
    with pytest.raises(InvalidArgument, match="group values are strings or integers"):
        open_source(ArraysSource({"": ref}, groups={"b": ref}), files.resolve)


@pytest.mark.parametrize("form", ["arrays", "npz", "parquet"])
def test_groups_without_end(form: str, files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "MAX_GROUP_VALUES", 10)
    for count in (10, 11):
        table = Table({"": np.zeros(50)}, groups={"site": [str(row % count) for row in range(50)]})
        source = open_source(FORMATS[form].build(table, files), files.resolve)
        if count == 10:
            assert validate(source, lambda *_: None).groups[0].values == 10
            continue
        with pytest.raises(InvalidArgument, match=r"'(groups\[)?site.*different values; a group is many rows: bin"):
            validate(source, lambda *_: None)


@pytest.mark.parametrize("form", ["arrays", "parquet"])
def test_group_values_are_text(form: str, files: Files) -> None:
    table = Table({"": np.zeros(3)}, groups={"site": ["a", "b", "c" * 5000]})
    with pytest.raises(InvalidArgument, match="row 2: the group value is longer than 4,096 bytes"):
        validate(open_source(FORMATS[form].build(table, files), files.resolve), lambda *_: None)
