"""Threads for what takes long, and whether one of them hangs."""

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

HANGING = 60
"""Seconds after which work is thought to have no end. No caller has waited so long for it."""

Result = TypeVar("Result")


class Threads:
    """Does work off the event loop, so that health probes are answered meanwhile."""

    def __init__(self, count: int, name: str) -> None:
        """Do ``count`` pieces of work at a time."""
        self._pool = ThreadPoolExecutor(count, name)
        self._began: dict[int, float] = {}
        """When each thread that works began."""

    async def run(self, work: Callable[[], Result]) -> Result:
        """What ``work`` returns or raises; who is cancelled does not wait for it."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._timed, work)

    def hang(self) -> bool:
        """Whether one is at work for longer than any work should take."""
        now = time.monotonic()
        return any(now - began > HANGING for began in tuple(self._began.values()))

    def close(self) -> None:
        """Begin nothing more; for what has begun nobody waits."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _timed(self, work: Callable[[], Result]) -> Result:
        thread = threading.get_ident()
        self._began[thread] = time.monotonic()
        try:
            return work()
        finally:
            del self._began[thread]
