"""A time limit that starts and ends often and seldom passes.

The timer of an ended one stays set, for the next: to cancel it and set another at each request
would take a thirtieth of the time of one with one image (docs/decisions/speed.md).
"""

import asyncio
from collections.abc import Callable


class Timeout:
    """Calls back once, when something has lasted for too long."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, seconds: float, expired: Callable[[], object]
    ) -> None:
        """Call ``expired`` when ``seconds`` have passed between ``begin`` and ``end``."""
        self._loop = loop
        self._seconds = seconds
        self._expired = expired
        self._began: float | None = None
        """Loop time, in seconds."""
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """It begins now, even if it had begun."""
        self._began = self._loop.time()
        if self._timer is None:
            self._timer = self._loop.call_later(self._seconds, self._on_timer)

    def end(self) -> None:
        """It has ended."""
        self._began = None

    def has_begun(self) -> bool:
        """Whether it has begun and not ended."""
        return self._began is not None

    def close(self) -> None:
        """It has ended and does not begin again."""
        self._began = None
        self._expired = lambda: None  # the owner would be kept until garbage is collected
        if self._timer:
            self._timer.cancel()

    def _on_timer(self) -> None:
        self._timer = None
        if self._began is None:
            return
        left = self._began + self._seconds - self._loop.time()
        if left > 0:
            self._timer = self._loop.call_later(left, self._on_timer)
        else:
            self._began = None
            self._expired()
