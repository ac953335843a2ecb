"""A batch runner makes way for a serve runner of its slot: real processes, and their processor time."""

import asyncio
import os
import signal
import time
from functools import partial

import psutil
import pytest

from scripted import DONE, HELLO, a_task, launcher
from undue_service.adapters.memory import NoMetrics
from undue_service.adapters.pool import local
from undue_service.adapters.pool.local import LocalPool
from undue_service.adapters.pool.yielding import Yielding
from undue_service.application.ports import RunnerLostError, Work

LANES = f"""
{HELLO}
import threading
def live():
    while True:
        time.sleep(0.05)
        say(alive=f.Alive())
threading.Thread(target=live, daemon=True).start()
while True:
    if task.id == "batch":
        while not os.path.exists(task.scratch + "/enough"):
            sum(range(1000))
    elif task.id == "die":
        os.kill(os.getpid(), 9)
    else:
        time.sleep(float(task.id))
    {DONE.strip()}
    task = channel.receive().task
"""


class Bench:
    """A pool whose batch runner computes without end, and serve runners that take as long as their task is called."""

    def __init__(self, folder):
        self.folder = folder
        self.pool = LocalPool(("cpu",), NoMetrics(), launcher(LANES))

    def run(self, name, lane="serve"):
        return asyncio.create_task(self.pool.run(Work("t", name, a_task("d"), {}, self.folder, lane), lambda _: None))

    async def busy(self):
        """Start batch work and return its process once it computes."""
        self.batch = self.run("batch", "batch")
        async with asyncio.timeout(20):
            while not self.batch_runners("busy"):
                await asyncio.sleep(0.01)
            [runner] = self.batch_runners("busy")
            process = psutil.Process(runner.pid)
            while process.cpu_times().user < 0.2:
                await asyncio.sleep(0.01)
        return process

    def batch_runners(self, *states):
        return [one for one in self.pool.status().runners if one.lane == "batch" and one.state in states]

    async def serve_once(self):
        """Start the serve runner, which takes longer than what is measured."""
        await self.run("0")

    async def batch_ends(self):
        (self.folder / "enough").touch()
        async with asyncio.timeout(20):
            await self.batch


def story(tmp_path, tell):
    async def main():
        bench = Bench(tmp_path)
        try:
            async with asyncio.timeout(60):
                await tell(bench)
        finally:
            await bench.pool.close()

    asyncio.run(main())


async def until(condition, seconds=5.0):
    """Return how long it took."""
    begun = time.perf_counter()
    while not condition():
        assert time.perf_counter() - begun < seconds
        await asyncio.sleep(0.0005)
    return time.perf_counter() - begun


def seconds(process):
    """Processor time that it has used."""
    return sum(process.cpu_times()[:2])


def is_stopped(process):
    return process.status() == psutil.STATUS_STOPPED


def test_batch_work_stops_within_milliseconds_and_goes_on_when_the_call_is_over(tmp_path):
    async def tell(bench):
        process = await bench.busy()
        for _ in range(3):  # the first starts the serve runner
            call = bench.run("1.0")
            assert await until(lambda: is_stopped(process)) < 0.05
            used = seconds(process)
            await asyncio.sleep(0.5)
            assert seconds(process) - used <= 0.02  # two ticks of the kernel's clock
            await call
            await until(lambda: not is_stopped(process))
            used = seconds(process)
            await until(lambda used=used: seconds(process) > used + 0.05)
        await bench.batch_ends()

    story(tmp_path, tell)


def test_a_long_call_does_not_starve_it(tmp_path, monkeypatch):
    monkeypatch.setattr(local, "Yielding", partial(Yielding, held_seconds=0.4, slice_seconds=0.1))

    async def tell(bench):
        process = await bench.busy()
        await bench.serve_once()
        used = seconds(process)
        await bench.run("4.0")
        share = (seconds(process) - used) / 4.0
        assert 0.04 < share < 0.4  # a fifth, where the machine has nothing else to do
        await bench.batch_ends()

    story(tmp_path, tell)


def test_it_is_not_taken_for_silent_while_it_is_held(tmp_path, monkeypatch):
    monkeypatch.setattr("undue_service.adapters.pool.runner_process.SILENT_SECONDS", 1.0)
    monkeypatch.setattr(local, "Yielding", partial(Yielding, held_seconds=3.0, slice_seconds=0.2))

    async def tell(bench):
        process = await bench.busy()
        await bench.serve_once()
        call = bench.run("2.5")
        await until(lambda: is_stopped(process))
        await call
        await asyncio.sleep(0.2)
        assert not bench.batch.done()
        await bench.batch_ends()

    story(tmp_path, tell)


@pytest.mark.parametrize("end", ["dies", "is cancelled"])
def test_it_goes_on_however_the_call_ends(tmp_path, end):
    async def tell(bench):
        process = await bench.busy()
        await bench.serve_once()
        call = bench.run("die" if end == "dies" else "60")
        if end == "is cancelled":
            await until(lambda: is_stopped(process))
            call.cancel()
        with pytest.raises(RunnerLostError if end == "dies" else asyncio.CancelledError):
            await call
        await until(lambda: not is_stopped(process))
        await bench.batch_ends()

    story(tmp_path, tell)


def test_it_can_be_cancelled_and_die_while_it_is_held(tmp_path):
    async def tell(bench):
        for end in ("cancelled", "killed"):
            process = await bench.busy()
            call = bench.run("1.0")
            await until(lambda process=process: is_stopped(process))
            if end == "cancelled":
                bench.batch.cancel()
            else:
                os.killpg(process.pid, signal.SIGKILL)
            with pytest.raises((asyncio.CancelledError, RunnerLostError)):
                await bench.batch
            assert not process.is_running()
            await call

    story(tmp_path, tell)


def test_the_pool_closes_while_it_is_held(tmp_path):
    async def main():
        bench = Bench(tmp_path)
        process = await bench.busy()
        call = bench.run("60")
        await until(lambda: is_stopped(process))
        await bench.pool.close()
        assert not process.is_running()
        assert await asyncio.gather(call, bench.batch, return_exceptions=True)

    asyncio.run(main())


def test_one_that_begins_during_a_call_waits_too(tmp_path):
    async def tell(bench):
        await bench.serve_once()
        call = bench.run("1.5")
        await asyncio.sleep(0.05)
        bench.batch = bench.run("batch", "batch")
        await until(lambda: bench.batch_runners("starting"))
        [runner] = bench.batch_runners("starting")
        process = psutil.Process(runner.pid)
        await until(lambda: is_stopped(process))  # the signal is on its way when the runner is listed
        await call
        await bench.batch_ends()

    story(tmp_path, tell)
