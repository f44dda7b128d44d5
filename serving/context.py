"""Which request this is: the ids in every line logged for it and in every call made for it."""

import logging
import random
import re
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass, replace

from opentelemetry.trace import Span

log = logging.getLogger(__name__)

REQUEST_ID = "x-request-id"
TRACEPARENT = "traceparent"
TRACESTATE = "tracestate"

_SANE = re.compile(r"[A-Za-z0-9._~:/+=@-]{1,128}")
"""A request id that is taken over: nothing that could break a line of a log or a header."""
_VALID = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
"""A ``traceparent`` of https://www.w3.org/TR/trace-context/, version 00."""


_STATE = re.compile(r"[\t -~]{0,512}")
"""A ``tracestate`` that is carried on: nothing that could end a header."""


@dataclass(slots=True)
class RequestContext:
    """What is known of a request, or of a run that several requests share."""

    request_id: str = ""
    traceparent: str = ""
    tracestate: str = ""
    images: int | None = None
    """Images in it; ``None`` until they are counted."""
    span: Span | None = None
    """Where it is traced, the span that it is in."""
    arrived: float = 0
    """When a request was there as a whole, by the clock of ``time.perf_counter``: how long a client
    takes to send it is not our time."""

    @property
    def trace_id(self) -> str:
        """32 hexadecimal digits; empty where there is no trace."""
        return self.traceparent[3:35]

    def headers(self) -> dict[str, str]:
        """The headers by which a call carries it on, as gRPC's metadata too."""
        named = {
            REQUEST_ID: self.request_id,
            TRACEPARENT: self.traceparent,
            TRACESTATE: self.tracestate,
        }
        return {name: value for name, value in named.items() if value}


_current: ContextVar[RequestContext] = ContextVar("request")


def current() -> RequestContext:
    """The context of the request that is being handled; one without ids where none is."""
    return _current.get(None) or RequestContext()


def enter(context: RequestContext) -> None:
    """Let what follows in this task belong to ``context``.

    There is no way out: the servers handle each request in a task of its own, and what they log
    after us, such as the traceback of a defect, belongs to it too.
    """
    _current.set(context)


def receive(request_id: str, traceparent: str, tracestate: str) -> RequestContext:
    """The context of a request with these headers, each empty where it is missing.

    The caller's id is taken over if it is sane, its trace if it is valid, and the vendors' part of
    that if it can stand in a header.
    """
    if not _SANE.fullmatch(request_id):
        request_id = new_id()
    if not (traceparent and _VALID.fullmatch(traceparent)):
        traceparent = tracestate = ""
    elif not _STATE.fullmatch(tracestate):
        tracestate = ""
    return RequestContext(request_id, traceparent, tracestate)


def share(requests: Sequence[RequestContext]) -> RequestContext:
    """Enter the context of a run for ``requests``.

    A request that has a run to itself goes on in it. A run for several is none of them, and in none
    of their traces: it has an id of its own, and a line at level DEBUG says whose it is.
    """
    run = replace(requests[0]) if len(requests) == 1 else RequestContext(new_id())
    enter(run)
    if len(requests) > 1 and log.isEnabledFor(logging.DEBUG):
        log.debug("a run for the requests %s", " ".join(each.request_id for each in requests))
    return run


def new_id() -> str:
    """A request id that nobody else has, 32 hexadecimal digits."""
    return f"{random.getrandbits(128):032x}"
