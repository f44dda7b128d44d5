"""Batching: requests that arrive together share one run.

In the predictor a run is a forward pass, in the transformer a call to the predictor.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Generic, Protocol, Self, TypeVar

import numpy as np

from serving import tracing
from serving.context import RequestContext, current, share
from serving.deadlines import Deadlines
from serving.errors import ServingError, TimedOut
from serving.gate import Gate
from serving.metrics import BATCH_IMAGES, PENDING_IMAGES, STAGE_SECONDS
from serving.scores import Images

log = logging.getLogger(__name__)

QUIET_TURNS = 3
"""Turns of the event loop without a further request after which it is taken to be idle. From its
socket to the queue a request needs two."""
PREDICTOR_SLOW = "the predictor took too long"


class Rows(Protocol):
    """What a run says about its images, in order."""

    def rows(self, start: int, stop: int) -> Self:
        """What it says about images ``start`` to ``stop`` (exclusive)."""


Result = TypeVar("Result", bound=Rows)


@dataclass(slots=True, eq=False)
class _Request(Generic[Result]):
    images: Images
    arrived: float
    """Loop time, in seconds."""
    context: RequestContext
    result: asyncio.Future[Result]


class Batcher(Generic[Result]):
    """Merges requests into batches, runs the batches, and gives each request its own rows.

    A request is never split between runs, since two model versions could answer it. One with
    more than ``max_batch`` images gets a batch of its own.

    While a run is under way, requests wait until they fill a batch or the oldest has waited
    ``max_wait``; then another run starts, if fewer than ``concurrency`` are under way. When the
    last run ends, its callers are likely to call again. So the next one waits until as many
    requests are queued as that run answered and left waiting, for at most ``max_linger``; with
    ``until_idle`` only as long as the event loop brings further requests. A caller who was alone
    does not wait.
    """

    def __init__(
        self,
        run: Callable[[Images], Awaitable[Result]],
        *,
        stage: str,
        max_batch: int,
        max_pending: int,
        max_wait: float = 0,
        max_linger: float = 0,
        until_idle: bool = False,
        concurrency: int = 1,
    ) -> None:
        """Set the limits.

        Args:
            run: scores a batch, uint8 [N, 28, 28].
            stage: name of a run in metrics and traces.
            max_batch: most images that share a run.
            max_pending: images waiting or running, beyond which requests are refused.
            max_wait: most seconds that a request is held back while a run is under way.
            max_linger: most seconds that the next run is held back after one has ended; with
                ``until_idle``, after its first request has come.
            until_idle: start it when the event loop has brought no request for a few turns.
            concurrency: most runs at a time.
        """
        self._run = run
        self._max_batch = max_batch
        self._max_wait = max_wait
        self._max_linger = max_linger
        self._until_idle = until_idle
        self._expected = 0  # requests that the next run waits for
        self._quiet_turns = 0  # turns of the loop since a request was queued
        self._turn: asyncio.Handle | None = None
        self._ended = 0.0  # loop time of the end of the last run
        self._gate = Gate(max_pending)
        self._concurrency = concurrency
        self._queue: dict[_Request[Result], None] = {}  # in order of arrival
        self._queued = 0
        self._deadlines: Deadlines[_Request[Result]] = Deadlines(_give_up)
        self._runs: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._waited = STAGE_SECONDS.labels("wait")
        self._stage = stage
        self._ran = STAGE_SECONDS.labels(stage)
        PENDING_IMAGES.set_function(lambda: self._gate.inside)

    async def submit(self, images: Images, deadline: float | None = None) -> Result:
        """Score ``images``, uint8 [N, 28, 28], in a batch with other requests.

        Cancelling the caller takes the request out of the queue.

        Args:
            images: at least one.
            deadline: loop time, in seconds, at which the request is given up.

        Raises:
            Overloaded: other images are pending, and with these there would be more than
                ``max_pending``.
            TimedOut: there were no scores by the deadline.
            Exception: whatever the run raised.
        """
        loop = asyncio.get_running_loop()
        with self._gate.admit(len(images)):
            result: asyncio.Future[Result] = loop.create_future()
            request = _Request(images, loop.time(), current(), result)
            self._queue[request] = None
            self._queued += len(images)
            self._quiet_turns = 0
            self._start_runs()
            if deadline is not None:
                self._deadlines.add(request, deadline)
            try:
                return await result
            finally:
                self._leave_queue(request)
                self._deadlines.discard(request)

    def _start_runs(self) -> None:
        loop = asyncio.get_running_loop()
        while len(self._runs) < self._concurrency and self._queue:
            hold = self._hold(loop.time())
            if hold > 0:
                if self._timer is None:
                    self._timer = loop.call_later(hold, self._on_timer)
                if self._until_idle and self._turn is None and not self._runs:
                    self._turn = loop.call_soon(self._on_turn)
                return
            batch = self._take_batch()
            for request in batch:
                waited = loop.time() - request.arrived
                self._waited.observe(waited)
                tracing.waited(request.context, waited)
            run = loop.create_task(self._answer(batch))
            self._runs.add(run)
            run.add_done_callback(self._on_done)

    def _hold(self, now: float) -> float:
        """Seconds until the next run may start."""
        if self._queued >= self._max_batch:
            return 0
        oldest = next(iter(self._queue)).arrived
        if self._runs:
            return oldest + self._max_wait - now
        if len(self._queue) >= self._expected:
            return 0
        return (oldest if self._until_idle else self._ended) + self._max_linger - now

    def _on_timer(self) -> None:
        self._timer = None
        self._start_runs()

    def _on_turn(self) -> None:
        self._turn = None
        self._quiet_turns += 1
        if self._quiet_turns >= QUIET_TURNS:
            self._expected = 0
        self._start_runs()

    def _on_done(self, run: asyncio.Task[None]) -> None:
        self._runs.discard(run)
        self._start_runs()

    def _take_batch(self) -> list[_Request[Result]]:
        """Remove from the queue the oldest requests that fit into one run, and return them."""
        batch: list[_Request[Result]] = []
        size = 0
        for request in list(self._queue):
            size += len(request.images)
            if batch and size > self._max_batch:
                break
            self._leave_queue(request)
            batch.append(request)
        return batch

    def _leave_queue(self, request: _Request[Result]) -> None:
        if request in self._queue:
            del self._queue[request]
            self._queued -= len(request.images)

    async def _answer(self, batch: list[_Request[Result]]) -> None:
        images = batch[0].images
        if len(batch) > 1:
            images = np.concatenate([request.images for request in batch])
        BATCH_IMAGES.observe(len(images))
        members = [request.context for request in batch]
        context = share(members)
        try:
            began = perf_counter()
            with tracing.run(self._stage, context, members):
                try:
                    result = await self._run(images)
                finally:  # before any caller has its answer and can call again
                    self._ran.observe(perf_counter() - began)
                    self._expected = len(batch) + len(self._queue)
                    self._ended = asyncio.get_running_loop().time()
        except ServingError as error:
            _fail(batch, error)
        except Exception as error:
            if len(batch) == 1:
                _fail(batch, error)
                return
            # One of them may be the cause; the others should not fail with it.
            log.exception("a run for %d requests failed; each runs alone now", len(batch))
            for request in batch:
                if not request.result.done():
                    await self._answer([request])
        else:
            stop = 0
            for request in batch:
                start, stop = stop, stop + len(request.images)
                if not request.result.done():
                    request.result.set_result(result.rows(start, stop))


def _give_up(request: _Request[Result]) -> None:
    _fail([request], TimedOut(PREDICTOR_SLOW))


def _fail(batch: list[_Request[Result]], error: Exception) -> None:
    for request in batch:
        if not request.result.done():
            request.result.set_exception(error)
