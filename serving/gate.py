"""What is taken on: how much work at a time, and how large a request."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from serving.errors import Overloaded, TooLarge


class Gate:
    """Admits images up to a limit, or bytes, counted until their work is done."""

    def __init__(self, limit: int, unit: str = "images") -> None:
        self._limit = limit
        self._unit = unit
        self.inside = 0
        """Those whose work is not done."""

    @contextmanager
    def admit(self, count: int) -> Iterator[None]:
        """Count them in, and out at the end of the block.

        Raises:
            Overloaded: it would be more than the limit; a request that is larger than the
                limit is admitted when nothing else is inside.
        """
        if self.inside and self.inside + count > self._limit:
            raise Overloaded(f"{self.inside} {self._unit} are waiting already; try again later")
        self.inside += count
        try:
            yield
        finally:
            self.inside -= count


class Connection(Protocol):
    """One of those whose requests are counted."""

    def is_waiting(self) -> bool:
        """Whether all that it has in hand waits for its client."""


class InHand:
    """The requests of all connections, up to a limit.

    Those that wait for their client, to send a body or to read, are not counted: else a few slow
    clients would shut everybody out.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.waiting: set[Connection] = set()
        """Connections that may wait for their client."""

    def is_full(self, tasks: set[asyncio.Task[Any]]) -> bool:
        """Whether ``tasks``, one for each request, are as many as there may be."""
        if len(tasks) < self._limit:
            return False
        # A task that is done stays in the set until the loop gets to it, and its client may have
        # sent the next request by then.
        done = sum(map(asyncio.Task.done, tasks))
        waiting = sum([each.is_waiting() for each in self.waiting])
        return len(tasks) - done - waiting >= self._limit


def check_instances(count: int, limit: int) -> None:
    """See that one request holds no more images than it may.

    Raises:
        TooLarge: it does.
    """
    if count > limit:
        raise TooLarge(f"{count} images in one request; the limit is {limit}")
