"""Load at a fixed rate: requests are sent whether or not earlier ones were answered.

Users do not slow down because a service does. A client that waits for its answer before it asks
again cannot overload a service, and its figures hide the time in which the service stood still.
"""

import asyncio
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np

MOST_CONNECTIONS = 4000
"""A request that would need one more is not sent, and counts as unsent."""
TICK = 0.002
"""Seconds between two looks at the clock; each time, all requests that are due are sent."""
PATIENCE = 15
"""Seconds to wait for answers after the last request."""


@dataclass
class Answers:
    """What came back for the requests of a period."""

    seconds: float
    times: list[tuple[float, int, float]] = field(default_factory=list)
    """For each answer: when its request was due, in seconds from the start; its status; and the
    seconds from then until the answer."""
    unsent: int = 0
    """Requests not sent, because all connections were in use."""
    hung_up: int = 0
    """Requests whose client gave up before it had a connection, or an answer."""
    lost: int = 0
    """Requests whose connection failed, or that got no answer within ``PATIENCE``."""
    without_retry_after: int = 0
    """Answers 429 without Retry-After."""

    @property
    def statuses(self) -> Counter[int]:
        """The number of answers by status."""
        return Counter(status for _, status, _ in self.times)

    def rate(self, status: int = 200) -> float:
        """Answers with ``status`` per second, without those that come when the load has ended."""
        ends = [due + seconds for due, found, seconds in self.times if found == status]
        return sum(end < self.seconds for end in ends) / self.seconds

    def percentile(self, percent: float, status: int = 200) -> float:
        """Milliseconds within which ``percent`` % of the answers with ``status`` came; or NaN."""
        times = [seconds for _, found, seconds in self.times if found == status]
        return float(np.percentile(times, percent)) * 1e3 if times else float("nan")


class _Connection(asyncio.Protocol):
    """Sends one request at a time; understands just enough HTTP to find the end of an answer."""

    def __init__(self, load: "Load") -> None:
        self._load = load
        self._due: float | None = None
        self._answer = b""
        self._patience: asyncio.TimerHandle | None = None
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def send(self, due: float) -> None:
        self._due = due
        self.transport.write(self._load.request)
        if patience := self._load.patience:
            loop = asyncio.get_running_loop()
            self._patience = loop.call_later(patience, self._hang_up)

    def data_received(self, data: bytes) -> None:
        self._answer += data
        head, end, body = self._answer.partition(b"\r\n\r\n")
        if not end:
            return
        lowered = head.lower()
        length = int(lowered.partition(b"content-length: ")[2].partition(b"\r\n")[0])
        if len(body) < length:
            return
        if self._patience:
            self._patience.cancel()
        status = int(head[9:12])
        due, self._due, self._answer = self._due, None, b""
        if status == 429 and b"\r\nretry-after: " not in lowered:
            self._load.answers.without_retry_after += 1
        self._load.answered(self, due or 0, status)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._patience:
            self._patience.cancel()
        self._load.left(self, waiting=self._due is not None)

    def _hang_up(self) -> None:
        self._due = None
        self._load.hung_up()
        self.transport.abort()


class Load:
    """Sends the same request again and again to 127.0.0.1."""

    def __init__(self, port: int, path: str, body: bytes) -> None:
        """``body`` is a PNG, which is posted to ``path``."""
        head = f"POST {path} HTTP/1.1\r\nHost: load\r\nContent-Type: image/png\r\n"
        self.request = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
        self.answers = Answers(0)
        self.patience: float | None = None
        """Seconds after which a client gives up that has no connection, or then no answer."""
        self._port = port
        self._idle: list[_Connection] = []
        self._open: set[_Connection] = set()
        self._connecting: set[asyncio.Task[None]] = set()
        self._quiet = asyncio.Event()
        self._waiting = 0
        self._start = 0.0
        self._in_turn_until = 0.0

    async def at_rate(self, rate: float, seconds: float) -> Answers:
        """Send ``rate`` requests per second, evenly, for ``seconds``; wait for the answers."""
        loop = asyncio.get_running_loop()
        self.answers = Answers(seconds)
        self._start = loop.time()
        sent = 0
        while (now := loop.time() - self._start) < seconds:
            while sent < now * rate:
                self._send(self._start + sent / rate)
                sent += 1
            await asyncio.sleep(TICK)
        await self._end()
        return self.answers

    async def in_turn(self, clients: int, seconds: float) -> Answers:
        """Send for ``seconds`` from ``clients`` that each wait for an answer before the next."""
        loop = asyncio.get_running_loop()
        self.answers = Answers(seconds)
        self._start = loop.time()
        self._in_turn_until = self._start + seconds
        for _ in range(clients):
            self._send(self._start)
        await asyncio.sleep(seconds)
        await self._end()
        return self.answers

    async def _end(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                await self._quiet.wait()
        self.answers.lost += self._waiting
        for connection in list(self._open):
            connection.transport.abort()
        self._open.clear()
        self._idle.clear()
        self._waiting = 0

    def answered(self, connection: _Connection, due: float, status: int) -> None:
        """Record the answer to a request that was ``due`` then, by the loop's clock."""
        now = asyncio.get_running_loop().time()
        self.answers.times.append((due - self._start, status, now - due))
        self._leave()
        self._idle.append(connection)
        if now < self._in_turn_until:
            self._send(now)

    def left(self, connection: _Connection, *, waiting: bool) -> None:
        """Record that a connection is closed, perhaps while it was ``waiting`` for an answer."""
        if connection in self._open:
            self._open.discard(connection)
            if connection in self._idle:
                self._idle.remove(connection)
            if waiting:
                self._leave()
                self.answers.lost += 1

    def hung_up(self) -> None:
        """Record that a client did not wait any longer."""
        self._leave()
        self.answers.hung_up += 1

    def _send(self, due: float) -> None:
        if self._idle:
            self._enter()
            self._idle.pop().send(due)
        elif len(self._open) + len(self._connecting) < MOST_CONNECTIONS:
            self._enter()
            task = asyncio.ensure_future(self._send_on_new(due))
            self._connecting.add(task)
            task.add_done_callback(self._connecting.discard)
        else:
            self.answers.unsent += 1

    async def _send_on_new(self, due: float) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self.patience) as patience:
                _, connection = await loop.create_connection(
                    lambda: _Connection(self), "127.0.0.1", self._port
                )
        except OSError:
            if patience.expired():
                self.hung_up()
            else:
                self._leave()
                self.answers.lost += 1
            return
        self._open.add(connection)
        connection.send(due)

    def _enter(self) -> None:
        self._waiting += 1
        self._quiet.clear()

    def _leave(self) -> None:
        self._waiting -= 1
        if not self._waiting:
            self._quiet.set()
