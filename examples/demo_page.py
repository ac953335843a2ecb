"""The demonstration's HTML page: one file, no script, nothing fetched."""

import base64
import struct
import zlib
from pathlib import Path

import jinja2
import numpy as np
import numpy.typing as npt

import undue
from demo_cases import SIGN, Findings
from demo_classifier import L2, Digits

_TEMPLATE = "demo_page.html.jinja"


def render(findings: Findings, digits: Digits, misread: int, code: str) -> str:
    """Return the page.

    Args:
        findings: what to show.
        digits: where the pictures come from.
        misread: how many test digits were misread.
        code: the Python that asked for the explanations.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["signed"] = _signed
    return environment.get_template(_TEMPLATE).render(
        findings=findings,
        d=findings.diagnostics,
        test_picture=lambda row: picture(digits.x_test[row]),
        train_picture=lambda row: picture(digits.x_train[row]),
        rows=len(digits.y_train),
        tests=len(digits.y_test),
        misread=misread,
        sign=SIGN,
        l2=L2,
        code=code,
        version=undue.__version__,
    )


def picture(pixels: npt.NDArray[np.float32]) -> str:
    """Return 64 grey levels in [0, 1] as the data URI of an 8×8 PNG: black ink on transparent ground."""
    ink = np.zeros((8, 8, 2), np.uint8)
    ink[..., 1] = np.rint(pixels.reshape(8, 8) * 255)
    lines = b"".join(b"\0" + line.tobytes() for line in ink)  # each line says that no filter was used
    header = struct.pack(">IIBBBBB", 8, 8, 8, 4, 0, 0, 0)  # 8 bits a channel, grey and alpha
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(lines, 9)), (b"IEND", b""))
    png = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    )
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _signed(score: float) -> str:
    return f"{score:+.3f}".replace("-", "\N{MINUS SIGN}")
