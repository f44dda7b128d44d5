"""JSON bodies."""

from typing import Any

import orjson

from serving.errors import SHOWN, InvalidInput, TooLarge

UNSAID = ("", "application/x-www-form-urlencoded", "text/plain")
"""Content types if the caller sets none: curl sends the second, a browser's ``fetch`` the third."""
MOST_VALUES = 500_000
"""Most values in one body; 256 images as numbers have 200,704, in 7,425 lists. An empty list takes
two bytes of a body, but 56 of memory."""

LONGEST_NAME = 4096
"""Most characters in an id, a name, or an attribute of an event: answers and errors repeat them."""


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
        start = f"it begins with {body[:SHOWN]!r}"
        raise InvalidInput(f"the body is not valid JSON: {error}; {start}") from None


def _check_count(body: bytes) -> None:
    """Check that a JSON body holds no more than ``MOST_VALUES`` values.

    The first value of a list or an object follows a bracket, every other one a comma, so these are
    counted. A body with no more bytes than ``MOST_VALUES`` need not be searched.

    Raises:
        TooLarge: it holds more.
    """
    marks = (b",", b"[", b"{")
    if len(body) > MOST_VALUES and sum(map(body.count, marks)) > MOST_VALUES:
        raise TooLarge(f"the JSON has more than {MOST_VALUES} values")


def write_json(value: Any) -> bytes:
    """``value`` as JSON, NumPy arrays and numbers included."""
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)


def is_json(content_type: str, body: bytes) -> bool:
    """Whether a body is JSON by its content type or, if that is ``UNSAID``, by how it begins."""
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type in UNSAID:
        return body.lstrip()[:1] in (b"{", b"[")
    return media_type == "application/json" or media_type.endswith("+json")
