"""The factored index: built, asked alone and by many, beside a batch job, extended and erased.

`python -m benchmarks.indexes` measures on Fashion-MNIST with the MLP of the workload `fashion` and, on all 60,000 rows,
with one of its shape trained on them.
"""

import asyncio
import contextlib
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from . import machine, results
from .data import fashion
from .training import Recipe, train
from .workloads import fashion_mlp

NAME = "indexes"
QUERIES = 500
LISTED = 10
CALLERS = (1, 8, 64)
CALLS = {1: 500, 8: 1600, 64: 3200}
APPENDED, ERASED = 10_000, 1_000
SAYS = f"""\
`python -m benchmarks.indexes`: MLP 784-256-128-10 on Fashion-MNIST, λ by default, {QUERIES} test rows without their
labels, one after the other. *Recall* is the share of the {LISTED} most helpful and {LISTED} most harmful rows of
a dense scan of all rows at full rank that the answers list; scores that tie within 1e-6 are equal. Over gRPC the client
is on the same machine and shares its cores with the service; the time of a call is what its caller waits. *Beside a
batch job* is one caller while a `gauss_newton` influence job runs on the same slot.
"""


def measure(threads: int = 2) -> dict[str, Any]:
    """Measure everything and write it down."""
    torch.set_num_threads(threads)
    record: dict[str, Any] = {"machine": machine.describe(threads, "cpu", ""), "engine": [], "service": []}
    for n in (10_000, 60_000):
        world = World.of(n)
        record["engine"].append(in_engine(world))
        _say(record["engine"][-1])
        record["service"].append(over_grpc(world))
        _say(record["service"][-1])
    results.write(NAME, record)
    return record


@dataclass(frozen=True)
class World:
    """A trained model and its data."""

    module: nn.Module
    x: Tensor
    y: Tensor
    test_x: Tensor
    l2: float

    @classmethod
    def of(cls, n: int) -> "World":
        """Train on the first n rows; the recipe is the workload's."""
        recipe = Recipe(epochs=10 if n <= 10_000 else 3, batch_size=128, lr=1e-3, l2=fashion_mlp.RECIPE.l2)
        data = fashion(n, 10_000)
        weights = train(fashion_mlp.architecture, data.x, data.y, recipe, [0])
        module = fashion_mlp.architecture()
        module.load_state_dict({name: tensor[0] for name, tensor in weights.items()})
        return cls(module.eval(), data.x, data.y, data.test_x, recipe.l2)


def in_engine(world: World) -> dict[str, Any]:
    """Build an index and ask it, row by row, without a service."""
    from undue_service.domain.specs import ObjectiveSpec
    from undue_service.engine.data import TensorRows
    from undue_service.engine.index import Encoder, Searcher, Shard, fit_index
    from undue_service.engine.methods import Problem
    from undue_service.engine.objective import Objective
    from undue_service.engine.program import Program

    exported = torch.export.export(world.module, (world.x[:3],), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    program = Program.from_exported(exported).to("cpu", torch.float32)
    objective = Objective(program, ObjectiveSpec("cross_entropy", world.l2))
    name = program.inputs[0].name
    rows = TensorRows({name: world.x}, world.y)
    started = time.perf_counter()
    fitted = fit_index(Problem(objective, rows), "ekfac")
    fitted_at = time.perf_counter()
    encoder = Encoder(fitted, objective)
    blocks = [encoder.encode(objective.place(batch)) for batch in rows.batches(encoder.block_rows(2**30))]
    shard = Shard.of(blocks)
    built_at = time.perf_counter()
    searcher = Searcher(fitted, objective, [shard], rows)
    asked = [
        objective.place(next(TensorRows({name: world.test_x[at : at + 1]}).batches(1))) for at in range(QUERIES + 20)
    ]
    for batch in asked[QUERIES:]:
        searcher.explain(batch)
    seconds, found = [], []
    for batch in asked[:QUERIES]:
        before = time.perf_counter()
        found.append(searcher.explain(batch))
        seconds.append(time.perf_counter() - before)
    exact = []
    for batch in asked[:20]:
        before = time.perf_counter()
        searcher.explain(batch, exact=True)
        exact.append(time.perf_counter() - before)
    return {
        "rows": len(world.x),
        "fit_seconds": fitted_at - started,
        "rows_seconds": built_at - fitted_at,
        "bytes_per_row": shard.nbytes / len(world.x),
        "scanned": float(np.mean([one.scanned for one in found])),
        "stages": {stage: float(np.median([one.seconds[stage] for one in found])) for stage in found[0].seconds},
        "exact_seconds": _spread(exact),
        "recall": _recall(objective, searcher, world, name, found),
        **_spread(seconds),
    }


def _recall(objective: Any, searcher: Any, world: World, name: str, found: list[Any]) -> float:
    """Hold the answers against scores of all rows, written down at full rank."""
    from undue_service.engine.data import TensorRows
    from undue_service.engine.gradients import loss_gradients, measurement_gradients

    n, scores = len(world.x), torch.empty(len(world.x), QUERIES)
    batch = objective.place(next(TensorRows({name: world.test_x[:QUERIES]}).batches(QUERIES)))
    solved = searcher._solved(measurement_gradients(objective, objective.explained(batch)))
    for batch in TensorRows({name: world.x}, world.y).batches(2000):
        scores[batch.index] = loss_gradients(objective, objective.place(batch)).dot(solved) / n
    hits = 0
    for at, one in enumerate(found):
        for sign, rows in ((1, one.helpful_rows[0]), (-1, one.harmful_rows[0])):
            last = (sign * scores[:, at]).topk(LISTED).values[-1]
            hits += int((sign * scores[torch.from_numpy(rows), at] >= last * (1 - 1e-6)).sum())
    return hits / (2 * LISTED * QUERIES)


def over_grpc(world: World) -> dict[str, Any]:
    """Build an index in a service and ask it as its users do."""
    import undue

    n, queries = len(world.x), world.test_x.numpy()
    with warnings.catch_warnings(), undue.Client.local() as client:
        warnings.simplefilter("ignore", undue.ModelWarning)
        data = undue.Arrays(inputs=world.x.numpy(), targets=world.y.numpy())
        train_set = client.datasets.register("train", data)
        model = client.models.register(
            "mlp",
            world.module,
            objective=undue.Objective("cross_entropy", l2=world.l2),
            example_inputs=world.x[:2],
            sample=train_set,
        )
        started = time.perf_counter()
        index = client.indexes.build(model, train=train_set, method="ekfac").result()
        record: dict[str, Any] = {"rows": n, "build_seconds": time.perf_counter() - started}
        record |= {"bytes_per_row": index.report.bytes_per_row, "recall": index.report.recall}
        started = time.perf_counter()
        client.explain(index, inputs=queries[:1])
        record["first_call_seconds"] = time.perf_counter() - started
        record["callers"] = {str(count): asyncio.run(_ask(client.address, index, queries, count)) for count in CALLERS}
        with _busy(client, model, train_set):
            record["beside_batch"] = asyncio.run(_ask(client.address, index, queries, 1))
        record["exact"] = _timed(lambda at: client.explain(index, inputs=queries[at : at + 1], exact=True), 20)
        started = time.perf_counter()
        more = undue.Arrays(inputs=queries[:APPENDED], targets=np.zeros(len(queries[:APPENDED]), np.int64))
        index = client.indexes.extend(index, rows=more).result()
        record["extend_seconds"] = time.perf_counter() - started
        record["staleness"] = index.report.staleness
        erased = np.random.default_rng(0).choice(n, ERASED, replace=False).tolist()
        started = time.perf_counter()
        index = client.indexes.erase(index, rows=erased)
        record["erase_seconds"] = time.perf_counter() - started
        answers = [client.explain(index, inputs=queries[at : at + 100]) for at in range(0, 500, 100)]
        listed = {one.row for found in answers for each in found for one in (*each.helpful, *each.harmful)}
        record["erased_listed"] = len(listed & set(erased))
        record["appended_listed"] = sum(row >= n for row in listed)
        started = time.perf_counter()
        client.indexes.compact(index).result()
        record["compact_seconds"] = time.perf_counter() - started
    return record


def section(record: Mapping[str, Any]) -> str:
    """Return the part of the page."""
    engine = [
        [
            "rows",
            "fit s",
            "rows s",
            "bytes a row",
            "query p50 ms",
            "p99",
            "rows screened",
            "recall",
            "exact p50 ms",
            "p99",
        ]
    ]
    engine += [
        [
            f"{one['rows']:,}",
            f"{one['fit_seconds']:.1f}",
            f"{one['rows_seconds']:.1f}",
            f"{one['bytes_per_row']:.0f}",
            *_milliseconds(one),
            f"{one['scanned']:,.0f}",
            f"{one['recall']:.4f}",
            *_milliseconds(one["exact_seconds"]),
        ]
        for one in record["engine"]
    ]
    service = [["rows", "callers", "p50 ms", "p99", "calls a second"]]
    for one in record["service"]:
        for callers, found in one["callers"].items():
            service.append([f"{one['rows']:,}", callers, *_milliseconds(found), f"{found['calls_per_second']:.0f}"])
        beside = one["beside_batch"]
        cells = [
            f"{one['rows']:,}",
            "1, beside a batch job",
            *_milliseconds(beside),
            f"{beside['calls_per_second']:.0f}",
        ]
        service += [cells, [f"{one['rows']:,}", "1, exact", *_milliseconds(one["exact"]), ""]]
    told = [
        f"- {one['rows']:,} rows in the service: built in {one['build_seconds']:.1f} s; the first call, which starts a "
        f"runner and opens the index, {one['first_call_seconds']:.1f} s; {APPENDED:,} rows appended in "
        f"{one['extend_seconds']:.1f} s (staleness {one['staleness']:.3f}), {ERASED:,} erased in "
        f"{1000 * one['erase_seconds']:.0f} ms: in 500 answers after that {one['erased_listed']} of them and "
        f"{one['appended_listed']:,} places of appended rows; compacted in {one['compact_seconds']:.1f} s."
        for one in record["service"]
    ]
    parts = ["## The index", SAYS, results.table(engine), results.table(service), "\n".join(told), ""]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def _milliseconds(spread: Mapping[str, float]) -> list[str]:
    return [f"{1000 * spread[name]:.1f}" for name in ("p50", "p99")]


async def _ask(address: str, index: Any, queries: np.ndarray, callers: int) -> dict[str, float]:
    """Let callers ask one row after the other until all calls are made."""
    import undue

    rows, seconds = iter(range(CALLS[callers])), []
    async with undue.AsyncClient(address) as client:

        async def caller() -> None:
            for at in rows:
                before = time.perf_counter()
                await client.explain(index, inputs=queries[at % len(queries)][None])
                seconds.append(time.perf_counter() - before)

        await client.explain(index, inputs=queries[:1])
        started = time.perf_counter()
        await asyncio.gather(*(caller() for _ in range(callers)))
        whole = time.perf_counter() - started
    return {"calls_per_second": len(seconds) / whole, **_spread(seconds)}


@contextlib.contextmanager
def _busy(client: Any, model: Any, train_set: Any) -> Iterator[None]:
    """Keep the slot's batch runner at work."""
    job = client.influence(model, train=train_set, test=train_set, rows=range(2000), method="gauss_newton")
    while job.state != "RUNNING":
        time.sleep(0.05)
        job = client.jobs.get(job.name)
    time.sleep(1)
    yield
    job = client.jobs.get(job.name)
    if job.state.ended:
        print("  the batch job ended before the calls did", flush=True)
    job.cancel()


def _timed(ask: Any, count: int) -> dict[str, float]:
    seconds = []
    for at in range(count):
        before = time.perf_counter()
        ask(at)
        seconds.append(time.perf_counter() - before)
    return _spread(seconds)


def _spread(seconds: list[float]) -> dict[str, float]:
    return {"p50": float(np.median(seconds)), "p99": float(np.percentile(seconds, 99))}


def _say(record: dict[str, Any]) -> None:
    for name, value in record.items():
        print(f"  {name}: {value}", flush=True)
    print(flush=True)


if __name__ == "__main__":
    measure()
