"""Batch work makes way for serve work: when it is held and when not, in simulated time."""

import asyncio
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from undue_service.adapters.pool.patience import Patience
from undue_service.adapters.pool.yielding import HELD_SECONDS, SLICE_SECONDS, Yielding

EPSILON = 1e-6


class SimulatedLoop(asyncio.SelectorEventLoop):
    """A loop whose clock jumps to the next timer."""

    def __init__(self):
        super().__init__()
        self.now = 1000.0
        self._selector.select = self._jump

    def time(self):
        return self.now

    def _jump(self, timeout):
        self.now += timeout or 0.0
        return []


def simulated(story):
    with asyncio.Runner(loop_factory=SimulatedLoop) as runner:
        return runner.run(story)


class Recorder:
    """A runner that notes when it was paused and resumed."""

    def __init__(self):
        self.events = []

    def pause(self):
        assert not self.paused
        self.events.append((asyncio.get_running_loop().time(), "pause"))

    def resume(self):
        assert self.paused
        self.events.append((asyncio.get_running_loop().time(), "resume"))

    @property
    def paused(self):
        return bool(self.events) and self.events[-1][1] == "pause"

    def holds(self):
        times = [time for time, _ in self.events]
        return list(zip(times[::2], times[1::2], strict=True))


def test_a_short_call_holds_for_as_long_as_it_takes():
    async def story():
        yielding, runner = Yielding(), Recorder()
        with yielding.working(runner):
            assert not runner.paused
            with yielding.serving():
                assert runner.paused
                await asyncio.sleep(0.01)
            assert not runner.paused
        return runner.holds()

    [(start, stop)] = simulated(story())
    assert stop - start == pytest.approx(0.01)


def test_a_runner_that_begins_while_there_is_serve_work_is_held_and_let_go_at_its_end():
    async def story():
        yielding, runner = Yielding(), Recorder()
        with yielding.serving():
            with yielding.working(runner):
                assert runner.paused
                await asyncio.sleep(0.5)
                assert runner.paused
            assert not runner.paused
            await asyncio.sleep(10)
            assert not runner.paused
            with yielding.working(Recorder()):
                pass

    simulated(story())


def test_one_of_two_calls_that_ends_lets_nobody_go():
    async def story():
        yielding, runner = Yielding(), Recorder()
        with yielding.working(runner), yielding.serving():
            with yielding.serving():
                await asyncio.sleep(0.1)
            assert runner.paused

    simulated(story())


def test_a_long_call_leaves_slices():
    async def story():
        yielding, runner = Yielding(), Recorder()
        with yielding.working(runner), yielding.serving():
            await asyncio.sleep(22.0 - EPSILON)
        return runner.holds()

    holds = simulated(story())
    assert len(holds) == 10
    assert [stop - start for start, stop in holds] == pytest.approx([HELD_SECONDS] * 10, abs=1e-3)
    gaps = [later[0] - sooner[1] for sooner, later in pairwise(holds)]
    assert gaps == pytest.approx([SLICE_SECONDS] * 9, abs=1e-3)


spans = st.floats(0.0005, 4.0)


@given(calls=st.lists(st.tuples(spans, spans), min_size=1, max_size=30), tiny=st.booleans())
def test_no_load_holds_for_long_or_starves(calls, tiny):
    """However calls follow on each other, with whatever pauses between them."""

    async def story():
        loop = asyncio.get_running_loop()
        yielding, runner, begun = Yielding(), Recorder(), loop.time()
        with yielding.working(runner):
            for busy, idle in calls:
                with yielding.serving():
                    await asyncio.sleep(busy)
                assert not runner.paused
                await asyncio.sleep(idle / 1000 if tiny else idle)
        return begun, loop.time(), runner.holds()

    begun, ended, holds = simulated(story())
    assert all(stop - start <= HELD_SECONDS + 1e-3 for start, stop in holds)
    for first, (start, _) in enumerate(holds):
        for _, stop in holds[first:]:  # in whatever stretch
            held = sum(b - a for a, b in holds if start <= a and b <= stop)
            assert held <= HELD_SECONDS + (stop - start - held) * HELD_SECONDS / SLICE_SECONDS + 1e-3
    assert ended > begun


async def wait(patience, limit, seconds):
    async with patience.limit(limit):
        await asyncio.sleep(seconds)


def test_patience_ends_unless_its_clock_is_stopped():
    async def story():
        loop, patience = asyncio.get_running_loop(), Patience()
        begun = loop.time()
        waiting = asyncio.create_task(wait(patience, 3.0, 1000.0))
        for stopped in (100.0, 7.0):
            await asyncio.sleep(1.0)
            patience.stop()
            patience.stop()
            await asyncio.sleep(stopped)
            patience.start()
            patience.start()
        with pytest.raises(TimeoutError):
            await waiting
        assert loop.time() - begun == pytest.approx(110.0)
        patience.stop()
        await wait(patience, 1.0, 5.0)  # it begins with its clock stopped
        waiting = asyncio.create_task(wait(patience, 1.0, 1000.0))
        await asyncio.sleep(5.0)
        patience.start()
        await asyncio.sleep(0.9)
        assert not waiting.done()
        with pytest.raises(TimeoutError):
            await waiting
        await wait(patience, 1.0, 0.9)

    simulated(story())
