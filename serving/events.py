"""CloudEvents over HTTP, binary and structured, and the event that answers one.

https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/http-protocol-binding.md
"""

import uuid
from collections.abc import Mapping
from typing import Any

import orjson
from cloudevents.conversion import to_binary, to_structured
from cloudevents.exceptions import GenericException
from cloudevents.http import CloudEvent, from_http

from serving.errors import InvalidInput, TooLarge
from serving.json import is_json, read_json, write_json

STRUCTURED = "application/cloudevents+json"
RESPONSE_TYPE = "io.kserve.inference.response"
REQUIRED = ("id", "source", "type")
OPTIONAL = ("subject", "partitionkey", "datacontenttype", "correlationid")
"""Attributes that are read here; both kinds are strings."""
MOST_ATTRIBUTES = 100
"""Members of a structured event. For each the library copies those before it."""


def read(headers: Mapping[str, str], body: bytes) -> CloudEvent | None:
    """The event that a request carries, or ``None`` where it is none.

    Raises:
        InvalidInput: it is meant as an event, but is none.
        TooLarge: it holds too many values, or attributes.
    """
    if is_structured(headers):
        try:
            attributes = read_json(body)
            body = write_json(attributes)  # of long numbers the library's JSON takes seconds
        except (InvalidInput, TypeError) as error:  # it is none, or nested too deeply to be written
            raise InvalidInput(f"not a valid CloudEvent: {error}") from None
        if isinstance(attributes, dict) and len(attributes) > MOST_ATTRIBUTES:
            raise TooLarge(f"the CloudEvent has more than {MOST_ATTRIBUTES} attributes")
    elif "ce-specversion" not in headers:
        return None
    found = []

    def unmarshal(data: Any) -> Any:
        found.append(data)
        return data

    try:
        event = from_http(dict(headers), body, unmarshal)
    except (GenericException, ValueError, TypeError, AttributeError, RecursionError) as error:
        # The library's message repeats the body.
        raise InvalidInput(
            f"not a valid CloudEvent ({type(error).__name__}); "
            "expected specversion 1.0, id, source and type"
        ) from None
    if len(found) > 1:  # the library takes the last
        raise InvalidInput("not a valid CloudEvent: it has both 'data' and 'data_base64'")
    for name in (*REQUIRED, *OPTIONAL):
        value = event.get(name)
        if name in OPTIONAL and value in (None, ""):
            continue
        if not (isinstance(value, str) and value):
            raise InvalidInput(f"not a valid CloudEvent: expected '{name}' to be a string")
    return event


def is_structured(headers: Mapping[str, str]) -> bool:
    """Whether the body holds the event's attributes too, and not only its data."""
    return headers.get("content-type", "").partition(";")[0].strip().lower() == STRUCTURED


def reply(
    event: CloudEvent, content: bytes, model_name: str, *, structured: bool
) -> tuple[dict[str, str], bytes]:
    """The event that answers ``event``.

    It keeps the subject and the partition key, names the event it answers in ``correlationid``,
    and has an ``id`` made of that one's source and id: who asks twice gets the same event twice,
    and whoever reads the answers can tell.

    Args:
        event: what is answered.
        content: the answer, JSON.
        model_name: becomes part of ``source``, as in KServe.
        structured: the mode; the same as that of ``event``.

    Returns:
        Headers and body.
    """
    attributes = {
        "id": _answer_id(event),
        "type": RESPONSE_TYPE,
        "source": f"io.kserve.inference.{model_name}",
        "datacontenttype": "application/json",
        "correlationid": event.get("correlationid") or event["id"],
    }
    for name in ("subject", "partitionkey"):
        if event.get(name):
            attributes[name] = event[name]
    if structured:
        answer_headers, body = to_structured(CloudEvent(attributes, orjson.loads(content)))
    else:
        answer_headers, body = to_binary(CloudEvent(attributes, content), lambda data: data)
    return answer_headers, body


def _answer_id(event: CloudEvent) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"{event['source']} {event['id']}"))


def payload(event: CloudEvent) -> Any:
    """What the event carries: a JSON value, or bytes that are none."""
    data = event.get_data()
    if isinstance(data, str):
        data = data.encode()
    if isinstance(data, bytes) and is_json(event.get("datacontenttype") or "", data):
        return read_json(data)
    return data
