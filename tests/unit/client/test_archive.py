"""A folder of images as one file."""

import os
import tracemalloc
import zipfile
from pathlib import Path

import pytest

import undue
from undue._archive import pack


@pytest.fixture
def images(tmp_path) -> Path:
    folder = tmp_path / "images"
    for name in ("dog/1.png", "cat/2.png", "cat/1.png", "cat/.hidden", ".git/config", "dog/ä.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode() * 3)
    return folder


def packed(folder: Path, scratch: Path) -> bytes:
    scratch.mkdir()
    return pack(folder, scratch).read_bytes()


def test_the_archive_holds_every_file_by_its_path(images, tmp_path) -> None:
    with zipfile.ZipFile(pack(images, tmp_path)) as archive:
        assert archive.namelist() == ["cat/1.png", "cat/2.png", "dog/1.png", "dog/ä.png"]
        assert {entry.compress_type for entry in archive.infolist()} == {zipfile.ZIP_STORED}
        assert all(archive.read(name) == name.encode() * 3 for name in archive.namelist())


def test_the_same_images_are_the_same_bytes(images, tmp_path) -> None:
    first = packed(images, tmp_path / "1")
    copy = tmp_path / "copy"
    for path in sorted(images.rglob("*.png"), reverse=True):  # in another order, later, with other rights
        place = copy / path.relative_to(images)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(path.read_bytes())
        os.utime(place, (1, 1))
        place.chmod(0o600)
    assert packed(copy, tmp_path / "2") == first
    (copy / "cat/1.png").write_bytes(b"another")
    assert packed(copy, tmp_path / "3") != first


def test_links_are_followed_but_not_in_circles(images, tmp_path) -> None:
    (images / "cow").symlink_to(images / "dog")
    (images / "cat/3.png").symlink_to(images / "dog/1.png")
    with zipfile.ZipFile(pack(images, tmp_path)) as archive:
        assert {"cow/1.png", "cat/3.png"} <= set(archive.namelist())
        assert archive.read("cat/3.png") == b"dog/1.png" * 3
    (images / "cat/up").symlink_to(images)
    with pytest.raises(undue.InvalidArgument, match="leads back"):
        pack(images, tmp_path)


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda folder: os.mkfifo(folder / "pipe"), "pipe is no regular file"),
        (lambda folder: (folder / "gone").symlink_to("nothing"), "gone cannot be packed"),
        (lambda folder: Path(os.fsdecode(os.fsencode(folder) + b"/\xff.png")).touch(), "not UTF-8"),
    ],
    ids=["pipe", "dangling", "name"],
)
def test_what_cannot_be_packed_is_named(images, tmp_path, spoil, words) -> None:
    spoil(images)
    with pytest.raises(undue.InvalidArgument, match=words):
        pack(images, tmp_path)


def test_an_empty_folder_is_refused(tmp_path) -> None:
    (tmp_path / "empty/.git").mkdir(parents=True)
    with pytest.raises(undue.InvalidArgument, match="holds no file"):
        pack(tmp_path / "empty", tmp_path)


def test_a_large_file_is_never_held_whole(images, tmp_path) -> None:
    with (images / "cat/large.png").open("wb") as file:
        file.truncate(64 << 20)
    tracemalloc.start()
    pack(images, tmp_path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 << 20
