"""The processes of the service: started together, watched, stopped together."""

import asyncio
import ctypes
import signal
import sys
from collections.abc import Mapping

GRACE = 10
"""Seconds between asking a process to stop and killing it."""
NAME_WIDTH = 23
SIGNALS = [signal.SIGINT, signal.SIGTERM]
if sys.platform != "win32":
    SIGNALS.append(signal.SIGHUP)


class ProcessDied(Exception):
    """A process ended by itself; the message says which and how."""


class Processes:
    """Runs processes side by side; leaving the block always stops all, the last one first.

    The first SIGINT, SIGTERM or SIGHUP cancels the task in the block. Each line of the processes'
    output is printed with the name of the process. None is restarted.
    """

    def __init__(self) -> None:
        self._processes: dict[str, asyncio.subprocess.Process] = {}
        self._pumps: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> "Processes":
        task = asyncio.current_task()

        def leave() -> None:
            ignore_signals()
            if task:
                task.cancel()

        if sys.platform != "win32":  # there asyncio turns Ctrl-C into a cancellation by itself
            for number in SIGNALS:
                if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup
                    asyncio.get_running_loop().add_signal_handler(number, leave)
        return self

    async def __aexit__(self, *_: object) -> None:
        ignore_signals()
        for process in reversed(list(self._processes.values())):  # others may stop meanwhile
            await _stop(process)
        await asyncio.gather(*self._pumps, return_exceptions=True)

    async def start(self, name: str, *command: str, env: Mapping[str, str]) -> None:
        """Start ``command`` as ``name`` with the environment ``env``."""
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=env,
            # Ctrl-C in a terminal goes to the whole process group: outside it, they stop in order.
            start_new_session=sys.platform != "win32",
            creationflags=0x200 if sys.platform == "win32" else 0,  # CREATE_NEW_PROCESS_GROUP
            preexec_fn=_die_with_parent if sys.platform == "linux" else None,
        )
        self._processes[name] = process
        if process.stdout:
            self._pumps.append(asyncio.create_task(_print_lines(name, process.stdout)))

    async def stop(self, name: str) -> None:
        """Stop a process that is no longer needed, if it was started."""
        if process := self._processes.pop(name, None):
            await _stop(process)

    def ended(self, name: str) -> str | None:
        """What a process that has ended by itself has done, in words; ``None`` while it runs.

        Raises:
            OSError: the output of a process cannot be printed.
        """
        for pump in self._pumps:
            if pump.done():
                pump.result()
        status = self._processes[name].returncode
        return None if status is None else f"has ended with status {status}"


def ignore_signals() -> None:
    """A second one must not interrupt the shutdown."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _die_with_parent() -> None:
    """Have Linux stop this process if its parent is killed before it can do so."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG, see prctl(2)


async def _print_lines(name: str, stream: asyncio.StreamReader) -> None:
    while True:
        try:
            line = await stream.readline()
        except ValueError:
            line = b"(a line too long to be shown)"
        if not line:
            return
        text = line.decode(errors="replace").rstrip()
        sys.stdout.write(f"{name:{NAME_WIDTH}} | {text}\n")
        sys.stdout.flush()


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    process.terminate()
    try:
        await asyncio.wait_for(process.wait(), GRACE)
    except TimeoutError:
        process.kill()
        await process.wait()
