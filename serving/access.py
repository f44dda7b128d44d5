"""What every inference leaves behind, over REST and gRPC alike: a count, and a line of the log."""

import logging

from serving.context import RequestContext
from serving.metrics import observe

log = logging.getLogger(__name__)

SLOW = 1
"""Seconds from which an answer is worth a line although nothing is wrong with it."""
CHOICES = {"all": logging.INFO, "errors": logging.WARNING, "none": logging.CRITICAL}
"""Which inferences are logged: all; errors and slow ones; none."""


def record(
    context: RequestContext, protocol: str, status: int, model_version: str, seconds: float
) -> None:
    """Count and log a request that has been answered with an HTTP status, 0 for none."""
    outcome = observe(protocol, status, model_version, seconds)
    level = logging.INFO if outcome == "ok" and seconds < SLOW else logging.WARNING
    if log.isEnabledFor(level):
        fields = {
            "protocol": protocol,
            "status": status or None,
            "outcome": outcome,
            "duration": round(seconds, 6),
            "model_version": model_version or None,
            "images": context.images,
        }
        known = {name: value for name, value in fields.items() if value is not None}
        log.log(level, "inference", extra={"fields": known})
