"""The command lines of the benchmarks: help, wrong flags, and how they end."""

import importlib
import runpy
import signal
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest

import benchmarks
from benchmarks import profile
from benchmarks.flags import in_a_line
from benchmarks.load import Failed
from tests.programs import ROOT, NotStarted

PROGRAMS = [
    path.stem
    for path in sorted((ROOT / "benchmarks").glob("*.py"))
    if "__main__" in path.read_text(encoding="utf-8") and path.stem != "flags"
]


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
@pytest.mark.parametrize("program", PROGRAMS)
def test_every_program_says_what_it_does_before_it_does_it(
    program: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [program, "--help"])
    with pytest.raises(SystemExit, match="^0$"):
        runpy.run_module(f"benchmarks.{program}", run_name="__main__", alter_sys=True)
    assert f"usage: python -m benchmarks.{program} [-h]" in capsys.readouterr().out


@pytest.mark.parametrize(
    "error", [Failed("why"), OSError("why"), NotStarted("why"), KeyboardInterrupt()]
)
def test_what_a_user_can_mend_is_said_without_a_stack_trace(
    error: BaseException, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended, in_a_line(NotStarted):
        raise error
    if isinstance(error, KeyboardInterrupt):
        assert ended.value.code == 130
        assert capsys.readouterr().err.endswith(": interrupted\n")
    else:
        assert str(ended.value.code).endswith(": why")


def test_uploads_that_are_missing_are_noticed_before_minutes_of_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["drift", f"--uploads={tmp_path}/none"])
    monkeypatch.setattr("predictor.artifact.load", Mock(side_effect=AssertionError))
    with pytest.raises(SystemExit, match="drift: .*/none"):
        runpy.run_module("benchmarks.drift", run_name="__main__", alter_sys=True)


def test_a_bug_keeps_its_stack_trace() -> None:
    with pytest.raises(ZeroDivisionError), in_a_line():
        raise ZeroDivisionError


def test_ctrl_c_during_the_imports_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(sys, "argv", ["-m"])
    try:
        importlib.reload(benchmarks)
        assert signal.getsignal(signal.SIGINT) == signal.SIG_DFL
        with in_a_line():
            for number in (signal.SIGINT, signal.SIGTERM):  # so that no server is left over
                assert signal.getsignal(number) == signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@pytest.mark.parametrize(
    ("flags", "clients"), [([], 32), (["--case=many"], 8), (["--case=many", "--clients=2"], 2)]
)
def test_the_clients_of_a_profile_are_as_many_as_the_case_allows(
    flags: list[str], clients: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["profile", *flags])
    assert profile.parse().clients == clients


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
@pytest.mark.parametrize("program", PROGRAMS)
def test_every_program_ends_in_a_line(program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.flags.flags", Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(SystemExit, match="^130$"):
        runpy.run_module(f"benchmarks.{program}", run_name="__main__")
