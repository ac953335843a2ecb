"""Folders of images: what is read, and archives and images that lie, explode or lead elsewhere."""

import io
import stat
import struct
import tracemalloc
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, features

from dataset_formats import IMAGES, png
from undue_service.datasets import image_folder, images
from undue_service.datasets.files import DataFile
from undue_service.datasets.image_folder import open_image_folder
from undue_service.datasets.opening import validate
from undue_service.datasets.scratch import Scratch
from undue_service.datasets.table import TableSource
from undue_service.domain.errors import InvalidArgument, Reason, ResourceExhausted
from undue_service.domain.specs import SchemaSpec

GRAY = np.arange(20, dtype=np.uint8).reshape(1, 4, 5)
COLOUR = np.random.default_rng(0).integers(0, 256, (3, 4, 5), dtype=np.uint8)


def opened(folder: Path, contents: dict[str, bytes], zipped: bool = False, spec: SchemaSpec = IMAGES) -> TableSource:
    if zipped:
        path = folder / "images.zip"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
            for name, content in contents.items():
                file.writestr(name, content)
        return open_image_folder([DataFile("images.zip", path)], spec, Scratch(folder))
    files = []
    for number, (name, content) in enumerate(contents.items()):
        path = folder / f"{number}.file"
        path.write_bytes(content)
        files.append(DataFile(name, path))
    return open_image_folder(files, spec, Scratch(folder))


def pixels(source: TableSource) -> np.ndarray[Any, Any]:
    (block,) = source.batches(range(len(source)), 1000)
    return block.inputs[""]


@pytest.fixture(params=[False, True], ids=["files", "zip"])
def zipped(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def test_paths_classes_and_order(zipped: bool, tmp_path: Path) -> None:
    names = ["b/2.png", "é/x.png", "a/z/1.png", "b/10.png", "a-b/1.PNG", ".DS_Store", "b/.hidden.png", "b/Thumbs.db"]
    names += ["__MACOSX/b/._2.png"]
    order = ["a-b/1.PNG", "a/z/1.png", "b/10.png", "b/2.png", "é/x.png"]
    contents = {name: png(GRAY + np.uint8(number)) for number, name in enumerate(names)}
    source = opened(tmp_path, contents, zipped)
    assert source.ids(range(5)) == order
    report = validate(source, lambda *_: None)
    assert report.classes == ("a", "a-b", "b", "é")
    (block,) = source.batches(None, 10)
    assert block.targets is not None
    assert block.targets.tolist() == [1, 0, 2, 2, 3]
    assert source.groups(range(5)) == {"class": ["a-b", "a", "b", "b", "é"]}
    np.testing.assert_array_equal(block.inputs[""], [GRAY + np.uint8(names.index(name)) for name in order], strict=True)


def test_an_empty_folder_is_a_class_too(tmp_path: Path) -> None:
    source = opened(tmp_path, {"a/": b"", "b/": b"", "c/": b"", ".git/": b"", "c/1.png": png(GRAY)}, zipped=True)
    assert validate(source, lambda *_: None).classes == ("a", "b", "c")
    assert next(source.batches([0], 1)).targets == 2


MODES = {
    "L": (Image.fromarray(GRAY[0]), 1),
    "1": (Image.fromarray(GRAY[0]).convert("1"), 1),
    "LA": (Image.fromarray(GRAY[0]).convert("LA"), 1),
    "RGB": (Image.fromarray(COLOUR.transpose(1, 2, 0).copy()), 3),
    "RGBA": (Image.fromarray(COLOUR.transpose(1, 2, 0).copy()).convert("RGBA"), 3),
    "P": (Image.fromarray(COLOUR.transpose(1, 2, 0).copy()).convert("P"), 3),
}


@pytest.mark.parametrize("mode", list(MODES))
def test_modes_become_gray_or_colour(mode: str, zipped: bool, tmp_path: Path) -> None:
    image, channels = MODES[mode]
    file = io.BytesIO()
    image.save(file, "PNG")
    found = pixels(opened(tmp_path, {"a/1.png": file.getvalue()}, zipped))
    expected = np.asarray(image.convert("L" if channels == 1 else "RGB")).reshape(4, 5, channels).transpose(2, 0, 1)
    np.testing.assert_array_equal(found, expected[np.newaxis], strict=True)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "GIF", "WEBP", "JPEG"])
def test_formats(kind: str, zipped: bool, tmp_path: Path) -> None:
    if kind == "WEBP" and not features.check("webp"):
        pytest.skip("this Pillow reads no WebP")
    options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 100, "subsampling": 0}}.get(kind, {})
    found = pixels(opened(tmp_path, {f"a/1.{kind.lower()}": png(COLOUR, kind, **options)}, zipped))
    if kind == "GIF":
        assert found.shape == (1, 3, 4, 5)
    else:
        np.testing.assert_allclose(found[0].astype(int), COLOUR, atol=6 if kind == "JPEG" else 0)


def other(kind: str, mode: str) -> bytes:
    file = io.BytesIO()
    Image.new(mode, (5, 4)).save(file, kind)
    return file.getvalue()


def moving(kind: str) -> bytes:
    file = io.BytesIO()
    frames = [Image.fromarray(GRAY[0] * np.uint8(n)) for n in (1, 2, 3)]
    frames[0].save(file, kind, save_all=True, append_images=frames[1:])
    return file.getvalue()


def declaring(width: int, height: int) -> bytes:
    """A PNG of a few bytes that declares any size."""
    data = struct.pack(">2I5B", width, height, 8, 0, 0, 0, 0)
    chunk = b"IHDR" + data
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk)) + png(GRAY)[33:]


BAD = {
    "text": (b"not an image", "'b/2.png' is no image of PNG, JPEG, BMP, GIF, WEBP, TIFF, or is damaged"),
    "nothing": (b"", "is no image of"),
    "another size": (
        png(GRAY[:, :, :4]),
        r"'b/2.png' is 4 × 4 in gray, and the first image, 'a/1.png', is 5 × 4 in gray",
    ),
    "turned": (png(GRAY.transpose(0, 2, 1)), "is 4 × 5 in gray, .* resize or convert"),
    "colour": (png(COLOUR), "is 5 × 4 in colour, and the first image, 'a/1.png', is 5 × 4 in gray"),
    "moving GIF": (moving("GIF"), "'b/2.png' has several frames"),
    "moving PNG": (moving("PNG"), "'b/2.png' has several frames"),
    "pages of TIFF": (moving("TIFF"), "'b/2.png' has several frames"),
    "16 bits": (other("PNG", "I;16"), "'b/2.png' is an image of mode 'I;16': save it with 8 bits"),
    "floats": (other("TIFF", "F"), "'b/2.png' is an image of mode 'F'"),
    "another format": (other("PPM", "L"), "is no image of"),
    "an icon": (other("ICO", "RGBA"), "is no image of"),
    "a page": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 5 4\n", "is no image of"),
    "cut off": (png(COLOUR, "JPEG")[:-30], "5 × 4 in colour|is damaged"),
}


@pytest.mark.parametrize("case", list(BAD))
def test_what_is_no_image_like_the_first(case: str, zipped: bool, tmp_path: Path) -> None:
    content, problem = BAD[case]
    source = opened(tmp_path, {"a/1.png": png(GRAY), "b/2.png": content, "b/3.png": b"neither"}, zipped)
    with pytest.raises(InvalidArgument, match=problem) as error:
        validate(source, lambda *_: None)
    assert error.value.reason is Reason.DATASET_MALFORMED
    assert error.value.metadata["file"] == "b/2.png"


@pytest.mark.parametrize(("width", "height"), [(20_000, 20_000), (2**31 - 1, 1), (9000, 9000), (2**31 - 1, 2**31 - 1)])
def test_a_size_beyond_the_limits_is_refused_before_it_is_decoded(width: int, height: int, tmp_path: Path) -> None:
    tracemalloc.start()
    with pytest.raises(ResourceExhausted, match=r"number of pixels of image 'a/1\.png'") as error:
        opened(tmp_path, {"a/1.png": declaring(width, height)})
    assert error.value.reason is Reason.UPLOAD_TOO_LARGE
    later = opened(tmp_path, {"a/1.png": png(GRAY), "a/2.png": declaring(8000, 8000)})
    with pytest.raises(InvalidArgument, match="is 8000 × 8000 in gray"):
        validate(later, lambda *_: None)
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
    tracemalloc.stop()


NAMES = {
    "/etc/a/1.png": "no path below the folder",
    "../a/1.png": "no path below the folder",
    "a/../../b/1.png": "no path below the folder",
    "a/./1.png": "no path below the folder",
    "a//1.png": "no path below the folder",
    "a\\1.png": "no path below the folder",
    "C:/a/1.png": "no path below the folder",
    "1.png": "lies in no folder",
    "a/labels.csv": "is no image (.png, .jpg",
    "README": "is no image",
    "a/" + "x" * 5000 + ".png": "has a name of more than 4,096 bytes",
}


@pytest.mark.parametrize("name", list(NAMES), ids=lambda name: name[:20])
def test_names_that_are_refused(name: str, zipped: bool, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument) as error:
        opened(tmp_path, {"a/0.png": png(GRAY), name: png(GRAY)}, zipped)
    assert NAMES[name] in error.value.message
    assert error.value.reason is Reason.DATASET_MALFORMED


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_twice(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as file:
        for _ in range(2):
            file.writestr("a/1.png", png(GRAY))
    with pytest.raises(InvalidArgument, match=r"'a/1\.png' twice"):
        open_image_folder([DataFile("images.zip", tmp_path / "images.zip")], IMAGES, Scratch(tmp_path))
    (tmp_path / "1").write_bytes(png(GRAY))
    with pytest.raises(InvalidArgument, match=r"'a/1\.png' is given twice"):
        open_image_folder([DataFile("a/1.png", tmp_path / "1")] * 2, IMAGES, Scratch(tmp_path))


@pytest.mark.parametrize("contents", [{}, {".DS_Store": b""}, {"a/.x.png": b""}, {"a/": b""}])
def test_a_folder_without_images(contents: dict[str, bytes], tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="holds no images"):
        opened(tmp_path, contents, zipped=True)


def test_a_folder_around_the_classes(zipped: bool, tmp_path: Path) -> None:
    contents = {f"digits/{label}/1.png": png(GRAY) for label in "ab"}
    with pytest.raises(InvalidArgument, match="all images lie below one folder, 'digits': give the folder that"):
        opened(tmp_path, contents, zipped)
    assert len(opened(tmp_path, {"digits/1.png": png(GRAY)}, zipped)) == 1


@pytest.mark.parametrize(
    "spec",
    [
        SchemaSpec({"": ("image",)}, id="class"),
        SchemaSpec({"": ("image",)}, groups=("path",)),
        SchemaSpec({"": ("path",)}),
        SchemaSpec({"": ("image",)}, target="class"),
        SchemaSpec({"": ("pixels",)}),
        SchemaSpec({"": ("image",)}, target="image"),
    ],
)
def test_columns_that_do_not_fit(spec: SchemaSpec, zipped: bool, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument):
        opened(tmp_path, {"a/1.png": png(GRAY)}, zipped, spec)


def test_links_and_locked_members_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "images.zip"
    link = zipfile.ZipInfo("a/2.png")
    link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a/1.png", png(GRAY))
        file.writestr(link, "/etc/passwd")
    with pytest.raises(InvalidArgument, match=r"'a/2\.png' is a link or another special file"):
        open_image_folder([DataFile("images.zip", path)], IMAGES, Scratch(tmp_path))
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a/1.png", png(GRAY))
    content = bytearray(path.read_bytes())
    content[content.rindex(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    with pytest.raises(InvalidArgument, match=r"'a/1\.png' is encrypted"):
        open_image_folder([DataFile("images.zip", path)], IMAGES, Scratch(tmp_path))


def test_bombs_are_refused_by_their_declared_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_folder, "MAX_IMAGE_FILE_BYTES", 1 << 20)
    bomb = bytes((1 << 20) + 1)
    with pytest.raises(ResourceExhausted, match=r"the size of image 'b/1\.png' in bytes"):
        opened(tmp_path, {"a/1.png": png(GRAY), "b/1.png": bomb}, zipped=True)
    source = opened(tmp_path, {"a/1.png": png(GRAY), "b/1.png": bomb})
    with pytest.raises(ResourceExhausted, match=r"the size of image 'b/1\.png' in bytes"):
        validate(source, lambda *_: None)
    monkeypatch.setattr(image_folder, "MAX_IMAGES", 2)
    with pytest.raises(ResourceExhausted, match="number of"):
        opened(tmp_path, {f"a/{n}.png": png(GRAY) for n in range(3)}, zipped=True)


def test_what_is_not_kept_is_decoded_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contents = {f"a/{n}.png": png(GRAY + np.uint8(n)) for n in range(5)}
    counted: list[str] = []
    original = images.decoded
    monkeypatch.setattr(
        images, "decoded", lambda content, name, *more: counted.append(name) or original(content, name, *more)
    )
    expected = np.stack([GRAY + np.uint8(n) for n in (3, 0, 3)])
    for keep, times in ((5 * GRAY.nbytes, 1), (5 * GRAY.nbytes - 1, 2)):
        read = images.DecodedImages([*contents], [*contents.values()].__getitem__, Scratch(tmp_path), keep)
        counted.clear()
        for _ in range(2):
            np.testing.assert_array_equal(read[np.array([3, 0, 3])], expected, strict=True)
            assert read[2:2].shape == (0, *GRAY.shape)
        assert counted.count("a/0.png") == times
        assert "a/4.png" not in counted
        np.testing.assert_array_equal(read[1:3], np.stack([GRAY + np.uint8(1), GRAY + np.uint8(2)]), strict=True)


def test_one_file_that_is_no_archive_is_an_image(tmp_path: Path) -> None:
    assert len(opened(tmp_path, {"a/1.png": png(GRAY)})) == 1
    with pytest.raises(InvalidArgument, match=r"'data\.zip' is no image"):
        opened(tmp_path, {"data.zip": b"no zip at all"})
