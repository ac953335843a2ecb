"""Fashion-MNIST, from the Debian package that carries it: fetched at run time, pinned, kept in a cache."""

import gzip
import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

PACKAGE = "dataset-fashion-mnist"
SHA256 = "39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0"


def load(split: str, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the first images of a split, (rows, 1, 28, 28) float32 in [0, 1], and their classes, (rows,) int64."""
    found = folder()
    images = _idx(next(found.rglob(f"{split}-images-idx3-ubyte.gz")), 16).reshape(-1, 1, 28, 28)
    labels = _idx(next(found.rglob(f"{split}-labels-idx1-ubyte.gz")), 8)
    return images[:rows].astype(np.float32) / 255, labels[:rows].astype(np.int64)


def _idx(path: Path, header: int) -> np.ndarray:
    return np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=header)


def folder() -> Path:
    """Return where the package's files are."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "undue-tests"
    unpacked = cache / PACKAGE
    if unpacked.is_dir():
        return unpacked
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        pytest.skip(f"needs Fashion-MNIST, which `apt-get download {PACKAGE}` fetches on Debian")
    cache.mkdir(parents=True, exist_ok=True)
    fetched = subprocess.run(["apt-get", "download", PACKAGE], cwd=cache, capture_output=True, timeout=120, check=False)
    archive = next(cache.glob(f"{PACKAGE}_*.deb"), None)
    if fetched.returncode or archive is None:
        pytest.skip(f"needs Fashion-MNIST: `apt-get download {PACKAGE}` says {fetched.stderr.decode()[-200:]!r}")
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    assert digest == SHA256, f"{archive} is not the {PACKAGE} that this test was written for"
    part = cache / f"{PACKAGE}.part"
    subprocess.run(["dpkg-deb", "-x", archive, part], check=True)
    part.rename(unpacked)
    archive.unlink()
    return unpacked
