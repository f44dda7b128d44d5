"""Numbers on the command line: those out of range are refused, and told why."""

import sys
from argparse import ArgumentTypeError
from collections.abc import Callable

import pytest

from serving.numbers import natural, port, positive, seconds


@pytest.mark.parametrize(
    ("kind", "texts"),
    [
        (positive, ["1", "1024"]),
        (natural, ["0", "7"]),
        (seconds, ["0", "0.25", "3e9"]),
        (port, ["0", "65535"]),
    ],
)
def test_what_is_in_range_is_taken(kind: Callable[[str], float], texts: list[str]) -> None:
    assert [kind(text) for text in texts] == [float(text) for text in texts]


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        (positive, "0", "must be at least 1"),
        (positive, str(sys.maxsize + 1), f"must be at most {sys.maxsize}"),
        (natural, "-1", "must be at least 0"),
        (seconds, "-0.1", "must be at least 0, and finite"),
        (seconds, "inf", "must be at least 0, and finite"),
        (seconds, "nan", "must be at least 0, and finite"),
        (port, "-1", "must be at least 0"),
        (port, "65536", "must be at most 65535"),
    ],
)
def test_what_is_not_is_refused(kind: Callable[[str], float], text: str, message: str) -> None:
    with pytest.raises(ArgumentTypeError, match=f"^{message}$"):
        kind(text)


@pytest.mark.parametrize("kind", [positive, natural, seconds, port])
def test_words_are_no_numbers(kind: Callable[[str], float]) -> None:
    with pytest.raises(ValueError, match="ten"):
        kind("ten")
