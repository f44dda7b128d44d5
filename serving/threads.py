"""Threads for work that takes long, and a check whether one of them hangs."""

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

HANGING = 60
"""Seconds after which work is thought to hang. No caller waits that long for it."""

Result = TypeVar("Result")


class Threads:
    """Does work off the event loop, so that health probes are answered meanwhile."""

    def __init__(self, count: int, name: str) -> None:
        """Do ``count`` pieces of work at a time."""
        self._pool = ThreadPoolExecutor(count, name)
        self._began: dict[int, float] = {}
        """When each busy thread began its work, by ``time.monotonic``."""

    async def run(self, work: Callable[[], Result]) -> Result:
        """Run ``work`` in a thread; a caller that is cancelled does not wait for it."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._timed, work)

    def hang(self) -> bool:
        """Whether a thread has been busy for longer than any work should take."""
        now = time.monotonic()
        return any(now - began > HANGING for began in tuple(self._began.values()))

    def close(self) -> None:
        """Begin no more work, and do not wait for what has begun."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _timed(self, work: Callable[[], Result]) -> Result:
        thread = threading.get_ident()
        self._began[thread] = time.monotonic()
        try:
            return work()
        finally:
            del self._began[thread]
