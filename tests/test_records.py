"""Records become the events that KafkaSource makes of them, events the records of KafkaSink."""

import base64
import json
from collections.abc import Mapping
from typing import Any

import pytest
from cloudevents.http import CloudEvent
from confluent_kafka import Message
from hypothesis import given
from hypothesis import strategies as st

from standalone.delivery import ERROR_DATA
from standalone.records import LONGEST, _headers, cut, read, write

SOURCE = "/apis/v1/namespaces/default/kafkasources/mnist-images"
PNG = b"\x89PNG\r\n\x1a\n"
CAMERA = {"specversion": "1.0", "id": "7", "type": "picture", "source": "camera"}
STRUCTURED = {"content-type": b"Application/CloudEvents+JSON ; charset=UTF-8"}


def message(
    value: bytes | None = PNG,
    headers: Mapping[str, bytes | None] | None = None,
    key: bytes | None = None,
    milliseconds: int = 1_790_000_000_123,
) -> Message:
    return Message(
        topic="mnist-images",
        partition=2,
        offset=17,
        key=key,
        value=value,
        headers=list((headers or {}).items()),
        timestamp=(1, milliseconds),
    )


def binary(**attributes: str) -> dict[str, bytes]:
    return {f"ce_{name}": value.encode() for name, value in {**CAMERA, **attributes}.items()}


def deep(levels: int) -> list[Any]:
    """More than orjson writes, though it reads them."""
    return [deep(levels - 1)] if levels else []


def known(event: CloudEvent) -> dict[str, Any]:
    return {name: value for name, value in event.get_attributes().items() if value is not None}


def test_a_record_that_is_no_event_becomes_one_that_says_where_it_lies() -> None:
    headers = {"Content-Type": b"Image/PNG", "Trace-Id": b"a b", "Größe": b"1"}
    event = read(message(headers=headers, key=b"camera 3"), SOURCE)
    assert known(event) == {
        "specversion": "1.0",
        "id": "partition:2/offset:17",
        "type": "dev.knative.kafka.event",
        "source": f"{SOURCE}#mnist-images",
        "subject": "partition:2#17",
        "time": "2026-09-21T14:13:20.123000+00:00",
        "datacontenttype": "image/png",
        "key": "camera 3",
        "partitionkey": "camera 3",
        "kafkaheadertraceid": "a b",
        "kafkaheadergre": "1",
    }
    assert event.get_data() == PNG


def test_an_event_in_binary_mode_is_kept() -> None:
    headers = {**binary(subject="né"), "content-type": b"image/png"}
    event = read(message(headers=headers), SOURCE)
    assert known(event) == {**CAMERA, "subject": "né", "datacontenttype": "image/png"}
    assert event.get_data() == PNG


@pytest.mark.parametrize(
    ("envelope", "data"),
    [
        ({"data_base64": base64.b64encode(PNG).decode()}, PNG),
        ({"data": {"instances": []}}, b'{"instances":[]}'),
        ({"data": "text"}, b'"text"'),
        ({"data": "text", "datacontenttype": "text/plain"}, b"text"),
        ({"data": {}}, b"{}"),
        ({"data": None}, b""),
        ({}, b""),
    ],
)
def test_an_event_in_structured_mode_is_unpacked(envelope: dict[str, Any], data: bytes) -> None:
    more = {"sampled": True, "attempt": 3, "subject": None}
    value = json.dumps({**CAMERA, **more, **envelope}).encode()
    event = read(message(value, STRUCTURED), SOURCE)
    expected = {**CAMERA, "sampled": True, "attempt": 3}
    if "datacontenttype" in envelope:
        expected["datacontenttype"] = envelope["datacontenttype"]
    assert known(event) == expected
    assert event.get_data() == data


@pytest.mark.parametrize(
    "broken",
    [
        message(headers={"ce_specversion": b"1.0"}),
        message(headers={"content-type": None}),
        message(headers=binary(id="")),
        message(headers=binary(specversion="9")),
        message(headers={**binary(), "ce_no name": b"x"}),
        message(b"[1]", STRUCTURED),
        message(b"\xff", STRUCTURED),
        message(b"[" * 9000, STRUCTURED),
        message(json.dumps({**CAMERA, "id": 7}).encode(), STRUCTURED),
        message(json.dumps({**CAMERA, "datacontenttype": 7}).encode(), STRUCTURED),
        message(json.dumps({**CAMERA, "data": deep(300)}).encode(), STRUCTURED),
        message(json.dumps({**CAMERA, "nested": {}}).encode(), STRUCTURED),
        message(json.dumps({**CAMERA, "data_base64": "?"}).encode(), STRUCTURED),
        message(json.dumps({**CAMERA, "id": "\ud800"}).encode(), STRUCTURED),
    ],
)
def test_what_is_meant_as_an_event_but_is_none_is_a_record_like_any_other(broken: Message) -> None:
    event = read(broken, SOURCE)
    assert event["type"] == "dev.knative.kafka.event"
    assert event["id"] == "partition:2/offset:17"
    assert event.get_data() == broken.value()


def test_the_partition_key_of_an_event_counts_more_than_the_records() -> None:
    assert read(message(headers=binary(partitionkey="a"), key=b"b"), SOURCE)["partitionkey"] == "a"
    assert read(message(headers=binary(), key=b"b"), SOURCE)["partitionkey"] == "b"
    assert "partitionkey" not in read(message(headers=binary()), SOURCE)


def test_a_record_without_a_value_has_no_data() -> None:
    assert read(message(None), SOURCE).get_data() == b""


def test_an_event_is_written_in_binary_mode_under_its_partition_key() -> None:
    attributes = {**CAMERA, "partitionkey": "é", "datacontenttype": "image/png", "time": None}
    record = write(CloudEvent({**attributes, "sampled": True, "attempt": 3}, PNG))
    assert record.key == "é".encode()
    assert record.value == PNG
    assert dict(record.headers) == {
        **binary(partitionkey="é", sampled="true", attempt="3"),
        "content-type": b"image/png",
    }


def test_of_an_event_that_is_cut_the_beginning_of_what_is_known_of_it_stays() -> None:
    event = CloudEvent({**CAMERA, "id": "7" * (LONGEST + 1), "trace": "long", "time": None}, PNG)
    assert known(cut(event)) == {**CAMERA, "id": "7" * LONGEST}
    assert cut(event).get_data() == b""
    kept = {**CAMERA, "subject": "page 3", "time": "2026-09-21T14:13:20Z"}
    kept |= {"knativeerrordest": "http://mnist/predict", "knativeerrorcode": "415"}
    kept["knativeerrordata"] = base64.b64encode(bytes(ERROR_DATA)).decode()
    assert known(cut(CloudEvent(kept, PNG))) == kept


def test_a_header_whose_name_is_no_text_is_no_header() -> None:
    class Odd(Message):
        def headers(self) -> Any:  # as confluent_kafka does
            raise SystemError("returned a result with an exception set")

    odd: Any = Odd.__new__(Odd)
    assert _headers(odd) == {}


@given(
    value=st.none() | st.binary(),
    headers=st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), st.binary()),
    key=st.none() | st.binary(),
    milliseconds=st.integers(-(2**63), 2**63 - 1),
)
def test_whatever_is_in_a_record_it_can_be_written_again(
    value: bytes | None, headers: dict[str, bytes], key: bytes | None, milliseconds: int
) -> None:
    record = write(read(message(value, headers, key, milliseconds), SOURCE))
    assert record.value == (value or b"")
    assert {"ce_id", "ce_type", "ce_source", "ce_specversion"} <= dict(record.headers).keys()


@given(
    st.dictionaries(
        st.from_regex("[a-z0-9]{1,20}", fullmatch=True).filter(
            lambda name: name not in ("data", "data_base64", "specversion")
        ),
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1),
    )
)
def test_an_event_survives_being_written_and_read(extensions: dict[str, str]) -> None:
    event = CloudEvent({"time": None, **CAMERA, **extensions}, PNG)
    record = write(event)
    again = read(message(record.value, dict(record.headers)), SOURCE)
    assert known(again) == known(event)
