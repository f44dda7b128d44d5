"""Traces of both programs, which show where the time goes; off unless a collector is set.

It is set by OpenTelemetry's variable ``OTEL_EXPORTER_OTLP_ENDPOINT``. Our tracers are not made the
global ones: with those, FastAPI would make spans of its own.
"""

import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from threading import Thread
from typing import TYPE_CHECKING, NamedTuple

from opentelemetry.context import Context
from opentelemetry.trace import (
    INVALID_SPAN,
    Link,
    Span,
    SpanContext,
    SpanKind,
    StatusCode,
    Tracer,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from serving.context import TRACEPARENT, TRACESTATE, RequestContext, current

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor

log = logging.getLogger(__name__)

FLUSH = 3
"""Seconds that the last spans have to reach the collector when the program ends."""
SELDOM = 60
"""Seconds between two log lines about a collector that cannot be reached."""
W3C = TraceContextTextMapPropagator()
_NOTHING = nullcontext()


class _Tracers(NamedTuple):
    requests: Tracer
    """Samples by ``OTEL_TRACES_SAMPLER``; by default all but the requests whose caller has decided
    not to sample."""
    shared: Tracer
    """Always samples: for a run that a sampled request shares with others."""
    unsampled: Tracer
    """Never samples."""
    processor: "SpanProcessor"


_on: _Tracers | None = None


def configure(service: str) -> None:
    """Start tracing if the environment names a collector; ``service`` is our name by default."""
    global _on
    if _is_wanted(os.environ):
        try:
            _on = _tracers(service)
        except ImportError as error:
            log.warning("no traces: %s; install the extra 'tracing'", error)


def _is_wanted(environ: Mapping[str, str]) -> bool:
    named = "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
    return (
        any(map(environ.get, named))
        and environ.get("OTEL_TRACES_EXPORTER") != "none"
        and environ.get("OTEL_SDK_DISABLED", "").lower() != "true"
    )


def _tracers(service: str) -> _Tracers:
    # They make the transformer's imports half as long again, so only for tracing.
    from opentelemetry.exporter.otlp.proto.http import trace_exporter
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, Sampler

    logging.getLogger(trace_exporter.__name__).addFilter(_Seldom())
    processor = BatchSpanProcessor(trace_exporter.OTLPSpanExporter())
    resource = Resource.create()
    if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):
        resource = resource.merge(Resource({SERVICE_NAME: service}))

    def tracer(sampler: Sampler | None) -> Tracer:
        provider = TracerProvider(sampler, resource, shutdown_on_exit=False)
        provider.add_span_processor(processor)
        return provider.get_tracer("mnist-kserve")

    return _Tracers(tracer(None), tracer(ALWAYS_ON), tracer(ALWAYS_OFF), processor)


def close() -> None:
    """Send the remaining spans, within ``FLUSH`` seconds."""
    if _on:
        # The SDK would wait half a minute for a collector that cannot be reached.
        sending = Thread(target=_on.processor.shutdown, daemon=True)
        sending.start()
        sending.join(FLUSH)


def begin(request: RequestContext, name: str) -> None:
    """Open the span of a request that has come in, in its caller's trace."""
    if _on:
        parent = W3C.extract(request.headers(), Context())
        _carry(request, _on.requests.start_span(name, parent, SpanKind.SERVER))


def end(request: RequestContext, fields: Mapping[str, str | int | float]) -> None:
    """Close the span of a request, with the fields of its log line as attributes."""
    if request.span:
        request.span.set_attributes({f"mnist.{name}": value for name, value in fields.items()})
        if fields["outcome"] == "failed":
            request.span.set_status(StatusCode.ERROR)
        request.span.end()


def stage(name: str) -> AbstractContextManager[None]:
    """A span around the block, inside that of the request being handled."""
    return _open(_on.requests.start_span(name, _inside(current()))) if _on else _NOTHING


def waited(request: RequestContext, seconds: float) -> None:
    """Record the span of a wait that has just ended."""
    if _on:
        stop = time.time_ns()
        start = stop - int(seconds * 1e9)
        _on.requests.start_span("wait", _inside(request), start_time=start).end(stop)


def run(
    name: str, context: RequestContext, members: Sequence[RequestContext]
) -> AbstractContextManager[None]:
    """Spans around the block, which is a run for ``members`` in ``context``.

    The run of one request is a span in its trace. A run for several begins a trace of its own: its
    span links to theirs, and in each of their traces a span links to it.
    """
    if not _on:
        return _NOTHING
    kind = SpanKind.CLIENT if name == "call" else SpanKind.INTERNAL
    if len(members) == 1:
        spans = [_on.requests.start_span(name, _inside(members[0]), kind)]
    else:
        sampled = [member for member in members if _span_context(member).trace_flags.sampled]
        links = [Link(_span_context(member)) for member in sampled]
        tracer = _on.shared if links else _on.unsampled
        shared = tracer.start_span(f"shared {name}", Context(), kind, links=links)
        back = [Link(shared.get_span_context())]
        spans = [shared]
        spans += [_on.requests.start_span(name, _inside(each), links=back) for each in sampled]
    _carry(context, spans[0])
    return _open(*spans)


def _carry(request: RequestContext, span: Span) -> None:
    """Make the log lines and calls of ``request`` belong to ``span``."""
    headers: dict[str, str] = {}
    W3C.inject(headers, set_span_in_context(span, Context()))
    request.span = span
    request.traceparent = headers[TRACEPARENT]
    request.tracestate = headers.get(TRACESTATE, "")


def _inside(request: RequestContext) -> Context:
    return set_span_in_context(request.span or INVALID_SPAN, Context())


def _span_context(request: RequestContext) -> SpanContext:
    return (request.span or INVALID_SPAN).get_span_context()


@contextmanager
def _open(*spans: Span) -> Iterator[None]:
    try:
        yield
    except BaseException:
        for span in spans:
            span.set_status(StatusCode.ERROR)
        raise
    finally:
        for span in spans:
            span.end()


class _Seldom(logging.Filter):
    """Lets one line pass in ``SELDOM`` seconds, since each failed export logs several."""

    _next = 0.0

    def filter(self, record: logging.LogRecord) -> bool:
        passes = record.created >= self._next
        if passes:
            self._next = record.created + SELDOM
        return passes
