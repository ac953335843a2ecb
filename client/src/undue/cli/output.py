"""What commands print: aligned tables for people, JSON for programs."""

import dataclasses
import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from enum import Enum
from typing import Any

import numpy as np

from undue import (
    Alias,
    Architecture,
    ArchitectureOption,
    CompareResult,
    Dataset,
    Error,
    Estimate,
    Example,
    ExplainResult,
    FidelityResult,
    GroupInfluenceResult,
    Index,
    InfluenceResult,
    LeverageResult,
    MislabelsResult,
    Model,
    PerturbResult,
    Progress,
    RetrainResult,
    SelfInfluenceResult,
    ServerInfo,
    SuspectsResult,
)
from undue._render import table
from undue._sync.kinds import AnyJob

Job = AnyJob
AnyResult = (
    InfluenceResult
    | SelfInfluenceResult
    | RetrainResult
    | FidelityResult
    | PerturbResult
    | LeverageResult
    | MislabelsResult
    | SuspectsResult
    | GroupInfluenceResult
    | CompareResult
    | ExplainResult
    | Model
    | Dataset
    | Index
)


class Output:
    """Standard output, in one of two languages."""

    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json

    def model(self, model: Model) -> None:
        """Print one model."""
        if self._as_json:
            return _print_json(model)
        rows: list[tuple[str, object]] = [
            ("name", model.name),
            ("state", model.state),
            ("format", model.format),
            *([("architecture", _architecture(model.architecture))] if model.architecture else []),
            ("objective", f"{model.objective.name}, l2 {model.objective.l2:g}"),
            ("validation job", model.validation_job),
        ]
        if model.failure:
            rows.append(("error", f"{model.failure.message} [{model.failure.reason}]"))
        if report := model.report:
            selected = [each for each in report.parameters if each.selected]
            count = sum(math.prod(each.shape) for each in selected)
            rows.append(("parameters", f"{count:,} in {len(selected)} arrays"))
            rows.append(("linear head", "yes" if report.linear_head else "no"))
            if report.parity:
                rows.append(("parity", f"{report.parity.max_abs_difference:.3g} over {report.parity.rows} rows"))
            if report.stationarity:
                rows.append(("gradient norm", report.stationarity.gradient_norm))
                rows.append(("mean loss", report.stationarity.mean_loss))
            rows += [("warning", text) for text in report.warnings]
        if recipe := model.training:
            rate = f"lr {recipe.lr:g}, {recipe.schedule}" if recipe.schedule else f"lr {recipe.lr:g}"
            batch = f"batches of {recipe.batch_size:,}" if recipe.batch_size else "all rows in a step"
            rows.append(("training", f"{recipe.optimizer}, {rate}, {recipe.epochs:,} epochs, {batch}"))
        for place, one in enumerate(model.checkpoints):
            loss = f", mean loss {one.stationarity.mean_loss:.6g}" if one.stationarity else ""
            rows.append((f"checkpoint {place}", f"learning rate {one.learning_rate:g}{loss}"))
        return _print_rows(rows)

    def models(self, models: Iterable[Model]) -> None:
        """Print models."""
        if self._as_json:
            return _print_json(list(models))
        records = [(m.name, m.state, m.format, m.objective.name, m.create_time) for m in models]
        return _print_table(("name", "state", "format", "objective", "registered"), records)

    def dataset(self, dataset: Dataset) -> None:
        """Print one data set."""
        if self._as_json:
            return _print_json(dataset)
        rows: list[tuple[str, object]] = [
            ("name", dataset.name),
            ("state", dataset.state),
            ("format", dataset.format),
            *([("uri", dataset.uri)] if dataset.uri else []),
            ("validation job", dataset.validation_job),
        ]
        if dataset.failure:
            rows.append(("error", f"{dataset.failure.message} [{dataset.failure.reason}]"))
        if report := dataset.report:
            rows.append(("rows", f"{report.rows:,}"))
            rows += [(_input(each.name), f"{each.dtype} {list(each.row_shape)}") for each in report.inputs]
            if report.target:
                rows.append(("target", f"{report.target.dtype} {list(report.target.row_shape)}"))
            rows += [(f"group {each.name!r}", f"{each.values:,} values") for each in report.groups]
            rows += [("classes", _listed(report.classes))] if report.classes else []
            rows += [("files", _listed(report.files))] if report.files else []
            rows.append(("digest", report.digest))
        return _print_rows(rows)

    def datasets(self, datasets: Iterable[Dataset]) -> None:
        """Print data sets."""
        if self._as_json:
            return _print_json(list(datasets))
        records = [(d.name, d.state, d.format, d.report.rows if d.report else None, d.create_time) for d in datasets]
        return _print_table(("name", "state", "format", "rows", "registered"), records)

    def index(self, index: Index) -> None:
        """Print one index."""
        if self._as_json:
            return _print_json(index)
        rows: list[tuple[str, object]] = [
            ("name", index.name),
            ("state", index.state),
            ("model", index.model),
            ("method", index.method),
            *[("data set", name) for name in index.datasets or (index.train,)],
            ("newest job", index.job),
        ]
        if index.failure:
            rows.append(("error", f"{index.failure.message} [{index.failure.reason}]"))
        if report := index.report:
            rows += [
                ("rows", f"{report.rows:,}, {index.erased_rows:,} erased"),
                ("on disk", f"{report.bytes / 2**20:,.1f} MiB, {report.bytes_per_row:,.0f} bytes a row"),
                ("in memory", f"{report.resident_bytes / 2**20:,.1f} MiB"),
                ("damping", report.diagnostics.damping),
                ("recall", f"{report.recall:.4f}, measured on {report.recall_queries:,} rows"),
                ("staleness", report.staleness),
            ]
        return _print_rows(rows + [("warning", text) for text in index.warnings])

    def indexes(self, indexes: Iterable[Index]) -> None:
        """Print indexes."""
        if self._as_json:
            return _print_json(list(indexes))
        records = [
            (i.name, i.state, i.method, i.model, i.report.rows if i.report else None, i.create_time) for i in indexes
        ]
        return _print_table(("name", "state", "method", "model", "rows", "asked for"), records)

    def alias(self, alias: Alias) -> None:
        """Print one alias."""
        if self._as_json:
            return _print_json(alias)
        return _print_rows([("alias", alias.name), ("index", alias.index), ("set", alias.update_time)])

    def aliases(self, aliases: Iterable[Alias]) -> None:
        """Print aliases."""
        if self._as_json:
            return _print_json(list(aliases))
        return _print_table(("alias", "index", "set"), [(a.name, a.index, a.update_time) for a in aliases])

    def job(self, job: Job) -> None:
        """Print one job."""
        facts = _job(job)
        if self._as_json:
            return _print_json(facts)
        shown = {key: value for key, value in facts.items() if key not in ("spec", "progress", "failure")}
        rows = [(key.replace("_", " "), value) for key, value in shown.items() if value is not None]
        rows += [(key, value) for key, value in job.spec.items() if value not in (None, [])]
        rows.append(("progress", _progress(job.progress)))
        if job.failure:
            rows.append(("error", f"{job.failure.message} [{job.failure.reason}]"))
        return _print_rows(rows)

    def jobs(self, jobs: Iterable[Job]) -> None:
        """Print jobs."""
        if self._as_json:
            return _print_json([_job(job) for job in jobs])
        records = [(j.name, j.kind, j.state, _progress(j.progress), j.create_time) for j in jobs]
        return _print_table(("name", "kind", "state", "progress", "queued"), records)

    def watch(self, steps: Iterable[Progress]) -> None:
        """Print how far a job has come, each step at once; as JSON, one array."""
        opening = "["
        for step in steps:
            text = opening + _json(step) if self._as_json else f"{step.state.lower():9} {_progress(step)}".rstrip()
            print(text, end="" if self._as_json else "\n", flush=True)
            opening = ",\n"
        if self._as_json:
            print("]")

    def estimate(self, estimate: Estimate) -> None:
        """Print what a job would take."""
        if self._as_json:
            return _print_json(estimate)
        peak = f"{estimate.peak_bytes / 2**20:,.0f} MiB"
        return _print_rows([("rows", f"{estimate.rows:,}"), ("peak memory", peak), ("seconds", estimate.seconds)])

    def examples(self, examples: Iterable[Example]) -> None:
        """Print rows of a data set."""
        if self._as_json:
            return _print_json(list(examples))
        for each in examples:
            rows: list[tuple[str, object]] = [("row", each.row), ("id", each.id)]
            rows += [(_input(name), _brief(values)) for name, values in each.inputs.items()]
            optional = {"target": each.target, "weight": each.weight, **each.groups}
            rows += [(name, value) for name, value in optional.items() if value is not None]
            _print_rows(rows)
            print()
        return None

    def deleted(self, name: str) -> None:
        """Print what is gone."""
        if self._as_json:
            return _print_json({"deleted": name})
        return print(f"{name} is deleted")

    def result(self, result: AnyResult) -> None:
        """Print what a job or `explain` found."""
        match result:
            case Model():
                self.model(result)
            case Dataset():
                self.dataset(result)
            case Index():
                self.index(result)
            case FidelityResult() if self._as_json:
                names = ("kind", "pearson", "spearman", "slope", "lds", "strata", "recipe")
                _print_json({name: getattr(result, name) for name in names} | _plain(result))
            case _ if self._as_json:
                _print_json(result)
            case _:
                print(result)

    def server_info(self, info: ServerInfo) -> None:
        """Print what an installation is."""
        if self._as_json:
            return _print_json(info)
        rows: list[tuple[str, object]] = [
            ("version", info.version),
            ("devices", ", ".join(info.devices)),
            ("largest upload", f"{info.limits.max_upload_bytes:,} bytes"),
        ]
        rows += [(f"library {name}", version) for name, version in sorted(info.libraries.items())]
        rows += [(f"runner {each.pid}", f"{each.lane} on {each.device}, {each.state.lower()}") for each in info.runners]
        _print_rows(rows)
        print()
        _print_table(
            ("method", "scale", "damping", "rank", "estimand"),
            [(m.name, m.scale, "yes" if m.uses_damping else "no", m.rank or "no", m.estimand) for m in info.methods],
        )
        print()
        records = [
            (one.name if place == 0 else "", option.name, option.default or "needed", option.allowed, option.meaning)
            for one in info.architectures
            for place, option in enumerate(one.options or (_UNKNOWN,))
        ]
        return _print_table(("architecture", "option", "default", "allowed", "meaning"), records)


_UNKNOWN = ArchitectureOption("", "installed by the operator of the service", "", "")


def _architecture(one: Architecture) -> str:
    return f"{one.name}({', '.join(f'{name}={value}' for name, value in one.options.items())})"


def report(error: Error, as_json: bool) -> None:
    """Print an error to standard error."""
    if not as_json:
        quoted = f" (request {error.request_id})" if error.request_id else ""
        print(f"undue: {error}{quoted}", file=sys.stderr)
        return
    facts = {
        "code": error.code,
        "reason": error.reason,
        "message": error.message,
        "metadata": error.metadata,
        "request_id": error.request_id,
        "violations": error.violations,
    }
    print(_json({"error": facts}), file=sys.stderr)


def _job(job: Job) -> dict[str, object]:
    return {
        "name": job.name,
        "kind": job.kind,
        "state": job.state,
        "spec": job.spec,
        "progress": job.progress,
        "failure": job.failure,
        "attempt": job.attempt,
        "create_time": job.create_time,
        "start_time": job.start_time,
        "end_time": job.end_time,
    }


def _input(name: str) -> str:
    return f"input {name!r}" if name else "input"


def _brief(values: np.ndarray[Any, Any]) -> str:
    return np.array2string(values, threshold=16, edgeitems=4, precision=4).replace("\n", " ")


def _progress(progress: Progress) -> str:
    counted = f" {progress.done:,} of {progress.total:,}" if progress.total else ""
    rate = f", {progress.rate:,.3g}/s" if progress.rate else ""
    left = f", {progress.seconds_left:,.0f} s left" if progress.seconds_left is not None else ""
    return f"{progress.stage}{counted}{rate}{left}".strip()


def _listed(names: Sequence[str], most: int = 10) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown}, … ({len(names):,}; all of them with --json)"


def _print_rows(rows: Iterable[tuple[str, object]]) -> None:
    lines = table(("", ""), rows).split("\n")
    print("\n".join(lines[1:]))


def _print_table(columns: Sequence[str], records: Sequence[Sequence[object]]) -> None:
    print(table(columns, records))


def _print_json(value: object) -> None:
    print(_json(value))


def _json(value: object) -> str:
    return json.dumps(_plain(value), ensure_ascii=False, allow_nan=False)


def _plain(value: Any) -> Any:
    """Return a value in terms of JSON, which has neither NaN nor infinity: those become null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: _plain(getattr(value, field.name))
            for field in dataclasses.fields(value)
            if field.name[0] != "_"
        }
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value
