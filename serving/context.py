"""The request being handled, whose ids are in every line logged and every call made for it."""

import logging
import random
import re
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass

from opentelemetry.trace import Span

log = logging.getLogger(__name__)

REQUEST_ID = "x-request-id"
TRACEPARENT = "traceparent"
TRACESTATE = "tracestate"

_SANE = re.compile(r"[A-Za-z0-9._~:/+=@-]{1,128}")
"""A request id that is kept: it cannot break a log line or a header."""
_VALID = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
"""A ``traceparent`` of https://www.w3.org/TR/trace-context/, version 00."""
_STATE = re.compile(r"[ -~]{0,512}")
"""A ``tracestate`` that is passed on: it cannot end a header early, nor has it a tab, with which
gRPC's client sends nothing."""


@dataclass(slots=True)
class RequestContext:
    """What is known of a request, or of a run that several requests share."""

    request_id: str = ""
    traceparent: str = ""
    tracestate: str = ""
    images: int | None = None
    """Number of images in it; ``None`` until they are counted."""
    span: Span | None = None
    """The span that it is in, with tracing."""
    arrived: float = 0
    """When the whole request had arrived, by ``time.perf_counter``: the time that a client takes to
    send it does not count."""

    @property
    def trace_id(self) -> str:
        """32 hexadecimal digits; empty without a trace."""
        return self.traceparent[3:35]

    def headers(self) -> dict[str, str]:
        """The headers, or gRPC metadata, that pass the context on with a call."""
        named = {
            REQUEST_ID: self.request_id,
            TRACEPARENT: self.traceparent,
            TRACESTATE: self.tracestate,
        }
        return {name: value for name, value in named.items() if value}


_current: ContextVar[RequestContext] = ContextVar("request")


def current() -> RequestContext:
    """The context of the request being handled, or one without ids if there is none."""
    return _current.get(None) or RequestContext()


def enter(context: RequestContext) -> None:
    """Make ``context`` the current one for the rest of this task.

    It is never left: each request has a task of its own, and what the server logs there after us,
    such as the traceback of a defect, belongs to the request too.
    """
    _current.set(context)


def receive(request_id: str, traceparent: str, tracestate: str) -> RequestContext:
    """The context of a request with these headers; a missing one is the empty string.

    A request id that is missing or could do harm is replaced by a new one. An invalid
    ``traceparent`` is dropped together with the ``tracestate``, an invalid ``tracestate`` alone.
    """
    if not _SANE.fullmatch(request_id):
        request_id = new_id()
    if not (traceparent and _VALID.fullmatch(traceparent)):
        traceparent = tracestate = ""
    elif not _STATE.fullmatch(tracestate):
        tracestate = ""
    return RequestContext(request_id, traceparent, tracestate)


def share(requests: Sequence[RequestContext]) -> RequestContext:
    """Enter the context of a run for ``requests``, and return it.

    A run for one request has its ids. A run for several has an id of its own and is in none of
    their traces; a line at level DEBUG names the requests.
    """
    first, *others = requests
    ids = (new_id(),) if others else (first.request_id, first.traceparent, first.tracestate)
    run = RequestContext(*ids)
    enter(run)
    if others and log.isEnabledFor(logging.DEBUG):
        log.debug("a run for the requests %s", " ".join(each.request_id for each in requests))
    return run


def new_id() -> str:
    """A unique request id, 32 hexadecimal digits."""
    return f"{random.getrandbits(128):032x}"
