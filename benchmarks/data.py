"""The real data of the workloads: digits from scikit-learn, Fashion-MNIST from its Debian package."""

import gzip
import hashlib
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from .caching import FOLDER

PACKAGE = "dataset-fashion-mnist"
SHA256 = "39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0"


@dataclass(frozen=True)
class Split:
    """Training and test rows, inputs in [0, 1] as float32."""

    x: Tensor
    """(n, …)."""
    y: Tensor
    """(n,) int64."""
    test_x: Tensor
    """(m, …)."""
    test_y: Tensor
    """(m,) int64."""


def digits(image: bool = False) -> Split:
    """Return scikit-learn's 1,797 digits: 100 to explain, 1,697 to train on; (64,) a row, or (1, 8, 8)."""
    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    x = torch.tensor(data.data[order] / 16, dtype=torch.float32)
    y = torch.tensor(data.target[order], dtype=torch.int64)
    if image:
        x = x.reshape(-1, 1, 8, 8)
    return Split(x[100:], y[100:], x[:100], y[:100])


def fashion(n: int, m: int) -> Split:
    """Return the first n training and m test images of Fashion-MNIST, (784,) each."""
    train, test = _idx("train", n), _idx("t10k", m)
    return Split(*train, *test)


def _idx(split: str, rows: int) -> tuple[Tensor, Tensor]:
    folder = _fashion_folder()
    images = _bytes(folder, f"{split}-images-idx3-ubyte.gz", 16).reshape(-1, 784)[:rows]
    labels = _bytes(folder, f"{split}-labels-idx1-ubyte.gz", 8)[:rows]
    return torch.from_numpy(images.astype(np.float32) / 255), torch.from_numpy(labels.astype(np.int64))


def _bytes(folder: Path, name: str, header: int) -> np.ndarray:
    return np.frombuffer(gzip.decompress(next(folder.rglob(name)).read_bytes()), np.uint8, offset=header)


def _fashion_folder() -> Path:
    unpacked = FOLDER / PACKAGE
    if unpacked.is_dir():
        return unpacked
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise RuntimeError(f"needs Fashion-MNIST, which `apt-get download {PACKAGE}` fetches on Debian")
    FOLDER.mkdir(exist_ok=True)
    fetched = subprocess.run(
        ["apt-get", "download", PACKAGE], cwd=FOLDER, capture_output=True, timeout=120, check=False
    )
    archive = next(FOLDER.glob(f"{PACKAGE}_*.deb"), None)
    if fetched.returncode or archive is None:
        raise RuntimeError(f"needs Fashion-MNIST: `apt-get download {PACKAGE}` says {fetched.stderr.decode()[-200:]!r}")
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    if digest != SHA256:
        raise RuntimeError(f"{archive} is not the {PACKAGE} that the benchmarks were written for")
    part = FOLDER / f"{PACKAGE}.part"
    subprocess.run(["dpkg-deb", "-x", archive, part], check=True)
    part.rename(unpacked)
    archive.unlink()
    return unpacked
