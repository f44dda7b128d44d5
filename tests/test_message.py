"""How an answer goes over the wire."""

import json

import pytest

from serving.message import Response, refusal


def test_an_answer_has_its_headers_and_its_length() -> None:
    answer = Response(200, {"x-a": "1", "x-b": "ä"}, b"body").encode([(b"date", b"today")])
    head, _, body = answer.partition(b"\r\n\r\n")
    assert body == b"body"
    assert set(head.split(b"\r\n")) == {
        b"HTTP/1.1 200 OK",
        b"x-a: 1",
        b"x-b: \xe4",
        b"content-length: 4",
        b"date: today",
    }
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")


def test_the_last_answer_says_that_it_is() -> None:
    answer = Response(404, {}, b"").encode(keep_alive=False)
    assert answer == b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


@pytest.mark.parametrize("value", ["1\r\nx-c: 2", "1\n", "\r"])
def test_a_header_holds_no_other(value: str) -> None:
    with pytest.raises(ValueError, match="line break"):
        Response(200, {"x-a": "1", "x-b": value}, b"").encode()


def test_an_error_is_told_in_json_whatever_it_says() -> None:
    answer = refusal(429, 'no "such" \ud800 thing…', {"retry-after": "1"})
    assert json.loads(answer.body) == {"error": 'no "such" \ud800 thing…'}
    assert "thing…" in answer.body.decode()
    assert answer.headers == {"content-type": "application/json", "retry-after": "1"}
