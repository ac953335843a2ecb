"""Turns at the serve lane: one at a time on each slot, lines in rotation, and nobody who has gone away in the way."""

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from undue_service.application.serving import ServeLane


def run(story):
    async def main():
        async with asyncio.timeout(10):
            await story()

    asyncio.run(main())


class Bench:
    """Callers that take turns and note them."""

    def __init__(self, slots=1):
        self.lane, self.order, self.here = ServeLane(slots), [], [0] * slots

    def call(self, line, slot=None, steps=1):
        async def turn():
            async with self.lane.turn(line, slot) as here:
                self.here[here] += 1
                assert self.here[here] == 1
                self.order.append(line)
                try:
                    for _ in range(steps):
                        await asyncio.sleep(0)
                finally:
                    self.here[here] -= 1
            return here

        return asyncio.create_task(turn())


def test_lines_are_served_in_rotation():
    async def story():
        bench = Bench()
        calls = [bench.call(line) for line in ("rows", *["rows"] * 4, "a", "b", "a")]
        await asyncio.gather(*calls)
        assert bench.order == ["rows", "rows", "a", "b", "rows", "a", "rows", "rows"]

    run(story)


def test_who_goes_away_is_passed_over_and_so_is_who_goes_when_its_turn_comes():
    async def story():
        bench = Bench()
        slot = await bench.lane.take("x")
        calls = [bench.call("a") for _ in range(4)]
        await asyncio.sleep(0)
        calls[0].cancel()
        await asyncio.sleep(0)
        bench.lane.give(slot)
        calls[1].cancel()  # its turn has just been given to it
        assert await calls[3] == 0
        assert bench.order == ["a", "a"]
        assert await bench.call("b") == 0

    run(story)


def test_what_is_not_bound_to_a_slot_goes_where_fewest_wait():
    async def story():
        bench = Bench(2)
        there = [bench.call("a", 0, steps=9) for _ in range(3)]
        await asyncio.sleep(0)
        assert await bench.call("rows") == 1
        calls = [bench.call("rows", steps=9) for _ in range(3)]
        await asyncio.gather(*there)
        assert [await one for one in calls] == [1, 1, 1]

    run(story)


def test_homes_stay_and_are_spread():
    lane = ServeLane(3)
    homes = {name: lane.home(name) for name in "abcdef"}
    assert sorted(homes.values()) == [0, 0, 1, 1, 2, 2]
    assert {name: lane.home(name) for name in "fedcba"} == homes


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 3), st.integers(0, 6)), max_size=30), st.integers(1, 3)
)
def test_everybody_has_a_turn_or_has_gone(calls, slots):
    async def story():
        bench = Bench(slots)
        tasks = []
        for line, steps, leaves in calls:
            task = bench.call(line, None if line == "a" else hash(line) % slots, steps)
            tasks.append(task)
            if leaves > 3:
                for _ in range(leaves - 4):
                    await asyncio.sleep(0)
                task.cancel()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        for (_, _, leaves), one in zip(calls, found, strict=True):
            assert leaves > 3 or isinstance(one, int)
        assert await asyncio.gather(*(bench.call("x", slot) for slot in range(slots))) == list(range(slots))

    run(story)
