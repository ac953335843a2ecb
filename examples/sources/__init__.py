"""Real data and pretrained models for the examples: out of packages that registries carry, pinned by digest.

Nothing of them is part of this repository. They are fetched once into `$XDG_CACHE_HOME/undue-examples`
(`~/.cache/undue-examples`). Every function raises `SourceMissing`, which names the command that fetches it.
"""

from . import minilm
from .efficientnet import EfficientNetLite0, efficientnet_lite0
from .health import HealthRecords, heritage_health
from .images import Images, fashion_mnist, mnist
from .mails import Mails, spam_assassin
from .packages import CACHE, SourceMissing, kept

__all__ = [
    "CACHE",
    "EfficientNetLite0",
    "HealthRecords",
    "Images",
    "Mails",
    "SourceMissing",
    "efficientnet_lite0",
    "fashion_mnist",
    "heritage_health",
    "kept",
    "minilm",
    "mnist",
    "spam_assassin",
]
