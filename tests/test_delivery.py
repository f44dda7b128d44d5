"""Events are posted as Knative's dispatcher posts them: headers, retries, dead letters."""

import asyncio
import base64
from collections.abc import AsyncIterator
from types import SimpleNamespace

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from cloudevents.http import CloudEvent

from serving import events
from standalone import delivery
from standalone.delivery import Delivery, Undelivered
from tests.programs import free_port

pytestmark = pytest.mark.anyio

EVENT = CloudEvent(
    {
        "id": "7",
        "type": "picture",
        "source": "camera",
        "subject": 'no. 5, "né" 100%',
        "time": None,
        "sampled": True,
        "datacontenttype": "image/png",
    },
    b"image",
)


class Sink:
    """A server that answers as it is told, and with an event when it is told no more."""

    def __init__(self) -> None:
        self.answers: list[web.Response] = []
        self.requests: list[tuple[dict[str, str], bytes]] = []

    async def handle(self, request: web.Request) -> web.Response:
        body = await request.read()
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.requests.append((headers, body))
        if self.answers:
            return self.answers.pop(0)
        event = events.read(headers, body)
        assert event
        answer_headers, content = events.reply(event, b"{}", "mnist", structured=False)
        return web.Response(body=content, headers=answer_headers)


@pytest.fixture
def sink() -> Sink:
    return Sink()


@pytest.fixture
def delays(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long is waited before each retry; in truth, not at all."""
    found: list[float] = []

    async def sleep(seconds: float) -> None:
        found.append(seconds)

    monkeypatch.setattr(delivery, "asyncio", SimpleNamespace(sleep=sleep))
    return found


@pytest.fixture
async def sender(sink: Sink, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Delivery]:
    monkeypatch.setattr(delivery, "RETRIES", 3)
    app = web.Application()
    app.router.add_post("/{path:.*}", sink.handle)
    async with TestServer(app) as server, aiohttp.ClientSession() as session:
        yield Delivery(session, str(server.make_url("/predict")))


async def test_a_request_has_the_headers_of_the_dispatcher(sender: Delivery, sink: Sink) -> None:
    await sender.deliver(EVENT)
    ((headers, body),) = sink.requests
    assert body == b"image"
    assert {name: value for name, value in headers.items() if name.startswith("ce-")} == {
        "ce-specversion": "1.0",
        "ce-id": "7",
        "ce-type": "picture",
        "ce-source": "camera",
        # https://github.com/cloudevents/spec, HTTP protocol binding, 3.1.3.2
        "ce-subject": "no.%205,%20%22n%C3%A9%22%20100%25",
        "ce-sampled": "true",
    }
    assert headers["content-type"] == "image/png"
    assert (headers["prefer"], headers["kn-namespace"]) == ("reply", "default")


@pytest.mark.parametrize("odd", ["日本", "a\r\nb: c", "\0", " ", "\x7f", "%41"])
async def test_an_attribute_may_be_any_text(sender: Delivery, odd: str) -> None:
    attributes = {"id": "7", "type": "t", "source": "s", "subject": odd, "datacontenttype": odd}
    answer = await sender.deliver(CloudEvent(attributes, b"image"))
    assert answer["subject"] == odd


async def test_without_a_content_type_none_is_made_up(sender: Delivery, sink: Sink) -> None:
    await sender.deliver(CloudEvent({"id": "7", "type": "t", "source": "s"}, b"image"))
    assert "content-type" not in sink.requests[0][0]


async def test_the_answer_is_the_event_in_the_response(sender: Delivery) -> None:
    answer = await sender.deliver(EVENT)
    assert answer["type"] == "io.kserve.inference.response"
    assert (answer["correlationid"], answer["subject"]) == ("7", EVENT["subject"])
    assert answer.get_data() == b"{}"


@pytest.mark.parametrize("status", [404, 408, 409, 429, 500, 502, 503, 504])
async def test_what_may_pass_is_retried_with_growing_delays(
    sender: Delivery, sink: Sink, delays: list[float], status: int
) -> None:
    sink.answers = [web.Response(status=status) for _ in range(3)]
    assert await sender.deliver(EVENT)
    assert len(sink.requests) == 4
    assert delays == [0.4, 0.8, 1.6]


async def test_what_does_not_pass_is_given_up_after_the_last_retry(
    sender: Delivery, sink: Sink, delays: list[float]
) -> None:
    sink.answers = [web.Response(status=503, body=b"away") for _ in range(9)]
    with pytest.raises(Undelivered) as caught:
        await sender.deliver(EVENT)
    assert (caught.value.status, caught.value.body) == (503, b"away")
    assert len(sink.requests) == 4


@pytest.mark.parametrize("status", [300, 301, 400, 401, 413, 415, 422])
async def test_what_will_not_pass_is_given_up_at_once(
    sender: Delivery, sink: Sink, status: int
) -> None:
    sink.answers = [web.Response(status=status, headers={"location": "/elsewhere"})]
    with pytest.raises(Undelivered) as caught:
        await sender.deliver(EVENT)
    assert caught.value.status == status
    assert len(sink.requests) == 1


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({}, b"fine"),
        ({"ce-specversion": "1.0"}, b"fine"),
        ({"ce-specversion": "1.0", "ce-id": "1"}, b"fine"),
        # It was not asked for in structured mode.
        (
            {"content-type": events.STRUCTURED},
            b'{"specversion": "1.0", "id": "1", "type": "t", "source": "s", "data": {}}',
        ),
    ],
)
async def test_a_success_that_is_no_event_is_given_up_at_once(
    sender: Delivery, sink: Sink, headers: dict[str, str], body: bytes
) -> None:
    sink.answers = [web.Response(body=body, headers=headers)]
    with pytest.raises(Undelivered) as caught:
        await sender.deliver(EVENT)
    assert caught.value.status is None
    assert len(sink.requests) == 1


async def test_a_service_that_is_not_there_is_tried_again(
    delays: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "RETRIES", 2)
    async with aiohttp.ClientSession() as session:
        sender = Delivery(session, f"http://127.0.0.1:{free_port()}/")
        with pytest.raises(Undelivered) as caught:
            await sender.deliver(EVENT)
    assert delays == [0.4, 0.8]
    assert caught.value.status is None


async def test_a_service_that_hangs_up_is_tried_again(delays: list[float]) -> None:
    async def hang_up(request: web.Request) -> web.Response:
        assert request.transport
        request.transport.close()
        raise ConnectionResetError

    away = web.Application()
    away.router.add_post("/", hang_up)
    async with TestServer(away) as server, aiohttp.ClientSession() as session:
        with pytest.raises(Undelivered):
            await Delivery(session, str(server.make_url("/"))).deliver(EVENT)
    assert len(delays) == delivery.RETRIES


async def test_the_log_of_a_retry_is_short_however_long_the_id_is(
    sender: Delivery, sink: Sink, delays: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    sink.answers = [web.Response(status=503)]
    with caplog.at_level("INFO", logger=delivery.log.name):
        await sender.deliver(CloudEvent({"id": "7" * 4000, "type": "t", "source": "s"}, b"image"))
    (line,) = caplog.messages
    assert len(line) < 200
    assert line.endswith(" is tried again in 0.4 s: status 503")


async def test_a_service_that_says_nothing_is_tried_again(
    delays: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(_: web.Request) -> web.Response:
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(delivery, "TIMEOUT", 0.1)
    monkeypatch.setattr(delivery, "RETRIES", 1)
    silence = web.Application()
    silence.router.add_post("/", never)
    async with TestServer(silence) as server, aiohttp.ClientSession() as session:
        sender = Delivery(session, str(server.make_url("/")))
        with pytest.raises(Undelivered):
            await sender.deliver(EVENT)
    assert delays == [0.4]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (
            Undelivered(415, b"x" * 2000),
            {
                "knativeerrorcode": "415",
                "knativeerrordata": base64.b64encode(b"x" * 1024).decode(),
            },
        ),
        (Undelivered(), {}),
    ],
)
async def test_a_dead_letter_is_the_event_with_the_reason(
    error: Undelivered, reason: dict[str, str]
) -> None:
    async with aiohttp.ClientSession() as session:
        letter = Delivery(session, "http://mnist/predict").dead_letter(EVENT, error)
    destination = {"knativeerrordest": "http://mnist/predict"}
    assert letter.get_attributes() == {**EVENT.get_attributes(), **destination, **reason}
    assert letter.get_data() == b"image"
