"""Images as arrays: decoded by Pillow from a short list of formats, never resized, never turned, never guessed at."""

import io
import warnings
from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from undue_service.domain.errors import Error, Reason, ResourceExhausted

from .limits import MAX_DECODED_BYTES, MAX_IMAGE_PIXELS, too_large
from .refusals import bad_file, quoted
from .scratch import Scratch
from .source import Array

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF")
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")
Shape = tuple[int, ...]
_GRAY = ("L", "1", "LA")
_COLOUR = ("RGB", "RGBA", "P", "PA", "CMYK", "YCbCr")


def decoded(content: bytes, name: str, like: "tuple[str, Shape] | None" = None) -> Array:
    """Return an image as (C, H, W) uint8: C is 1 for shades of gray, 3 for colours. Transparency is dropped.

    `like` is the name of another image and its shape, which this one must have. It is held against that, and against
    the limits, before its pixels are decoded.

    Raises:
        InvalidArgument: DATASET_MALFORMED for what is no image, is damaged or cut off, moves, has more than 8 bits a
            channel, or another shape.
        ResourceExhausted: UPLOAD_TOO_LARGE; OUT_OF_MEMORY.
    """
    try:
        # Pillow warns of metadata that nothing here looks at.
        with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(content), formats=FORMATS) as image:
            mode = _mode(image, name)
            shape = (1 if mode == "L" else 3, image.height, image.width)
            if like is not None and shape != like[1]:
                text = f"is {_described(shape)}, and the first image, {quoted(like[0])}, is {_described(like[1])}"
                raise bad_file(name, f"{text}: resize or convert the images to one size and mode beforehand")
            pixels = np.asarray(image.convert(mode))
    except Error:
        raise
    except Image.DecompressionBombError as error:
        raise _too_large(name, MAX_IMAGE_PIXELS + 1) from error
    except MemoryError as error:
        text = f"the image {quoted(name)} needs more memory than this machine has"
        raise ResourceExhausted(Reason.OUT_OF_MEMORY, text) from error
    except Exception as error:
        kinds = ", ".join(FORMATS)
        raise bad_file(name, f"is no image of {kinds}, or is damaged: {quoted(error)}") from error
    return pixels[np.newaxis] if mode == "L" else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _mode(image: Image.Image, name: str) -> str:
    """Return the mode in which an image is read."""
    if image.width * image.height > MAX_IMAGE_PIXELS:
        raise _too_large(name, image.width * image.height)
    if getattr(image, "is_animated", False):
        raise bad_file(name, "has several frames: save the one that is meant")
    if image.mode not in (*_GRAY, *_COLOUR):
        raise bad_file(name, f"is an image of mode {quoted(image.mode)}: save it with 8 bits a channel")
    return "L" if image.mode in _GRAY else "RGB"


def _too_large(name: str, pixels: int) -> ResourceExhausted:
    return too_large(f"the number of pixels of image {quoted(name)}", pixels, MAX_IMAGE_PIXELS)


class DecodedImages:
    """A column of images, (n, C, H, W), decoded when they are first asked for and then kept on disk."""

    def __init__(
        self,
        names: Sequence[str],
        read: Callable[[int], bytes],
        scratch: Scratch,
        keep_bytes: int = MAX_DECODED_BYTES,
    ) -> None:
        """Decode the first image, whose shape is everyone's; `read` returns the content of the image of a row.

        Raises:
            InvalidArgument: DATASET_MALFORMED.
            FailedPrecondition: DATASET_CHANGED.
            ResourceExhausted: it is beyond the limits.
        """
        self._names = names
        self._read = read
        self._shape: Shape = decoded(read(0), names[0]).shape
        self.dtype: np.dtype[Any] = np.dtype(np.uint8)
        self.shape: tuple[int, ...] = (len(names), *self._shape)
        self._known = np.zeros(len(names), np.bool_)
        fits = len(names) * prod(self._shape) <= keep_bytes
        self._kept = scratch.sparse(self.shape) if fits else None

    def __getitem__(self, at: "slice | npt.NDArray[np.int64]") -> Array:
        if self._kept is None:
            rows = np.arange(len(self._names))[at]
            if not len(rows):
                return np.empty((0, *self._shape), np.uint8)
            return np.stack([self._image(row) for row in rows.tolist()])
        for row in np.unique(np.arange(len(self._names))[at]).tolist():
            if not self._known[row]:
                self._kept.put(row, self._image(row))
                self._known[row] = True
        return self._kept.rows[at]

    def _image(self, row: int) -> Array:
        return decoded(self._read(row), self._names[row], (self._names[0], self._shape))


def _described(shape: Shape) -> str:
    channels, height, width = shape
    return f"{width} × {height} in {'gray' if channels == 1 else 'colour'}"
