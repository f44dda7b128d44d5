"""Where the evidence is read: pods and Prometheus."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import yaml

from rollout import source
from rollout.api import API
from rollout.canary import Component
from rollout.errors import NoEvidence
from rollout.evidence import Evidence, Pod
from rollout.source import REVISION_LABEL, Pods, Prometheus, Reading, begin, look
from standalone import pod
from standalone.canary import Revision
from standalone.objects import Objects
from tests import cluster, programs
from tests.releases import serving

LIVE = Component("predictor", {}, 10, "new", "new", "old", {"old": 90, "new": 10})
PAGE = """\
# TYPE mnist_request_seconds histogram
mnist_request_seconds_bucket{outcome="ok",le="0.5"} 8.0
mnist_request_seconds_bucket{outcome="ok",le="+Inf"} 10.0
# TYPE process_start_time_seconds gauge
process_start_time_seconds 1.7e9
"""


@contextmanager
def pods(folder: Path, *ports: int) -> Iterator[API]:
    """A cluster with a predictor's pod for each port."""
    objects = Objects()
    for number, port in enumerate(ports, 1):
        revision = Revision(f"mnist-predictor-{number:05}", {"spec": {"containers": [{}]}})
        args = ["--metrics_port=9092", f"--metrics_port={port}"] if port else []
        made = pod.describe("mnist", "predictor", revision, args)
        made["spec"]["containers"].append({"name": "queue-proxy"})  # as Knative adds it
        objects.create(pod.path(revision.name), made, "test")
    with cluster.serve(objects, folder) as kubeconfig:
        content = yaml.safe_load(kubeconfig.read_text(encoding="utf-8"))
        yield API("mnist", server=content["clusters"][0]["cluster"]["server"])


def test_each_pod_is_asked_at_its_port(tmp_path: Path) -> None:
    with serving(lambda: PAGE) as port, pods(tmp_path, port) as api:
        (found,) = Pods(api).read(0.5).pods.values()
    assert (found.component, found.revision) == ("predictor", "mnist-predictor-00001")
    assert (found.started, found.counts["calls"], found.counts["slow"]) == (1.7e9, 10, 2)


def test_a_reading_is_no_later_than_what_is_in_it(tmp_path: Path) -> None:
    """Else a stage could begin with counters from before the split."""
    answered = []

    def page() -> str:
        answered.append(time.time())
        return PAGE

    with serving(page) as port, pods(tmp_path, port) as api:
        assert Pods(api).read(0.5).time <= answered[0]


def test_a_pod_that_does_not_answer_is_left_out(tmp_path: Path) -> None:
    closed = programs.free_port()
    with (
        serving(lambda: PAGE) as port,
        serving(str, 503) as ill,
        serving(lambda: "<html>") as strange,
        serving(lambda: PAGE.replace("10.0", "NaN")) as senseless,
        serving(lambda: "mnist_request_seconds_bucket 10.0\n") as unlabelled,
        pods(tmp_path, port, closed, ill, strange, senseless, unlabelled) as api,
    ):
        assert len(Pods(api).read(0.5).pods) == 1


def test_a_pod_that_never_answers_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "TIMEOUT", source.TIMEOUT / 10)
    with (
        serving(lambda: PAGE) as port,
        socket.create_server(("127.0.0.1", 0)) as silent,
        pods(tmp_path, port, silent.getsockname()[1]) as api,
    ):
        assert len(Pods(api).read(0.5).pods) == 1


def test_pods_are_asked_at_the_same_time(tmp_path: Path) -> None:
    """Else a look would take as long as all those that do not answer are waited for."""
    both = threading.Barrier(2, timeout=2)

    def page() -> str:
        both.wait()
        return PAGE

    with serving(page) as one, serving(page) as other, pods(tmp_path, one, other) as api:
        found = Pods(api).read(0.5).pods.values()
    assert [each.counts.get("calls") for each in found] == [10, 10]


def test_pods_are_not_asked_through_a_proxy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(lambda: PAGE) as port, pods(tmp_path, port) as api:
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{programs.free_port()}")
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        assert len(Pods(api).read(0.5).pods) == 1


@pytest.mark.parametrize("other", [0, 1])
def test_that_no_pod_answers_is_said(tmp_path: Path, other: int) -> None:
    port = other and programs.free_port()
    with pods(tmp_path, port) as api, pytest.raises(NoEvidence) as error:
        Pods(api).read(0.5)
    assert ("give --prometheus" if port else "--metrics_port= among") in str(error.value)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("2001:db8::1", r"such as http://\[2001:db8::1\]:1/metrics"),
        (None, "no pod of mnist has"),
    ],
    ids=["of IPv6", "none yet"],
)
def test_a_pod_is_asked_at_the_address_it_has(
    tmp_path: Path, address: str | None, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pod, "LOOPBACK", address)
    monkeypatch.setattr(source, "TIMEOUT", 0.1)
    with pods(tmp_path, 1) as api, pytest.raises(NoEvidence, match=message):
        Pods(api).read(0.5)


def test_that_there_are_no_pods_is_no_error(tmp_path: Path) -> None:
    """A service may have been scaled to zero."""
    with pods(tmp_path) as api:
        assert Pods(api).read(0.5).pods == {}


def series(
    pod: str, name: str, *values: tuple[float, float | str], **labels: str
) -> dict[str, Any]:
    place = {
        "pod": pod,
        "component": "predictor",
        "serving_knative_dev_revision": f"revision of {pod}",
    }
    metric = {"__name__": name, **place, **labels}
    return {"metric": metric, "values": [[at, str(value)] for at, value in values]}


def calls(pod: str, *values: tuple[float, float | str]) -> dict[str, Any]:
    return series(pod, "mnist_request_seconds_bucket", *values, outcome="ok", le="+Inf")


def read(*result: dict[str, Any]) -> dict[str, float]:
    body = json.dumps({"status": "success", "data": {"result": result}})
    with serving(lambda: body) as port:
        pods = Prometheus(f"http://127.0.0.1:{port}", "mnist", "mnist").read(0.5).pods
    return {name: found.counts["calls"] for name, found in pods.items()}


def test_pods_are_compared_at_the_last_moment_that_all_have_reached() -> None:
    """One scraped 12 s later would seem to have got 12 s more of the traffic."""
    old = calls("a", (1000, 100), (1030, 400))
    new = calls("b", (1012, 10), (1042, 40))
    assert read(old, new) == {"a": 400, "b": 28}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([(1000, 500), (1040, 20)], 500),  # started again in between
        ([(1035, 20)], None),  # it was not there yet
        ([(900, 7)], 7),  # it has gone, and what it did is kept
    ],
)
def test_pods_that_come_and_go(values: list[tuple[float, float]], expected: float | None) -> None:
    found = read(calls("a", (1000, 0), (1030, 300)), calls("b", *values))
    other = {} if expected is None else {"b": expected}
    assert found == {"a": 300, **other}


def test_the_pod_of_a_sample_is_told_by_its_labels() -> None:
    started = series("a", "process_start_time_seconds", (1000, 900), (1030, 900))
    body = json.dumps({"data": {"result": [calls("a", (1000, 1), (1030, 4)), started]}})
    with serving(lambda: body) as port:
        pod = Prometheus(f"http://127.0.0.1:{port}", "mnist", "mnist").read(0.5).pods["a"]
    assert (pod.component, pod.revision, pod.started) == ("predictor", "revision of a", 900)


def test_a_restart_between_two_scrapes_is_not_counted_twice() -> None:
    """The new process may have passed what the old one had counted."""
    started = series("b", "process_start_time_seconds", (1000, 900), (1040, 1010))
    found = read(calls("a", (1000, 0), (1030, 300)), calls("b", (1000, 40), (1040, 70)), started)
    assert found == {"a": 300, "b": 40}


def test_what_was_counted_before_a_restart_does_not_count_as_what_was_since() -> None:
    """The new process has answered nothing yet, and shows no series."""
    started = series("b", "process_start_time_seconds", (1000, 900), (1030, 1010))
    other = calls("a", (1000, 0), (1030, 300))
    unsure = series("b", "mnist_unsure_requests_total", (1000, 7))
    body = json.dumps({"data": {"result": [other, calls("b", (1000, 40)), unsure, started]}})
    with serving(lambda: body) as port:
        pod = Prometheus(f"http://127.0.0.1:{port}", "mnist", "mnist").read(0.5).pods["b"]
    assert (pod.started, pod.counts) == (1010, {})


@pytest.mark.parametrize("ahead", [-3600, 0, 3600])
def test_a_reading_is_as_old_as_prometheus_says_whatever_the_clock_of_who_asks(
    ahead: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else calls from before a split would count as of it."""
    body = json.dumps({"data": {"result": [calls("a", (time.time() - 60, 1))]}})
    monkeypatch.setattr(source, "time", SimpleNamespace(time=lambda: time.time() + ahead))
    with serving(lambda: body) as port:
        found = Prometheus(f"http://127.0.0.1:{port}", "mnist", "mnist").read(0.5)
    assert 60 <= time.time() + ahead - found.time < 90


@pytest.mark.parametrize(
    ("age", "revision", "shows"), [(0, "new", True), (0, "old", False), (300, "new", False)]
)
def test_a_reading_tells_of_who_is_in_it_while_it_is_fresh(
    age: float, revision: str, *, shows: bool
) -> None:
    pods = {"a": Pod("predictor", revision, 0, {})}
    assert Reading(time.time() - age, pods).shows("new") == shows


@pytest.mark.parametrize(("ready", "counted"), [("True", 0), ("False", 30)])
def test_a_pod_that_is_ready_and_no_longer_scraped_has_not_gone(ready: str, counted: int) -> None:
    """What goes wrong for both versions would be seen in the canary alone, and condemn it."""
    live = replace(LIVE, rolled_out="revision of a", created="revision of b")
    pods: Any = {
        name: {
            "metadata": {"labels": {REVISION_LABEL: f"revision of {name}"}},
            "status": {"conditions": [{"type": "Ready", "status": status}]},
        }
        for name, status in (("a", ready), ("b", "True"))
    }
    api: Any = SimpleNamespace(pods=lambda: pods)
    evidence = Evidence(slow=0.5)
    begun = {name: Pod("predictor", f"revision of {name}", 0, {"calls": 10}) for name in pods}
    evidence.begin(live, datetime.now(UTC), begun)
    at = time.time()
    result = [calls("a", (at - 90, 10)), calls("b", (at - 15, 10), (at, 40))]
    body = json.dumps({"data": {"result": result}})
    with serving(lambda: body) as port:
        prometheus = Prometheus(f"http://127.0.0.1:{port}", "mnist", "mnist")
        assert look(api, prometheus, evidence, live) == bool(counted)
    assert evidence.steps()[0].canary.calls == counted


def test_a_pod_that_has_become_ready_and_is_not_yet_scraped_is_not_waited_for() -> None:
    """An autoscaler may start one at any time, and none of its calls are counted yet."""
    ready = {"conditions": [{"type": "Ready", "status": "True"}]}
    pods: Any = {
        name: {"metadata": {"labels": {REVISION_LABEL: revision}}, "status": ready}
        for name, revision in (("a", "old"), ("just ready", "old"), ("b", "new"))
    }
    seen = {"a": Pod("predictor", "old", 0, {}), "b": Pod("predictor", "new", 0, {"calls": 1})}
    evidence = Evidence(slow=0.5)
    evidence.begin(LIVE, datetime.now(UTC), {name: seen[name]._replace(counts={}) for name in seen})
    api: Any = SimpleNamespace(pods=lambda: pods)
    scraped: Any = SimpleNamespace(read=lambda _: Reading(time.time(), seen))
    assert look(api, scraped, evidence, LIVE)
    assert evidence.steps()[0].canary.calls == 1


def test_prometheus_is_asked_for_one_service_and_not_forever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One of the same name may be in another namespace."""
    asked = []

    def post(client: httpx.Client, url: str, data: dict[str, str]) -> None:
        asked.append((url, data["query"], client.timeout.read))
        raise httpx.ConnectError("away")

    monkeypatch.setattr(httpx.Client, "post", post)
    with pytest.raises(NoEvidence):
        Prometheus("http://prometheus/", "staging", "mnist").read(0.5)
    ((url, query, timeout),) = asked
    assert url == "http://prometheus/api/v1/query"
    assert ',namespace="staging",job="mnist"}' in query
    assert timeout


def test_a_prometheus_that_is_away_is_said() -> None:
    with pytest.raises(NoEvidence, match="does not answer"):
        Prometheus(f"http://127.0.0.1:{programs.free_port()}", "mnist", "mnist").read(0.5)


@pytest.mark.parametrize(
    "result",
    [
        None,
        [{}],
        [{"metric": {}, "values": []}],
        [{"metric": [], "values": [[1000, "1"]]}],
        *[[calls("a", (1000, number))] for number in ("many", "NaN", "+Inf")],
    ],
)
def test_a_prometheus_that_answers_nonsense_is_said(result: Any) -> None:
    body = json.dumps({"data": {"result": result}})
    with serving(lambda: body) as port, pytest.raises(NoEvidence, match="does not answer"):
        Prometheus(f"http://127.0.0.1:{port}", "mnist", "mnist").read(0.5)


def test_an_error_of_prometheus_is_no_evidence_whatever_comes_with_it() -> None:
    body = json.dumps({"data": {"result": [calls("a", (1000, 1))]}})
    with serving(lambda: body, 503) as port, pytest.raises(NoEvidence, match="503"):
        Prometheus(f"http://127.0.0.1:{port}", "mnist", "mnist").read(0.5)


def test_a_stage_begins_with_what_was_scraped_since(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else what the stable version had answered before would count against the split."""
    pods = [{"a": Pod("predictor", "old", 1, {"calls": calls})} for calls in (100.0, 150.0, 200.0)]
    readings = iter(
        Reading(time.time() + (60 if i == 2 else -60), each) for i, each in enumerate(pods)
    )

    class Late:
        def read(self, slow: float) -> Reading:
            return next(readings)

    monkeypatch.setattr(time, "sleep", lambda _: None)
    evidence = Evidence(slow=0.5)
    begin(Late(), evidence, LIVE)
    assert evidence.seen["a"].counts == {"calls": 200}


def test_a_prometheus_that_scrapes_nothing_more_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Stale:
        readings = iter([Reading(0, {})] * 2)

        def read(self, slow: float) -> Reading:
            return next(self.readings)

    monkeypatch.setattr(source, "RANGE", -1)
    monkeypatch.setattr(time, "sleep", lambda _: None)
    with pytest.raises(NoEvidence, match="nothing has been scraped"):
        begin(Stale(), Evidence(slow=0.5), LIVE)
