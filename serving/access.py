"""Observation of each inference, the same for REST and gRPC: its metrics, log line and span."""

import logging
from time import perf_counter

from serving import tracing
from serving.context import RequestContext, enter, receive
from serving.metrics import observe

log = logging.getLogger(__name__)

SLOW = 1
"""Seconds from which a successful answer is logged as slow."""
CHOICES = {"all": logging.INFO, "errors": logging.WARNING, "none": logging.CRITICAL}
"""The lowest level logged for each choice: all inferences; errors and slow ones; none."""


def begin(protocol: str, request_id: str, traceparent: str, tracestate: str) -> RequestContext:
    """Begin to observe an inference: enter its context, see ``context.receive``; open its span."""
    request = receive(request_id, traceparent, tracestate)
    tracing.begin(request, f"infer {protocol}")
    enter(request)
    request.arrived = perf_counter()
    return request


def end(
    request: RequestContext, protocol: str, status: int, model_version: str, seconds: float
) -> None:
    """Count, log and trace an inference that ended with this HTTP status, 0 for no answer."""
    outcome = observe(protocol, status, model_version, seconds)
    level = logging.INFO if outcome == "ok" and seconds < SLOW else logging.WARNING
    if log.isEnabledFor(level) or request.span:
        fields = {
            "protocol": protocol,
            "status": status or None,
            "outcome": outcome,
            "duration": round(seconds, 6),
            "model_version": model_version or None,
            "images": request.images,
        }
        known = {name: value for name, value in fields.items() if value is not None}
        log.log(level, "inference", extra={"fields": known})
        tracing.end(request, known)
