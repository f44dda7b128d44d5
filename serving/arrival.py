"""What a client is sending, a head or a body, and the limits to it."""

import asyncio
from collections.abc import Callable
from http import HTTPStatus

from serving.message import refusal
from serving.timeout import Timeout

LONGEST_HEAD = 64 * 1024
"""Most bytes of request line and headers. The proxies in front of us in a cluster have the same
limit (Envoy) or a higher one (Go)."""
MOST_HEADERS = 1_000
"""Most headers of a request: in memory each takes 200 bytes more than on the wire."""
MOST_CHUNKS = 65_536
"""Most chunks of a body, which may have a byte each, and take 0.4 µs."""
TIMEOUT = 30
"""Seconds that a client has to complete a head that it has begun, and again for the body."""

TOO_LARGE = refusal(
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    f"more than {LONGEST_HEAD} bytes of request line and headers, or {MOST_HEADERS:,} headers",
).encode(keep_alive=False)
TOO_MANY_CHUNKS = refusal(
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the body has more than {MOST_CHUNKS:,} chunks"
).encode(keep_alive=False)
TOO_SLOW = refusal(
    HTTPStatus.REQUEST_TIMEOUT, f"the request was not complete after {TIMEOUT} s"
).encode(keep_alive=False)


class Arrival:
    """The head or the body that is arriving on a connection, if any."""

    def __init__(self, loop: asyncio.AbstractEventLoop, late: Callable[[], object]) -> None:
        """Call ``late`` when either has been incomplete for ``TIMEOUT``."""
        self.in_head = False
        self.in_body = False
        self.time = Timeout(loop, TIMEOUT, late)
        self._overhead = 0
        """Bytes since a part of a body came, or a head or a body was complete."""
        self._chunks = 0
        """Chunks of the body."""

    def begin_head(self) -> None:
        """A head begins."""
        self.in_head = True
        self._chunks = 0

    def receive(self, size: int) -> None:
        """``size`` bytes have come, of whatever kind."""
        self._overhead += size

    def receive_body(self) -> None:
        """They had a part of a body."""
        self._overhead = 0

    def begin_chunk(self) -> None:
        """A chunk of a body begins."""
        self._chunks += 1

    def end(self) -> None:
        """A head or a body is complete."""
        self.in_head = self.in_body = False
        self._overhead = 0
        self.time.end()

    def refusal(self) -> bytes | None:
        """The answer to what is incomplete and beyond a limit; within the limits its time runs."""
        if self._overhead > LONGEST_HEAD:
            return TOO_LARGE
        if self._chunks > MOST_CHUNKS:
            return TOO_MANY_CHUNKS
        if not self.time.has_begun():
            self.time.begin()
        return None
