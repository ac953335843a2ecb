"""Architectures that a file of weights can name: what is built in, its options, and which ones an operator allows."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

from .errors import InvalidArgument, Reason

OptionValue = bool | int | float | str | tuple[int, ...]
BUILT_IN = "builtin"
"""In the setting of what is allowed: every architecture that is built in."""
MAX_OPTIONS = 64
MAX_TEXT = 256
MAX_INTEGERS = 1024


@dataclass(frozen=True, slots=True)
class ArchitectureChoice:
    """An architecture with its options, as a model was registered."""

    name: str
    options: dict[str, OptionValue]

    def __str__(self) -> str:
        return f"{self.name}({', '.join(f'{name}={value!r}' for name, value in self.options.items())})"


@dataclass(frozen=True, slots=True)
class OptionSpec:
    """One option: a whole number or a list of them within bounds, a real number within bounds, or one of some words."""

    name: str
    meaning: str
    default: OptionValue | None = None
    """None: it has to be given."""
    kind: Literal["integer", "number", "integers", "word"] = "integer"
    low: float = 1
    high: float = 1 << 16
    """Inclusive, of the number or of each number in a list."""
    length: tuple[int, int] = (0, 0)
    """How many there may be in a list."""
    words: tuple[str, ...] = ()

    @property
    def allowed(self) -> str:
        """What may be given, in words."""
        if self.kind == "word":
            return " or ".join(self.words)
        bounds = f"from {self.low:g} to {_plain(self.high)}"
        if self.kind == "integers":
            return f"{self.length[0]} to {self.length[1]} whole numbers {bounds}"
        return f"a whole number {bounds}" if self.kind == "integer" else f"a number {bounds}"

    def check(self, field: str, value: OptionValue) -> OptionValue:
        """Return a value as it is kept.

        Raises:
            InvalidArgument: it is of another kind, or beyond the bounds.
        """
        kept = self._kept(value)
        if kept is None:
            raise InvalidArgument.at(field, f"{value!r} must be {self.allowed}: {self.meaning}")
        return kept

    def _kept(self, value: OptionValue) -> OptionValue | None:
        if isinstance(value, bool):
            return None
        match self.kind:
            case "word":
                return value if value in self.words else None
            case "integers":
                several = (value,) if isinstance(value, int) else value
                if not isinstance(several, tuple) or not self.length[0] <= len(several) <= self.length[1]:
                    return None
                return several if all(self._within(one) for one in several) else None
            case "integer":
                return value if isinstance(value, int) and self._within(value) else None
        return float(value) if isinstance(value, int | float) and self._within(value) else None

    def _within(self, number: float) -> bool:
        return math.isfinite(number) and self.low <= number <= self.high


@dataclass(frozen=True, slots=True)
class ArchitectureSpec:
    """One architecture that is built in."""

    name: str
    meaning: str
    options: tuple[OptionSpec, ...]

    def settle(self, field: str, given: Mapping[str, OptionValue]) -> ArchitectureChoice:
        """Return the architecture with every option: those given, and the defaults of the others.

        Raises:
            InvalidArgument: an option does not exist, is missing, or has a value that it may not have.
        """
        known = {option.name: option for option in self.options}
        strange = sorted(given.keys() - known.keys())
        if strange:
            text = f"{self.name} has no option {strange[0]!r}; it has {', '.join(known)}"
            raise InvalidArgument.at(f"{field}.options", text)
        settled: dict[str, OptionValue] = {}
        for name, option in known.items():
            value = given.get(name, option.default)
            if value is None:
                text = f"{self.name} needs {name!r}, {option.allowed}: {option.meaning}"
                raise InvalidArgument.at(f"{field}.options", text)
            settled[name] = option.check(f"{field}.options[{name!r}]", value)
        return ArchitectureChoice(self.name, settled)


_CLASSES = OptionSpec("classes", "outputs of the last layer", 1000)
_CHANNELS = OptionSpec("channels", "channels of an input image", 3, high=1024)
_ACTIVATION = OptionSpec(
    "activation", "after each hidden layer", "relu", "word", words=("relu", "tanh", "sigmoid", "gelu", "silu", "elu")
)


def _residual(name: str, meaning: str) -> ArchitectureSpec:
    return ArchitectureSpec(
        name,
        meaning,
        (
            _CHANNELS,
            OptionSpec("size", "side of an input image", 224, low=8, high=2048),
            _CLASSES,
            OptionSpec("width", "channels after the stem", 64, high=1024),
            OptionSpec(
                "stem",
                "7×7 with stride 2 and max pooling, or 3×3 as for CIFAR",
                "imagenet",
                "word",
                words=("imagenet", "cifar"),
            ),
        ),
    )


ARCHITECTURES: Mapping[str, ArchitectureSpec] = {
    spec.name: spec
    for spec in (
        ArchitectureSpec(
            "mlp",
            "torch.nn.Sequential of Linear layers with an activation between them: 0.weight, 2.weight, …",
            (
                OptionSpec(
                    "sizes",
                    "of the input, of each hidden layer and of the output",
                    None,
                    "integers",
                    high=1 << 20,
                    length=(2, 64),
                ),
                _ACTIVATION,
            ),
        ),
        ArchitectureSpec(
            "lenet",
            "two convolutions 5×5 (6 and 16 channels) with pooling, and three Linear layers (120, 84, classes): "
            "conv1, conv2, fc1, fc2, fc3",
            (
                OptionSpec("channels", "channels of an input image", 1, high=1024),
                OptionSpec("size", "side of an input image", 28, low=12, high=1024),
                OptionSpec("classes", "outputs of the last layer", 10),
                OptionSpec("padding", "around the input image", 2, low=0, high=2),
                _ACTIVATION,
                OptionSpec("pooling", "after each convolution, 2×2", "max", "word", words=("max", "average")),
            ),
        ),
        _residual("resnet18", "He et al. 2016, two basic blocks a stage; parameters named as torchvision names them"),
        _residual("resnet50", "He et al. 2016, 3, 4, 6 and 3 bottlenecks, stride in the 3×3; named as in torchvision"),
        ArchitectureSpec(
            "transformer",
            "tokens and learned positions, torch.nn.TransformerEncoder, a Linear head on the pooled row: "
            "tokens, positions, encoder.layers.0, …, head",
            (
                OptionSpec("vocabulary", "number of tokens", high=1 << 22),
                OptionSpec("length", "tokens in a row", high=1 << 14),
                OptionSpec("classes", "outputs of the last layer", 2),
                OptionSpec("dim", "size of a token's embedding, a multiple of heads", 64, high=1 << 14),
                OptionSpec("heads", "of each attention", 4, high=256),
                OptionSpec("layers", "of the encoder", 2, high=96),
                OptionSpec("feedforward", "size of each layer's hidden part", 256),
                OptionSpec("activation", "of each layer's hidden part", "relu", "word", words=("relu", "gelu")),
                OptionSpec(
                    "norm",
                    "LayerNorm after each part (Vaswani et al. 2017), or before it and once at the end",
                    "after",
                    "word",
                    words=("after", "before"),
                ),
                OptionSpec("pooling", "over the tokens of a row", "mean", "word", words=("mean", "first")),
                OptionSpec("pad", "token that is no part of its row; -1 for none", -1, low=-1, high=1 << 22),
            ),
        ),
    )
}


@dataclass(frozen=True, slots=True)
class Architectures:
    """Those that models may be registered with. The code of those that are not built in is the operator's."""

    allowed: tuple[str, ...] = tuple(ARCHITECTURES)

    @classmethod
    def of_setting(cls, names: Collection[str], installed: Mapping[str, int]) -> "Architectures":
        """Return what a setting allows.

        Args:
            names: of architectures, or "builtin" for all that are built in.
            installed: how many entry points have each name.

        Raises:
            InvalidArgument: SETTINGS_INVALID, there is no such architecture, or more than one.
        """
        allowed: dict[str, None] = {}
        for name in names:
            if name == BUILT_IN:
                allowed |= dict.fromkeys(ARCHITECTURES)
                continue
            if installed.get(name, 0) + (name in ARCHITECTURES) > 1:
                text = f"the architecture {name!r} is installed more than once, or is built in; give it another name"
                raise InvalidArgument(Reason.SETTINGS_INVALID, text)
            if name not in ARCHITECTURES and name not in installed:
                there = ", ".join((*ARCHITECTURES, *sorted(installed)))
                text = f"there is no architecture {name!r} to allow; there are {there}, and {BUILT_IN!r}"
                raise InvalidArgument(Reason.SETTINGS_INVALID, text)
            allowed[name] = None
        return cls(tuple(allowed))

    def settle(self, field: str, given: ArchitectureChoice) -> ArchitectureChoice:
        """Return an architecture as it is registered. The options of one that is not built in are checked by a runner.

        Raises:
            InvalidArgument: ARCHITECTURE_UNKNOWN, it is not allowed; an option is wrong.
        """
        if given.name not in self.allowed:
            there = f"there are {', '.join(self.allowed)}" if self.allowed else "this service allows none"
            text = f"there is no architecture {given.name[:MAX_TEXT]!r}; {there}"
            raise InvalidArgument.at(f"{field}.name", text, Reason.ARCHITECTURE_UNKNOWN)
        spec = ARCHITECTURES.get(given.name)
        settled = given if spec is None else spec.settle(field, given.options)
        if settled.name == "transformer":
            _check_transformer(field, settled.options)
        return settled


def _check_transformer(field: str, options: Mapping[str, OptionValue]) -> None:
    dim, heads, pad, vocabulary = (int(options[name]) for name in ("dim", "heads", "pad", "vocabulary"))  # type: ignore[arg-type]
    if dim % heads:
        raise InvalidArgument.at(f"{field}.options['dim']", f"{dim} is no multiple of the {heads} heads")
    if pad >= vocabulary:
        raise InvalidArgument.at(f"{field}.options['pad']", f"{pad} is no token: there are {vocabulary}, from 0")


def _plain(number: float) -> str:
    return f"{number:,.0f}" if float(number).is_integer() else f"{number:g}"
