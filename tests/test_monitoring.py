"""The component and its page: the port, the labels, and the metrics are those of the programs."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
from argparse import ArgumentTypeError
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.metrics import MetricWrapperBase

import predictor.metrics
import serving.metrics
import transformer.metrics
from monitoring import prometheus
from monitoring.__main__ import seconds
from tests import manifests, programs
from tests.manifests import of_kind

PAGE = (programs.ROOT / "docs/monitoring.md").read_text(encoding="utf-8")
MODULES = {
    "both": serving.metrics,
    "transformer": transformer.metrics,
    "predictor": predictor.metrics,
}


def metrics() -> dict[str, tuple[str, tuple[str, ...], str]]:
    """Type, labels and program of each metric."""
    return {
        metric._name: (str(metric._type), metric._labelnames, program)
        for program, module in MODULES.items()
        for metric in vars(module).values()
        if isinstance(metric, MetricWrapperBase)
    }


def documented() -> dict[str, tuple[str, tuple[str, ...], str]]:
    """The same of each row of the page's table."""
    rows = [
        [cell.strip() for cell in line.split("|")]
        for line in PAGE.splitlines()
        if line.startswith("| `mnist_")
    ]
    return {
        name.strip("`"): (kind, tuple(re.findall(r"`(\w+)`", labels)), program)
        for _, name, kind, labels, program, *_ in rows
    }


def test_the_page_has_every_metric_with_its_labels() -> None:
    assert documented() == metrics()


def test_the_rules_and_the_dashboard_ask_only_for_metrics_that_there_are() -> None:
    suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"], "gauge": [""]}
    exported = {
        name + suffix for name, (kind, *_) in metrics().items() for suffix in suffixes[kind]
    }
    component = programs.ROOT / prometheus.COMPONENT
    for path in [*(component / "rules").iterdir(), component / "dashboard.json"]:
        asked = re.findall(r"(?<![\w:])mnist_\w+", path.read_text(encoding="utf-8"))
        assert asked, path
        assert set(asked) <= exported, path


def test_prometheus_asks_and_is_let_in_on_the_port_of_the_metrics() -> None:
    base = (programs.ROOT / "manifests/base/inferenceservice.yaml").read_text(encoding="utf-8")
    (port,) = set(re.findall(r"--metrics_port=(\d+)", base))
    component = programs.ROOT / prometheus.COMPONENT
    monitor = yaml.safe_load((component / "podmonitor.yaml").read_text(encoding="utf-8"))
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert endpoint["relabelings"][-1] == {
        "sourceLabels": ["__meta_kubernetes_pod_ip"],
        "targetLabel": "__address__",
        "replacement": f"${{1}}:{port}",
    }
    policy = yaml.safe_load((component / "networkpolicy.yaml").read_text(encoding="utf-8"))
    (rule,) = policy["spec"]["ingress"]
    assert rule["ports"] == [{"port": int(port), "protocol": "TCP"}]


@pytest.mark.skipif(not shutil.which("kubectl"), reason="no kubectl to render with")
def test_the_overlay_carries_the_dashboard_and_the_rules() -> None:
    rendered = manifests.render_overlay("production", "monitoring")
    (dashboard,) = [
        each
        for each in of_kind(rendered, "ConfigMap")
        if each["metadata"].get("labels", {}).get("grafana_dashboard") == "1"
    ]
    text = (programs.ROOT / prometheus.COMPONENT / "dashboard.json").read_text(encoding="utf-8")
    assert dashboard["data"] == {"mnist.json": text}
    rules = list((programs.ROOT / prometheus.COMPONENT / "rules").iterdir())
    assert len(of_kind(rendered, "PrometheusRule")) == len(rules)
    (monitor,) = of_kind(rendered, "PodMonitor")
    assert monitor["spec"]["selector"]["matchLabels"] == {
        "serving.kserve.io/inferenceservice": "mnist"
    }


@pytest.mark.skipif(not shutil.which("kubectl"), reason="no kubectl to render with")
def test_payloads_are_logged_where_it_is_asked_for_and_only_there() -> None:
    def loggers(*components: str) -> dict[str, Any]:
        rendered = manifests.render_overlay("production", *components)
        return {
            name: manifests.component(rendered, name).get("logger")
            for name in ("predictor", "transformer")
        }

    assert loggers() == {"predictor": None, "transformer": None}
    assert loggers("payload-logging") == {
        "predictor": None,
        "transformer": {"mode": "all", "url": "http://payloads.mnist-payloads.svc.cluster.local"},
    }


@pytest.mark.skipif(not shutil.which("kubectl"), reason="no kubectl to render with")
def test_what_the_page_adds_to_an_overlay_has_its_effect(tmp_path: Path) -> None:
    shutil.copytree(programs.ROOT / "manifests", tmp_path, dirs_exist_ok=True)
    path = tmp_path / "overlays/production/kustomization.yaml"
    kustomization = yaml.safe_load(path.read_text(encoding="utf-8"))
    kustomization["components"] = []
    for block in re.findall(r"^ *```yaml\n(.*?)^ *```", PAGE, re.DOTALL | re.MULTILINE):
        shown = yaml.safe_load(textwrap.dedent(block))
        kustomization["patches"] += shown.get("patches", [])
        kustomization["components"] += [
            each for each in shown.get("components", []) if each not in kustomization["components"]
        ]
    path.write_text(yaml.safe_dump(kustomization), encoding="utf-8")
    rendered = manifests.render(path.parent)
    for kind in ("PodMonitor", "PrometheusRule"):
        for each in of_kind(rendered, kind):
            assert each["metadata"]["labels"] == {"release": "kube-prometheus-stack"}
    (service,) = of_kind(rendered, "InferenceService")
    assert "labels" not in service["metadata"]
    url = manifests.component(rendered, "transformer")["logger"]["url"]
    (namespace,) = [
        rule["to"][0]["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"]
        for policy in of_kind(rendered, "NetworkPolicy")
        if policy["metadata"]["name"] == "mnist-payload-logging"
        for rule in policy["spec"]["egress"]
    ]
    assert namespace == "knative-eventing"
    assert f".{namespace}.svc.cluster.local/" in url


def pod(*args: str, **labels: str) -> dict[str, Any]:
    return {
        "metadata": {"name": "mnist-predictor-00001", "namespace": "default", "labels": labels},
        "spec": {"containers": [{"name": "kserve-container", "args": list(args)}]},
        "status": {"phase": "Running", "podIP": "127.0.0.1"},
    }


def test_of_two_metrics_ports_the_later_one_is_the_targets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(programs.ROOT)
    found = pod("--metrics_port=9092", "--metrics_port=1234", component="predictor")
    prometheus.write_targets(tmp_path, [found])
    (target,) = yaml.safe_load((tmp_path / prometheus.TARGETS).read_text(encoding="utf-8"))
    assert target["targets"] == ["127.0.0.1"]
    assert target["labels"][prometheus.PORT] == "1234"
    assert target["labels"]["__meta_kubernetes_pod_label_component"] == "predictor"


@pytest.mark.parametrize(("text", "number"), [("5s", 5), ("60s", 60), ("1", 1)])
def test_an_interval(text: str, number: int) -> None:
    assert seconds(text) == number


@pytest.mark.parametrize("text", ["61s", "0s", "1m", "-5s", "s"])
def test_an_interval_that_leaves_the_rules_nothing_is_refused(text: str) -> None:
    with pytest.raises(ArgumentTypeError, match="expected 1s to 60s"):
        seconds(text)


@pytest.mark.skipif(not shutil.which("promtool"), reason="no promtool: see docs/monitoring.md")
def test_promtool_objects_to_nothing_in_the_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(programs.ROOT)
    path = prometheus.write(tmp_path, interval="5s")
    prometheus.write_targets(tmp_path, [pod("--metrics_port=1234")])
    command = ["promtool", "check", "config", str(path)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("rules found") == 4


@pytest.fixture
def idle_prometheus(tmp_path: Path) -> dict[str, str]:
    """An environment in which Prometheus is a program that does nothing."""
    prometheus = tmp_path / "prometheus"
    prometheus.write_text("#!/bin/sh\nexec sleep 60\n", encoding="utf-8")
    prometheus.chmod(0o755)
    return {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_stopped_it_leaves_no_data_behind(
    tmp_path: Path, idle_prometheus: dict[str, str], number: signal.Signals
) -> None:
    first, second, *ports = [
        f"--{name}={programs.free_port()}" for name in ("port", "api_port", "port", "grpc_port")
    ]
    with subprocess.Popen(
        [sys.executable, "-m", "monitoring", first, second, "--", *ports],
        cwd=programs.ROOT,
        env={**idle_prometheus, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout
        while b"Prometheus has started" not in process.stdout.readline():
            assert process.poll() is None
        assert list(tmp_path.glob("monitoring-*"))
        process.send_signal(number)
        assert process.wait(30) == 0
    assert not list(tmp_path.glob("monitoring-*"))


def test_a_taken_port_is_named_before_anything_starts(idle_prometheus: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = subprocess.run(
            [sys.executable, "-m", "monitoring", f"--port={port}"],
            cwd=programs.ROOT,
            env=idle_prometheus,
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert (done.returncode, done.stdout) == (1, "")
    assert f"cannot listen on 127.0.0.1:{port}" in done.stderr


def test_a_port_for_kubectl_that_prometheus_would_not_know_is_refused() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "monitoring", "--", "--api_port=9002"],
        cwd=programs.ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, "comes before the two dashes" in done.stderr) == (2, True)
