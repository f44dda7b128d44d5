"""What the programs log, for a person and for a machine."""

import json
import logging
from collections.abc import Iterator

import pytest

from serving import logs


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """pytest's own handlers come back after a test."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers = []
    yield
    root.handlers, root.level = handlers, level


def test_text_is_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure()
    logging.getLogger("predictor.model").info("version %s", 2)
    assert capsys.readouterr().err.endswith(" INFO predictor.model: version 2\n")


def test_json_is_a_line_an_event(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(style="json")
    logging.getLogger("predictor.model").info("two\nlines")
    try:
        raise ValueError("it broke")
    except ValueError:
        logging.getLogger("predictor.model").exception("cannot score")
    first, second = map(json.loads, capsys.readouterr().err.splitlines())
    assert first.pop("time").endswith("Z")
    assert first == {"level": "INFO", "logger": "predictor.model", "message": "two\nlines"}
    assert second["level"] == "ERROR"
    assert second["exception"].endswith("ValueError: it broke")


@pytest.mark.parametrize(("level", "count"), [("DEBUG", 2), ("INFO", 1), ("WARNING", 0)])
def test_the_level_is_the_least_that_is_logged(
    capsys: pytest.CaptureFixture[str], level: str, count: int
) -> None:
    logs.configure(level)
    logging.getLogger("predictor").debug("seen by who asks")
    logging.getLogger("predictor").info("seen by all")
    logging.getLogger("httpx").info("seen by nobody")
    assert len(capsys.readouterr().err.splitlines()) == count
