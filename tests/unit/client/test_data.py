"""What of a data set goes over the wire."""

import asyncio
import io
import zipfile

import numpy as np
import pandas as pd
import pytest
import torch

import undue
from undue.v1 import datasets_pb2

File = datasets_pb2.FileSource


def sent(fake):
    return next(request for request in reversed(fake.requests) if hasattr(request, "dataset_id")).dataset


def texts(tensor) -> list[str]:
    return tensor.data.decode().split("\0")[:-1]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (pd.Series(["a", "b", "a"], index=[7, 8, 9]), ["a", "b", "a"]),
        (pd.Series(["a", "b", "a"], dtype="category"), ["a", "b", "a"]),
        (pd.Series([3, -1, 3]), ["3", "-1", "3"]),
        (pd.Series([3, 1, 3], dtype="Int64"), ["3", "1", "3"]),
        (pd.Series([np.int64(3), "x", 2], dtype=object), ["3", "x", "2"]),
        (pd.Index(["a", "b", "c"]), ["a", "b", "c"]),
        (np.array(["a", "b", "c"]), ["a", "b", "c"]),
        (torch.tensor([2, 1, 2]), ["2", "1", "2"]),
        (("ä", "", "c"), ["ä", "", "c"]),
    ],
    ids=["texts", "category", "integers", "nullable", "objects", "index", "numpy", "torch", "tuple"],
)
def test_groups_and_ids_may_be_of_any_library(fake, client, values, expected) -> None:
    client.datasets.register("d", undue.Arrays(np.zeros((3, 2)), ids=values, groups={"site": values}), wait=False)
    arrays = sent(fake).arrays
    assert texts(arrays.groups["site"]) == texts(arrays.ids) == expected
    assert list(arrays.groups["site"].shape) == [3]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (pd.Series(["a", None, "b"]), "missing"),
        (pd.Series(["a", pd.NA, "b"], dtype="string"), "missing"),
        (pd.Series([1.0, 2.0, 3.0]), "astype"),
        ([True, False, True], "strings or integers"),
        (["a", "b"], r"groups\['site'\]: has 2 rows where inputs has 3"),
    ],
    ids=["none", "na", "floats", "booleans", "short"],
)
def test_groups_that_are_none_are_refused_before_anything_is_sent(fake, client, values, words) -> None:
    with pytest.raises(undue.InvalidArgument, match=words):
        client.datasets.register("d", undue.Arrays(np.zeros((3, 2)), groups={"site": values}))
    assert not fake.calls


def test_several_files_are_sent_in_order(fake, client, tmp_path) -> None:
    paths = [tmp_path / f"{name}.csv" for name in "ba"]
    for path in paths:
        path.write_text(path.name)
    client.datasets.register("d", paths, undue.Schema("x", groups=["g"]), wait=False)
    file = sent(fake).file
    assert (file.format, file.uri, list(file.schema.groups)) == (File.FORMAT_CSV, "", ["g"])
    assert [(one.name, bytes(fake.content[one.upload])) for one in file.files] == [
        ("b.csv", b"b.csv"),
        ("a.csv", b"a.csv"),
    ]
    client.datasets.register("d", str(tmp_path / "*.csv"), undue.Schema("x"), wait=False)
    assert [one.name for one in sent(fake).file.files] == ["a.csv", "b.csv"]


def test_columns_of_idx_are_sent_by_name(fake, client, tmp_path) -> None:
    for name in ("a.idx", "b.idx"):
        (tmp_path / name).write_text(name)
    columns = {"image": tmp_path / "a.idx", "label": tmp_path / "b.idx"}
    schema = undue.Schema(undue.Input("image", scale=0.5), target="label")
    client.datasets.register("d", columns, schema, wait=False)
    file = sent(fake).file
    assert file.format == File.FORMAT_IDX
    assert [(one.name, bytes(fake.content[one.upload])) for one in file.files] == [
        ("image", b"a.idx"),
        ("label", b"b.idx"),
    ]
    assert file.schema.inputs[""].transform.scale == 0.5


def test_a_folder_of_images_is_sent_as_one_archive_once(fake, client, tmp_path) -> None:
    for name in ("cat/1.png", "dog/1.png"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(name)
    client.datasets.register("d", tmp_path, wait=False)
    file = sent(fake).file
    assert file.format == File.FORMAT_IMAGE_FOLDER
    [archive] = file.files
    with zipfile.ZipFile(io.BytesIO(fake.content[archive.upload])) as found:
        assert found.namelist() == ["cat/1.png", "dog/1.png"]
    schema = file.schema
    assert {name: list(columns.columns) for name, columns in schema.inputs.items()} == {"": ["image"]}
    assert (schema.target, schema.id, list(schema.groups)) == ("label", "path", ["class"])
    assert fake.calls["WriteUpload"] == 1
    own = undue.Schema(undue.Input("image", scale=1 / 255), target="label")
    client.datasets.register("d", str(tmp_path), own, wait=False)
    assert fake.calls["WriteUpload"] == 1  # the same bytes are there
    assert (sent(fake).file.schema.id, sent(fake).file.schema.inputs[""].transform.scale) == ("", 1 / 255)


def test_a_uri_is_sent_as_it_is(fake, client) -> None:
    client.datasets.register("d", "s3://bucket/test/*.parquet", undue.Schema("x", target="y"), wait=False)
    assert (sent(fake).file.uri, sent(fake).file.format) == ("s3://bucket/test/*.parquet", File.FORMAT_PARQUET)
    assert not sent(fake).file.files
    client.datasets.register("d", "file:///data/table", undue.Schema("x"), wait=False, format="csv")
    assert sent(fake).file.format == File.FORMAT_CSV
    made = client.datasets.register("d", "file:///data/images", wait=False)
    assert list(sent(fake).file.schema.groups) == ["class"]
    assert (made.uri, made.format) == ("file:///data/images", "image_folder")
    assert fake.calls["CreateUpload"] == 0


def test_arrays_take_no_format(fake, client) -> None:
    with pytest.raises(undue.InvalidArgument, match="format"):
        client.datasets.register("d", undue.Arrays([[1.0]]), format="csv")


def test_the_report_names_groups_classes_and_files(fake, client) -> None:
    report = client.datasets.get("d").report
    assert report.groups == (undue.Group("site", 3),)
    assert (report.classes, report.files) == (("cat", "dog"), ("a.csv", "b.csv"))


def test_the_asyncio_client_sends_them_too(fake, tmp_path) -> None:
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat/1.png").write_text("x")

    async def use() -> undue.Dataset:
        async with undue.AsyncClient(fake.address) as client:
            await client.datasets.register("d", undue.Arrays([[1.0]], groups={"site": ["a"]}))
            return await client.datasets.register("d", tmp_path, wait=False)

    assert asyncio.run(use()).format == "image_folder"
