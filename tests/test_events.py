"""CloudEvents: read in both modes, answered in the same, refused where they are none."""

import json
from typing import Any

import httpx
import pytest
from cloudevents.conversion import to_binary, to_structured
from cloudevents.http import CloudEvent, from_http

from serving import events
from serving.errors import (
    InvalidInput,
    NotAnImage,
    Overloaded,
    ServingError,
    TimedOut,
    TooLarge,
    Unavailable,
)
from serving.json import LONGEST_NAME
from standalone.delivery import retryable
from tests.echo import V1, Echo

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("encode", [to_binary, to_structured])
@pytest.mark.parametrize("data", [{"a": 1}, b"\x89PNG"])
async def test_a_cloudevent_is_answered_by_one_in_the_same_mode(
    echo_client: httpx.AsyncClient, echo: Echo, encode: Any, data: Any
) -> None:
    event = CloudEvent({"type": "digit", "source": "camera", "subject": "no. 5"}, data)
    headers, content = encode(event)
    answer = await echo_client.post(V1, content=content, headers=headers)
    assert echo.seen == [data]
    reply = from_http(answer.headers, answer.content)
    assert ("ce-id" in answer.headers) == (encode is to_binary)
    assert reply.get_data() == {"predictions": [0.5], "model_version": "7"}
    assert reply["type"] == "io.kserve.inference.response"
    assert reply["source"] == "io.kserve.inference.mnist"
    assert (reply["subject"], reply["correlationid"]) == ("no. 5", event["id"])
    assert reply["id"] != event["id"]


async def test_structured_mode_is_told_by_the_media_type_whatever_its_case_and_parameters(
    echo_client: httpx.AsyncClient,
) -> None:
    headers = {"content-type": "application/CloudEvents+JSON ; charset=utf-8"}
    content = structured(correlationid="order 9", data={"a": 1})
    answer = await echo_client.post(V1, content=content, headers=headers)
    assert answer.headers["content-type"].startswith("application/cloudevents+json")
    # That of the event, where it has one, and not its id.
    assert answer.json()["correlationid"] == "order 9"


@pytest.mark.parametrize("encode", [to_binary, to_structured])
async def test_the_same_event_gets_an_answer_of_the_same_id(
    echo_client: httpx.AsyncClient, encode: Any
) -> None:
    async def answer_id(**attributes: str) -> str:
        event = CloudEvent({"type": "t", "source": "camera", "id": "1", **attributes}, b"image")
        headers, content = encode(event)
        answer = await echo_client.post(V1, content=content, headers=headers)
        return str(from_http(answer.headers, answer.content)["id"])

    first = await answer_id()
    assert await answer_id(subject="again") == first
    others = [await answer_id(id="2"), await answer_id(source="scanner")]
    others += [await answer_id(source="a b", id="c"), await answer_id(source="a", id="b c")]
    assert len({first, *others}) == 5


async def test_an_id_that_is_no_unicode_is_refused(echo_client: httpx.AsyncClient) -> None:
    headers = {"content-type": "application/cloudevents+json"}
    content = structured(id="half a pair: \ud800", data={"a": 1})
    answer = await echo_client.post(V1, content=content, headers=headers)
    assert answer.status_code == 400


def dispatched(**headers: str) -> dict[str, str]:
    """What Knative's dispatcher for Kafka sends of a record that is no event, of KafkaSource's
    making: always in binary mode, ``content-type`` only if the record has it."""
    return {
        "ce-specversion": "1.0",
        "ce-id": "partition:2/offset:17",
        "ce-type": "dev.knative.kafka.event",
        "ce-source": "/apis/v1/namespaces/mnist/kafkasources/mnist-images#mnist-images",
        "ce-subject": "partition:2#17",
        "ce-time": "2026-11-28T00:55:50.594Z",
        "ce-partitionkey": "camera-3",
        "ce-key": "camera-3",
        "ce-kafkaheadertrace": "7",
        "prefer": "reply",
        "kn-namespace": "mnist",
        "host": "mnist.mnist.svc.cluster.local",
        "user-agent": "Vert.x-WebClient/4.5.21",
        **headers,
    }


PNG = b"\x89PNG\r\n\x1a\n"


@pytest.mark.parametrize(
    ("headers", "content", "payload"),
    [
        (dispatched(), PNG, PNG),
        (dispatched(**{"content-type": "image/png"}), PNG, PNG),
        (dispatched(**{"content-type": "application/octet-stream"}), PNG, PNG),
        (dispatched(**{"content-type": "image/png"}), b"{}", b"{}"),
        (dispatched(**{"my-subject": "none of the event's"}), PNG, PNG),
        (dispatched(), b'{"instances": [1, 2]}', {"instances": [1, 2]}),
        (dispatched(**{"content-type": "application/json"}), b'{"a": 1}', {"a": 1}),
        (dispatched(**{"content-type": "application/json; charset=utf-8"}), b"[1]", [1]),
    ],
)
async def test_what_knative_dispatches_is_answered_as_it_reads_an_answer(
    echo_client: httpx.AsyncClient,
    echo: Echo,
    headers: dict[str, str],
    content: bytes,
    payload: Any,
) -> None:
    answer = await echo_client.post(V1, content=content, headers=headers)
    assert answer.status_code == 200
    assert echo.seen == [payload]
    attributes = {
        name.removeprefix("ce-"): value
        for name, value in answer.headers.items()
        if name.startswith("ce-")
    }
    assert attributes.pop("id")
    assert attributes.pop("time")
    # The key goes with the answer, or the broker would lose the order of one key's answers.
    assert attributes == {
        "specversion": "1.0",
        "type": "io.kserve.inference.response",
        "source": "io.kserve.inference.mnist",
        "subject": "partition:2#17",
        "correlationid": "partition:2/offset:17",
        "partitionkey": "camera-3",
    }
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == {"predictions": [0.5], "model_version": "7"}


@pytest.mark.parametrize(
    ("error", "status", "retried"),
    [
        (InvalidInput("wrong"), 400, False),
        (NotAnImage("wrong"), 415, False),
        (TooLarge("wrong"), 413, False),
        (Overloaded("later"), 429, True),
        (Unavailable("later"), 503, True),
        (TimedOut("later"), 504, True),
    ],
)
async def test_an_error_is_of_a_status_that_knative_retries_only_where_it_may_help(
    echo_client: httpx.AsyncClient, echo: Echo, error: ServingError, status: int, retried: bool
) -> None:
    echo.error = error
    answer = await echo_client.post(V1, content=PNG, headers=dispatched())
    assert answer.status_code == status
    assert retryable(answer.status_code) == retried
    assert not any(name.startswith("ce-") for name in answer.headers)


async def test_what_is_null_or_empty_in_an_event_is_as_if_it_were_not_there(
    echo_client: httpx.AsyncClient, echo: Echo
) -> None:
    headers = {"content-type": "application/cloudevents+json"}
    for nothing in (None, ""):
        optional = dict.fromkeys(events.OPTIONAL, nothing)
        answer = await echo_client.post(
            V1, content=structured(**optional, data={"a": 1}), headers=headers
        )
        assert (answer.json()["correlationid"], answer.json().get("subject")) == ("1", None)
    assert echo.seen == [{"a": 1}, {"a": 1}]


def structured(**wrong: Any) -> bytes:
    event = {"specversion": "1.0", "id": "1", "source": "s", "type": "t", **wrong}
    return json.dumps(event).encode()


@pytest.mark.parametrize("mode", ["structured", "binary"])
def test_an_event_of_many_attributes_holds_nobody_up(mode: str) -> None:
    many = {f"a{number}": "1" for number in range(300_000)}  # which take the library minutes
    if mode == "structured":
        headers, content = {"content-type": events.STRUCTURED}, structured(**many)
    else:
        headers = dispatched(**{f"ce-{name}": value for name, value in many.items()})
        content = PNG
    event = events.read(headers, content)
    assert event is not None
    assert many.items() <= event.get_attributes().items()


@pytest.mark.parametrize("name", [*events.REQUIRED, *events.OPTIONAL])
async def test_an_attribute_that_would_be_repeated_for_megabytes_is_refused(
    echo_client: httpx.AsyncClient, name: str
) -> None:
    headers = {"content-type": events.STRUCTURED}
    for length, status in ((LONGEST_NAME, 200), (LONGEST_NAME + 1, 400)):
        content = structured(data={}, **{name: "ä" * length})
        answer = await echo_client.post(V1, content=content, headers=headers)
        assert answer.status_code == status
    assert f"'{name}' has more than 4096 characters" in answer.json()["error"]


@pytest.mark.parametrize(
    ("content", "status", "told"),
    [
        (structured(data=1)[:-1] + b"," * 500_001 + b"}", 413, "values"),
        (structured()[:-1] + b', "a": [' + b"9" * 4000 + b"]", 400, "not a valid CloudEvent"),
        (b"[]", 400, "not a valid CloudEvent"),
    ],
    ids=["values", "digits", "a list"],
)
async def test_an_event_that_would_hold_everybody_up_is_refused(
    echo_client: httpx.AsyncClient, content: bytes, status: int, told: str
) -> None:
    headers = {"content-type": "application/cloudevents+json"}
    answer = await echo_client.post(V1, content=content, headers=headers)
    assert answer.status_code == status
    assert told.lower() in answer.json()["error"].lower()


async def test_an_event_with_broken_json_is_400(echo_client: httpx.AsyncClient) -> None:
    event = CloudEvent({"type": "t", "source": "s", "datacontenttype": "application/json"}, b"{")
    headers, content = to_binary(event, lambda data: data)
    answer = await echo_client.post(V1, content=content, headers=headers)
    assert answer.status_code == 400
    assert "JSON" in answer.json()["error"]


def test_an_event_that_would_fill_the_memory_is_refused() -> None:
    with pytest.raises(TooLarge):
        events.read({"content-type": "application/cloudevents+json"}, b"[]," * 600_000)


@pytest.mark.parametrize(
    ("headers", "content"),
    [
        ({"ce-specversion": "1.0"}, b"{}"),
        ({"ce-specversion": "9", "ce-id": "1", "ce-source": "s", "ce-type": "t"}, b"{}"),
        ({"content-type": "application/cloudevents+json"}, b"{}"),
        ({"content-type": "application/cloudevents+json"}, b"\xff"),
        ({"content-type": "application/cloudevents+json"}, b"[" * 900),
        ({"content-type": "application/cloudevents+json"}, b'{"specversion": "1.0", "data": 1}'),
        ({"content-type": "application/cloudevents+json"}, b'{"specversion": "1.0", "id": []}'),
        ({"content-type": "application/cloudevents+json"}, structured(id="")),
        ({"content-type": "application/cloudevents+json"}, structured(source=7)),
        ({"content-type": "application/cloudevents+json"}, structured(type={})),
        ({"content-type": "application/cloudevents+json"}, structured(subject=float("nan"))),
        ({"content-type": "application/cloudevents+json"}, structured(datacontenttype=[], data={})),
        ({"content-type": "application/cloudevents+json"}, structured(correlationid={})),
        ({"content-type": "application/cloudevents+json"}, structured(partitionkey=7)),
        (
            {"content-type": "application/cloudevents+json"},
            structured(data={"a": 1}, data_base64="iVBORw=="),
        ),
        ({"content-type": "application/cloudevents+json"}, structured(data_base64="iVBO*Rw==")),
        ({"content-type": "application/cloudevents+json"}, structured(data_base64=["iVBORw=="])),
        ({"content-type": "application/cloudevents+json"}, structured(DATACONTENTTYPE=7)),
    ],
)
async def test_what_is_meant_as_a_cloudevent_but_is_none_is_400(
    echo_client: httpx.AsyncClient, headers: dict[str, str], content: bytes
) -> None:
    answer = await echo_client.post(V1, content=content, headers=headers)
    assert answer.status_code == 400
    assert "CloudEvent" in answer.json()["error"]
