"""The fidelity of scores as a user has it measured: by jobs of the service, on the workloads' own models and data."""

import time
import warnings
from collections.abc import Callable
from typing import Any

import torch

from . import results
from .workloads import WORKLOADS

NAME = "fidelity-jobs"
SUBSETS, SEEDS, SAMPLES = 30, 2, 100
SAYS = f"""\
`client.fidelity` on models registered with their recipes (`python -m benchmarks.fidelity_jobs`): leave-one-out on
{SAMPLES} rows at random and as many over strata, each with all test rows; LDS over {SUBSETS} random halves, {SEEDS}
trainings each, by the service's own training. It draws other subsets and seeds than the tables above, and the first job
starts a runner. Intervals are 95 % bootstrap over retrainings and test rows.
"""


def measure() -> dict[str, Any]:
    """Register the models with their recipes, ask for their fidelity, and return what the jobs say."""
    import undue

    rows = []
    with warnings.catch_warnings(), undue.Client.local() as client:
        warnings.simplefilter("ignore", undue.ModelWarning)
        for workload, ask in (("convex", _convex), ("mlp", _mlp)):
            for label, job in ask(client):
                started = time.perf_counter()
                rows.append({"workload": workload, "job": label, **_said(job().result())})
                rows[-1]["seconds"] = time.perf_counter() - started
                print(f"  {workload}: {label}: {rows[-1]['seconds']:.0f} s", flush=True)
    record = {"rows": rows}
    results.write(NAME, record)
    return record


def _convex(client: Any) -> list[tuple[str, Callable[[], Any]]]:
    model, train, test = _registered(client, "convex")
    data = {"train": train, "test": test, "kind": "loo", "samples": SAMPLES}
    return [
        (f"leave-one-out, {method}", lambda method=method: client.fidelity(model, method=method, **data))
        for method in ("exact", "gauss_newton", "ekfac")
    ]


def _mlp(client: Any) -> list[tuple[str, Callable[[], Any]]]:
    import undue
    from benchmarks.workloads.digits_mlp import RECIPE

    task = WORKLOADS["mlp"].task(0)
    recipe = undue.Training("adam", RECIPE.lr, epochs=RECIPE.epochs, batch_size=RECIPE.batch_size, init="torch")
    checkpoints = [
        undue.Checkpoint({name: value.numpy() for name, value in weights.items()}, RECIPE.lr) for weights in task.others
    ]
    model, train, test = _registered(client, "mlp", training=recipe, checkpoints=checkpoints)
    data = {"train": train, "test": test, "kind": "lds", "samples": SUBSETS, "seeds": SEEDS}
    settings = {
        "gauss_newton": {"damping": task.damping["gauss_newton"]},
        "ekfac": {"damping": task.damping["ekfac"]},
        "grad_dot": {},
    }
    return [
        (
            f"LDS, {method}{', five checkpoints' if ensemble else ''}",
            lambda method=method, ensemble=ensemble: client.fidelity(
                model, method=method, ensemble=ensemble, **settings[method], **data
            ),
        )
        for method in settings
        for ensemble in (False, True)
    ]


def _registered(client: Any, name: str, **more: Any) -> tuple[Any, Any, Any]:
    import undue

    task = WORKLOADS[name].task(0)
    data = task.data
    train = client.datasets.register(f"{name}-train", undue.Arrays(inputs=data.x.numpy(), targets=data.y.numpy()))
    test = client.datasets.register(
        f"{name}-test", undue.Arrays(inputs=data.test_x.numpy(), targets=data.test_y.numpy())
    )
    objective = undue.Objective("cross_entropy", l2=task.l2)
    module = task.module.to(torch.float32)
    model = client.models.register(name, module, objective=objective, example_inputs=data.x[:2], sample=train, **more)
    return model, train, test


def _said(result: Any) -> dict[str, Any]:
    def interval(one: Any) -> list[float] | None:
        return None if one is None else [one.value, one.low, one.high]

    return {name: interval(getattr(result, name)) for name in ("lds", "pearson", "spearman", "slope")}


if __name__ == "__main__":
    measure()
