"""The command line of the benchmarks: their flags, and how they end."""

import argparse
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from subprocess import CalledProcessError

from benchmarks.load import Failed

INTERRUPTED = 130
"""The status that shells give for SIGINT."""


def _program() -> str | None:
    """What runs the program."""
    spec = sys.modules["__main__"].__spec__
    return f"python -m {spec.name}" if spec else None


def flags(about: str | None, example: str | None = None) -> argparse.ArgumentParser:
    """A parser for the running program, described by its docstring ``about``."""
    return argparse.ArgumentParser(
        prog=_program(),
        description=about,
        epilog=example and f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


@contextmanager
def in_a_line(*problems: type[Exception]) -> Iterator[None]:
    """End the program if the block fails for a reason that the user can mend; say so in a line.

    Args:
        problems: such reasons, beside those that any of the programs may have.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)  # see benchmarks/__init__.py
    # Likewise, so that no server is left: they have sessions of their own.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    told: tuple[type[Exception], ...] = (Failed, OSError, CalledProcessError, *problems)
    try:
        yield
    except told as error:
        sys.exit(f"{_program()}: {error}")
    except KeyboardInterrupt:
        print(f"\n{_program()}: interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
