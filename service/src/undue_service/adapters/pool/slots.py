"""Which devices work is placed on."""

import os
import re
from pathlib import Path

from undue_service.domain.errors import InvalidArgument, Reason


def find_devices(setting: str, dev: Path = Path("/dev")) -> tuple[str, ...]:
    """Return the devices that `UNDUE_DEVICES` names; `auto` is every CUDA device, else one CPU slot.

    CUDA devices are counted by their device files: the API process never opens a driver.

    Raises:
        InvalidArgument: the setting names what is not a device.
    """
    if setting != "auto":
        names = tuple(name.strip() for name in setting.split(","))
        wrong = [name for name in names if not re.fullmatch(r"cpu|cuda:\d+", name)]
        if wrong:
            text = f"UNDUE_DEVICES: {wrong[0]!r} is not a device; use auto, cpu, cuda:0, or several with commas"
            raise InvalidArgument(Reason.SETTINGS_INVALID, text)
        return names
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        count = len([name for name in visible.split(",") if name.strip() not in ("", "-1")])
    else:
        count = sum(bool(re.fullmatch(r"nvidia\d+", path.name)) for path in dev.iterdir())
    return tuple(f"cuda:{number}" for number in range(count)) or ("cpu",)
