"""What the engine found, as result files."""

from pathlib import Path

import numpy as np

from undue_service.datasets.source import DatasetSource
from undue_service.domain.specs import Produced
from undue_service.engine.attribution import Attribution, SelfAttribution
from undue_service.engine.queries import RowFacts
from undue_service.engine.retrain import Retraining
from undue_service.wire.results import Array, encode_ids, write


def write_influence(
    folder: Path, found: Attribution, train: DatasetSource, test: DatasetSource
) -> tuple[Produced, ...]:
    """Write explanations and, where they were kept, scores."""
    tests = _together(found.test, test) if found.aggregate else _facts("", found.test, test)
    arrays = tests | _facts("train_", found.train, train)
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
    write(folder / "self_influences.safetensors", _facts("", found.train, train) | {"score": found.scores})
    return Produced("self_influences", "self_influences.safetensors")


def write_counterfactuals(folder: Path, found: Retraining) -> Produced:
    """Write what was measured without each set of rows."""
    arrays = {
        "rows": found.rows,
        "costs": found.costs,
        "changes": found.changes,
        "gradient_norm": found.gradient_norms,
        "iterations": found.iterations,
        "without": np.concatenate([np.array(rows, dtype=np.int64) for rows in found.without]),
        "offsets": np.cumsum([0, *map(len, found.without)], dtype=np.int64),
    }
    write(folder / "counterfactuals.safetensors", arrays)
    return Produced("counterfactuals", "counterfactuals.safetensors")


def _together(facts: RowFacts, source: DatasetSource) -> dict[str, Array]:
    """Return what is known of test rows that are explained together."""
    return {
        "rows": facts.rows.astype(np.int64),
        "row": facts.rows[:1].astype(np.int64),
        "ids": encode_ids(source.ids(facts.rows[:1].tolist())),
        "loss": facts.losses.mean(keepdims=True),
    }


def _facts(prefix: str, facts: RowFacts, source: DatasetSource) -> dict[str, Array]:
    return {
        f"{prefix}row": facts.rows.astype(np.int64),
        f"{prefix}ids": encode_ids(source.ids(facts.rows.tolist())),
        f"{prefix}prediction": facts.predictions,
        f"{prefix}target": facts.targets,
        f"{prefix}loss": facts.losses,
    }
