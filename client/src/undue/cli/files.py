"""What the arguments of `undue datasets register` say of files and columns."""

import argparse
import os

from undue import Input, InvalidArgument, Schema
from undue._architectures import OptionValue
from undue._schema import image_folder_schema
from undue._sources import Source, dataset_source


def source(words: list[str]) -> Source:
    """Return what the SDK registers: one path or URI, several paths, or the paths of columns.

    Raises:
        InvalidArgument: one column twice.
    """
    if all(is_pair(word) for word in words):
        columns = {column: path for column, _, path in (word.partition("=") for word in words)}
        if len(columns) < len(words):
            raise InvalidArgument("FILE: one column is named twice", reason="USAGE")
        return columns
    return words[0] if len(words) == 1 else words


def schema(found: Source, options: argparse.Namespace) -> Schema | None:
    """Return which columns play which part; None leaves that to the format.

    Raises:
        InvalidArgument: options that mean nothing without others.
    """
    names = ("row_shape", "scale", "mean", "std")
    transform = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    inputs = {"": options.inputs} if options.inputs else {name: columns for name, *columns in options.input or ()}
    if not inputs:
        parts = (options.target, options.id_column, options.weight, *options.group)
        if any(part is not None for part in parts):
            raise InvalidArgument("--target, --id, --weight and --group need --inputs or --input", reason="USAGE")
        if not transform:
            return None
        if dataset_source(found, options.format).format != "image_folder":
            raise InvalidArgument("--scale, --mean, --std and --row-shape need --inputs or --input", reason="USAGE")
        return image_folder_schema(Input("image", **transform))
    if transform and len(inputs) > 1:
        text = "--scale, --mean, --std and --row-shape are for one input; the SDK takes an undue.Input for each"
        raise InvalidArgument(text, reason="USAGE")
    return Schema(
        {name: Input(columns, **transform) for name, columns in inputs.items()},
        target=options.target,
        id=options.id_column,
        weight=options.weight,
        groups=options.group,
    )


def architecture_options(words: list[str]) -> dict[str, OptionValue]:
    """Return the options that words of the form NAME=VALUE mean: numbers, true and false, lists by commas, or text.

    Raises:
        InvalidArgument: a word is of another form, or one option is there twice.
    """
    found: dict[str, OptionValue] = {}
    for word in words:
        name, sign, text = word.partition("=")
        if not name or not sign or name in found:
            problem = "is there twice" if name in found else "is not of the form NAME=VALUE"
            raise InvalidArgument(f"--option: {word!r} {problem}", reason="USAGE")
        found[name] = _option(text)
    return found


def _option(text: str) -> OptionValue:
    if text in ("true", "false"):
        return text == "true"
    for read in (int, float, lambda listed: tuple(int(part) for part in listed.split(",") if part)):
        try:
            return read(text)
        except ValueError:
            continue
    return text


def is_pair(word: str) -> bool:
    """Return whether a word of the line is NAME=PATH."""
    column, _, path = word.partition("=")
    # A path may hold a = itself, as those of partitions do: site=a/1.parquet.
    return bool(column and path) and "/" not in column and not os.path.exists(word)
