"""CloudEvents: read in both modes, answered in the same, refused where they are none."""

import json
from typing import Any

import httpx
import pytest
from cloudevents.conversion import to_binary, to_structured
from cloudevents.http import CloudEvent, from_http

from serving import events
from serving.errors import TooLarge
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


def structured(**wrong: Any) -> bytes:
    event = {"specversion": "1.0", "id": "1", "source": "s", "type": "t", **wrong}
    return json.dumps(event).encode()


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
    ],
)
async def test_what_is_meant_as_a_cloudevent_but_is_none_is_400(
    echo_client: httpx.AsyncClient, headers: dict[str, str], content: bytes
) -> None:
    answer = await echo_client.post(V1, content=content, headers=headers)
    assert answer.status_code == 400
    assert "CloudEvent" in answer.json()["error"]
