"""Archives of images and images themselves, cut off and changed: only typed errors."""

import io
import random
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import features

from dataset_formats import IMAGES, png
from undue_service.datasets import images
from undue_service.datasets.files import DataFile
from undue_service.datasets.image_folder import open_image_folder
from undue_service.datasets.opening import validate
from undue_service.datasets.scratch import Scratch
from undue_service.domain.errors import Error, Reason

GRAY = np.arange(20, dtype=np.uint8).reshape(1, 4, 5)
COLOUR = np.random.default_rng(0).integers(0, 256, (3, 4, 5), dtype=np.uint8)


def outcome(source: Any) -> Reason | None:
    try:
        validate(source(), lambda *_: None)
    except Error as error:
        assert len(error.message) < 1000
        return error.reason
    return None


def archive() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as whole:
        whole.writestr(zipfile.ZipInfo("a/1.png"), png(GRAY))
        whole.writestr(zipfile.ZipInfo("b/2.png"), png(GRAY))
    return file.getvalue()


ARCHIVE = archive()


def read_archive(folder: Path, content: bytes) -> Any:
    (folder / "whole").write_bytes(content)
    return open_image_folder([DataFile("a/whole.png", folder / "whole")], IMAGES, Scratch(folder))


def test_an_archive_cut_off_anywhere(tmp_path: Path) -> None:
    assert outcome(lambda: read_archive(tmp_path, ARCHIVE)) is None
    cut = {outcome(lambda: read_archive(tmp_path, ARCHIVE[:length])) for length in range(len(ARCHIVE))}  # noqa: B023
    assert cut == {Reason.DATASET_MALFORMED}


ALLOWED = {
    None, Reason.DATASET_MALFORMED, Reason.UPLOAD_TOO_LARGE, Reason.DATASET_EMPTY, Reason.OUT_OF_MEMORY
}  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(changes=st.lists(st.tuples(st.integers(0, len(ARCHIVE) - 1), st.integers(0, 255)), min_size=1, max_size=3))
def test_an_archive_with_changed_bytes(
    changes: list[tuple[int, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    damaged = bytearray(ARCHIVE)
    for at, value in changes:
        damaged[at] = value
    folder = tmp_path_factory.mktemp("zip")
    assert outcome(lambda: read_archive(folder, bytes(damaged))) in ALLOWED


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "GIF", "WEBP", "JPEG"])
def test_images_cut_off_or_changed(kind: str, tmp_path: Path) -> None:
    if kind == "WEBP" and not features.check("webp"):
        pytest.skip("this Pillow reads no WebP")
    whole = png(COLOUR, kind)
    picked = random.Random(0)
    contents = [whole[:length] for length in range(len(whole))]
    for _ in range(400):
        damaged = bytearray(whole)
        for _ in range(picked.choice([1, 1, 3])):
            damaged[picked.randrange(len(damaged))] = picked.choice([0, 255, 127, 128, picked.randrange(256)])
        contents.append(bytes(damaged))
    outcomes = []
    for content in contents:
        try:
            found = images.decoded(content, "a/1.img")
            assert (found.dtype, found.ndim) == (np.uint8, 3)
        except Error as error:
            outcomes.append(error.reason)
    assert set(outcomes) <= ALLOWED
    assert outcomes.count(Reason.DATASET_MALFORMED) > len(whole) // 2
