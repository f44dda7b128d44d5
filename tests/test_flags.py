"""The flags of the programs, and their table in the docs."""

import argparse

import kserve.model_server
import pytest

import predictor.__main__
import transformer.__main__
from serving.flags import UNUSED, parser
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
    computed = {"decode_threads", "compute_threads"}
    shown = {name: text for name, text in documented(heading).items() if name not in computed}
    assert shown == {
        name: "" if defaults[name] is None else f"`{defaults[name]}`" for name in shown
    }


def test_the_flags_without_effect_are_named() -> None:
    section = PAGE.split("## Without effect\n")[1]
    assert all(f"`--{name.replace('event_loop', 'event-loop')}`" in section for name in UNUSED)


def test_the_flags_are_kserves_and_have_our_defaults() -> None:
    flags = parser("predictor", "", "")
    assert {action.dest for action in kserve.model_server.parser._actions} <= {
        action.dest for action in flags._actions
    }
    args = flags.parse_args([])
    assert (args.host, args.model_name, args.workers) == ("127.0.0.1", "mnist", 1)
    assert (args.predictor_protocol, args.predictor_request_timeout_seconds) == ("v2", 10)


def test_the_help_is_of_what_is_done_here() -> None:
    text = " ".join(parser("predictor", "", "").format_help().split())
    assert "--workers WORKERS Must be 1" in text
    assert "when the connection fails. (default: 1)" in text
    assert "Defaults to" not in text


@pytest.mark.parametrize(
    "flag",
    [
        "--http_port=65536",
        "--grpc_port=-1",
        "--metrics_port=65536",
        "--timeout-keep-alive=0",
        "--grpc_max_receive_message_length=-1",
        "--grpc_max_send_message_length=0",
        "--predictor_request_timeout_seconds=0",
        "--predictor_request_retries=-1",
        "--max_wait=-1",
        "--max_wait=inf",
        "--max_linger=nan",
        "--max_batch=0",
    ],
)
def test_numbers_with_which_nothing_is_answered_are_refused(
    flag: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        transformer.__main__.command_line().parse_args([flag])
    assert f"argument {flag.partition('=')[0]}: must be at " in capsys.readouterr().err


@pytest.mark.parametrize("name", ["", "mnist/1"])
def test_a_name_that_no_path_has_is_refused(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    for program in (predictor.__main__, transformer.__main__):
        with pytest.raises(SystemExit, match="^2$"):
            program.command_line().parse_args([f"--model_name={name}"])
        said = capsys.readouterr().err
        assert "error: argument --model_name: must be a name, without a slash" in said


def test_there_may_be_no_retry_no_port_and_no_waiting() -> None:
    flags = ["--predictor_request_retries=0", "--metrics_port=0", "--max_linger=0"]
    args = transformer.__main__.command_line().parse_args(flags)
    assert (args.predictor_request_retries, args.metrics_port, args.max_linger) == (0, 0, 0)
