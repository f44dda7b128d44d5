"""Kafka records as CloudEvents and CloudEvents as Kafka records, as Knative's KafkaSource and
KafkaSink have them.

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

from serving.events import STRUCTURED
from serving.json import is_json

PLAIN = "dev.knative.kafka.event"
"""The type of an event that was made of a record which is none."""
JSON = "application/json"
"""What the data of an event in structured mode are, if it does not say."""
REQUIRED = ("specversion", "id", "source", "type")


class Record(NamedTuple):
    """What is written to a topic."""

    key: bytes | None
    value: bytes
    headers: list[tuple[str, bytes]]


def read(message: Message, source: str) -> CloudEvent:
    """The event that a record is, or that KafkaSource makes of it if it is none.

    Args:
        message: a record; its value is an image, V1 JSON, or an event in structured mode.
        source: names the KafkaSource, for a record that is no event.

    Returns:
        The event; its data are bytes. A key that is text is its ``partitionkey``.
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


def text(value: Any) -> str:
    """An attribute in the spelling that both bindings share."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _headers(message: Message) -> dict[str, bytes]:
    try:
        found: Any = message.headers() or ()  # it is a list, whatever its type says
    except (SystemError, UnicodeError):  # a name that is not UTF-8: the library reads none at all
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
    except (ValueError, TypeError, AttributeError):  # deeper than orjson writes, too
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
    """An event, or ``None`` where the attributes are not those of one."""
    for name, value in attributes.items():
        if not re.fullmatch("[a-z0-9]+", name) or not isinstance(value, str | int):
            return None
    if attributes.get("specversion") != "1.0":
        return None
    if not isinstance(attributes.get("datacontenttype", ""), str):
        return None
    if not all(isinstance(attributes.get(name), str) and attributes[name] for name in REQUIRED):
        return None
    return CloudEvent({"time": None, **attributes}, data)  # without one, it would be now


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
    except (ValueError, OverflowError, OSError):  # whoever wrote the record chose it
        return None


def _text(value: bytes | str | None) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value or ""
