"""Three releases, and what callers see of them: ``python -m benchmarks.release``.

Serves version 1 on this machine, with callers who ask all the time, and releases version 2 with
``kubectl``, version 2 with ``rollout run``, and a version that fails with ``rollout run``. Prints
each command and its output, and plots in ``docs/release.png`` which version answered the callers.
"""

import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import httpx
import numpy as np
from matplotlib.figure import Figure

from benchmarks.flags import flags, in_a_line
from tests import programs, versions

API_PORT = 8001
API = f"http://127.0.0.1:{API_PORT}"
CALLERS = 4
PAUSE = 0.02
"""Seconds that a caller waits between an answer and its next request."""
FAILING = 3
SEVEN = programs.ROOT / "docs/seven.png"
PATCH = "kubectl patch isvc mnist --type=json --patch="
PERCENT = "/spec/predictor/canaryTrafficPercent"
VERSION = "/spec/predictor/containers/0/env/0/value"
BY_KUBECTL = (
    f"""{PATCH}'[{{"op": "replace", "path": "{VERSION}", "value": "2"}}, """
    f"""{{"op": "add", "path": "{PERCENT}", "value": 10}}]'""",
    "kubectl get isvc mnist",
    f"""{PATCH}'[{{"op": "replace", "path": "{PERCENT}", "value": 50}}]'""",
    f"""{PATCH}'[{{"op": "remove", "path": "{PERCENT}"}}]'""",
    "kubectl get isvc mnist",
)
FLAGS = "--warm-up=2 --step-time=5 --poll=1"
BY_COMMAND = (f"rollout run 2 --steps=10,50,100 {FLAGS}", "rollout status", "rollout history")
BAD = (f"rollout run {FAILING} --steps=10,50,100 {FLAGS}", "rollout status", "rollout history")


class Answer(NamedTuple):
    """What a caller got."""

    time: float
    """Seconds since the callers began."""
    version: str
    """Of the model; ``failed`` if the answer is an error."""


@contextmanager
def callers(url: str) -> Iterator[list[Answer]]:
    """Ask all the time until the end of the block; yield the list that collects the answers."""
    answers: list[Answer] = []
    begin, stop = time.monotonic(), threading.Event()
    image = SEVEN.read_bytes()

    def ask() -> None:
        with httpx.Client(timeout=30) as client:
            while not stop.wait(PAUSE):
                found = client.post(f"{url}/v1/models/mnist:predict", content=image)
                version = found.headers["x-model-version"] if found.is_success else "failed"
                answers.append(Answer(time.monotonic() - begin, version))

    threads = [threading.Thread(target=ask) for _ in range(CALLERS)]
    for thread in threads:
        thread.start()
    try:
        yield answers
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def show(command: str, models: Path) -> None:
    """Run a command against the API on this machine; print it and its output."""
    program, *arguments = shlex.split(command)
    run = {
        "kubectl": ["kubectl", f"--server={API}"],
        "rollout": [sys.executable, "-m", "rollout", f"--server={API}"],
    }[program]
    if arguments[0] == "run":
        arguments.append(f"--models-dir={models}")
    print(f"$ {command}", flush=True)
    done = subprocess.run(  # noqa: S603
        [*run, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    print(done.stdout, end="")
    if done.returncode:
        print(f"$ echo $?\n{done.returncode}")


def release(commands: tuple[str, ...], models: Path, pause: float) -> list[Answer]:
    """The answers to callers while ``commands`` run, with ``pause`` seconds after each."""
    with tempfile.TemporaryDirectory() as folder:
        flags = (f"--models_dir={models}", f"--api_port={API_PORT}")
        with programs.service(Path(folder), *flags) as service, callers(service.url) as answers:
            time.sleep(3)
            for command in commands:
                show(command, models)
                time.sleep(pause)
            time.sleep(3)
    print(dict(sorted(Counter(answer.version for answer in answers).items())), "\n")
    return answers


def draw(runs: dict[str, list[Answer]]) -> None:
    """Plot which version answered in each second, with a panel for each release."""
    figure = Figure(figsize=(9, 7), layout="constrained")
    for axes, (title, answers) in zip(figure.subplots(len(runs), 1), runs.items(), strict=True):
        seconds = int(max(answer.time for answer in answers))
        total = np.histogram([answer.time for answer in answers], seconds, (0, seconds))[0]
        shares = []
        labels = {"1": "version 1", "2": "version 2", "failed": "failed"}
        for version in labels:
            times = [answer.time for answer in answers if answer.version == version]
            shares.append(np.histogram(times, seconds, (0, seconds))[0] / np.maximum(total, 1))
        axes.stackplot(
            np.arange(seconds) + 0.5,
            100 * np.array(shares),
            labels=labels.values(),
            colors=("0.85", "tab:blue", "tab:red"),
        )
        axes.set(title=title, ylabel="% of the answers", xlim=(0, seconds), ylim=(0, 100))
    axes.set_xlabel("seconds")
    figure.axes[0].legend(loc="lower left")
    figure.savefig(programs.ROOT / "docs/release.png", dpi=80)


def main() -> None:
    """Release three times, and plot the answers."""
    flags(__doc__).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder)
        for number in (1, 2):
            shutil.copytree(programs.ROOT / f"models/mnist/{number}", models / f"mnist/{number}")
        versions.publish(models, FAILING, versions.Failing())
        draw(
            {
                "version 2 by kubectl": release(BY_KUBECTL, models, 8),
                "version 2 by rollout run": release(BY_COMMAND, models, 0),
                "a version that fails, by rollout run": release(BAD, models, 0),
            }
        )


if __name__ == "__main__":
    with in_a_line(programs.NotStarted):
        main()
