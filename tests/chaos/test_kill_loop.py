"""SIGKILL at random instants: no job is lost, none is done twice, and nothing is left lying about."""

import os
import random
import time
from dataclasses import fields
from typing import get_args

import pytest

from chaos import state
from chaos.kill_loop import KillLoop, quiet_run
from chaos.process import Service
from undue_service.domain.specs import JobSpec


def test_a_few_kills(tmp_path):
    story(tmp_path, rounds=4)


@pytest.mark.chaos
@pytest.mark.timeout(3600)
def test_fifty_rounds_of_kills(tmp_path):
    kinds = story(tmp_path, rounds=int(os.environ.get("UNDUE_CHAOS_ROUNDS", "50")))
    missing = {field.default for spec in get_args(JobSpec) for field in fields(spec) if field.name == "kind"} - kinds
    assert not missing, f"jobs of these kinds are missing in chaos/catalogue.py: {missing}"


def story(root, rounds):
    seed = int(os.environ.get("UNDUE_CHAOS_SEED") or random.SystemRandom().getrandbits(32))
    print(f"UNDUE_CHAOS_SEED={seed}", flush=True)
    (root / "killed").mkdir()
    (root / "quiet").mkdir()
    with Service(root / "killed") as service:
        return run(service, root / "quiet", rounds, seed)


def run(service, quiet_folder, rounds, seed):
    began = time.monotonic()
    loop = KillLoop(service, random.Random(seed))
    loop.prepare()
    loop.run(rounds)
    loop.close()
    quiet = quiet_run(quiet_folder, loop)

    asked = loop.asker.asked
    found = state.check_jobs(service.data, asked, quiet, loop.api_kills, loop.runner_kills)
    state.check_log(service)
    attempts = sum(job["attempt"] for job in found)
    swept = sum(line["artifacts"] for line in service.said("swept"))
    print(
        f"{rounds} rounds in {time.monotonic() - began:.0f} s: kills {dict(loop.kills)}; {len(found)} jobs, "
        f"{attempts} attempts, {len(asked.versions)} versions, {asked.repeats} calls repeated, "
        f"{len(asked.abandoned)} uploads abandoned, {swept} artifacts of the dead swept"
    )

    # What the dead have left goes at the next start; abandoned uploads go when their time is up.
    restart_and_sweep(service)
    state.check_files(service.data, asked.abandoned)
    time.sleep(1.1)
    restart_and_sweep(service, UNDUE_UPLOAD_TTL_SECONDS="1")
    state.check_files(service.data, [])
    return {job["spec"]["kind"] for job in found}


def restart_and_sweep(service, **settings):
    service.start(**settings)
    deadline = time.monotonic() + 30
    while not service.said("swept", since_start=True):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    service.stop()
