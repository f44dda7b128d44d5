"""A release that decides on evidence, on one machine: the real command, Envoy and predictors."""

import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from monitoring import prometheus
from standalone.envoy import find_envoy
from tests import programs, versions
from tests.programs import Program
from tests.test_laptop import api, kubectl, load
from tests.test_laptop import versions as asked

pytestmark = pytest.mark.skipif(
    not shutil.which("kubectl") or not find_envoy(), reason="no kubectl, or no Envoy for a split"
)
PROMOTED, ROLLED_BACK, INCONCLUSIVE = 0, 4, 5
FAILING, SLOW, UNSURE, NONSENSE = 3, 4, 5, 6
"""Versions that no one should have."""
FLAGS = ("--steps=20,50,100", "--warm-up=0.5", "--step-time=1", "--poll=0.2", "--minimum=20")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for number in (1, 2):
        shutil.copytree(programs.ROOT / f"models/mnist/{number}", folder / f"mnist/{number}")
    versions.publish(folder, FAILING, versions.Failing())
    versions.publish(folder, SLOW, versions.Slow())
    versions.publish(folder, UNSURE, versions.Nonsense(), threshold=1.1)
    versions.publish(folder, NONSENSE, versions.Nonsense())
    return folder


@pytest.fixture(scope="module")
def service(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """It serves version 1 at the end of each test, but for the last one."""
    with programs.service(tmp_path_factory.mktemp("service"), f"--models_dir={models}") as running:
        yield running


def command(service: Program, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "rollout", f"--server={api(service)}", *arguments]


def rollout(service: Program, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(service, *arguments),
        cwd=programs.ROOT,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def run(service: Program, models: Path, version: int, *flags: str) -> tuple[int, str]:
    target = ("run", str(version), f"--models-dir={models}", *FLAGS, *flags)
    done = rollout(service, *target)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr


def history(service: Program) -> list[dict[str, Any]]:
    return list(json.loads(rollout(service, "history", "--json").stdout))


@pytest.mark.parametrize(
    ("version", "guardrail"), [(FAILING, "failed"), (SLOW, "slow"), (UNSURE, "unsure")]
)
def test_a_bad_canary_is_taken_back_within_300_calls(
    service: Program, models: Path, version: int, guardrail: str
) -> None:
    with load(service) as statuses:
        code, told = run(service, models, version, "--slow=0.1")
        assert code == ROLLED_BACK, told
        assert asked(service, 50) == {"1": 50}
    assert set(statuses) <= {200, 500}
    last = history(service)[-1]
    canary, stable = (
        int(words.split(" of ")[1].split()[0]) for words in last["reason"].split(", ")[:2]
    )
    assert last["reason"].startswith(f"{guardrail}: canary")
    assert canary + stable <= 300
    if version == FAILING:
        assert 0 < statuses[500] <= 300
    else:
        assert set(statuses) == {200}


def test_sure_nonsense_is_held_and_can_be_taken_back(service: Program, models: Path) -> None:
    """That the digits are others is no proof that they are wrong."""
    with load(service):
        code, told = run(service, models, NONSENSE, "--max-time=8")
    assert code == INCONCLUSIVE, told
    assert "digits: Jensen-Shannon distance 1.00" in told
    assert rollout(service, "check").returncode == INCONCLUSIVE
    assert rollout(service, "abort", "--reason=sees an 8 everywhere").returncode == 0
    assert asked(service, 20) == {"1": 20}


def begin(service: Program, models: Path, version: int, *flags: str) -> None:
    target = ("start", str(version), "--percent=20", f"--models-dir={models}")
    done = rollout(service, *flags, *target)
    assert done.returncode == 0, done.stderr


def test_without_traffic_it_holds(service: Program, models: Path) -> None:
    begin(service, models, 2)
    code, told = run(service, models, 2, "--max-time=2")
    assert code == INCONCLUSIVE, told
    assert "no traffic: no evidence" in told
    shown = json.loads(rollout(service, "status", "--json").stdout)["revisions"]
    assert [(row["split"], row["calls"]) for row in shown[:2]] == [(80, 0), (20, 0)]
    assert rollout(service, "abort").returncode == 0


def test_a_prometheus_that_is_missing_is_no_evidence(service: Program, models: Path) -> None:
    url = f"http://127.0.0.1:{programs.free_port()}"
    begin(service, models, 2, f"--prometheus={url}")
    done = rollout(service, f"--prometheus={url}", "run", *FLAGS, "--max-time=1")
    assert done.returncode == INCONCLUSIVE, done.stderr
    assert f"no evidence: Prometheus at {url}" in done.stderr
    assert rollout(service, "abort").returncode == 0


@contextmanager
def scraped(service: Program, folder: Path) -> Iterator[str]:
    """A Prometheus over the service, as ``python -m monitoring`` sets it up; gives its URL."""
    url = f"127.0.0.1:{programs.free_port()}"
    configuration = prometheus.write(folder, interval="1s")
    flags = (f"--config.file={configuration}", f"--storage.tsdb.path={folder / 'data'}")
    stop = threading.Event()

    def follow() -> None:
        while not stop.wait(0.5):
            pods = json.loads(kubectl(service, "get", "pods", "--output=json"))["items"]
            prometheus.write_targets(folder, pods)

    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            ["prometheus", *flags, f"--web.listen-address={url}"], stdout=log, stderr=log
        )
    thread = threading.Thread(target=follow)
    thread.start()
    try:
        yield f"http://{url}"
    finally:
        stop.set()
        thread.join()
        process.terminate()
        process.wait()


@pytest.mark.skipif(not shutil.which("prometheus"), reason="no prometheus: see docs/monitoring.md")
def test_a_bad_canary_is_taken_back_by_what_prometheus_has_seen(
    service: Program, models: Path, tmp_path: Path
) -> None:
    with load(service), scraped(service, tmp_path) as url:
        begin(service, models, UNSURE, f"--prometheus={url}")
        done = rollout(service, f"--prometheus={url}", "run", *FLAGS, "--warm-up=2")
    assert done.returncode == ROLLED_BACK, done.stderr
    assert "unsure: canary" in done.stderr


def test_a_run_that_is_killed_is_gone_on_with_and_no_request_is_lost(
    service: Program, models: Path
) -> None:
    begin(service, models, 2)
    arguments = command(service, "run", "2", f"--models-dir={models}", *FLAGS, "--step-time=3")
    with load(service) as statuses:
        for _ in range(3):
            first = subprocess.Popen(arguments, cwd=programs.ROOT)
            time.sleep(3)
            first.send_signal(signal.SIGKILL)
            first.wait()
        code, told = run(service, models, 2)
        assert code == PROMOTED, told
        assert asked(service, 50) == {"2": 50}
        time.sleep(2)  # the old revision is stopped meanwhile
    assert set(statuses) == {200}
    assert [each["action"] for each in history(service)][-2:] == ["advanced", "promoted"]
