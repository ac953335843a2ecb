"""Which arguments each verb takes."""

import argparse
from fractions import Fraction
from typing import Any, get_args

from undue._fidelity import FidelityKind, Start
from undue._inputs import Aggregate, Measurement, Normalization, ObjectiveName
from undue._mislabels import RankingName
from undue._perturbing import Bound
from undue._recipes import Optimizer, Schedule
from undue._sources import DatasetFormat

_AT_ONCE = "return at once; see `undue jobs`"
_INDEXED = ("exact", "gauss_newton", "ekfac")


def name(parser: argparse.ArgumentParser) -> None:
    """Add the name of one resource."""
    parser.add_argument("name", help="resource name; a bare id will do")


def parent(parser: argparse.ArgumentParser) -> None:
    """Add what narrows a listing."""
    parser.add_argument("parent", nargs="?", help="only versions of this one")


def deletion(parser: argparse.ArgumentParser) -> None:
    """Add what is deleted."""
    name(parser)
    parser.add_argument("--force", action="store_true", help="although others name it, or it has not ended")
    parser.add_argument("--etag", help="only if it still has this etag")


def rows(parser: argparse.ArgumentParser) -> None:
    """Add which rows of which data set."""
    name(parser)
    parser.add_argument("rows", nargs="+", type=int, metavar="ROW", help="row numbers")


def index(parser: argparse.ArgumentParser) -> None:
    """Add what builds an index."""
    _trained(parser)
    parser.add_argument("--method", choices=_INDEXED, help="exact for a linear head, ekfac for a network, without it")
    _damped(parser)
    _selected(parser)
    _seeded(parser)
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--no-wait", dest="wait", action="store_false", help=_AT_ONCE)
    how.add_argument("--estimate", action="store_true", help="say what it would take, without doing it")
    timeout(parser)


def extension(parser: argparse.ArgumentParser) -> None:
    """Add what appends rows to an index."""
    name(parser)
    parser.add_argument("dataset", help="data set, all of whose rows are appended")
    change(parser)


def change(parser: argparse.ArgumentParser) -> None:
    """Add how long a job that changes something is waited for."""
    _no_wait(parser)
    timeout(parser)


def alias(parser: argparse.ArgumentParser) -> None:
    """Add what an alias means."""
    parser.add_argument("alias", help="lower-case letters, digits and hyphens")
    parser.add_argument("index", help="name of the index that it means from now on")


def index_or_alias(parser: argparse.ArgumentParser) -> None:
    """Add the name of an index or of an alias."""
    parser.add_argument("name", help="indexes/… or aliases/…; a bare word is an alias")


def explain(parser: argparse.ArgumentParser) -> None:
    """Add what explains rows from an index."""
    parser.add_argument("index", help="indexes/… or aliases/…; a bare word is an alias")
    arrays = "rows as .npy; INPUT=FILE for each input of a model with several"
    parser.add_argument("--inputs", required=True, nargs="+", metavar="FILE", help=arrays)
    known = "their labels or numbers as .npy; what the model predicts is explained without it"
    parser.add_argument("--targets", metavar="FILE", help=known)
    _measured(parser)
    parser.add_argument("--top-k", type=int, default=10, metavar="K", help="rows to list a side (10)")
    parser.add_argument("--exact", action="store_true", help="guarantee the lists, which takes longer")
    parser.add_argument("--timeout", type=float, metavar="SECONDS", help="wait no longer")


def timeout(parser: argparse.ArgumentParser) -> None:
    """Add how long to wait."""
    parser.add_argument("--timeout", type=float, metavar="SECONDS", help="wait no longer; the job goes on")


def model(parser: argparse.ArgumentParser) -> None:
    """Add what registers a model."""
    parser.add_argument("id", help="lower-case letters, digits and hyphens")
    parser.add_argument(
        "file", help=".onnx or .pt2; with --architecture .safetensors, or a plain state_dict (.pt, .pth)"
    )
    named = "what weights alone are loaded into; `undue server-info` lists them"
    parser.add_argument("--architecture", metavar="NAME", help=named)
    option = "of the architecture: classes=10, sizes=784,128,10; several times"
    parser.add_argument("--option", action="append", default=[], metavar="NAME=VALUE", help=option)
    parser.add_argument("--objective", required=True, choices=get_args(ObjectiveName), help="what the weights minimise")
    parser.add_argument("--l2", type=float, default=0.0, help="strength of the L2 term, l2/2 · ‖θ‖²")
    parser.add_argument("--temperature", type=float, default=None, metavar="T", help="of smooth_hinge, more than 0")
    exclude = "parameters that the L2 term leaves out, as fnmatch patterns"
    parser.add_argument("--l2-exclude", nargs="+", action="extend", default=[], metavar="PATTERN", help=exclude)
    selected = "parameters that influence runs over, as fnmatch patterns"
    parser.add_argument("--parameters", nargs="+", action="extend", metavar="PATTERN", help=selected)
    parser.add_argument("--output", help="which output is the prediction")
    parser.add_argument("--sample", metavar="DATASET", help="data set of the parity and fit checks")
    checkpoint = "weights (.safetensors, .onnx, .pt2) of another epoch or seed, and its learning rate; several times"
    parser.add_argument("--checkpoint", nargs=2, action="append", default=[], metavar=("FILE", "LR"), help=checkpoint)
    recipe = parser.add_argument_group("training", "the recipe by which it was trained, for training it again")
    recipe.add_argument("--optimizer", choices=get_args(Optimizer), help="needed where there is a recipe")
    recipe.add_argument("--lr", type=float, help="learning rate at the first step")
    recipe.add_argument("--epochs", type=int, metavar="N", help="how often the training set is gone through")
    recipe.add_argument("--batch-size", type=int, metavar="N", help="rows of a step; all without it")
    recipe.add_argument("--schedule", choices=get_args(Schedule), help="of the learning rate, down to 0")
    recipe.add_argument("--momentum", type=float, default=0.0, help="of sgd (0)")
    recipe.add_argument("--training-seed", type=int, default=0, metavar="SEED", help="of the order of the rows (0)")
    recipe.add_argument("--init", metavar="FILE", help="weights that training begins with, or 'torch'")
    _no_wait(parser)


def dataset(parser: argparse.ArgumentParser) -> None:
    """Add what registers a data set."""
    parser.add_argument("id", help="lower-case letters, digits and hyphens")
    text = "files (.npz, .parquet, .csv, IDX), COLUMN=PATH for each column of IDX, a folder of images, or a URI"
    parser.add_argument("files", nargs="+", metavar="FILE", help=text)
    known = "the format, where the name does not tell"
    parser.add_argument("--format", choices=get_args(DatasetFormat), help=known)
    inputs = parser.add_mutually_exclusive_group()
    inputs.add_argument("--inputs", nargs="+", metavar="COLUMN", help="columns of a model's only input")
    several = "an input and its columns; once for each input of the model"
    inputs.add_argument("--input", nargs="+", action="append", metavar=("NAME", "COLUMN"), help=several)
    parser.add_argument("--target", metavar="COLUMN", help="column of the targets")
    parser.add_argument("--id", dest="id_column", metavar="COLUMN", help="column of the ids")
    parser.add_argument("--weight", metavar="COLUMN", help="column of the sample weights")
    told_apart = "column by whose values rows are told apart; may be given several times"
    parser.add_argument("--group", action="append", default=[], metavar="COLUMN", help=told_apart)
    transform = parser.add_argument_group("transform", "of the only input: (x · scale − mean) / std, as float32")
    transform.add_argument("--scale", type=_fraction, help="factor, such as 1/255")
    transform.add_argument("--mean", nargs="+", type=_fraction, help="one number, or one for each channel")
    transform.add_argument("--std", nargs="+", type=_fraction, help="one number, or one for each channel")
    transform.add_argument("--row-shape", nargs="+", type=int, metavar="SIZE", help="shape of one row afterwards")
    _no_wait(parser)


def influence(parser: argparse.ArgumentParser) -> None:
    """Add what asks for scores."""
    _scoring(parser)
    _tested(parser, "whose predictions are explained")
    together = "explain the mean of the rows' costs instead of each row"
    parser.add_argument("--aggregate", choices=get_args(Aggregate), help=together)
    truth = "hold the scores against retraining, too, as `undue fidelity` does by default"
    parser.add_argument("--fidelity", action="store_true", help=truth)
    parser.add_argument("--top-k", type=_count, default=10, metavar="K", help="rows to keep a side, or 'all' (10)")
    _running(parser)


def self_influence(parser: argparse.ArgumentParser) -> None:
    """Add what asks for a ranking."""
    _scoring(parser)
    parser.add_argument("--top-k", type=_count, default=None, metavar="K", help="rows to keep, or 'all' (all)")
    _running(parser)


def retrain(parser: argparse.ArgumentParser) -> None:
    """Add what asks for fits without rows."""
    _trained(parser)
    _tested(parser, "on which the change is measured")
    sets = "training rows that a fit goes without, as 1,2,3; once for each fit"
    parser.add_argument("--without", required=True, action="append", type=_rows, metavar="ROWS", help=sets)
    parser.add_argument("--tolerance", type=float, help="gradient norm at which a fit has converged (1e-10)")
    parser.add_argument("--max-iterations", type=int, metavar="N", help="Newton steps of one fit at most (100)")
    _retrained(parser)
    _running(parser)


def fidelity(parser: argparse.ArgumentParser) -> None:
    """Add what asks how well scores foretell retraining."""
    _scoring(parser)
    _tested(parser, "for whose rows training rows are scored")
    compared = "loo removes single rows; lds, the linear datamodelling score, trains on random subsets (loo)"
    parser.add_argument("--kind", choices=get_args(FidelityKind), default="loo", help=compared)
    drawn = "rows drawn at random, and as many again over the strata; of lds, subsets (50)"
    parser.add_argument("--samples", type=int, default=50, metavar="N", help=drawn)
    quantiles = "quantiles of the score's size of which equally many rows are drawn (5)"
    parser.add_argument("--strata", type=int, default=5, metavar="N", help=quantiles)
    parser.add_argument("--share", type=float, default=0.5, help="of the training rows in a subset (0.5)")
    parser.add_argument("--bootstrap", type=int, default=1000, metavar="N", help="resamples of an interval (1000)")
    _retrained(parser)
    _running(parser)


def leverage(parser: argparse.ArgumentParser) -> None:
    """Add what asks for the closed forms of a linear head."""
    _trained(parser)
    parser.add_argument("--damping", type=float, metavar="λ", help="of H + λI; none without it")
    parser.add_argument("--dfbeta", action="store_true", help="with the change of every coefficient (--json)")
    _running(parser)


def mislabels(parser: argparse.ArgumentParser) -> None:
    """Add what asks how well rankings find wrong labels."""
    _trained(parser)
    parser.add_argument("--test", required=True, metavar="DATASET", help="on which accuracy is measured")
    wrong = parser.add_mutually_exclusive_group()
    wrong.add_argument("--flip", type=float, help="share of the training rows whose labels are changed (0.1)")
    rows = "rows that are known to be wrong, as 3=0 5=1 with their right labels, or 3 5 to leave them out"
    wrong.add_argument("--known", nargs="+", type=_known_row, action=_Known, metavar="ROW[=LABEL]", help=rows)
    shares = "shares of the rows that are looked at (0.05 0.1 … 0.3)"
    parser.add_argument("--budgets", nargs="+", type=float, metavar="SHARE", help=shares)
    parser.add_argument("--seeds", type=int, default=10, metavar="N", help="repetitions (10)")
    _ranked(parser)


def suspects(parser: argparse.ArgumentParser) -> None:
    """Add what asks for rows whose labels look wrong."""
    _trained(parser)
    parser.add_argument("--top-k", type=int, default=100, metavar="K", help="rows of each ranking (100)")
    _ranked(parser)


def _ranked(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rankings", nargs="+", choices=get_args(RankingName), help="all without it")
    parser.add_argument(
        "--folds", type=int, default=5, metavar="N", help="of confident_learning's cross-validation (5)"
    )
    parser.add_argument("--method", help="whose scores self_influence ranks by, as server-info lists them")
    _damped(parser)
    begins = "where training by the recipe begins: at the registered weights, or at the recipe's initial ones"
    parser.add_argument("--start", choices=get_args(Start), help=begins)
    _seeded(parser)
    _running(parser)


def group_influence(parser: argparse.ArgumentParser) -> None:
    """Add what asks for groups."""
    _scoring(parser)
    _tested(parser, "whose predictions are explained", every=False)
    column = "column of groups of the training data; several times"
    parser.add_argument("--by", required=True, action="append", metavar="COLUMN", help=column)
    named = "GROUP=FACTOR, or COLUMN:GROUP=FACTOR where --by names several; 0 removes the group; several times"
    parser.add_argument("--reweight", action="append", default=[], metavar="GROUP=FACTOR", help=named)
    leading = "without --reweight: leading groups to retrain without and with twice their weight; 0 for none (3)"
    parser.add_argument("--reweight-top", type=int, default=3, metavar="N", help=leading)
    parser.add_argument("--top-k", type=int, default=10, metavar="K", help="rows to keep a side and a group (10)")
    parser.add_argument("--bootstrap", type=int, default=1000, metavar="N", help="resamples of an interval (1000)")
    _retrained(parser)
    _running(parser)


def compare(parser: argparse.ArgumentParser) -> None:
    """Add what asks for a comparison."""
    _scoring(parser)
    parser.add_argument("--other", metavar="MODEL", help="another model that was trained on the same data set")
    parser.add_argument("--other-method", metavar="METHOD", help="of the other model; as --method without it")
    _tested(parser, "whose predictions are explained")
    parser.add_argument("--top-k", type=int, default=10, metavar="K", help="rows to keep a side of each model (10)")
    parts = "leave out what remains of the scores without parts of influence"
    parser.add_argument("--no-ablation", dest="ablation", action="store_false", help=parts)
    near = parser.add_mutually_exclusive_group()
    near.add_argument("--no-distance", dest="distance", action="store_false", default=True, help="leave distances out")
    over = "inputs that distances are over; all that the models take as numbers without it"
    near.add_argument("--distance", dest="distance", nargs="+", default=True, metavar="INPUT", help=over)
    drawn = "training rows drawn at random whose scores and distances are kept, too (1000)"
    parser.add_argument("--scatter", type=int, default=1000, metavar="N", help=drawn)
    _running(parser)


def perturb(parser: argparse.ArgumentParser) -> None:
    """Add what asks how susceptible test rows are."""
    _trained(parser)
    parser.add_argument("--test", required=True, metavar="DATASET", help="whose rows are attacked")
    attacked = "rows of the test set: an attack on each of 1 2 3, on the mean of 1,2,3; on each row without it"
    parser.add_argument("--rows", nargs="+", type=_rows, metavar="ROWS", help=attacked)
    parser.add_argument("--candidates", type=int, metavar="N", help="training rows that an attack moves (1)")
    chosen = "training rows that every attack moves, as 1 2 3 or 1,2,3; each chooses its own without it"
    parser.add_argument("--candidate-rows", nargs="+", type=_rows, action=_Joined, metavar="ROW", help=chosen)
    first = "rank only so many exactly: those of the largest gradient in the features of a linear head"
    parser.add_argument("--prefilter", type=int, metavar="N", help=first)
    parser.add_argument("--input-name", metavar="NAME", help="input that is moved; the only one without it")
    parser.add_argument("--step", type=float, help="of an iteration, in levels (0.05)")
    parser.add_argument("--momentum", type=float, metavar="μ", help="of the direction that steps follow (0.95)")
    parser.add_argument("--iterations", type=int, metavar="N", help="of an attack at most (100)")
    within = "no number leaves its 8-bit level; or a ball of --radius levels (same_8bit)"
    parser.add_argument("--bound", choices=get_args(Bound), default="same_8bit", help=within)
    parser.add_argument("--radius", type=float, help="of linf and l2, in levels")
    size = "of one level in the input's unit, such as 1/255, which it is without it"
    parser.add_argument("--level", type=_fraction, help=size)
    parser.add_argument("--minimum", nargs="+", type=float, help="of a number: one for all, or one for each")
    parser.add_argument("--maximum", nargs="+", type=float, help="of a number: one for all, or one for each")
    stay = "places in the flattened row of numbers that stay, as 1 2 3 or 1,2,3"
    parser.add_argument("--fixed", nargs="+", type=_rows, action=_Joined, default=[], metavar="PLACE", help=stay)
    parser.add_argument("--damping", type=float, metavar="λ", help="of H + λI; chosen and reported without it")
    signs = "attack once more with random signs (yes)"
    parser.add_argument("--control", action=argparse.BooleanOptionalAction, default=True, help=signs)
    again = "count only flips that a linear head also makes when it is fitted from nothing (yes)"
    parser.add_argument("--confirm", action=argparse.BooleanOptionalAction, default=True, help=again)
    parser.add_argument("--seed", type=int, default=0, help="of the random signs (0)")
    _running(parser)


def _retrained(parser: argparse.ArgumentParser) -> None:
    begins = "where training by the recipe begins: at the registered weights, or at the recipe's initial ones"
    parser.add_argument("--start", choices=get_args(Start), help=begins)
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="trainings by the recipe of each (1)")


def _trained(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="name of the model")
    parser.add_argument("--train", required=True, metavar="DATASET", help="what the model was trained on")


def _tested(parser: argparse.ArgumentParser, what: str, *, every: bool = True) -> None:
    parser.add_argument("--test", required=True, metavar="DATASET", help=what)
    rows = "rows of the test set, as 1 2 3 or 1,2,3" + ("; all without it" if every else "")
    parser.add_argument("--rows", required=not every, nargs="+", type=_rows, action=_Joined, metavar="ROW", help=rows)
    _measured(parser)


def _measured(parser: argparse.ArgumentParser) -> None:
    cost = "cost of a row whose change is asked for: loss, −logit or −margin (loss)"
    parser.add_argument("--measurement", choices=get_args(Measurement), default="loss", help=cost)


def _damped(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--damping", type=float, metavar="λ", help="of H + λI; chosen and reported without it")
    correction = "correct for the leverage of training rows; by default where the model is a linear head"
    parser.add_argument("--leverage-correction", action=argparse.BooleanOptionalAction, default=None, help=correction)


def _selected(parser: argparse.ArgumentParser) -> None:
    selected = "parameters that the scores run over, as fnmatch patterns; those that the model registered without it"
    parser.add_argument("--parameters", nargs="+", action="extend", metavar="PATTERN", help=selected)


def _seeded(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seed", type=int, default=0, help="of whatever the method draws at random (0)")


def _scoring(parser: argparse.ArgumentParser) -> None:
    _trained(parser)
    best = "as server-info lists them; exact for a linear head, gauss_newton for a network, without it"
    parser.add_argument("--method", help=best)
    _damped(parser)
    parser.add_argument("--tolerance", type=float, help="relative residual at which cg stops (1e-8)")
    parser.add_argument("--max-iterations", type=int, metavar="N", help="iterations of one solve of cg at most (1000)")
    _selected(parser)
    parser.add_argument("--rank", type=int, metavar="N", help="what the method truncates to, as server-info says")
    parser.add_argument("--normalization", choices=get_args(Normalization), help="of relatif (theta)")
    parser.add_argument("--ensemble", action="store_true", help="average the scores over the model's checkpoints")
    _seeded(parser)


def _no_wait(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--no-wait", dest="wait", action="store_false", help=_AT_ONCE)


class _Joined(argparse.Action):
    """Lists given one after the other, as one."""

    def __call__(self, _: object, space: argparse.Namespace, values: Any, *__: object) -> None:
        """Join them."""
        setattr(space, self.dest, [each for part in values for each in part])


class _Known(argparse.Action):
    """Rows with their right labels as a mapping; rows alone as a list."""

    def __call__(self, _: object, space: argparse.Namespace, values: Any, *__: object) -> None:
        """Join them."""
        labelled = [label is not None for _, label in values]
        if any(labelled) and not all(labelled):
            raise argparse.ArgumentError(self, "give every row its right label, as 3=0, or none")
        setattr(space, self.dest, dict(values) if all(labelled) else [row for row, _ in values])


def _running(parser: argparse.ArgumentParser) -> None:
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--no-wait", dest="wait", action="store_false", help=_AT_ONCE)
    how.add_argument("--estimate", action="store_true", help="say what it would take, without doing it")
    limit = "let it run no longer"
    parser.add_argument("--timeout-seconds", type=float, metavar="SECONDS", help=limit)
    timeout(parser)


def _rows(text: str) -> list[int]:
    try:
        return [int(row) for row in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of rows such as 1,2,3") from None


def _known_row(text: str) -> tuple[int, int | None]:
    row, equals, label = text.partition("=")
    try:
        return int(row), int(label) if equals else None
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a row such as 3 nor one with its label, 3=0") from None


def _count(text: str) -> int | None:
    if text == "all":
        return None
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number nor 'all'") from None


def _fraction(text: str) -> float:
    try:
        return float(Fraction(text))
    except (ValueError, ZeroDivisionError, OverflowError):
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number nor a fraction such as 1/255") from None
