"""What the engine found, as result files."""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

import numpy as np

from undue_service.datasets.digest import row_bytes
from undue_service.datasets.source import DatasetSource
from undue_service.domain.errors import FieldViolation, InvalidArgument, Reason, ResourceExhausted
from undue_service.domain.reports import Produced
from undue_service.engine.attribution import Attribution, SelfAttribution
from undue_service.engine.fidelity import FidelityResult
from undue_service.engine.linear_diagnostics import LinearDiagnostics
from undue_service.engine.parameters import ParameterSpace
from undue_service.engine.queries import RowFacts
from undue_service.engine.retraining.retrain import Retraining
from undue_service.wire.examples import Array, encode_ids, encode_texts
from undue_service.wire.results import write

MAX_ROWS_BYTES = 64 << 20
"""Numbers and texts of the instances that one task reads."""


def write_influence(
    folder: Path, found: Attribution, train: DatasetSource, test: DatasetSource
) -> tuple[Produced, ...]:
    """Write explanations and, where they were kept, scores."""
    tests = _together(found.test, test) if found.aggregate else facts("", found.test, test)
    arrays = tests | facts("train_", found.train, train)
    for name in ("helpful_rows", "helpful_scores", "harmful_rows", "harmful_scores"):
        arrays[name] = getattr(found, name)
    write(folder / "explanations.safetensors", arrays)
    files = [Produced("explanations", "explanations.safetensors")]
    if found.scores is not None:
        write(folder / "scores.safetensors", {"scores": found.scores})
        files.append(Produced("scores", "scores.safetensors"))
    return tuple(files)


def write_self_influence(folder: Path, found: SelfAttribution, train: DatasetSource) -> Produced:
    """Write the ranking."""
    write(folder / "self_influences.safetensors", facts("", found.train, train) | {"score": found.scores})
    return Produced("self_influences", "self_influences.safetensors")


def write_rows(folder: Path, source: DatasetSource, rows: Sequence[int]) -> Produced:
    """Write the instances of some rows, as the model sees them.

    Raises:
        InvalidArgument: ROW_OUT_OF_RANGE; no rows are asked for.
        ResourceExhausted: INVALID_FIELD; they are more than `MAX_ROWS_BYTES`.
    """
    if not rows:
        raise InvalidArgument.at("rows", "name at least one row")
    blocks = source.batches(rows, len(rows))  # refuses rows that do not exist before the size is counted
    numbers = row_bytes(source.schema)
    _check_size([numbers + 1 + len(source.schema.groups)] * len(rows))  # at least, before anything is read
    texts = {"ids": source.ids(rows)} | {f"group.{name}": values for name, values in source.groups(rows).items()}
    _check_size([numbers + sum(len(text.encode()) + 1 for text in row) for row in zip(*texts.values(), strict=True)])
    found = next(blocks)
    arrays = {"row": found.index} | {name: encode_texts(values) for name, values in texts.items()}
    arrays |= {f"input.{name}": values for name, values in found.inputs.items()}
    optional = {"targets": found.targets, "weights": found.weights}
    arrays |= {name: values for name, values in optional.items() if values is not None}
    write(folder / "rows.safetensors", arrays)
    return Produced("rows", "rows.safetensors")


def _check_size(sizes: Sequence[int]) -> None:
    """Hold the bytes of each row against what one answer takes."""
    total = sum(sizes)
    if total <= MAX_ROWS_BYTES:
        return
    most = bisect_right(list(accumulate(sizes)), MAX_ROWS_BYTES)
    advice = f"ask for {most:,} at once" if most else "not even the first can be sent"
    text = f"{len(sizes):,} rows have {total:,} bytes, more than the {MAX_ROWS_BYTES:,} of one answer: {advice}"
    metadata = {"limit": str(MAX_ROWS_BYTES), "rows": str(most)}
    violation = FieldViolation("rows", text)
    raise ResourceExhausted(Reason.INVALID_FIELD, text, metadata=metadata, violations=(violation,))


def write_counterfactuals(folder: Path, found: Retraining) -> Produced:
    """Write what was measured of each counterfactual."""
    without = [edit.without for edit in found.edits]
    arrays = {
        "rows": found.rows,
        "costs": found.costs,
        "changes": found.changes,
        "gradient_norm": found.gradient_norms,
        "iterations": found.iterations,
        "without": np.concatenate([np.array(rows, dtype=np.int64) for rows in without]),
        "offsets": np.cumsum([0, *map(len, without)], dtype=np.int64),
    }
    write(folder / "counterfactuals.safetensors", arrays)
    return Produced("counterfactuals", "counterfactuals.safetensors")


def write_comparisons(folder: Path, found: FidelityResult) -> Produced:
    """Write what was predicted of each retraining, and what was measured."""
    arrays = {"rows": found.rows, "predicted": found.predicted, "measured": found.measured}
    if len(found.without):
        arrays["without"] = np.array([row for [row] in found.without], dtype=np.int64)
        arrays["stratum"] = found.stratum.astype(np.int64)
    else:
        arrays["subset"] = found.subsets
    write(folder / "comparisons.safetensors", arrays)
    return Produced("comparisons", "comparisons.safetensors")


def write_leverages(
    folder: Path, found: LinearDiagnostics, coefficients: Sequence[str], train: DatasetSource
) -> Produced:
    """Write what each training row does to a linear head, whose coefficients have these names."""
    arrays = {
        **encode_ids(train.ids(range(len(train)))),
        "leverage": found.leverage,
        "cooks_distance": found.cooks_distance,
        "effective_parameters": np.array([found.parameters]),
        "variance": np.array([found.variance]),
    }
    if found.dfbeta is not None:
        arrays |= {"dfbeta": found.dfbeta, "coefficients": encode_texts(coefficients)}
    write(folder / "leverages.safetensors", arrays)
    return Produced("leverages", "leverages.safetensors")


def coefficient_names(space: ParameterSpace) -> list[str]:
    """Return a name for each of the P numbers of θ: `weight[0, 3]`, or `offset` where it is a parameter's only one."""
    return [
        f"{name}[{', '.join(map(str, place))}]" if place else name
        for name in space.names
        for place in np.ndindex(space.shapes[name])
    ]


def _together(facts: RowFacts, source: DatasetSource) -> dict[str, Array]:
    """Return what is known of test rows that are explained together."""
    return {
        "rows": facts.rows.astype(np.int64),
        "row": facts.rows[:1].astype(np.int64),
        **encode_ids(source.ids(facts.rows[:1].tolist())),
        "loss": facts.losses.mean(keepdims=True),
    }


def facts(prefix: str, found: RowFacts, source: DatasetSource) -> dict[str, Array]:
    """Return what the model makes of some rows, by the names that a result file has for it."""
    return {
        f"{prefix}row": found.rows.astype(np.int64),
        **encode_ids(source.ids(found.rows.tolist()), prefix),
        f"{prefix}prediction": found.predictions,
        f"{prefix}target": found.targets,
        f"{prefix}loss": found.losses,
    }
