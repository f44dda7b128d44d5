"""The table of settings in the docs is that of the programs' flags."""

import argparse

import pytest

import predictor.__main__
import transformer.__main__
from serving.server import UNUSED, parser
from tests import programs

PAGE = (programs.ROOT / "docs/settings.md").read_text(encoding="utf-8")


def flags(of: argparse.ArgumentParser) -> dict[str, object]:
    """Name and default of each flag that counts."""
    return {
        action.option_strings[-1].removeprefix("--"): action.default
        for action in of._actions
        if action.dest != "help" and action.help != argparse.SUPPRESS
    }


BOTH = flags(parser("", "", ""))
PREDICTOR = flags(predictor.__main__.command_line())
TRANSFORMER = flags(transformer.__main__.command_line())


def documented(heading: str) -> dict[str, str]:
    """Name and default of each flag in the table under ``heading``."""
    section = PAGE.split(f"## {heading}\n")[1].split("\n## ")[0]
    rows = [line.split("|") for line in section.splitlines() if line.startswith("| `--")]
    return {cells[1].strip(" `-"): cells[2].strip() for cells in rows}


@pytest.mark.parametrize(
    ("heading", "names"),
    [
        ("Both programs", [name for name in BOTH if PREDICTOR[name] == TRANSFORMER[name]]),
        ("Predictor", [name for name in PREDICTOR if name not in BOTH]),
        ("Transformer", [name for name in TRANSFORMER if name not in BOTH]),
    ],
)
def test_every_flag_has_its_line(heading: str, names: list[str]) -> None:
    assert sorted(set(documented(heading)) - {"max_body"}) == sorted(names)


@pytest.mark.parametrize(
    ("heading", "defaults"),
    [("Both programs", BOTH), ("Predictor", PREDICTOR), ("Transformer", TRANSFORMER)],
)
def test_every_default_is_the_programs(heading: str, defaults: dict[str, object]) -> None:
    computed = {"decode_threads", "torch_threads"}
    shown = {name: text for name, text in documented(heading).items() if name not in computed}
    assert shown == {
        name: "" if defaults[name] is None else f"`{defaults[name]}`" for name in shown
    }


def test_the_flags_without_effect_are_named() -> None:
    section = PAGE.split("## Without effect\n")[1]
    assert all(f"`--{name.replace('event_loop', 'event-loop')}`" in section for name in UNUSED)
