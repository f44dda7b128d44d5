"""Every request for an inference is answered and observed, however it ends."""

import asyncio
from http import HTTPStatus

import httpx
import pytest
from prometheus_client import REGISTRY

from serving import context
from serving.app import App
from serving.errors import Overloaded, ServingError, Unavailable
from serving.message import Request, Response
from tests.echo import V1, V2, Echo
from tests.service import Service, post

pytestmark = pytest.mark.anyio


EVENT = {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "camera", "ce-type": "digit"}


@pytest.fixture
def echo(echo: Echo) -> Echo:
    echo.version = "6"  # its answers say 7
    return echo


def observed(**labels: str) -> float:
    return REGISTRY.get_sample_value("mnist_request_seconds_count", labels) or 0


@pytest.mark.parametrize("headers", [{}, EVENT], ids=["JSON", "event"])
async def test_the_version_that_answered_is_named(
    echo_client: httpx.AsyncClient, headers: dict[str, str]
) -> None:
    before = observed(protocol="v1", outcome="ok", model_version="7")
    answer = await echo_client.post(V1, json={}, headers=headers)
    assert answer.headers.get_list("x-model-version") == ["7"]
    assert observed(protocol="v1", outcome="ok", model_version="7") == before + 1


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (Overloaded("full"), "overloaded"),
        (Unavailable("away"), "failed"),
        (ZeroDivisionError(), "failed"),
    ],
)
async def test_an_error_names_the_version_that_runs(
    echo_client: httpx.AsyncClient, echo: Echo, error: Exception, outcome: str
) -> None:
    echo.error = error
    before = observed(protocol="v1", outcome=outcome, model_version="6")
    answer = await echo_client.post(V1, json={})
    status = error.http_status if isinstance(error, ServingError) else HTTPStatus(500)
    assert answer.status_code == status
    assert answer.headers["x-model-version"] == "6"
    assert observed(protocol="v1", outcome=outcome, model_version="6") == before + 1


@pytest.mark.parametrize(
    ("path", "protocol"),
    [(V1, "v1"), (V2, "v2"), ("/v2/models/mnist/versions/6/infer", "v2"), ("/predict", "form")],
)
async def test_the_protocol_is_told_by_the_path(
    echo_app: App, echo_client: httpx.AsyncClient, path: str, protocol: str
) -> None:
    async def form(_: Request) -> Response:
        return Response(200, {}, b"")

    echo_app.add("/predict", "form", form)

    def total() -> float:
        outcomes = ("ok", "invalid")
        return sum(
            observed(protocol=protocol, outcome=each, model_version=version)
            for each in outcomes
            for version in ("6", "7")
        )

    before = total()
    await echo_client.post(path, content=b"{}")
    assert total() == before + 1


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/v2/models/mnist"), ("POST", "/elsewhere"), ("GET", V1), ("GET", "/metrics")],
)
async def test_what_is_no_inference_is_not_counted(
    echo_client: httpx.AsyncClient, method: str, path: str
) -> None:
    def everything() -> list[float]:
        return [
            sample.value
            for family in REGISTRY.collect()
            if family.name == "mnist_request_seconds"
            for sample in family.samples
        ]

    before = everything()
    answer = await echo_client.request(method, path)
    assert "x-model-version" not in answer.headers
    assert everything() == before


async def test_what_is_no_inference_has_no_ids(echo_app: App) -> None:
    """Not even behind an inference on the same connection."""

    async def log(*_: object) -> None:
        assert context.current().request_id == ""

    echo_app.kserve = log  # type: ignore[assignment]
    context.enter(context.RequestContext("before"))
    await echo_app({"type": "http", "path": "/"}, log, log)  # type: ignore[arg-type]


async def test_an_early_answer_reaches_who_sends_on(
    echo_app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And wants the connection closed: the kernel resets one that closes with something unread."""
    monkeypatch.setattr(Service, "app", staticmethod(echo_app))
    async with Service() as service:
        client = await service.connect()
        request = post(bytes(2**23), "Connection: close", url="/nowhere")
        assert await client.ask(request) == (404, b'{"error":"Not Found"}')
        assert await client.is_closed()


async def test_the_answer_names_the_request(echo_client: httpx.AsyncClient, echo: Echo) -> None:
    answer = await echo_client.post(V1, json={}, headers={"x-request-id": "42"})
    assert answer.headers.get_list("x-request-id") == ["42"]
    echo.error = ZeroDivisionError()
    answer = await echo_client.post(V1, json={})
    assert len(answer.headers["x-request-id"]) == 32


async def test_a_defect_is_logged_and_not_told(
    echo_client: httpx.AsyncClient, echo: Echo, caplog: pytest.LogCaptureFixture
) -> None:
    echo.error = ZeroDivisionError("not for the caller")
    answer = await echo_client.post(V1, json={})
    assert (answer.status_code, answer.json()) == (500, {"error": "internal error"})
    assert "ZeroDivisionError: not for the caller" in caplog.text


async def test_a_refusal_names_the_version_that_runs(echo_app: App) -> None:
    assert b"\r\nx-model-version: 6\r\n" in echo_app.overloaded


async def test_nobody_is_sent_to_a_host_that_a_caller_names(echo_client: httpx.AsyncClient) -> None:
    answer = await echo_client.get("/v2/models/mnist/", headers={"host": "elsewhere"})
    assert (answer.status_code, "location" in answer.headers) == (404, False)


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
@pytest.mark.parametrize("path", [V1, V2, "/v2/models/mnist/versions/7/infer"])
async def test_a_wrong_method_is_405(
    echo_client: httpx.AsyncClient, method: str, path: str
) -> None:
    answer = await echo_client.request(method, path)
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert answer.json() == {"error": "Method Not Allowed"}


@pytest.mark.parametrize(("is_gone", "status"), [(True, 499), (False, None)])
async def test_what_is_cancelled_frees_the_model_and_is_counted(
    echo_app: App, echo: Echo, caplog: pytest.LogCaptureFixture, is_gone: bool, status: int | None
) -> None:
    echo.hang = True
    found = echo_app.find(V1)
    assert found

    async def read() -> bytes:
        return b"{}"

    request = Request(found.parameters, "", {}, read, lambda: is_gone)
    before = observed(protocol="v1", outcome="cancelled", model_version="6")
    task = asyncio.create_task(echo_app.answer(found, request))
    while not echo.seen:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert echo.cancelled
    assert observed(protocol="v1", outcome="cancelled", model_version="6") == before + 1
    (fields,) = (record.__dict__["fields"] for record in caplog.records)
    assert fields.get("status") == status
