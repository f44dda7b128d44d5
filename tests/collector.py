"""A collector of OTLP over HTTP on loopback, which keeps the spans that it is sent."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


@dataclass
class Span:
    """A span, its ids in hexadecimal."""

    service: str
    name: str
    kind: int
    trace: str
    id: str
    parent: str
    links: list[tuple[str, str]]
    """Trace and span."""
    attributes: dict[str, Any]
    status: int
    seconds: float


@dataclass
class Collector:
    """What has arrived."""

    url: str = ""
    spans: list[Span] = field(default_factory=list)

    def take(self, body: bytes) -> None:
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            service = _values(resource.resource.attributes)["service.name"]
            for scope in resource.scope_spans:
                self.spans += [_span(service, each) for each in scope.spans]

    def trace(self, trace: str) -> list[Span]:
        """The spans of a trace by the time when they began."""
        return [span for span in self.spans if span.trace == trace]

    def the(self, service: str, name: str, trace: str = "") -> Span:
        """The one span of that name."""
        (found,) = (
            span
            for span in self.spans
            if (span.service, span.name) == (service, name) and trace in (span.trace, "")
        )
        return found

    @contextmanager
    def running(self) -> Iterator["Collector"]:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(handler) -> None:  # noqa: N805
                assert handler.path == "/v1/traces"
                self.take(handler.rfile.read(int(handler.headers["content-length"])))
                handler.send_response(200)
                handler.send_header("content-length", "0")
                handler.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            server.daemon_threads = True
            self.url = f"http://127.0.0.1:{server.server_port}"
            thread = Thread(target=server.serve_forever)
            thread.start()
            yield self
            server.shutdown()
            thread.join()


def _span(service: str, span: Any) -> Span:
    return Span(
        service,
        span.name,
        span.kind,
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        [(link.trace_id.hex(), link.span_id.hex()) for link in span.links],
        _values(span.attributes),
        span.status.code,
        (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9,
    )


def _values(attributes: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}
