"""Where rows come from: what was registered reads the same in the answer."""

from datetime import UTC, datetime
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from undue.v1 import datasets_pb2, tensors_pb2
from undue_service.domain.errors import InvalidArgument
from undue_service.domain.jobs import Job
from undue_service.domain.reports import DatasetReport, GroupSchema
from undue_service.domain.resources import Registration
from undue_service.domain.specs import (
    SEVERAL_FILES,
    ArraysSource,
    DType,
    FileFormat,
    FileSource,
    LocatedFile,
    SchemaSpec,
    TensorRef,
    TransformSpec,
    UploadedFile,
)
from undue_service.domain.validations import DatasetValidation
from undue_service.transport import requests, responses, sources
from undue_service.transport.validation import check

NOW = datetime(2026, 1, 1, tzinfo=UTC)
NAMES = st.text(min_size=1, max_size=10)
DIGESTS = st.text("0123456789abcdef", min_size=64, max_size=64)
SHAPES = st.lists(st.integers(0, 9), min_size=1, max_size=4).map(tuple)
REFS = st.builds(TensorRef, st.sampled_from(get_args(DType)), SHAPES, DIGESTS)
OPTIONAL = st.none() | REFS
ARRAYS = st.builds(
    ArraysSource,
    inputs=st.dictionaries(st.text(max_size=10), REFS, min_size=1, max_size=3),
    targets=OPTIONAL,
    ids=OPTIONAL,
    weights=OPTIONAL,
    groups=st.dictionaries(NAMES, REFS, max_size=3),
    kind=st.just("arrays"),
)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
TRANSFORMS = st.builds(
    TransformSpec,
    row_shape=st.lists(st.integers(1, 2**40), max_size=3).map(tuple),
    scale=FLOATS,
    mean=st.lists(FLOATS, max_size=3).map(tuple),
    std=st.lists(st.floats(0, 1e300, exclude_min=True), max_size=3).map(tuple),
)
INPUTS = st.dictionaries(st.text(max_size=5), st.lists(NAMES, min_size=1, max_size=3).map(tuple), min_size=1)
SCHEMAS = INPUTS.flatmap(
    lambda inputs: st.builds(
        SchemaSpec,
        inputs=st.just(inputs),
        target=st.none() | NAMES,
        id=st.none() | NAMES,
        weight=st.none() | NAMES,
        groups=st.lists(NAMES, max_size=3, unique=True).map(tuple),
        transforms=st.dictionaries(st.sampled_from(sorted(inputs)), TRANSFORMS),
    )
)
FORMATS = st.sampled_from(get_args(FileFormat))
ONE_UPLOAD = st.builds(UploadedFile, name=NAMES, digest=DIGESTS).map(lambda file: (file,))
UPLOADS = st.lists(
    st.builds(UploadedFile, name=NAMES, digest=DIGESTS), min_size=2, max_size=3, unique_by=lambda file: file.name
).map(tuple)
UPLOADED = st.builds(FileSource, FORMATS, ONE_UPLOAD, SCHEMAS) | st.builds(
    FileSource, st.sampled_from(sorted(SEVERAL_FILES)), UPLOADS, SCHEMAS
)
REFERENCES = st.builds(FileSource, FORMATS, st.just(()), SCHEMAS, st.text(min_size=1, max_size=50))


def answer(source, report=None):
    job = Job("t", "j", DatasetValidation("datasets/d/versions/1"), NOW, report=report)
    return responses.dataset(Registration("t", "datasets", "d", 1, source, job, NOW))


def asked_again(message, source):
    """Do what the service does with a request that has the fields of an answer, and the uploads that answers lack."""
    request = datasets_pb2.CreateDatasetRequest(dataset_id="d")
    request.dataset.CopyFrom(message)
    if isinstance(source, ArraysSource):
        arrays = request.dataset.arrays
        for field in ("inputs", "groups"):
            for name, ref in getattr(source, field).items():
                getattr(arrays, field)[name].upload = ref.digest
        for field in ("targets", "ids", "weights"):
            if getattr(source, field) is not None:
                getattr(arrays, field).upload = getattr(source, field).digest
    else:
        for file, known in zip(request.dataset.file.files, source.files, strict=True):
            file.upload = known.digest
    check(request)
    return requests.data_source(request, lambda field, content: content)


@given(ARRAYS | UPLOADED | REFERENCES)
def test_a_source_round_trips(source):
    assert asked_again(answer(source), source) == source


def test_an_answer_shows_a_uri_and_names_but_no_path():
    files = tuple(LocatedFile(f"{n}.csv", f"/mnt/secret/{n}.csv", 3, 4, 5, 6) for n in "ab")
    schema = SchemaSpec({"": ("x",)})
    message = answer(FileSource("csv", files, schema, "file:///data/*.csv"))
    assert message.file.uri == "file:///data/*.csv"
    assert [file.name for file in message.file.files] == ["a.csv", "b.csv"]
    assert "secret" not in str(message)
    # A hundred thousand images are not listed one by one.
    assert not answer(FileSource("image_folder", files, schema, "file:///data")).file.files


def test_an_unset_scale_is_1_and_a_transform_that_is_unset_is_none():
    columns = {"x": datasets_pb2.Columns(columns=["a"], transform=datasets_pb2.Transform(mean=[0.5]))}
    columns["z"] = datasets_pb2.Columns(columns=["b"])
    file = datasets_pb2.FileSource(uri="file:///x.csv", schema=datasets_pb2.Schema(inputs=columns), format="FORMAT_CSV")
    source = sources.read(datasets_pb2.Dataset(file=file), lambda *_: "")
    assert source.schema.transforms == {"x": TransformSpec((), 1.0, (0.5,), ())}


def test_what_was_found_is_told():
    report = DatasetReport(
        4,
        (),
        None,
        has_ids=False,
        has_weights=False,
        digest="d",
        groups=(GroupSchema("site", 3),),
        classes=("cat", "dog"),
        files=("a.csv",),
    )
    found = responses.dataset_report(report)
    assert [(group.name, group.values) for group in found.groups] == [("site", 3)]
    assert (list(found.classes), list(found.files)) == (["cat", "dog"], ["a.csv"])


def a_file(**changes):
    whole = {
        "format": datasets_pb2.FileSource.FORMAT_CSV,
        "files": [datasets_pb2.UploadedFile(name="a.csv", upload="uploads/a")],
        "schema": datasets_pb2.Schema(inputs={"": datasets_pb2.Columns(columns=["x"])}),
    }
    return datasets_pb2.FileSource(**(whole | changes))


def a_schema(**changes):
    return datasets_pb2.Schema(**({"inputs": {"": datasets_pb2.Columns(columns=["x"])}} | changes))


def transformed(**fields):
    columns = datasets_pb2.Columns(columns=["x"], transform=datasets_pb2.Transform(**fields))
    return a_file(schema=datasets_pb2.Schema(inputs={"x": columns}))


TWO = [datasets_pb2.UploadedFile(name=name, upload=f"uploads/{name}") for name in "ab"]
HALF, ONE = (datasets_pb2.Columns(columns=["x"] * many) for many in (50_000, 1))
TRANSFORM = "dataset.file.schema.inputs[x].transform"
SCHEMA = "dataset.file.schema"


@pytest.mark.parametrize(
    ("file", "field"),
    [
        (a_file(uri="file:///a.csv"), "dataset.file"),
        (a_file(files=[]), "dataset.file"),
        (a_file(files=[], uri="file:///" + "a" * 4096), "dataset.file.uri"),
        (a_file(files=[datasets_pb2.UploadedFile(name="a.csv")]), "dataset.file.files[0].upload"),
        (a_file(files=TWO * 5001), "dataset.file.files"),
        (a_file(format=datasets_pb2.FileSource.FORMAT_NPZ, files=TWO), "dataset.file.files"),
        (a_file(format=datasets_pb2.FileSource.FORMAT_IMAGE_FOLDER, files=TWO), "dataset.file.files"),
        (a_file(format=datasets_pb2.FileSource.FORMAT_IDX, files=TWO[:1] * 2), "dataset.file.files"),
        (a_file(schema=a_schema(groups=["site", "site"])), f"{SCHEMA}.groups"),
        (a_file(schema=a_schema(groups=[""])), f"{SCHEMA}.groups[0]"),
        (a_file(schema=a_schema(inputs={"a": HALF, "b": HALF, "c": ONE})), f"{SCHEMA}.inputs"),
        (transformed(row_shape=[0]), f"{TRANSFORM}.row_shape[0]"),
        (transformed(row_shape=[-1]), f"{TRANSFORM}.row_shape[0]"),
        (transformed(scale=float("nan")), f"{TRANSFORM}.scale"),
        (transformed(mean=[float("inf")]), f"{TRANSFORM}.mean[0]"),
        (transformed(std=[0.0]), f"{TRANSFORM}.std[0]"),
        (transformed(std=[1.0, -1.0]), f"{TRANSFORM}.std[1]"),
    ],
)
def test_a_file_source_that_cannot_be_is_refused(file, field):
    request = datasets_pb2.CreateDatasetRequest(dataset_id="d", dataset=datasets_pb2.Dataset(file=file))

    def read():
        check(request)
        return requests.data_source(request, lambda *_: "digest")

    with pytest.raises(InvalidArgument) as caught:
        read()
    assert caught.value.violations[0].field == field


def test_a_group_that_lies_about_its_size_is_refused():
    tensor = tensors_pb2.Tensor(dtype=tensors_pb2.DATA_TYPE_INT64, shape=[2], data=bytes(15))
    arrays = datasets_pb2.ArraysSource(inputs={"x": tensor}, groups={"site": tensor})
    arrays.inputs["x"].data = bytes(16)
    with pytest.raises(InvalidArgument) as caught:
        sources.read(datasets_pb2.Dataset(arrays=arrays), lambda *_: "digest")
    assert caught.value.violations[0].field == "dataset.arrays.groups[site].data"
