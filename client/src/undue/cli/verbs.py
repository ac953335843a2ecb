"""What each command does: one call of the SDK, one thing printed."""

import argparse
from collections.abc import Callable, Set

from undue import (
    Checkpoint,
    Client,
    FidelityJob,
    InfluenceJob,
    LeverageJob,
    MislabelsJob,
    Objective,
    RetrainJob,
    SelfInfluenceJob,
    SuspectsJob,
    Training,
)
from undue._errors import invalid
from undue._perturbing import OWN
from undue._sync.kinds import AnyJob

from . import files
from .output import Output
from .reweighting import reweighted

AskedJob = InfluenceJob | SelfInfluenceJob | RetrainJob | FidelityJob | LeverageJob | MislabelsJob | SuspectsJob
Verb = Callable[[Client, argparse.Namespace, Output], None]


def register_model(client: Client, options: argparse.Namespace, out: Output) -> None:
    """`undue models register`."""
    out.model(
        client.models.register(
            options.id,
            options.file,
            objective=Objective(
                options.objective, l2=options.l2, l2_exclude=options.l2_exclude, temperature=options.temperature
            ),
            parameters=options.parameters,
            output=options.output,
            sample=options.sample,
            training=_training(options),
            checkpoints=[_checkpoint(*each) for each in options.checkpoint],
            wait=options.wait,
            architecture=options.architecture,
            architecture_options=files.architecture_options(options.option),
        )
    )


def get_model(client: Client, options: argparse.Namespace, out: Output) -> None:
    """`undue models get`."""
    out.model(client.models.get(options.name))


def list_models(client: Client, options: argparse.Namespace, out: Output) -> None:
    """`undue models list`."""
    out.models(client.models.list(options.parent))


def delete_model(client: Client, options: argparse.Namespace, out: Output) -> None:
    """`undue models delete`."""
    client.models.delete(options.name, force=options.force, etag=options.etag)
    out.deleted(options.name)


def register_dataset(client: Client, options: argparse.Namespace, out: Output) -> None:
    """`undue datasets register`."""
    source = files.source(options.files)
    schema = files.schema(source, options)
    out.dataset(client.datasets.register(options.id, source, schema, wait=options.wait, format=options.format))


def get_dataset(client: Client, options: argparse.Namespace, out: Output) -> None:
    """`undue datasets get`."""
    out.dataset(client.datasets.get(options.name))


def list_datasets(client: Client, options: argparse.Namespace, out: Output) -> None:
    """`undue datasets list`."""
    out.datasets(client.datasets.list(options.parent))


def delete_dataset(client: Client, options: argparse.Namespace, out: Output) -> None:
    """`undue datasets delete`."""
    client.datasets.delete(options.name, force=options.force, etag=options.etag)
    out.deleted(options.name)


def read_dataset(client: Client, options: argparse.Namespace, out: Output) -> None:
    """`undue datasets read`."""
    out.examples(client.datasets.read(options.name, options.rows))


def influence(client: Client, options: argparse.Namespace, out: Output) -> None:
    """`undue influence`."""
    _ask(client, client.influence, _SCORED | _TESTED | {"top_k", "aggregate", "fidelity"}, options, out)


def self_influence(client: Client, options: argparse.Namespace, out: Output) -> None:
    """`undue self-influence`."""
    _ask(client, client.self_influence, _SCORED | {"top_k"}, options, out)


def retrain(client: Client, options: argparse.Namespace, out: Output) -> None:
    """`undue retrain`."""
    _ask(client, client.retrain, _ITERATED | _TESTED | _RETRAINED | {"without"}, options, out)


def fidelity(client: Client, options: argparse.Namespace, out: Output) -> None:
    """`undue fidelity`."""
    settings = {"kind", "samples", "strata", "share", "bootstrap"}
    _ask(client, client.fidelity, _SCORED | _TESTED | _RETRAINED | settings, options, out)


def leverage(client: Client, options: argparse.Namespace, out: Output) -> None:
    """`undue leverage`."""
    _ask(client, client.leverage, {"train", "damping", "dfbeta", "timeout_seconds"}, options, out)


def mislabels(client: Client, options: argparse.Namespace, out: Output) -> None:
    """`undue mislabels`."""
    names = {"test", "flip", "known", "budgets", "seeds"}
    _ask(client, client.mislabels, _RANKED | names, options, out)


def suspects(client: Client, options: argparse.Namespace, out: Output) -> None:
    """`undue suspects`."""
    _ask(client, client.suspects, _RANKED | {"top_k"}, options, out)


def group_influence(client: Client, options: argparse.Namespace, out: Output) -> None:
    """`undue group-influence`."""
    options.reweight = reweighted(options.reweight, options.by) or options.reweight_top or None
    names = _SCORED | _TESTED | _RETRAINED | {"by", "reweight", "top_k", "bootstrap"}
    _ask(client, client.group_influence, names, options, out)


def compare(client: Client, options: argparse.Namespace, out: Output) -> None:
    """`undue compare`."""
    names = _SCORED | _TESTED | {"other", "other_method", "top_k", "ablation", "distance", "scatter"}
    _ask(client, client.compare, names, options, out)


def perturb(client: Client, options: argparse.Namespace, out: Output) -> None:
    """`undue perturb`."""
    _ask(client, client.perturb, OWN | {"train", "test", "rows", "damping", "seed", "timeout_seconds"}, options, out)


def get_job(client: Client, options: argparse.Namespace, out: Output) -> None:
    """`undue jobs get`."""
    out.job(client.jobs.get(options.name))


def list_jobs(client: Client, _: argparse.Namespace, out: Output) -> None:
    """`undue jobs list`."""
    out.jobs(client.jobs.list())


def watch_job(client: Client, options: argparse.Namespace, out: Output) -> None:
    """`undue jobs watch`; a job that failed is an error at the end."""
    job = client.jobs.get(options.name)
    out.watch(job.watch())
    job.wait()


def cancel_job(client: Client, options: argparse.Namespace, out: Output) -> None:
    """`undue jobs cancel`."""
    job = client.jobs.get(options.name)
    job.cancel()
    out.job(job)


def delete_job(client: Client, options: argparse.Namespace, out: Output) -> None:
    """`undue jobs delete`."""
    client.jobs.delete(options.name, force=options.force, etag=options.etag)
    out.deleted(options.name)


def job_result(client: Client, options: argparse.Namespace, out: Output) -> None:
    """`undue jobs result`."""
    job = client.jobs.get(options.name)
    out.result(job.result(options.timeout))


def server_info(client: Client, _: argparse.Namespace, out: Output) -> None:
    """`undue server-info`."""
    out.server_info(client.server_info())


_ITERATED = {"train", "tolerance", "max_iterations", "timeout_seconds"}
_SCORED = (
    _ITERATED
    | {"method", "damping", "leverage_correction"}
    | {"parameters", "rank", "normalization", "ensemble", "seed"}
)
_TESTED = {"test", "rows", "measurement"}
_RETRAINED = {"start", "seeds"}
_RANKED = {"train", "rankings", "seed", "folds", "method", "damping", "leverage_correction", "start"} | {
    "timeout_seconds"
}


def _training(options: argparse.Namespace) -> Training | None:
    """Return the recipe that the options describe; None where they describe none."""
    if options.optimizer is None:
        named = ("lr", "epochs", "batch_size", "schedule", "momentum", "training_seed", "init")
        given = [name for name in named if getattr(options, name)]
        if given:
            raise invalid("optimizer", f"is needed beside --{given[0].replace('_', '-')}: a recipe of training has one")
        return None
    return Training(
        options.optimizer,
        options.lr,
        epochs=options.epochs,
        batch_size=options.batch_size,
        schedule=options.schedule,
        momentum=options.momentum,
        seed=options.training_seed,
        init=options.init,
    )


def _checkpoint(file: str, learning_rate: str) -> Checkpoint:
    try:
        return Checkpoint(file, float(learning_rate))
    except ValueError:
        raise invalid("checkpoint", f"{learning_rate!r} is no learning rate: write FILE LR") from None


def _ask(
    client: Client,
    ask: Callable[..., AnyJob],
    names: Set[str],
    options: argparse.Namespace,
    out: Output,
) -> None:
    arguments = {name: getattr(options, name) for name in names}
    if options.estimate:
        return out.estimate(client.estimate(options.model, **arguments))
    job = ask(options.model, **arguments)
    return out.result(job.result(options.timeout)) if options.wait else out.job(job)
