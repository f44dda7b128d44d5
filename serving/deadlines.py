"""The deadlines of many requests, watched by one timer.

A timer for each would take a thirtieth of the time of a request of one image
(docs/decisions/speed.md).
"""

import asyncio
from collections.abc import Callable, Hashable
from math import inf
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)


class Deadlines(Generic[Key]):
    """Gives up what has not been discarded by its deadline."""

    def __init__(self, give_up: Callable[[Key], None]) -> None:
        """Call ``give_up`` once for each that is late."""
        self._give_up = give_up
        self._deadlines: dict[Key, float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._next = inf
        """Loop time, in seconds, for which the timer is set."""

    def add(self, key: Key, deadline: float) -> None:
        """Give up ``key`` at ``deadline``, loop time in seconds."""
        self._deadlines[key] = deadline
        if deadline < self._next:
            self._set_timer(deadline)

    def discard(self, key: Key) -> None:
        """Forget ``key``, if it is there; the timer stays set for those that follow."""
        self._deadlines.pop(key, None)

    def _set_timer(self, deadline: float) -> None:
        if self._timer:
            self._timer.cancel()
        self._next = deadline
        self._timer = asyncio.get_running_loop().call_at(deadline, self._on_timer)

    def _on_timer(self) -> None:
        self._timer, self._next = None, inf
        now = asyncio.get_running_loop().time()
        late = [key for key, deadline in self._deadlines.items() if deadline <= now]
        for key in late:
            del self._deadlines[key]
            self._give_up(key)
        if self._deadlines:
            self._set_timer(min(self._deadlines.values()))
