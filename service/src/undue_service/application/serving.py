"""Turns at the runners of the serve lane: one on each slot, which several use cases share."""

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager

MAX_HOMES = 10_000
"""Of what has been held, so many are remembered; who comes back later may find another home."""


class ServeLane:
    """Who has a turn finds the runner of its slot free. A turn is short: one task, and what it needs opened.

    Whoever waits stands in a line of its own kind, and lines are served in rotation: many who read rows let an
    explanation wait for one of them, not for all. For one event loop.
    """

    def __init__(self, slots: int) -> None:
        self._busy = [False] * slots
        self._lines: list[OrderedDict[Hashable, deque[asyncio.Future[None]]]] = [OrderedDict() for _ in range(slots)]
        self._homes: OrderedDict[Hashable, int] = OrderedDict()

    def home(self, key: Hashable) -> int:
        """Return the slot whose runner holds what `key` names: always the same, and each slot's share of all."""
        if key not in self._homes:
            if len(self._homes) >= MAX_HOMES:
                self._homes.popitem(last=False)
            shares = Counter(self._homes.values())
            self._homes[key] = min(range(len(self._busy)), key=lambda slot: shares[slot])
        self._homes.move_to_end(key)
        return self._homes[key]

    @asynccontextmanager
    async def turn(self, line: Hashable, slot: int | None = None) -> AsyncIterator[int]:
        """Give a turn while the context lasts."""
        slot = await self.take(line, slot)
        try:
            yield slot
        finally:
            self.give(slot)

    async def take(self, line: Hashable, slot: int | None = None) -> int:
        """Wait for a turn, on the slot where the fewest wait if none is named, and return the slot; `give` ends it."""
        if slot is None:
            slot = min(range(len(self._busy)), key=lambda one: (self._busy[one], self._waiting(one)))
        if not self._busy[slot]:
            self._busy[slot] = True
            return slot
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._lines[slot].setdefault(line, deque()).append(place)
        try:
            await place
        except asyncio.CancelledError:
            if not place.cancelled():
                self.give(slot)  # its turn had come
            raise
        return slot

    def give(self, slot: int) -> None:
        """Let the next one have its turn."""
        lines = self._lines[slot]
        while lines:
            line, places = lines.popitem(last=False)
            while places:
                place = places.popleft()
                if not place.done():
                    if places:
                        lines[line] = places
                    place.set_result(None)
                    return
        self._busy[slot] = False

    def _waiting(self, slot: int) -> int:
        return sum(not place.done() for places in self._lines[slot].values() for place in places)
