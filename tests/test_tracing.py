"""Spans of the two real programs, as a collector on loopback gets them."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span as Kinds
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from serving import tracing
from serving.context import RequestContext, receive
from tests import programs
from tests.collector import Collector, Span
from tests.programs import Program

SEVEN = (programs.ROOT / "docs/seven.png").read_bytes()
V1 = "/v1/models/mnist:predict"
PREDICTOR, TRANSFORMER = "mnist-predictor", "mnist-transformer"
SPAN = "00f067aa0ba902b7"


def trace(number: int) -> str:
    """The trace of a caller."""
    return f"{number:032x}"


def ids(number: int, *, sampled: bool = True) -> dict[str, str]:
    parent = f"00-{trace(number)}-{SPAN}-{sampled:02x}"
    return {"x-request-id": f"request-{number}", "traceparent": parent}


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    """One that the programs are told of."""
    with Collector().running() as running:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", running.url)
        yield running


@contextmanager
def pair(folder: Path, *flags: str, protocol: str = "v2") -> Iterator[tuple[Program, Program]]:
    """Predictor and transformer; when they have ended the collector has all."""
    logs = ("--log_format=json", "--access_log=all")
    with programs.predictor(folder, *logs) as predictor:
        address = predictor.grpc_address if protocol == "grpc-v2" else predictor.url[7:]
        flags = (f"--predictor_protocol={protocol}", *logs, *flags)
        with programs.transformer(folder, address, *flags) as transformer:
            yield predictor, transformer


def shape(spans: list[Span], parent: str) -> list[Any]:
    """The spans below ``parent`` as a tree of services and names."""
    return sorted(
        [f"{span.service} {span.name}", *shape(spans, span.id)]
        for span in spans
        if span.parent == parent
    )


@pytest.mark.parametrize(("protocol", "called"), [("v2", "v2"), ("grpc-v2", "grpc")])
def test_a_request_alone_is_one_trace_from_its_caller_to_the_predictor(
    collector: Collector, tmp_path: Path, protocol: str, called: str
) -> None:
    with pair(tmp_path, protocol=protocol) as (predictor, transformer):
        assert httpx.post(transformer.url + V1, content=SEVEN, headers=ids(7)).is_success
        assert httpx.get(transformer.url).is_success
    assert {span.trace for span in collector.spans} == {trace(7)}
    assert shape(collector.spans, SPAN) == [
        [
            "mnist-transformer infer v1",
            [
                "mnist-transformer call",
                [
                    f"mnist-predictor infer {called}",
                    ["mnist-predictor compute"],
                    ["mnist-predictor wait"],
                ],
            ],
            ["mnist-transformer decode"],
            ["mnist-transformer wait"],
        ]
    ]
    outer = collector.the(TRANSFORMER, "infer v1")
    call = collector.the(TRANSFORMER, "call")
    assert (outer.kind, call.kind) == (Kinds.SPAN_KIND_SERVER, Kinds.SPAN_KIND_CLIENT)
    assert outer.seconds > call.seconds > collector.the(PREDICTOR, "compute").seconds > 0
    assert outer.attributes.pop("mnist.duration") <= outer.seconds
    assert outer.attributes == {
        "mnist.protocol": "v1",
        "mnist.status": 200,
        "mnist.outcome": "ok",
        "mnist.model_version": "1",
        "mnist.images": 1,
    }
    for program in (predictor, transformer):
        assert f'"request_id":"request-7","trace_id":"{trace(7)}"' in program.output()


def test_requests_that_share_a_call_keep_their_traces_and_link_to_its(
    collector: Collector, tmp_path: Path
) -> None:
    flags = ("--max_calls=1", "--log_level=DEBUG")
    with pair(tmp_path, *flags) as (predictor, transformer), ThreadPoolExecutor(5) as clients:

        def post(number: int) -> Future[httpx.Response]:
            headers = ids(number, sampled=number != 5)
            url = transformer.url + V1
            sent = clients.submit(httpx.post, url, content=SEVEN, headers=headers, timeout=60)
            until(transformer, number)
            return sent

        # While the first one's call hangs, the others gather for the next.
        predictor.process.send_signal(signal.SIGSTOP)
        try:
            sent = [post(number) for number in range(1, 6)]
        finally:
            predictor.process.send_signal(signal.SIGCONT)
        assert all(each.result().is_success for each in sent)

    shared = collector.the(TRANSFORMER, "shared call")
    assert shared.parent == ""
    assert shared.trace not in {trace(number) for number in range(6)}
    servers = [collector.the(TRANSFORMER, "infer v1", trace(number)) for number in (2, 3, 4)]
    assert shared.links == [(server.trace, server.id) for server in servers]
    for server in servers:
        assert server.parent == SPAN
        assert shape(collector.trace(server.trace), server.id) == [
            ["mnist-transformer call"],
            ["mnist-transformer decode"],
            ["mnist-transformer wait"],
        ]
        call = collector.the(TRANSFORMER, "call", server.trace)
        assert call.links == [(shared.trace, shared.id)]
    assert shape(collector.trace(shared.trace), shared.id) == [
        [
            "mnist-predictor infer v2",
            ["mnist-predictor compute"],
            ["mnist-predictor wait"],
        ]
    ]
    assert collector.the(PREDICTOR, "infer v2", trace(1))
    # The caller of the fifth did not want it to be traced.
    assert collector.trace(trace(5)) == []

    (run,) = (
        line
        for line in map(json.loads, transformer.output().splitlines())
        if line["message"].startswith("a run for")
    )
    assert run["message"] == "a run for the requests request-2 request-3 request-4 request-5"
    ids_logged = f'"request_id":"{run["request_id"]}","trace_id":"{shared.trace}"'
    assert ids_logged in predictor.output()


def until(transformer: Program, pending: int) -> None:
    """Wait until so many images wait for the predictor."""
    deadline = time.monotonic() + 30
    while transformer.metric("mnist_pending_images") < pending:
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("wanted", "names"), [((True, False), {"wait", "call", "shared call"}), ((False, False), set())]
)
def test_a_shared_run_is_traced_if_one_caller_wants_it(
    collector: Collector, monkeypatch: pytest.MonkeyPatch, wanted: tuple[bool, ...], names: set[str]
) -> None:
    """Even where only the requests are traced whose caller asks for it."""
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_always_off")
    monkeypatch.setattr(tracing, "_on", None)
    tracing.configure("a test")
    members = [
        receive("", ids(number, sampled=sampled)["traceparent"], "vendor=1")
        for number, sampled in enumerate(wanted, 1)
    ]
    for member in members:
        tracing.begin(member, "infer v1")
        tracing.waited(member, 2)
        assert member.tracestate == "vendor=1"
    with tracing.run("call", RequestContext(), members):
        pass
    tracing.close()
    assert {span.name for span in collector.spans} == names
    assert {round(span.seconds, 3) for span in collector.spans if span.name == "wait"} <= {2}


def test_what_the_caller_does_not_want_traced_is_not(collector: Collector, tmp_path: Path) -> None:
    with pair(tmp_path) as (predictor, transformer):
        headers = ids(7, sampled=False)
        assert httpx.post(transformer.url + V1, content=SEVEN, headers=headers).is_success
    assert collector.spans == []
    assert f'"trace_id":"{trace(7)}"' in predictor.output()


def test_a_request_without_a_trace_begins_one(collector: Collector, tmp_path: Path) -> None:
    """Whether or not it is logged."""
    with pair(tmp_path, "--access_log=none") as (_, transformer):
        assert httpx.post(transformer.url + V1, content=SEVEN).is_success
    assert len({span.trace for span in collector.spans}) == 1
    assert collector.the(TRANSFORMER, "infer v1").parent == ""


def test_a_failure_is_marked(collector: Collector, tmp_path: Path) -> None:
    with programs.transformer(tmp_path, "127.0.0.1:9") as transformer:
        assert httpx.post(transformer.url + V1, content=SEVEN, headers=ids(1)).status_code == 503
        assert httpx.post(transformer.url + V1, content=b"-", headers=ids(2)).status_code == 415
    assert collector.the(TRANSFORMER, "infer v1", trace(1)).status == Status.STATUS_CODE_ERROR
    assert collector.the(TRANSFORMER, "call", trace(1)).status == Status.STATUS_CODE_ERROR
    # The client's fault is none of the server's.
    assert collector.the(TRANSFORMER, "infer v1", trace(2)).status == Status.STATUS_CODE_UNSET


def test_the_services_name_is_the_environments(
    collector: Collector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "digits")
    with programs.transformer(tmp_path, "127.0.0.1:9") as transformer:
        httpx.post(transformer.url + V1, content=b"-")
    assert {span.service for span in collector.spans} == {"digits"}


def test_a_collector_that_is_away_takes_nothing_but_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
    with pair(tmp_path) as (_, transformer):
        for _ in range(10):
            assert httpx.post(transformer.url + V1, content=SEVEN).is_success
            time.sleep(0.2)
        transformer.process.send_signal(signal.SIGTERM)
        transformer.process.wait(15)
    about = [line for line in transformer.output().splitlines() if "opentelemetry" in line]
    assert len(about) == 1, about
    assert '"level":"WARNING"' in about[0]


NAMED = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}


def configured(imports: str, variables: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    """Configure tracing after ``imports``; prints what of OpenTelemetry is imported then."""
    program = (
        f"import sys\n{imports}\n"
        "from serving import tracing\n"
        "tracing.configure('a test')\n"
        "parts = ('opentelemetry.sdk', 'opentelemetry.exporter')\n"
        "print(*[name for name in parts if name in sys.modules])"
    )
    env = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    return subprocess.run(
        [sys.executable, "-c", program],
        cwd=programs.ROOT, env=env | variables, check=True, capture_output=True, text=True,
    )  # fmt: skip


def test_the_programs_import_no_sdk() -> None:
    imports = "import predictor.__main__, transformer.__main__"
    assert configured(imports, {}).stdout == "\n"


@pytest.mark.parametrize(
    ("variables", "imported"),
    [
        ({}, ""),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, ""),
        (NAMED | {"OTEL_TRACES_EXPORTER": "none"}, ""),
        (NAMED | {"OTEL_SDK_DISABLED": "True"}, ""),
        (NAMED, "opentelemetry.sdk opentelemetry.exporter"),
        (
            {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:9/v1/traces"},
            "opentelemetry.sdk opentelemetry.exporter",
        ),
    ],
)
def test_the_sdk_is_imported_only_where_a_collector_is_named(
    variables: dict[str, str], imported: str
) -> None:
    assert configured("", variables).stdout.strip() == imported


def test_without_the_extra_it_says_so_and_serves() -> None:
    done = configured("sys.modules['opentelemetry.sdk'] = None", NAMED)
    assert "install the extra 'tracing'" in done.stderr
