"""What `undue indexes …` and `undue explain` do: one call of the SDK, one thing printed."""

import argparse
from typing import Any

import numpy as np
import numpy.typing as npt

from undue import Client, IndexJob
from undue._errors import invalid

from .files import is_pair
from .output import Output


def build(client: Client, options: argparse.Namespace, out: Output) -> None:
    """`undue indexes build`."""
    names = ("train", "method", "damping", "parameters", "leverage_correction", "seed")
    arguments = {name: getattr(options, name) for name in names}
    if options.estimate:
        return out.estimate(client.indexes.estimate(options.model, **arguments))
    return _done(client.indexes.build(options.model, **arguments), options, out)


def get(client: Client, options: argparse.Namespace, out: Output) -> None:
    """`undue indexes get`."""
    out.index(client.indexes.get(options.name))


def list_all(client: Client, _: argparse.Namespace, out: Output) -> None:
    """`undue indexes list`."""
    out.indexes(client.indexes.list())


def delete(client: Client, options: argparse.Namespace, out: Output) -> None:
    """`undue indexes delete`."""
    client.indexes.delete(options.name, force=options.force, etag=options.etag)
    out.deleted(options.name)


def extend(client: Client, options: argparse.Namespace, out: Output) -> None:
    """`undue indexes extend`."""
    _done(client.indexes.extend(options.name, rows=options.dataset), options, out)


def erase(client: Client, options: argparse.Namespace, out: Output) -> None:
    """`undue indexes erase`."""
    out.index(client.indexes.erase(options.name, rows=options.rows))


def compact(client: Client, options: argparse.Namespace, out: Output) -> None:
    """`undue indexes compact`."""
    _done(client.indexes.compact(options.name), options, out)


def set_alias(client: Client, options: argparse.Namespace, out: Output) -> None:
    """`undue indexes alias set`."""
    out.alias(client.indexes.set_alias(options.alias, options.index))


def get_alias(client: Client, options: argparse.Namespace, out: Output) -> None:
    """`undue indexes alias get`."""
    out.alias(client.indexes.alias(options.name))


def list_aliases(client: Client, _: argparse.Namespace, out: Output) -> None:
    """`undue indexes alias list`."""
    out.aliases(client.indexes.aliases())


def delete_alias(client: Client, options: argparse.Namespace, out: Output) -> None:
    """`undue indexes alias delete`."""
    client.indexes.delete_alias(options.name)
    out.deleted(options.name)


def explain(client: Client, options: argparse.Namespace, out: Output) -> None:
    """`undue explain`; the instances are not printed, so they are not asked for."""
    out.result(
        client.explain(
            options.index,
            _inputs(options.inputs),
            None if options.targets is None else _array("targets", options.targets),
            measurement=options.measurement,
            top_k=options.top_k,
            exact=options.exact,
            with_instances=False,
            timeout=options.timeout,
        )
    )


def _done(job: IndexJob, options: argparse.Namespace, out: Output) -> None:
    return out.index(job.result(options.timeout)) if options.wait else out.job(job)


def _inputs(words: list[str]) -> Any:
    """Return the array of one file, or those of several by the names of the inputs."""
    if len(words) == 1 and not is_pair(words[0]):
        return _array("inputs", words[0])
    named = {name: path for name, _, path in (word.partition("=") for word in words if is_pair(word))}
    if len(named) < len(words):
        raise invalid("inputs", "of several files, each is INPUT=FILE, with the name of another input")
    return {name: _array(f"inputs[{name!r}]", path) for name, path in named.items()}


def _array(field: str, path: str) -> npt.NDArray[Any]:
    try:
        with open(path, "rb") as file:
            return np.lib.format.read_array(file, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise invalid(field, f"{path} cannot be read as .npy: {error}") from None
