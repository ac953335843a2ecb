"""What is recognised as which kind of data, before anything is sent."""

from pathlib import Path

import pytest

import undue
from undue import _sources
from undue._sources import LocalFiles, LocalFolder, Reference, dataset_source


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


@pytest.mark.parametrize(
    ("name", "file_format", "sent_as"),
    [
        ("d.npz", "npz", "d.npz"),
        ("d.PARQUET", "parquet", "d.PARQUET"),
        ("d.csv", "csv", "d.csv"),
        ("d.csv.gz", "csv", "d.csv.gz"),
        ("d.idx", "idx", "d"),
        ("t-images-idx3-ubyte", "idx", "t-images"),
        ("t-images.idx3-ubyte.GZ", "idx", "t-images"),
        ("pets.zip", "image_folder", "pets.zip"),
    ],
)
def test_the_extension_says_the_format(tmp_path, name, file_format, sent_as) -> None:
    found = dataset_source(str(tmp_path / name))
    assert found == LocalFiles(file_format, ((sent_as, tmp_path / name),))
    assert dataset_source(tmp_path / name) == found
    assert dataset_source([tmp_path / name]) == found


def test_format_overrides_the_extension(tmp_path) -> None:
    assert dataset_source(tmp_path / "d.txt", "csv").format == "csv"
    assert dataset_source({"x": tmp_path / "x.bin"}, "idx").format == "idx"
    assert dataset_source("file:///data/d", "npz") == Reference("npz", "file:///data/d")


@pytest.mark.parametrize(
    ("uri", "file_format"),
    [
        ("file:///data/*.parquet", "parquet"),
        ("s3://bucket/test/*.parquet", "parquet"),
        ("s3://bucket/d.csv.gz", "csv"),
        ("file:///data/train-*-ubyte.gz", "idx"),
        ("file:///data/images", "image_folder"),
        ("file:///data/images/", "image_folder"),
        ("file:///data/.images", "image_folder"),
        ("file:///data.old/images", "image_folder"),
    ],
)
def test_a_uri_is_a_reference_and_is_not_opened(uri, file_format) -> None:
    assert dataset_source(uri) == Reference(file_format, uri)


def test_a_folder_is_a_folder_of_images(tmp_path) -> None:
    assert dataset_source(tmp_path) == LocalFolder(tmp_path)
    assert dataset_source(f"{tmp_path}/", "image_folder") == LocalFolder(tmp_path)


def test_several_files_keep_their_order(tmp_path) -> None:
    paths = [tmp_path / "b.csv", str(tmp_path / "a.csv.gz")]
    assert dataset_source(paths).files == (("b.csv", tmp_path / "b.csv"), ("a.csv.gz", tmp_path / "a.csv.gz"))
    pair = [tmp_path / "t-images.idx3-ubyte", tmp_path / "t-labels.idx1-ubyte"]
    assert [name for name, _ in dataset_source(pair).files] == ["t-images", "t-labels"]


def test_columns_of_idx_may_be_named(tmp_path) -> None:
    found = dataset_source({"image": tmp_path / "a-ubyte", "label": str(tmp_path / "b.idx")})
    assert found == LocalFiles("idx", (("image", tmp_path / "a-ubyte"), ("label", tmp_path / "b.idx")))


def test_wildcards_mean_files_in_the_order_of_their_names(tmp_path) -> None:
    touch(tmp_path, "p[1]/b.parquet", "p[1]/a.parquet", "p[1]/c.csv", "p[1]/.a.parquet", "odd*.csv", "odd1.csv")
    for pattern in (str(tmp_path / "p[1]/*.parquet"), tmp_path / "p[1]" / "?.parquet", f"{tmp_path}/p*/*.parquet"):
        assert [name for name, _ in dataset_source(pattern).files] == ["a.parquet", "b.parquet"]
    # What exists under exactly this name is meant.
    assert [name for name, _ in dataset_source(tmp_path / "odd*.csv").files] == ["odd*.csv"]


@pytest.mark.parametrize(
    ("source", "file_format", "words"),
    [
        ("{tmp}/*.csv", None, "matches no file"),
        ("{tmp}/fol*", None, "matches a folder"),
        ("{tmp}/folder", "parquet", r"folder/\*\.parquet"),
        ("{tmp}/d.xyz", None, "format="),
        ("{tmp}/d.npy", None, r"numpy\.load"),
        ("{tmp}/d.jsonl", None, "to_parquet"),
        ("{tmp}/d.csv", "tsv", "npz, parquet, csv, idx, image_folder"),
        ("file:///data/d.xyz", None, "format="),
        ("file:///data/train-*", None, "format="),
        ([], None, "names no file"),
        ({}, None, "names no file"),
        (["a.csv", "b.parquet"], None, "mixes csv and parquet"),
        (["a.npz", "b.npz"], None, "npz is one"),
        (["a.zip", "b.zip"], None, "image_folder is one"),
        (["file:///a.csv"], None, "URI"),
        ({"x": "s3://bucket/x.idx"}, None, "URI"),
        ([1], None, "list of paths"),
        ({"x": "x.csv"}, None, "not IDX"),
        ({"x": "x.idx"}, "csv", "csv is not"),
        ({"": "x.idx"}, None, "name of a column"),
        ({1: "x.idx"}, None, "name of a column"),
        (["a/x.idx", "b/x-idx1-ubyte"], None, "two files would be one column"),
        (["\udcff.csv"], None, "not UTF-8"),
        (3, None, "Arrays"),
    ],
)
def test_what_cannot_be_registered_says_what_can(tmp_path, source, file_format, words) -> None:
    (tmp_path / "folder").mkdir()
    source = source.format(tmp=tmp_path) if isinstance(source, str) else source
    with pytest.raises(undue.InvalidArgument, match=words):
        dataset_source(source, file_format)


def test_too_many_files_are_refused_before_any_is_sent(monkeypatch) -> None:
    monkeypatch.setattr(_sources, "MAX_FILES", 2)
    with pytest.raises(undue.InvalidArgument, match="2 are sent at most"):
        dataset_source(["a.csv"] * 3)
