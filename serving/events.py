"""Reads CloudEvents over HTTP, in binary or structured mode, and writes the event that answers one.

https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/http-protocol-binding.md
"""

import binascii
import uuid
from collections.abc import Mapping
from typing import Any

import orjson
from cloudevents.conversion import to_binary, to_structured
from cloudevents.http import CloudEvent

from serving.errors import InvalidInput
from serving.json import LONGEST_NAME, is_json, read_json

STRUCTURED = "application/cloudevents+json"
RESPONSE_TYPE = "io.kserve.inference.response"
REQUIRED = ("id", "source", "type")
OPTIONAL = ("subject", "partitionkey", "datacontenttype", "correlationid")
"""The attributes that are read, required or not; all are strings."""


def read(headers: Mapping[str, str], body: bytes) -> CloudEvent | None:
    """The event in a request, or ``None`` if the request is not an event.

    The event's data are the body's bytes; in structured mode, a JSON value or decoded base64.

    Raises:
        InvalidInput: the event is not valid.
        TooLarge: its JSON has too many values.
    """
    if is_structured(headers):
        attributes, data = _read_structured(body)
    elif "ce-specversion" in headers:
        named = {name[3:]: value for name, value in headers.items() if name.startswith("ce-")}
        attributes, data = {**named, "datacontenttype": headers.get("content-type")}, body
    else:
        return None
    if attributes.get("specversion") != "1.0":
        raise InvalidInput("not a valid CloudEvent: expected specversion 1.0")
    for name in (*REQUIRED, *OPTIONAL):
        value = attributes.get(name)
        if name in OPTIONAL and value in (None, ""):
            continue
        if not (isinstance(value, str) and value):
            raise InvalidInput(f"not a valid CloudEvent: expected '{name}' to be a string")
        if len(value) > LONGEST_NAME:
            raise InvalidInput(
                f"not a valid CloudEvent: '{name}' has more than {LONGEST_NAME} characters"
            )
    return CloudEvent(attributes, data)


def _read_structured(body: bytes) -> tuple[dict[str, Any], Any]:
    """Attributes and data; the library takes seconds for many attributes or long numbers."""
    try:
        found = read_json(body)
    except InvalidInput as error:
        raise InvalidInput(f"not a valid CloudEvent: {error}") from None
    if not isinstance(found, dict):
        raise InvalidInput("not a valid CloudEvent: expected a JSON object")
    attributes = {name.lower(): value for name, value in found.items()}
    if "data_base64" not in attributes:
        return attributes, attributes.pop("data", None)
    if "data" in attributes:
        raise InvalidInput("not a valid CloudEvent: it has both 'data' and 'data_base64'")
    try:
        data = binascii.a2b_base64(attributes.pop("data_base64"), strict_mode=True)
    except (TypeError, ValueError):
        raise InvalidInput("not a valid CloudEvent: 'data_base64' is no base64 text") from None
    return attributes, data


def is_structured(headers: Mapping[str, str]) -> bool:
    """Whether the body contains the event's attributes as well as its data."""
    return headers.get("content-type", "").partition(";")[0].strip().lower() == STRUCTURED


def reply(
    event: CloudEvent, content: bytes, model_name: str, *, structured: bool
) -> tuple[dict[str, str], bytes]:
    """The event that answers ``event``, with the same subject and partition key.

    Its ``correlationid`` is that of ``event`` or, if there is none, the id of ``event``. Its ``id``
    is derived from the source and id of ``event``: if an event is sent again, its answer has the
    same id, so that a reader can recognise duplicates.

    Args:
        event: the event to answer.
        content: the answer, as JSON.
        model_name: becomes part of ``source``, as in KServe.
        structured: whether to answer in structured mode, as ``event`` was sent.

    Returns:
        Headers and body.
    """
    source = event["source"].replace(" ", "%20")  # or "a b" and "c" would be "a" and "b c"
    attributes = {
        "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"{source} {event['id']}")),
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


def payload(event: CloudEvent) -> Any:
    """The event's data: a JSON value, or bytes if it is not JSON."""
    data = event.get_data()
    if isinstance(data, bytes) and is_json(event.get("datacontenttype") or "", data):
        return read_json(data)
    return data
