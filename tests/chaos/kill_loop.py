"""The kill loop: work goes on while the service and its runners are killed at random instants.

A round asks for some work on a thread of its own and strikes once meanwhile. What a strike waits for before its random
delay decides which part of the work it tends to hit:

    create      calls that make jobs, data sets and models are under way
    upload      bytes are arriving
    last chunk  all bytes of an upload have arrived, or all but one chunk
    queued      calls have been answered, the runner is being started
    running     a runner reports progress
    writing     a runner writes a result
    keeping     a result has been kept and is being noted
    startup     the service is being started after another kill
    runner      as running, but the runner is killed
    new runner  a runner is being started, and is killed
"""

import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import psutil

from chaos import state
from chaos.catalogue import ASKED, CHUNK_BYTES, MORE_NUMBER, TRAIN, Asker
from chaos.process import Service
from undue_service.application.scheduler import MAX_INTERRUPTIONS, MAX_LOST_RUNNERS

STRIKES = (
    "create",
    "upload",
    "last chunk",
    "queued",
    "running",
    "writing",
    "keeping",
    "startup",
    "runner",
    "new runner",
)
WAIT_SECONDS = 20.0
UPLOAD_BYTES = 2 << 20


@dataclass
class KillLoop:
    """Kills one service again and again, and keeps the books."""

    service: Service
    rng: random.Random
    kills: Counter = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._channel = self.service.channel()
        self.asker = Asker(self._channel, random.Random(self.rng.getrandbits(64)))
        self._lost: Counter = Counter()
        """Job to the runners that it may have lost; at MAX_LOST_RUNNERS it would fail, and rightly."""

    @property
    def api_kills(self) -> int:
        """How often the API process was killed."""
        return self.kills.total() - self.runner_kills

    @property
    def runner_kills(self) -> int:
        """How often a runner was killed."""
        return self.kills["runner"] + self.kills["new runner"]

    def prepare(self) -> None:
        """Register what all jobs need, over a database that is killed while it is being made."""
        for _ in range(2):
            self._strike_startup()
        for number in (0, MORE_NUMBER):
            self.asker.dataset(number)
        self.asker.wait_for_all()
        self.asker.model("softmax", "softmax")
        self.asker.model("mlp", "mlp")
        self.asker.wait_for_all()

    def run(self, rounds: int) -> None:
        """Run so many rounds; every kind of strike comes once before any comes again."""
        strikes: list[str] = []
        for number in range(1, rounds + 1):
            strikes = strikes or self.rng.sample(STRIKES, len(STRIKES))
            self._round(number, strikes.pop())
        self.asker.wait_for_all()
        self.asker.repeat_everything()

    def close(self) -> None:
        """End the service in good order."""
        self._channel.close()
        self.service.stop()

    def _round(self, number: int, strike: str) -> None:
        if any(job["interruptions"] >= MAX_INTERRUPTIONS // 2 for job in self._unfinished()):
            self.asker.wait_for_all()
        if strike in ("runner", "new runner") and self._near_the_limit():
            strike = "running"
        work = [lambda: self.asker.dataset(number, UPLOAD_BYTES)] if strike in ("upload", "last chunk") else []
        for name in self.rng.choices(sorted(ASKED), k=2):
            work.append(partial(self.asker.job, name, self.rng.randrange(1000)))  # noqa: PERF401  drawn in this order
        work += self.rng.sample(
            [
                lambda: self.asker.dataset(number + 1000),
                lambda: self.asker.model(f"softmax-{number}", "softmax"),
                lambda: self.asker.model(f"mlp-{number}", "mlp"),
                lambda: self.asker.upload(self.rng.randbytes(700_000), abandon_at=400_000),
            ],
            k=1,
        )
        asking = _Asking(work)
        {
            "create": self._strike_create,
            "upload": self._strike_upload,
            "last chunk": self._strike_last_chunk,
            "queued": lambda: self._strike_queued(asking),
            "running": self._strike_running,
            "writing": self._strike_writing,
            "keeping": self._strike_keeping,
            "startup": self._strike_startup,
            "runner": lambda: self._strike_runner("runner"),
            "new runner": self._strike_new_runner,
        }[strike]()
        asking.join()

    def _strike_create(self) -> None:
        self._sleep(0.25)
        self._kill_api("create")

    def _strike_upload(self) -> None:
        self._until(lambda: self._staged() > 0)
        self._sleep(0.15)
        self._kill_api("upload")

    def _strike_last_chunk(self) -> None:
        self._until(lambda: self._staged() >= UPLOAD_BYTES - CHUNK_BYTES, every=0.0005)
        self._sleep(0.015)
        self._kill_api("last chunk")

    def _strike_queued(self, asking: "_Asking") -> None:
        asking.join()
        self._sleep(0.5)
        self._kill_api("queued")

    def _strike_running(self) -> None:
        self._until(self._progresses)
        self._sleep(0.6)
        self._kill_api("running")

    def _strike_writing(self) -> None:
        self._until(lambda: self._files("scratch"), every=0.0005)
        self._sleep(0.05)
        self._kill_api("writing")

    def _strike_keeping(self) -> None:
        self._until(lambda: self._files("taken"), every=0.0005)
        self._until(lambda: not self._files("taken"), every=0.0005)
        self._sleep(0.01)
        self._kill_api("keeping")

    def _strike_startup(self) -> None:
        if self.service.running:
            self._kill_api("startup", restart=False)
        self.service.start()
        self._sleep(1.8)
        self._kill_api("startup")

    def _strike_runner(self, kind: str) -> None:
        self._until(self._progresses)
        self._sleep(0.4)
        self._kill_runner(kind)

    def _strike_new_runner(self) -> None:
        """Kill one runner so that another is started, and that one too if that may not cost a job its last try."""
        self._until(self.service.runners)
        self._kill_runner("runner")
        if not self._near_the_limit():
            self._until(self.service.runners)
            self._sleep(3.0)
            self._kill_runner("new runner")

    def _kill_api(self, kind: str, restart: bool = True) -> None:
        self.service.kill()
        self.kills[kind] += 1
        if restart:
            self.service.start()

    def _kill_runner(self, kind: str) -> None:
        before = {job["id"] for job in self._unfinished() if job["state"] == "RUNNING"}
        for runner in self.service.runners():
            try:
                runner.kill()
            except psutil.NoSuchProcess:
                continue
            self.kills[kind] += 1
        after = {job["id"] for job in self._unfinished() if job["state"] == "RUNNING"}
        self._lost.update(before | after)

    def _near_the_limit(self) -> bool:
        """Whether one more runner lost could be a job's last, or nearly: kills that are not noted yet count twice."""
        unfinished = self._unfinished()
        return any(max(self._lost[job["id"]], job["lost_runners"]) >= MAX_LOST_RUNNERS - 1 for job in unfinished)

    def _progresses(self) -> bool:
        return any(job["state"] == "RUNNING" and job["progress"]["stage"] for job in self._unfinished())

    def _unfinished(self) -> list[dict]:
        return state.jobs(self.service.data, unfinished_only=True)

    def _files(self, folder: str) -> list[str]:
        return [name for _, _, names in os.walk(self.service.data / folder) for name in names]

    def _staged(self) -> int:
        return state.largest(self.service.data / "staging")

    def _sleep(self, longest: float) -> None:
        time.sleep(self.rng.uniform(0, longest))

    @staticmethod
    def _until(condition: Callable[[], object], every: float = 0.01) -> None:
        """Wait for an opportunity; where it does not come, now is an instant like any other."""
        deadline = time.monotonic() + WAIT_SECONDS
        while not condition() and time.monotonic() < deadline:
            time.sleep(every)


class _Asking:
    """Some requests, one after the other, on a thread of their own."""

    def __init__(self, work: list[Callable[[], None]]) -> None:
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(work,), daemon=True)
        self._thread.start()

    def join(self) -> None:
        """Wait until all are answered."""
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _run(self, work: list[Callable[[], None]]) -> None:
        try:
            for one in work:
                one()
        except BaseException as error:  # noqa: BLE001  join raises it
            self._error = error


def quiet_run(root: Path, loop: KillLoop) -> dict[str, dict]:
    """Ask another service for the same work, once each and in peace; return what was found, by what was asked."""
    with Service(root) as service:
        service.start()
        channel = service.channel()
        asker = Asker(channel, random.Random(0))
        for number in (0, MORE_NUMBER):
            asker.dataset(number)
        asker.wait_for_all()
        for kind in ("softmax", "mlp"):
            asker.model(kind, kind)
        asker.wait_for_all()
        done = set(asker.asked.jobs.values())
        for what in dict.fromkeys(loop.asker.asked.jobs.values()):
            match what.split():
                case _ if what in done:
                    continue
                case ["data", number, size]:
                    asker.dataset(int(number), int(size))
                case [*_, "#", variant]:
                    asker.job(what.partition(" #")[0], int(variant))
                case _:
                    raise AssertionError(what)
        asker.wait_for_all()
        found = {job["id"]: job for job in state.jobs(service.data)}
        channel.close()
        service.stop()
    assert TRAIN in asker.asked.versions
    assert {job["attempt"] for job in found.values()} == {1}, "this run was not quiet"
    return {what: state.outcome(found[job_id]) for job_id, what in asker.asked.jobs.items()}
