"""What the programs log, for a person and for a machine."""

import json
import logging
from collections.abc import Iterator
from contextvars import copy_context
from pathlib import Path
from types import ModuleType

import kserve.model_server
import pytest
import yaml

import predictor.__main__
import transformer.__main__
from serving import access, context, logs


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """pytest's own handlers come back after a test."""
    root, sdk = logging.getLogger(), kserve.model_server.args
    handlers, level, shown = root.handlers[:], root.level, access.log.level
    configures = sdk.configure_logging
    root.handlers = []
    yield
    root.handlers, root.level = handlers, level
    access.log.setLevel(shown)
    sdk.configure_logging = configures


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


YAML = """
version: 1
formatters: {mine: {format: "mine: %(message)s"}}
handlers: {stderr: {class: logging.StreamHandler, formatter: mine}}
root: {level: INFO, handlers: [stderr]}
"""


@pytest.mark.parametrize(
    ("name", "text"), [("log.yaml", YAML), ("log.json", json.dumps(yaml.safe_load(YAML)))]
)
def test_a_file_takes_the_place_of_level_and_format(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str, text: str
) -> None:
    file = tmp_path / name
    file.write_text(text)
    logs.configure("ERROR", "json", file=str(file))
    access.log.warning("inference")  # a logger that there was before
    assert capsys.readouterr().err == "mine: inference\n"
    assert not kserve.model_server.args.configure_logging


@pytest.mark.parametrize(
    ("name", "text"),
    [("log.yaml", None), ("log.yaml", "a: b: c"), ("log.json", "{"), ("log.yaml", "- 1"),
     ("log.yaml", "version: 2"), ("log.json", '{"version": 1, "root": {"handlers": ["x"]}}')],
)  # fmt: skip
def test_a_file_that_cannot_be_used_is_named(tmp_path: Path, name: str, text: str | None) -> None:
    file = tmp_path / name
    if text is not None:
        file.write_text(text)
    with pytest.raises(SystemExit) as stopped:
        logs.configure(file=str(file))
    assert str(stopped.value.code).startswith(f"--log_config_file={file} cannot be used: ")


@pytest.mark.parametrize("program", [predictor.__main__, transformer.__main__])
def test_both_programs_read_it(monkeypatch: pytest.MonkeyPatch, program: ModuleType) -> None:
    monkeypatch.setattr("sys.argv", ["", "--log_config_file=none.yaml"])
    with pytest.raises(SystemExit, match="--log_config_file=none.yaml cannot be used"):
        program.main()
