"""What each command does: one call of the SDK, one thing printed."""

import argparse
from collections.abc import Callable

from undue import Client, InfluenceJob, Objective, RetrainJob, SelfInfluenceJob

from . import files
from .output import Output

Verb = Callable[[Client, argparse.Namespace, Output], None]


def register_model(client: Client, options: argparse.Namespace, out: Output) -> None:
    """`undue models register`."""
    out.model(
        client.models.register(
            options.id,
            options.file,
            objective=Objective(options.objective, l2=options.l2, l2_exclude=options.l2_exclude),
            parameters=options.parameters,
            output=options.output,
            sample=options.sample,
            wait=options.wait,
        )
    )


def get_model(client: Client, options: argparse.Namespace, out: Output) -> None:
    """`undue models get`."""
    out.model(client.models.get(options.name))


def list_models(client: Client, options: argparse.Namespace, out: Output) -> None:
    """`undue models list`."""
    out.models(client.models.list(options.parent))


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


def influence(client: Client, options: argparse.Namespace, out: Output) -> None:
    """`undue influence`."""
    job = client.influence(
        options.model,
        train=options.train,
        test=options.test,
        rows=options.rows,
        method=options.method,
        measurement=options.measurement,
        damping=options.damping,
        top_k=options.top_k,
        leverage_correction=options.leverage_correction,
        tolerance=options.tolerance,
        max_iterations=options.max_iterations,
        aggregate=options.aggregate,
    )
    _finish(job, options, out)


def self_influence(client: Client, options: argparse.Namespace, out: Output) -> None:
    """`undue self-influence`."""
    job = client.self_influence(
        options.model,
        train=options.train,
        method=options.method,
        damping=options.damping,
        top_k=options.top_k,
        leverage_correction=options.leverage_correction,
        tolerance=options.tolerance,
        max_iterations=options.max_iterations,
    )
    _finish(job, options, out)


def retrain(client: Client, options: argparse.Namespace, out: Output) -> None:
    """`undue retrain`."""
    job = client.retrain(
        options.model,
        train=options.train,
        test=options.test,
        rows=options.rows,
        without=options.without,
        measurement=options.measurement,
        tolerance=options.tolerance,
        max_iterations=options.max_iterations,
    )
    _finish(job, options, out)


def get_job(client: Client, options: argparse.Namespace, out: Output) -> None:
    """`undue jobs get`."""
    out.job(client.jobs.get(options.name))


def list_jobs(client: Client, _: argparse.Namespace, out: Output) -> None:
    """`undue jobs list`."""
    out.jobs(client.jobs.list())


def watch_job(client: Client, options: argparse.Namespace, out: Output) -> None:
    """`undue jobs watch`; a job that failed is an error at the end."""
    job = client.jobs.get(options.name)
    for progress in job.watch():
        out.progress(progress)
    job.wait()


def cancel_job(client: Client, options: argparse.Namespace, out: Output) -> None:
    """`undue jobs cancel`."""
    job = client.jobs.get(options.name)
    job.cancel()
    out.job(job)


def job_result(client: Client, options: argparse.Namespace, out: Output) -> None:
    """`undue jobs result`."""
    job = client.jobs.get(options.name)
    out.result(job.result(options.timeout))


def server_info(client: Client, _: argparse.Namespace, out: Output) -> None:
    """`undue server-info`."""
    out.server_info(client.server_info())


def _finish(job: InfluenceJob | SelfInfluenceJob | RetrainJob, options: argparse.Namespace, out: Output) -> None:
    if options.wait:
        out.result(job.result(options.timeout))
    else:
        out.job(job)
