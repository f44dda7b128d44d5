"""The command line of the benchmarks."""

import argparse
import sys


def flags(about: str | None) -> argparse.ArgumentParser:
    """A parser for the running program, described by its docstring ``about``."""
    spec = sys.modules["__main__"].__spec__
    return argparse.ArgumentParser(
        prog=f"python -m {spec.name}" if spec else None,
        description=about,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
