"""`undue`: the SDK's verbs from a shell.

Exit status: 0 done, 2 usage or service error, 130 interrupted. With `--json`, anywhere in the line, standard output
holds one JSON document (`jobs watch`: one a line) without NaN, and an error is a JSON document on standard error.
"""

import argparse
import os
import sys
import warnings
from collections.abc import Sequence
from typing import NoReturn

import undue
from undue import Client, Error, InvalidArgument

from . import arguments, indexing, output, verbs

ADDRESS_VARIABLE = "UNDUE_ADDRESS"
DEFAULT_ADDRESS = "127.0.0.1:50051"


class _Parser(argparse.ArgumentParser):
    """An argument parser whose complaints are errors like any other."""

    def error(self, message: str) -> NoReturn:
        """Raise what argparse would print."""
        raise InvalidArgument(f"{message}\n{self.format_usage().strip()}", reason="USAGE")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    as_json = "--json" in words
    words = [word for word in words if word != "--json"]
    warnings.showwarning = _warn
    try:
        options = _parser().parse_args(words)
        with _client(options) as client:
            options.verb(client, options, output.Output(as_json))
        sys.stdout.flush()
    except Error as error:
        output.report(error, as_json)
        return 2
    except BrokenPipeError:
        # The reader has seen enough; the interpreter's own flush at exit must not complain again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("undue: interrupted; a job that was queued goes on", file=sys.stderr)
        return 130
    return 0


def _warn(message: Warning | str, *_: object, **__: object) -> None:
    """Print a warning as what it says; where in the SDK it was raised is nobody's concern here."""
    print(f"undue: warning: {message}", file=sys.stderr)


def _client(options: argparse.Namespace) -> Client:
    if options.data_dir is not None:
        return Client.local(options.data_dir)
    return Client(options.server or os.environ.get(ADDRESS_VARIABLE) or DEFAULT_ADDRESS)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="undue", description="Which training examples made the model say this?", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"undue {undue.__version__}")
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--server", metavar="ADDR", help=f"address of the service (${ADDRESS_VARIABLE}, {DEFAULT_ADDRESS})"
    )
    where.add_argument("--data-dir", metavar="DIR", help="run an embedded service on this folder instead")
    parser.add_argument("--json", action="store_true", help="print JSON; may stand anywhere in the line")
    nouns = parser.add_subparsers(metavar="command", required=True)

    models = _noun(nouns, "models", "register, look up and delete models")
    arguments.model(_verb(models, "register", verbs.register_model, "register a new version of a model"))
    arguments.name(_verb(models, "get", verbs.get_model, "show a model"))
    arguments.parent(_verb(models, "list", verbs.list_models, "list versions of models, newest first"))
    arguments.deletion(_verb(models, "delete", verbs.delete_model, "delete a version, or all of a bare name"))

    datasets = _noun(nouns, "datasets", "register, look up, read and delete data sets")
    arguments.dataset(_verb(datasets, "register", verbs.register_dataset, "register a new version of a data set"))
    arguments.name(_verb(datasets, "get", verbs.get_dataset, "show a data set"))
    arguments.parent(_verb(datasets, "list", verbs.list_datasets, "list versions of data sets, newest first"))
    arguments.deletion(_verb(datasets, "delete", verbs.delete_dataset, "delete a version, or all of a bare name"))
    arguments.rows(_verb(datasets, "read", verbs.read_dataset, "show rows as a model sees them"))

    indexes = _noun(nouns, "indexes", "build, change, look up and delete indexes, and name them by aliases")
    arguments.index(_verb(indexes, "build", indexing.build, "build an index, which `undue explain` answers from"))
    arguments.index_or_alias(_verb(indexes, "get", indexing.get, "show an index"))
    _verb(indexes, "list", indexing.list_all, "list indexes, newest first")
    arguments.deletion(_verb(indexes, "delete", indexing.delete, "delete an index and its files"))
    arguments.extension(_verb(indexes, "extend", indexing.extend, "append the rows of a data set"))
    arguments.rows(_verb(indexes, "erase", indexing.erase, "take rows out of every later answer"))
    compact = _verb(indexes, "compact", indexing.compact, "write the files anew without the rows that were erased")
    arguments.name(compact)
    arguments.change(compact)
    aliases = _noun(indexes, "alias", "let a name mean an index, and later another one")
    arguments.alias(_verb(aliases, "set", indexing.set_alias, "let an alias mean an index from now on"))
    arguments.name(_verb(aliases, "get", indexing.get_alias, "show an alias"))
    _verb(aliases, "list", indexing.list_aliases, "list aliases by their names")
    arguments.name(_verb(aliases, "delete", indexing.delete_alias, "delete an alias; its index stays"))
    arguments.explain(_verb(nouns, "explain", indexing.explain, "say which training rows a prediction comes from"))

    arguments.influence(_verb(nouns, "influence", verbs.influence, "score training rows for test rows"))
    arguments.self_influence(
        _verb(nouns, "self-influence", verbs.self_influence, "rank training rows by influence on their own loss")
    )

    arguments.retrain(_verb(nouns, "retrain", verbs.retrain, "measure what changes when training rows are removed"))
    arguments.fidelity(_verb(nouns, "fidelity", verbs.fidelity, "say how well scores foretell what retraining does"))
    arguments.leverage(
        _verb(nouns, "leverage", verbs.leverage, "leverage, Cook's distance and DFBETA of a linear model's rows")
    )
    susceptible = "say how little training rows must change for predictions to flip"
    arguments.perturb(_verb(nouns, "perturb", verbs.perturb, susceptible))

    arguments.mislabels(
        _verb(nouns, "mislabels", verbs.mislabels, "say how well rankings find mislabelled training rows")
    )
    arguments.suspects(_verb(nouns, "suspects", verbs.suspects, "list the training rows whose labels look wrong"))

    shared = "share the influence on some predictions among groups of training rows, and measure reweighting them"
    arguments.group_influence(_verb(nouns, "group-influence", verbs.group_influence, shared))
    beside = "hold what one model, or two, say of the same rows against each other and against what is near"
    arguments.compare(_verb(nouns, "compare", verbs.compare, beside))

    jobs = _noun(nouns, "jobs", "look up, follow, cancel and delete jobs, and read their results")
    arguments.name(_verb(jobs, "get", verbs.get_job, "show a job"))
    _verb(jobs, "list", verbs.list_jobs, "list jobs, newest first")
    arguments.name(_verb(jobs, "watch", verbs.watch_job, "follow a job until it has ended"))
    arguments.name(_verb(jobs, "cancel", verbs.cancel_job, "cancel a job"))
    arguments.deletion(_verb(jobs, "delete", verbs.delete_job, "delete a job that has ended, and its result"))
    result = _verb(jobs, "result", verbs.job_result, "wait for a job and print its result")
    arguments.name(result)
    arguments.timeout(result)

    _verb(nouns, "server-info", verbs.server_info, "show versions, methods, limits and devices of the service")
    return parser


Nouns = argparse._SubParsersAction  # argparse has no public name for what add_subparsers returns


def _noun(nouns: "Nouns[_Parser]", name: str, text: str) -> "Nouns[_Parser]":
    parser = nouns.add_parser(name, help=text, description=text, allow_abbrev=False)
    return parser.add_subparsers(metavar="verb", required=True)


def _verb(nouns: "Nouns[_Parser]", name: str, verb: verbs.Verb, text: str) -> argparse.ArgumentParser:
    parser = nouns.add_parser(name, help=text, description=text, allow_abbrev=False)
    parser.set_defaults(verb=verb)
    return parser


if __name__ == "__main__":
    sys.exit(main())
