"""What the programs log, for a person and for a machine."""

import json
import logging
from collections.abc import Iterator
from contextvars import copy_context

import pytest

from serving import access, context, logs


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """pytest's own handlers come back after a test."""
    root = logging.getLogger()
    handlers, level, shown = root.handlers[:], root.level, access.log.level
    root.handlers = []
    yield
    root.handlers, root.level = handlers, level
    access.log.setLevel(shown)


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


IDS = {"request_id": "42", "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736"}


def log_in_a_request() -> None:
    context.enter(context.receive("42", f"00-{IDS['trace_id']}-00f067aa0ba902b7-01", ""))
    logging.getLogger("predictor").info("score", extra={"fields": {"images": 3}})


def test_a_line_in_a_request_has_its_ids(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(style="json")
    copy_context().run(log_in_a_request)
    line = json.loads(capsys.readouterr().err)
    assert line.pop("time")
    assert line == {
        "level": "INFO", "logger": "predictor", "message": "score", **IDS, "images": 3,
    }  # fmt: skip


def test_a_person_reads_them_at_the_end_of_the_line(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure()
    copy_context().run(log_in_a_request)
    assert capsys.readouterr().err.endswith(
        f" INFO predictor: score request_id=42 trace_id={IDS['trace_id']} images=3\n"
    )


def test_which_inferences_are_logged_does_not_depend_on_the_level() -> None:
    logs.configure("DEBUG", inferences="errors")
    assert not access.log.isEnabledFor(logging.INFO)
    logs.configure("ERROR", inferences="all")
    assert access.log.isEnabledFor(logging.INFO)
