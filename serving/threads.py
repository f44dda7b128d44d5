"""Threads for work that takes long, and a check whether one of them hangs."""

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, TypeVar

HANGING = 60
"""Seconds after which work is thought to hang. No caller waits that long for it."""

Result = TypeVar("Result")


class Threads:
    """Does work off the event loop, so that health probes are answered meanwhile.

    With ``loop.run_in_executor`` a request of one image would take a twentieth longer
    (docs/decisions/speed.md).
    """

    def __init__(self, count: int, name: str) -> None:
        """Do ``count`` pieces of work at a time."""
        self._began: dict[int, float] = {}
        """When each busy thread began its work, by ``time.monotonic``."""
        self._jobs: SimpleQueue[tuple[Any, ...] | None] = SimpleQueue()
        self._count = count
        for number in range(count):
            thread = threading.Thread(target=self._work, name=f"{name}_{number}", daemon=True)
            thread.start()

    async def run(self, work: Callable[[], Result]) -> Result:
        """Run ``work`` in a thread; a caller that is cancelled does not wait for it."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Result] = loop.create_future()
        self._jobs.put((loop, done, work))
        return await done

    def hang(self) -> bool:
        """Whether a thread has been busy for longer than any work should take."""
        now = time.monotonic()
        return any(now - began > HANGING for began in tuple(self._began.values()))

    def close(self) -> None:
        """End each thread when it has nothing left to do, and do not wait for that."""
        for _ in range(self._count):
            self._jobs.put(None)

    def _work(self) -> None:
        # In a function of its own, so that nothing of one job stays in memory until the next.
        while self._do_next():
            pass

    def _do_next(self) -> bool:
        job = self._jobs.get()
        if job is None:
            return False
        loop, done, work = job
        if done.cancelled():
            return True
        thread = threading.get_ident()
        self._began[thread] = time.monotonic()
        result = error = None
        try:
            result = work()
        except BaseException as raised:
            error = raised
        finally:
            del self._began[thread]
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(_end, done, result, error)
        return True


def _end(done: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if done.done():
        return
    if error is None:
        done.set_result(result)
    else:
        done.set_exception(error)
