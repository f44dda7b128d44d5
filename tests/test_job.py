"""``.ci/release``: the Job that takes a canary to its end is started, followed, and left.

The real ``kubectl``, and the CronJob of the production overlay, in the API of ``tests/cluster.py``;
what the Job's pods do is played.
"""

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web
from aiohttp.typedefs import Handler

from standalone.discovery import KINDS
from standalone.objects import Objects
from tests import cluster, manifests
from tests.manifests import Object, of_kind
from tests.programs import ROOT

pytestmark = pytest.mark.skipif(not shutil.which("kubectl"), reason="no kubectl")

SCRIPT = (".ci/release", "production", "c")
SERVICE = cluster.SERVICE.format("mnist")
JOBS = "/apis/batch/v1/namespaces/mnist/jobs"
PODS = "/api/v1/namespaces/mnist/pods"
LOG = re.compile(rf"{PODS}/([^/]+)/log")

Step = Callable[["Played"], None]


class Played(Objects):
    """Objects, and a Job whose next step is played each time that somebody looks at it."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[Step] = []
        self.logs: dict[str, str] = {}
        self.ready: list[str] = []
        """The service's condition at each look."""

    def get(self, path: str) -> Object:
        if path.startswith(f"{JOBS}/") and self.steps:
            self.steps.pop(0)(self)
        found = super().get(path)
        if path == SERVICE and self.ready:
            found["status"] = {"conditions": [{"type": "Ready", "status": self.ready.pop(0)}]}
        return found

    def jobs(self) -> list[Object]:
        return of_kind(self.list(), "Job")

    @web.middleware
    async def log(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """What ``kubectl logs`` asks for."""
        if found := LOG.fullmatch(request.path):
            if found[1] not in self.logs:
                status = {"kind": "Status", "code": 400, "message": "waiting to start"}
                return web.json_response(status, status=400)
            return web.Response(text=self.logs[found[1]])
        return await handler(request)


def pod(name: str, log: str | None = None, **status: Any) -> Step:
    """A pod of the Job gets to a state; ``log`` is all that it has logged until then."""

    def play(played: Played) -> None:
        if log is not None:
            played.logs[name] = log
        job = played.jobs()[-1]
        path = f"{PODS}/{name}"
        labels = {"batch.kubernetes.io/job-name": job["metadata"]["name"]}
        metadata = {"name": name, "namespace": "mnist", "labels": labels}
        pods = of_kind(played.list(), "Pod")
        if name not in {each["metadata"]["name"] for each in pods}:
            spec = {"containers": [{"name": "rollout"}]}
            made = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
            played.create(path, made, "test")
            # Pods are told apart by their age, and here they come within a second.
            second = len(pods) + 1
            created = {"creationTimestamp": f"2026-01-01T00:00:{second:02}Z"}
            played.patch(path, {"metadata": created}, "test")
        played.set_status(path, status)

    return play


def waiting(name: str, reason: str) -> Step:
    state = {"name": "rollout", "state": {"waiting": {"reason": reason}}}
    return pod(name, phase="Pending", containerStatuses=[state])


def ended(name: str, log: str, code: int) -> Step:
    state = {"name": "rollout", "state": {"terminated": {"exitCode": code}}}
    phase = "Failed" if code else "Succeeded"
    return pod(name, log, phase=phase, containerStatuses=[state])


def job(kind: str, message: str = "") -> Step:
    """The Job has ended."""

    def play(played: Played) -> None:
        found = played.jobs()[-1]
        condition = {"type": kind, "status": "True", "message": message}
        path = f"{JOBS}/{found['metadata']['name']}"
        played.set_status(path, {"conditions": [condition]})

    return play


def forgotten(name: str) -> Step:
    """A pod is removed, as at a deadline."""

    def play(played: Played) -> None:
        played.delete(f"{PODS}/{name}")

    return play


@pytest.fixture(scope="module")
def rendered() -> list[Object]:
    return manifests.render(ROOT / "manifests/overlays/production")


class World:
    """A cluster with the production overlay, and the script."""

    def __init__(self, played: Played, kubeconfig: Path) -> None:
        self.played = played
        waits = {"POLL": "0.05", "READY": "60"}
        self.env = {**os.environ, "KUBECONFIG": str(kubeconfig), **waits}

    def canary(self, component: str, percent: int) -> None:
        change = {"spec": {component: {"canaryTrafficPercent": percent}}}
        self.played.patch(SERVICE, change, "test")

    def start(self, command: tuple[str, ...] = SCRIPT) -> subprocess.Popen[str]:
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def release(self, *steps: Step, command: tuple[str, ...] = SCRIPT) -> tuple[int, str, str]:
        """Status, and what it says on its two streams, as the Job takes these steps."""
        self.played.steps = list(steps)
        with self.start(command) as process:
            out, err = process.communicate(timeout=120)
        return process.returncode, out, err


@pytest.fixture
def world(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rendered: list[Object]
) -> Iterator[World]:
    monkeypatch.setitem(KINDS, "batch/v1", {"cronjobs": "CronJob", "jobs": "Job"})
    played = Played()
    (service,), (cronjob,) = of_kind(rendered, "InferenceService"), of_kind(rendered, "CronJob")
    played.create(SERVICE, service, "test")
    place = "/apis/batch/v1/namespaces/mnist/cronjobs/mnist-rollout"
    played.create(place, cronjob, "test")
    with cluster.serve(played, tmp_path, played.log) as kubeconfig:
        yield World(played, kubeconfig)


@pytest.mark.parametrize("percent", [None, 100])
def test_without_a_canary_it_waits_until_the_service_is_ready(
    world: World, percent: int | None
) -> None:
    if percent:
        world.canary("predictor", percent)
    world.played.ready = ["True", "False", "Unknown", "True"]  # the first is of what was there
    status, _, err = world.release()
    assert (status, world.played.ready, world.played.jobs()) == (0, [], [])
    assert err == "release: no canary is running in mnist: waiting until what is there is ready\n"


def test_a_service_that_does_not_get_ready_is_not_released(world: World) -> None:
    world.env["READY"] = "0"
    status, _, err = world.release()
    assert status == 1
    assert err.endswith("kubectl --namespace=mnist describe inferenceservice mnist\n")


@pytest.mark.parametrize("component", ["predictor", "transformer"])
def test_the_job_is_what_the_overlay_says(
    world: World, component: str, rendered: list[Object]
) -> None:
    world.canary(component, 10)
    status, out, err = world.release(ended("a", "rollout: promoted\n", 0), job("Complete"))
    assert status == 0, err
    assert (status, out.splitlines()[-1]) == (0, "rollout: promoted")
    (cronjob,) = of_kind(rendered, "CronJob")
    (made,) = world.played.jobs()
    assert made["spec"] == cronjob["spec"]["jobTemplate"]["spec"]


def test_its_log_is_followed_line_by_line_over_all_tries(world: World) -> None:
    world.canary("predictor", 10)
    status, out, err = world.release(
        waiting("z", "ContainerCreating"),
        waiting("z", "ImagePullBackOff"),
        pod("z", "one\n", phase="Running"),
        pod("z", "one\ntwo\n", phase="Running"),
        ended("z", "one\ntwo\nthree\n", 1),
        pod("a", "four\n", phase="Running"),
        ended("a", "four\nfive\n", 0),
        job("Complete"),
    )
    assert status == 0
    assert out.splitlines()[1:] == ["one", "two", "three", "four", "five"]
    assert "release: pod z: Pending ImagePullBackOff\n" in err
    assert "release: pod a: Running" in err


@pytest.mark.parametrize("code", [1, 3, 4, 5])
def test_it_ends_as_the_last_pod_has_ended(world: World, code: int) -> None:
    world.canary("predictor", 10)
    first, last = ended("z", "error\n", 1), ended("a", "aborted\n", code)
    status, out, err = world.release(first, last, job("Failed", "matches FailJob rule"))
    assert status == code
    assert out.endswith("error\naborted\n")
    assert err.endswith("release: matches FailJob rule\n")


def test_a_job_whose_pod_is_gone_has_failed(world: World) -> None:
    world.canary("predictor", 10)
    running = pod("a", "one\n", phase="Running")
    status, _, err = world.release(running, forgotten("a"), job("Failed", "active too long"))
    assert status == 1
    assert err.endswith("release: active too long\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_job_goes_on_when_nobody_follows_it(world: World, number: int) -> None:
    world.canary("predictor", 10)
    world.played.steps = [pod("a", "one\n", phase="Running")]
    with world.start() as process:
        assert process.stdout
        assert process.stdout.readline() + process.stdout.readline() != ""
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    (made,) = world.played.jobs()
    assert f"the Job {made['metadata']['name']} goes on in the cluster" in err

    # It is found again, by then with no canary left.
    world.canary("predictor", 100)
    status, out, _ = world.release(ended("a", "one\npromoted\n", 0), job("Complete"))
    assert (status, out) == (0, "one\npromoted\n")
    assert len(world.played.jobs()) == 1


def test_a_canary_that_was_left_where_it_is_gets_a_job_of_its_own(world: World) -> None:
    world.canary("predictor", 10)
    assert world.release(ended("a", "held\n", 5), job("Failed"))[0] == 5
    time.sleep(1)  # a Job is named by the second in which it begins, and none ends so soon
    status, out, _ = world.release(ended("b", "promoted\n", 0), job("Complete"))
    assert (status, out.splitlines()[1:]) == (0, ["promoted"])
    assert len(world.played.jobs()) == 2


def test_make_fails_with_it(world: World) -> None:
    world.canary("predictor", 10)
    command = ("make", "release", "OVERLAY=production", "KUBE_CONTEXT=c")
    status, _, err = world.release(ended("a", "aborted\n", 4), job("Failed"), command=command)
    assert status == 2
    assert "Error 4" in err


def test_a_cluster_that_is_away_is_said(world: World, tmp_path: Path) -> None:
    kubeconfig = yaml.safe_load((tmp_path / "kubeconfig").read_text(encoding="utf-8"))
    kubeconfig["clusters"][0]["cluster"]["server"] = "http://127.0.0.1:9"
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump(kubeconfig), encoding="utf-8")
    status, _, err = world.release()
    assert status == 1
    assert "127.0.0.1:9" in err
