"""The REST endpoints in front of a model: protocols, errors, limits, clients that hang up."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest
from starlette.requests import Request

from serving import v2
from serving.app import App
from serving.errors import LONGEST, InvalidInput, Overloaded, TimedOut, Unavailable
from serving.rest import BODIES, Endpoints
from tests.echo import V1, V2, Echo

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    "content_type",
    ["application/json", "application/json; charset=utf-8", "Application/JSON", "text/x+json"],
)
async def test_v1_json_reaches_the_model_as_a_value(
    echo_client: httpx.AsyncClient, echo: Echo, content_type: str
) -> None:
    answer = await echo_client.post(V1, content=b'{"a": 1}', headers={"content-type": content_type})
    assert answer.json() == {"predictions": [0.5], "model_version": "7"}
    assert answer.headers["x-model-version"] == "7"
    assert echo.seen == [{"a": 1}]


@pytest.mark.parametrize(
    ("content", "headers", "seen"),
    [
        (b"\x89PNG", {"content-type": "image/png"}, b"\x89PNG"),
        (b'{"a": 1}', {"content-type": "application/octet-stream"}, b'{"a": 1}'),
        (b"\x89PNG", {}, b"\x89PNG"),
        (b'{"a": 1}', {}, {"a": 1}),
        (b"", {}, b""),
        (b' {"a": 1}', {"content-type": "application/x-www-form-urlencoded"}, {"a": 1}),
        (b"\x89PNG", {"content-type": "application/x-www-form-urlencoded"}, b"\x89PNG"),
    ],
)
async def test_v1_takes_any_other_body_as_it_is(
    echo_client: httpx.AsyncClient, echo: Echo, content: bytes, headers: dict[str, str], seen: Any
) -> None:
    assert (await echo_client.post(V1, content=content, headers=headers)).status_code == 200
    assert echo.seen == [seen]


async def test_v2_json_and_binary_give_the_same(echo_client: httpx.AsyncClient) -> None:
    tensor = {"name": "images", "datatype": "UINT8", "shape": [2]}
    answer = await echo_client.post(V2, json={"inputs": [{**tensor, "data": [7, 8]}]})
    assert answer.json()["outputs"][0]["data"] == [7, 8]
    assert answer.json()["model_version"] == answer.headers["x-model-version"] == "7"

    header = json.dumps({"inputs": [{**tensor, "parameters": {"binary_data_size": 2}}]}).encode()
    binary = await echo_client.post(
        V2, content=header + b"\x07\x08", headers={v2.HEADER_LENGTH: str(len(header))}
    )
    assert binary.json()["outputs"] == answer.json()["outputs"]


async def test_v2_binary_answers_say_where_the_json_ends(echo_client: httpx.AsyncClient) -> None:
    tensor = {"name": "images", "datatype": "UINT8", "shape": [2], "data": [7, 8]}
    answer = await echo_client.post(
        V2, json={"inputs": [tensor], "parameters": {"binary_data_output": True}}
    )
    assert answer.content[int(answer.headers[v2.HEADER_LENGTH]) :] == b"\x07\x08"
    assert answer.headers["content-type"] == "application/octet-stream"


async def test_v2_metadata_names_the_version(echo_client: httpx.AsyncClient) -> None:
    for path in ("/v2/models/mnist", "/v2/models/mnist/versions/7"):
        assert (await echo_client.get(path)).json() == {
            "name": "mnist",
            "versions": ["7"],
            "platform": "echo",
            "inputs": [{"name": "images", "datatype": "UINT8", "shape": [-1, 28, 28]}],
            "outputs": [],
        }


async def test_v2_readiness(echo_client: httpx.AsyncClient, echo: Echo) -> None:
    path = "/v2/models/mnist/versions/7/ready"
    assert (await echo_client.get(path)).status_code == 200
    echo.ready = False
    assert (await echo_client.get(path)).status_code == 503


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/models/other:predict"),
        ("POST", "/v2/models/other/infer"),
        ("POST", "/v2/models/mnist/versions/8/infer"),
        ("GET", "/v2/models/other"),
        ("GET", "/v2/models/mnist/versions/8"),
        ("GET", "/v2/models/mnist/versions/8/ready"),
        ("GET", "/v1/models/" + "x" * 5000),
        ("GET", "/v2/models/" + "x" * 5000 + "/ready"),
        ("GET", "/nothing/here"),
        ("GET", "/v2/"),  # no redirection to /v2, whose host would be the caller's choice
        ("GET", "/v1/models/"),
    ],
)
async def test_what_is_not_there_is_404(
    echo_client: httpx.AsyncClient, method: str, path: str
) -> None:
    answer = await echo_client.request(method, path)
    assert answer.status_code == 404
    assert 0 < len(answer.json()["error"]) <= LONGEST + 1


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
@pytest.mark.parametrize("path", [V1, V2, "/v2/models/mnist/versions/7/infer"])
async def test_a_wrong_method_is_405(
    echo_client: httpx.AsyncClient, method: str, path: str
) -> None:
    answer = await echo_client.request(method, path)
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert answer.json() == {"error": "Method Not Allowed"}


@pytest.mark.parametrize(
    ("error", "status", "retry_after"),
    [
        (InvalidInput("instance 3: no"), 400, None),
        (Overloaded("busy"), 429, "1"),
        (Unavailable("away"), 503, "1"),
        (TimedOut("slow"), 504, None),
    ],
)
async def test_errors_keep_their_status_and_message(
    echo_client: httpx.AsyncClient,
    echo: Echo,
    error: Exception,
    status: int,
    retry_after: str | None,
) -> None:
    echo.error = error
    answer = await echo_client.post(V1, json={})
    assert (answer.status_code, answer.json()) == (status, {"error": str(error)})
    assert answer.headers.get("retry-after") == retry_after


async def test_a_defect_shows_nothing_of_itself(echo_client: httpx.AsyncClient, echo: Echo) -> None:
    echo.error = RuntimeError("secret at 10.0.0.7")
    answer = await echo_client.post(V1, json={})
    assert (answer.status_code, answer.json()) == (500, {"error": "internal error"})


async def test_a_body_over_the_limit_is_413_announced_or_not(
    echo_client: httpx.AsyncClient, echo: Echo
) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(11):
            yield bytes(100)

    for content in (bytes(1001), chunks()):
        answer = await echo_client.post(V1, content=content)
        assert answer.status_code == 413
        assert "1000 bytes" in answer.json()["error"]
    assert not echo.seen
    assert (await echo_client.post(V1, content=bytes(1000))).status_code == 200


async def test_the_bodies_of_all_requests_together_are_limited(echo: Echo) -> None:
    endpoints = Endpoints(echo, max_body=1000)

    def request() -> Request:
        messages = iter([{"type": "http.request", "body": bytes(1000), "more_body": False}])

        async def receive() -> Any:
            return next(messages)

        return Request({"type": "http", "headers": []}, receive)

    async with AsyncExitStack() as held:
        for _ in range(BODIES):
            assert len(await held.enter_async_context(endpoints.body(request()))) == 1000
        with pytest.raises(Overloaded):
            await held.enter_async_context(endpoints.body(request()))
    async with endpoints.body(request()) as body:
        assert len(body) == 1000


async def test_a_client_that_hangs_up_frees_the_model(echo_app: App, echo: Echo) -> None:
    echo.hang = True
    messages: asyncio.Queue[Any] = asyncio.Queue()
    sent = []
    await messages.put({"type": "http.request", "body": b"{}", "more_body": False})
    scope = {"type": "http", "method": "POST", "path": V1, "headers": []}

    async def send(message: Any) -> None:
        sent.append(message)

    request = asyncio.create_task(echo_app(scope, messages.get, send))
    while not echo.seen:
        await asyncio.sleep(0.01)
    await messages.put({"type": "http.disconnect"})
    await request
    assert echo.cancelled
    assert sent[0]["status"] == 499


async def test_being_cancelled_from_elsewhere_is_not_taken_for_a_hang_up(echo: Echo) -> None:
    echo.hang = True
    never = asyncio.Event()

    async def receive() -> Any:
        await never.wait()

    request = Request({"type": "http", "headers": []}, receive)
    task = asyncio.create_task(Endpoints(echo, max_body=1).ask(request, {}))
    await asyncio.sleep(0.1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
