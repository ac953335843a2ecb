"""Where and with what a run was made."""

import os
import platform
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = (
    "torch",
    "numpy",
    "undue-service",
    "kronfluence",
    "dattri",
    "captum",
    "pyDVL",
    "curvlinops-for-pytorch",
    "traker",
    "scikit-learn",
)


def limit(threads: int) -> None:
    """Let torch, NumPy and SciPy use as many threads as each other: with more, the small products of a loop wait."""
    import torch
    from threadpoolctl import threadpool_limits

    torch.set_num_threads(threads)
    threadpool_limits(threads)


def describe(threads: int, device: str, dtype: str) -> dict[str, Any]:
    """Return the machine, the versions and the day."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "threads": threads,
        "device": _device(device),
        "dtype": dtype or "of each method",
        "versions": {name: _version(name) for name in PACKAGES},
    }


def line(where: Mapping[str, Any]) -> str:
    """Return in words when and on what something was measured."""
    threads = f"{where['threads']} thread" + ("s" if where["threads"] > 1 else "")
    return f"Measured on {where['date']}, {where['processor']}, {threads}.\n"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.*)", info.read_text()) if info.exists() else None
    return found[1] if found else platform.processor() or platform.machine()


def _device(device: str) -> str:
    if device == "cpu":
        return "cpu"
    import torch

    return torch.cuda.get_device_name(device)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
