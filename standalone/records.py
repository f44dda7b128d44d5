"""Converts Kafka records to CloudEvents and back, as Knative's KafkaSource and KafkaSink do.

https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/kafka-protocol-binding.md
https://github.com/knative-extensions/eventing-kafka-broker
"""

import base64
import re
from datetime import UTC, datetime
from typing import Any, NamedTuple

import orjson
from cloudevents.http import CloudEvent
from confluent_kafka import Message

from serving.events import REQUIRED, STRUCTURED
from serving.json import is_json

PLAIN = "dev.knative.kafka.event"
"""The type of an event that is made from a plain record."""
JSON = "application/json"
"""The default content type of an event in structured mode."""
KEPT = (*REQUIRED, "subject", "time", "knativeerrordest", "knativeerrorcode", "knativeerrordata")
"""The attributes that a dead letter keeps when it is cut."""
LONGEST = 2048
"""Most characters of each; the longest that is not the producer's, the error, has 1,368."""


class Record(NamedTuple):
    """A record to be written to a topic."""

    key: bytes | None
    value: bytes
    headers: list[tuple[str, bytes]]


def read(message: Message, source: str) -> CloudEvent:
    """The event in a record, or the one that KafkaSource makes from a plain record.

    Args:
        message: a record; its value is an image, V1 JSON, or an event in structured mode.
        source: names the KafkaSource in the event of a plain record.

    Returns:
        The event; its data are bytes. The record's key is its ``partitionkey`` if it has none.
    """
    headers = _headers(message)
    value = message.value() or b""
    key = _text(message.key())
    event = _structured(headers, value) or _binary(headers, value)
    if event is None:
        event = _plain(message, headers, source)
    if key and "partitionkey" not in event:
        event["partitionkey"] = key
    return event


def write(event: CloudEvent) -> Record:
    """The record of an event, in binary mode; its key is the ``partitionkey``."""
    attributes = {
        name: text(value) for name, value in event.get_attributes().items() if value is not None
    }
    content_type = attributes.pop("datacontenttype", None)
    key = attributes.get("partitionkey")
    headers = [(f"ce_{name}", value.encode()) for name, value in attributes.items()]
    if content_type is not None:
        headers.append(("content-type", content_type.encode()))
    return Record(key.encode() if key else None, event.get_data(), headers)


def cut(event: CloudEvent) -> CloudEvent:
    """The attributes in ``KEPT``, each cut to ``LONGEST`` characters, and no data."""
    attributes = {
        name: text(value)[:LONGEST]
        for name, value in event.get_attributes().items()
        if name in KEPT and value is not None
    }
    # Of an event without a time the library would make one up.
    return CloudEvent({"time": None, **attributes}, b"")


def text(value: Any) -> str:
    """An attribute's value as a string, as in the HTTP and Kafka bindings."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _headers(message: Message) -> dict[str, bytes]:
    try:
        found: Any = message.headers() or ()  # it is a list, whatever its type says
    except (SystemError, UnicodeError):  # if a name is not UTF-8, the library reads none at all
        return {}
    return {name.lower(): value or b"" for name, value in found}


def _structured(headers: dict[str, bytes], value: bytes) -> CloudEvent | None:
    media_type = headers.get("content-type", b"").partition(b";")[0].strip().lower()
    if media_type != STRUCTURED.encode():
        return None
    try:
        attributes = {
            name: content for name, content in orjson.loads(value).items() if content is not None
        }
        base64_data = attributes.pop("data_base64", None)
        data = attributes.pop("data", None)
        if base64_data is not None:
            return _event(attributes, base64.b64decode(base64_data, validate=True))
        if isinstance(data, str) and not is_json(attributes.get("datacontenttype", JSON), b""):
            return _event(attributes, data.encode())
        return _event(attributes, b"" if data is None else orjson.dumps(data))
    except (ValueError, TypeError, AttributeError):  # also if nested too deeply for orjson
        return None


def _binary(headers: dict[str, bytes], value: bytes) -> CloudEvent | None:
    attributes = {
        name.removeprefix("ce_"): _text(content)
        for name, content in headers.items()
        if name.startswith("ce_")
    }
    if "content-type" in headers:
        attributes["datacontenttype"] = _text(headers["content-type"])
    return _event(attributes, value)


def _event(attributes: dict[str, Any], data: bytes) -> CloudEvent | None:
    """The event, or ``None`` if these are not the attributes of one."""
    for name, value in attributes.items():
        if not re.fullmatch("[a-z0-9]+", name) or not isinstance(value, str | int):
            return None
    if attributes.get("specversion") != "1.0":
        return None
    if not isinstance(attributes.get("datacontenttype", ""), str):
        return None
    if not all(isinstance(attributes.get(name), str) and attributes[name] for name in REQUIRED):
        return None
    return CloudEvent({"time": None, **attributes}, data)  # the library's default is now


def _plain(message: Message, headers: dict[str, bytes], source: str) -> CloudEvent:
    partition, offset = message.partition(), message.offset()
    attributes = {
        "id": f"partition:{partition}/offset:{offset}",
        "type": PLAIN,
        "source": f"{source}#{message.topic()}",
        "subject": f"partition:{partition}#{offset}",
        "time": _time(message),
    }
    if message.key() is not None:
        attributes["key"] = _text(message.key())
    for name, value in headers.items():
        if name == "content-type":
            attributes["datacontenttype"] = _text(value).lower()
        else:
            letters = "".join(each for each in name if each.isascii() and each.isalnum())
            attributes[f"kafkaheader{letters}"] = _text(value)
    return CloudEvent(attributes, message.value() or b"")


def _time(message: Message) -> str | None:
    _, milliseconds = message.timestamp()
    try:
        return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat()
    except (ValueError, OverflowError, OSError):  # the producer may set any
        return None


def _text(value: bytes | str | None) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value or ""
