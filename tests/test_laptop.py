"""A canary on one machine: the real ``kubectl``, Envoy and predictors, version 1 to 2."""

import json
import re
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from standalone.envoy import find_envoy
from tests import programs
from tests.programs import Program

pytestmark = pytest.mark.skipif(
    not shutil.which("kubectl") or not find_envoy(), reason="no kubectl, or no Envoy for a split"
)
SEVEN = (programs.ROOT / "docs/seven.png").read_bytes()
OLD, NEW = "mnist-predictor-00001", "mnist-predictor-00002"


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Program]:
    """A service of its own: a canary changes it."""
    with programs.service(tmp_path) as running:
        yield running


def api(service: Program) -> str:
    flag = next(arg for arg in service.process.args if "--api_port" in str(arg))  # type: ignore[union-attr]
    return f"http://127.0.0.1:{str(flag).partition('=')[2]}"


def kubectl(service: Program, *arguments: str, check: bool = True) -> str:
    command = ["kubectl", f"--server={api(service)}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0 or not check, done.stderr
    return done.stdout + done.stderr


def patch(service: Program, *operations: dict[str, Any]) -> None:
    kubectl(service, "patch", "isvc", "mnist", "--type=json", f"--patch={json.dumps(operations)}")


def version(number: str) -> list[dict[str, Any]]:
    path = "/spec/predictor/containers/0/env/0/value"
    return [{"op": "replace", "path": path, "value": number}]


def percent(share: int | None) -> dict[str, Any]:
    path = "/spec/predictor/canaryTrafficPercent"
    return {"op": "remove", "path": path} if share is None else {
        "op": "add", "path": path, "value": share
    }  # fmt: skip


def status(service: Program) -> dict[str, Any]:
    found = json.loads(kubectl(service, "get", "isvc", "mnist", "--output=json"))["status"]
    return {**found["components"]["predictor"], "ready": found["conditions"][0]["status"]}


def settle(service: Program, revision: str) -> None:
    """Wait until a revision is the latest and ready."""
    deadline = time.monotonic() + programs.START_TIMEOUT
    while True:
        found = status(service)
        if found["latestCreatedRevision"] == found.get("latestReadyRevision") == revision:
            return
        assert time.monotonic() < deadline, found
        time.sleep(0.1)


def answer(service: Program, client: httpx.Client) -> httpx.Response:
    return client.post(f"{service.url}/v1/models/mnist:predict", content=SEVEN, headers={
        "Content-Type": "image/png"})  # fmt: skip


def versions(service: Program, requests: int) -> Counter[str]:
    with httpx.Client() as client:
        answers = [answer(service, client) for _ in range(requests)]
    return Counter(each.headers["x-model-version"] for each in answers)


@contextmanager
def load(service: Program) -> Iterator[Counter[int]]:
    """Ask all the time; counts the statuses of the answers."""
    statuses: Counter[int] = Counter()
    stop = threading.Event()

    def ask() -> None:
        with httpx.Client(timeout=30) as client:
            while not stop.is_set():
                statuses[answer(service, client).status_code] += 1

    callers = [threading.Thread(target=ask) for _ in range(4)]
    for caller in callers:
        caller.start()
    try:
        yield statuses
    finally:
        stop.set()
        for caller in callers:
            caller.join()


def test_a_canary_is_split_promoted_and_loses_no_request(service: Program) -> None:
    with load(service) as statuses:
        patch(service, *version("2"), percent(10))
        settle(service, NEW)
        found = versions(service, 300)
        assert 12 <= found["2"] <= 55  # of 30 expected, five standard deviations
        assert set(found) == {"1", "2"}
        columns = kubectl(service, "get", "isvc", "mnist").split("\n")[1].split()
        assert columns[2:7] == ["True", "90", "10", OLD, NEW]

        patch(service, percent(None))
        settle(service, NEW)
        time.sleep(1)
        assert versions(service, 50) == {"2": 50}
        time.sleep(2)  # the old revision is stopped meanwhile
    assert set(statuses) == {200}


def test_a_percent_on_what_is_rolled_out_brings_the_last_revision_back(service: Program) -> None:
    patch(service, *version("2"))
    settle(service, NEW)
    deadline = time.monotonic() + programs.START_TIMEOUT
    while OLD in kubectl(service, "get", "pods"):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    patch(service, percent(0))
    with httpx.Client() as client:
        while answer(service, client).headers.get("x-model-version") != "1":
            assert time.monotonic() < deadline
            time.sleep(0.1)
    assert versions(service, 20) == {"1": 20}


def test_each_revision_has_a_pod_with_metrics(service: Program) -> None:
    patch(service, *version("2"), percent(50))
    settle(service, NEW)
    versions(service, 20)
    named = "serving.kserve.io/inferenceservice=mnist,component=predictor"
    pods = json.loads(kubectl(service, "get", "pods", f"--selector={named}", "--output=json"))
    found = {}
    for pod in pods["items"]:
        args = pod["spec"]["containers"][0]["args"]
        port = [each.partition("=")[2] for each in args if "metrics_port" in each][-1]
        page = httpx.get(f"http://{pod['status']['podIP']}:{port}/metrics").text
        revision = pod["metadata"]["labels"]["serving.knative.dev/revision"]
        found[revision] = re.findall(r'mnist_model_info\{model_version="(\d)"', page)
    assert found == {OLD: ["1"], NEW: ["2"]}

    patch(service, percent(None))
    deadline = time.monotonic() + programs.START_TIMEOUT
    while OLD in kubectl(service, "get", "pods"):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_an_abort_in_the_right_order_never_lets_the_canary_serve_again(service: Program) -> None:
    patch(service, *version("2"), percent(50))
    settle(service, NEW)
    assert versions(service, 50).keys() == {"1", "2"}
    with load(service) as statuses:
        patch(service, percent(0))
        time.sleep(1)
        before = versions(service, 50)
        patch(service, *version("1"))
        settle(service, "mnist-predictor-00003")
        patch(service, percent(None))
        assert before + versions(service, 100) == {"1": 150}
    assert set(statuses) == {200}


def test_kubectl_edit_changes_the_service(
    service: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBE_EDITOR", """sed -i 's/value: "1"/value: "2"/'""")
    assert "edited" in kubectl(service, "edit", "isvc", "mnist")
    settle(service, NEW)
    time.sleep(1)
    assert versions(service, 20) == {"2": 20}


def test_the_tag_hosts_lead_to_one_revision_each(service: Program) -> None:
    kubectl(service, "annotate", "isvc", "mnist", "serving.kserve.io/enable-tag-routing=true")
    settle(service, NEW)
    # The canary of the transformer takes one image at a time, and is known by that.
    args = "/spec/transformer/containers/0/args/-"
    share = {"op": "add", "path": "/spec/transformer/canaryTrafficPercent", "value": 50}
    patch(service, {"op": "add", "path": args, "value": "--max_instances=1"}, share)
    statuses = {"mnist-transformer": {200, 413}}
    for end in ("", ":8080", ".default.example.com"):
        statuses |= {f"prev-mnist-transformer{end}": {200}, f"latest-mnist-transformer{end}": {413}}
    deadline = time.monotonic() + programs.START_TIMEOUT
    while (found := {host: asked_by(service, host) for host in statuses}) != statuses:
        assert time.monotonic() < deadline, found
        time.sleep(0.5)


def asked_by(service: Program, host: str) -> set[int]:
    """The statuses that two images get from a host, asked several times."""
    files = [("images", SEVEN), ("images", SEVEN)]
    with httpx.Client(headers={"Host": host}) as client:
        return {client.post(f"{service.url}/predict", files=files).status_code for _ in range(20)}


def rollout(service: Program, *arguments: str) -> int:
    command = [sys.executable, "-m", "rollout", f"--server={api(service)}", *arguments]
    return subprocess.run(command, cwd=programs.ROOT, check=False).returncode


def test_the_command_drives_a_canary_and_loses_no_request(service: Program) -> None:
    with load(service) as statuses:
        assert rollout(service, "start", "2", "--percent=50") == 0
        assert versions(service, 50).keys() == {"1", "2"}
        assert rollout(service, "abort", "--reason=a trial") == 0
        assert versions(service, 50) == {"1": 50}
        assert rollout(service, "start", "2", "--percent=10") == 0
        assert rollout(service, "promote") == 0
        time.sleep(1)
        assert versions(service, 50) == {"2": 50}
    assert set(statuses) == {200}
    assert "CanaryPromoted" in kubectl(service, "get", "events", "--output=yaml")
    assert "mnist-rollout" in kubectl(service, "get", "configmaps")


def test_a_canary_that_dies_takes_no_traffic_any_more(service: Program) -> None:
    patch(service, *version("2"), percent(50))
    settle(service, NEW)
    children = psutil.Process(service.process.pid).children()
    next(each for each in children if each.environ().get("MODEL_VERSION") == "2").kill()
    deadline = time.monotonic() + programs.START_TIMEOUT
    while f"{NEW} has ended with status" not in service.output():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    time.sleep(0.5)  # Envoy reads its routes again
    assert status(service)["ready"] == "False"
    assert versions(service, 20) == {"1": 20}


def test_a_version_that_cannot_be_served_takes_no_traffic(service: Program) -> None:
    patch(service, *version("99"), percent(50))
    deadline = time.monotonic() + programs.START_TIMEOUT
    while status(service)["ready"] != "False":
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert versions(service, 50) == {"1": 50}
    assert "mnist-predictor-00002 has ended with status 1" in service.output()
    patch(service, *version("1"), percent(None))
    settle(service, "mnist-predictor-00003")
    assert status(service)["ready"] == "True"


@pytest.mark.parametrize(
    ("field", "value"),
    [("env", {"name": "A=B", "value": "x"}), ("args", "\0"), ("args", "x" * 200_000)],
    ids=["a name", "a character", "a length"],
)
def test_a_canary_that_no_system_starts_takes_nothing_along(
    service: Program, field: str, value: object
) -> None:
    path = "/apis/serving.kserve.io/v1beta1/namespaces/default/inferenceservices/mnist"
    hopeless = {"op": "add", "path": f"/spec/predictor/containers/0/{field}/-", "value": value}
    httpx.patch(
        api(service) + path,
        json=[hopeless, percent(10)],
        headers={"Content-Type": "application/json-patch+json"},
    ).raise_for_status()
    deadline = time.monotonic() + programs.START_TIMEOUT
    while f"{NEW} cannot run" not in service.output():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert status(service)["ready"] == "False"
    assert versions(service, 5) == {"1": 5}


@pytest.mark.parametrize(
    ("operation", "message"),
    [
        ({"op": "add", "path": "/spec/predictor/canary", "value": 1}, "canary is unknown"),
        (percent(101), "101 is no percent"),
        ({"op": "remove", "path": "/spec/transformer"}, "spec.transformer has no containers"),
    ],
)
def test_what_kserve_refuses_is_refused(
    service: Program, operation: dict[str, Any], message: str
) -> None:
    arguments = ("patch", "isvc", "mnist", "--type=json", f"--patch={json.dumps([operation])}")
    assert message in kubectl(service, *arguments, check=False)


def test_the_manifest_can_be_applied_again_but_no_other_service(service: Program) -> None:
    apply = ("apply", "--server-side", "--force-conflicts", "-k")
    kubectl(service, *apply, str(programs.ROOT / "manifests/base"))
    assert status(service)["latestCreatedRevision"] == OLD
    overlay = str(programs.ROOT / "manifests/overlays/development")
    message = kubectl(service, *apply, overlay, check=False)
    assert "this machine serves mnist in namespace default alone" in message
