"""JSON bodies: what is not read."""

import re

import pytest

from serving.errors import InvalidInput, TooLarge
from serving.json import MOST_VALUES, is_json, read_json


@pytest.mark.parametrize(
    "body",
    [
        b"[" + b"0," * MOST_VALUES + b"0]",
        b"[" + b"[]," * (MOST_VALUES // 2) + b"[]]",
        # Nesting takes no comma: sixteen million lists, a gigabyte of them, would fit into a body.
        b"[" + b"[" * 500 + b"]" * 500 + (b"," + b"[" * 500 + b"]" * 500) * 1000 + b"]",
        b"[" + (b'{"a":' * 500 + b"0" + b"}" * 500 + b",") * 1000 + b"0]",
    ],
    ids=["numbers", "lists", "nested lists", "nested objects"],
)
def test_json_that_would_fill_the_memory_is_not_read(body: bytes) -> None:
    with pytest.raises(TooLarge, match="values"):
        read_json(body)


def test_as_many_values_as_the_largest_request_are_read() -> None:
    image = [[255] * 28] * 28
    body = str([image] * 256).encode()
    assert read_json(body) == [image] * 256


@pytest.mark.parametrize("body", [b"", b"{", b"[1,]", b"NaN", b"[" * 2000 + b"]" * 2000, b"\xff"])
def test_what_is_no_json_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidInput, match="not valid JSON"):
        read_json(body)


def test_an_image_instead_of_json_is_shown() -> None:
    with pytest.raises(InvalidInput, match=re.escape(r"it begins with b'\x89PNG\r\n\x1a\n")):
        read_json(b"\x89PNG\r\n\x1a\n" + bytes(1000))


@pytest.mark.parametrize(
    ("content_type", "body", "expected"),
    [
        ("application/json", b"", True),
        ("Application/JSON; charset=utf-8", b"", True),
        ("application/cloudevents+json", b"", True),
        ("image/png", b"{}", False),
        ("", b" {}", True),
        ("", b"\x89PNG", False),
        ("application/x-www-form-urlencoded", b"[]", True),
        ("text/plain;charset=UTF-8", b"[]", True),
        ("text/plain;charset=UTF-8", b"\x89PNG", False),
    ],
)
def test_what_is_meant_as_json(content_type: str, body: bytes, expected: bool) -> None:
    assert is_json(content_type, body) == expected
