"""Processes side by side: how they are told to stop, and what of their output is printed."""

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from unittest import mock

import pytest

from standalone import processes
from standalone.processes import Processes

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there signals are others")
NOTES = """
import os, signal, sys
signal.alarm(60)  # should nobody stop it
def note(text):
    with open(sys.argv[1], "a") as file:
        print(text, file=file)
"""
SLOW = f"{NOTES}signal.signal(signal.SIGTERM, lambda *_: sys.exit(note(sys.argv[2])))"
DEAF = f"{NOTES}signal.signal(signal.SIGTERM, signal.SIG_IGN)"
FOREVER = """
note("up")
while True:
    signal.pause()
"""


def run(block: Callable[[Processes], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(20), Processes() as found:
            await block(found)

    asyncio.run(main())


async def start(found: Processes, name: str, code: str, *args: str) -> None:
    await found.start(name, sys.executable, "-Sc", code, *args, env=os.environ)


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.01)


def test_the_last_one_stops_first_and_before_the_next(tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    notes.touch()

    async def block(found: Processes) -> None:
        for count, name in enumerate(("envoy", "predictor", "transformer"), start=1):
            await start(found, name, SLOW + FOREVER, str(notes), name)
            while len(notes.read_text().splitlines()) < count:
                await asyncio.sleep(0.01)

    run(block)
    assert notes.read_text().split()[3:] == ["transformer", "predictor", "envoy"]


def test_one_that_does_not_stop_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "GRACE", 0.05)

    async def block(found: Processes) -> None:
        await start(found, "deaf", DEAF + FOREVER, str(tmp_path / "notes"))
        await until((tmp_path / "notes").exists)

    run(block)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_each_signal_cancels(number: signal.Signals) -> None:
    async def block(_: Processes) -> None:
        assert signal.getsignal(number) != signal.SIG_DFL, "it would end this process"
        os.kill(os.getpid(), number)
        await asyncio.sleep(20)

    with pytest.raises(asyncio.CancelledError):
        run(block)


def test_under_nohup_a_closed_terminal_is_not_heeded() -> None:
    async def block(_: Processes) -> None:
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN

    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        run(block)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_ctrl_c_in_a_terminal_goes_to_none_of_them(capsys: pytest.CaptureFixture[str]) -> None:
    async def block(found: Processes) -> None:
        await start(found, "part", "import os; print(os.getsid(0) == os.getpid())")
        await until(lambda: found.ended("part") is not None)

    run(block)
    assert capsys.readouterr().out.endswith(" | True\n")


def test_all_that_they_print_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    lines = ["b'\\xff\\n'", "b'x' * 200_000 + b'\\n'", "b'after\\n'"]
    code = f"import os\nfor line in ({', '.join(lines)}):\n    os.write(2, line)"

    async def block(found: Processes) -> None:
        await start(found, "part", code)
        await until(lambda: found.ended("part") is not None)

    run(block)
    first, *long, last = (line.split(" | ")[1] for line in capsys.readouterr().out.splitlines())
    assert (first, last) == ("\ufffd", "after")
    assert "(a line too long to be shown)" in long


def test_where_nothing_can_be_printed_the_service_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    async def block(found: Processes) -> None:
        await start(found, "part", "import signal; print(1, flush=True); signal.pause()")
        await until(lambda: found.ended("part") is not None)

    write = mock.Mock(side_effect=OSError("No space left"))
    monkeypatch.setattr(sys, "stdout", mock.Mock(write=write))
    with pytest.raises(OSError, match="No space left"):
        run(block)
