"""JSON bodies."""

from typing import Any

import orjson

from serving.errors import InvalidInput, TooLarge

UNSAID = ("", "application/x-www-form-urlencoded", "text/plain")
"""What a body is called if nobody tells: by curl the second, by a browser's ``fetch`` the third."""
MOST_VALUES = 500_000
"""Values in one body; 256 images as numbers have 200,704, in 7,425 lists. An empty list takes two
bytes of a body, but 56 of memory."""


def read_json(body: bytes) -> Any:
    """The value in ``body``.

    Raises:
        InvalidInput: it is not valid JSON.
        TooLarge: it holds too many values.
    """
    _check_count(body)
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidInput(f"the body is not valid JSON: {error}") from None


def _check_count(body: bytes) -> None:
    """See that a JSON body holds no more than ``MOST_VALUES``.

    Every value but the first of a list or an object follows a comma, every first one a bracket: no
    body has more values than bytes, and a small one need not be gone through.

    Raises:
        TooLarge: it does.
    """
    marks = (b",", b"[", b"{")
    if len(body) > MOST_VALUES and sum(map(body.count, marks)) > MOST_VALUES:
        raise TooLarge(f"the JSON has more than {MOST_VALUES} values")


def write_json(value: Any) -> bytes:
    """``value`` as JSON, NumPy arrays and numbers included."""
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)


def is_json(content_type: str, body: bytes) -> bool:
    """Whether a body is meant as JSON; if it does not say, whether it looks like it."""
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type in UNSAID:
        return body.lstrip()[:1] in (b"{", b"[")
    return media_type == "application/json" or media_type.endswith("+json")
