"""JSON bodies."""

from typing import Any

import orjson

from serving.errors import InvalidInput, TooLarge

MOST_VALUES = 500_000
"""Values in one body; 256 images as numbers have 200,704. An empty list takes two bytes of a
body, but 56 of memory."""


def read_json(body: bytes) -> Any:
    """The value in ``body``.

    Raises:
        InvalidInput: it is not valid JSON.
        TooLarge: it holds too many values, going by its commas.
    """
    if body.count(b",") > MOST_VALUES:
        raise TooLarge(f"the JSON has more than {MOST_VALUES} values")
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidInput(f"the body is not valid JSON: {error}") from None


def write_json(value: Any) -> bytes:
    """``value`` as JSON, NumPy arrays and numbers included."""
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)
