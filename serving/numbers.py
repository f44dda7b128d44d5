"""Numbers on the command line: types for ``argparse``, which names the flag that is wrong."""

import argparse
import math
import sys


def positive(text: str) -> int:
    """An integer of at least 1, for flags that count something."""
    return _within(text, 1, sys.maxsize)


def natural(text: str) -> int:
    """An integer of at least 0."""
    return _within(text, 0, sys.maxsize)


def seconds(text: str) -> float:
    """A time of at least 0."""
    number = float(text)
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError("must be at least 0, and finite")
    return number


def port(text: str) -> int:
    """A port; 0 is none, or any."""
    return _within(text, 0, 65535)


def _within(text: str, least: int, most: int) -> int:
    number = int(text)
    if number < least:
        raise argparse.ArgumentTypeError(f"must be at least {least}")
    if number > most:
        raise argparse.ArgumentTypeError(f"must be at most {most}")
    return number
