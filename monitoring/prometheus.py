"""What a Prometheus reads on this machine, made of the manifests that a cluster gets.

prometheus-operator makes its configuration of the PodMonitor and the PrometheusRules; this does the
same with the few of their fields that ours have (``pkg/prometheus/promcfg.go`` there).
"""

import json
import re
from pathlib import Path
from typing import Any

import yaml

COMPONENT = Path("manifests/components/monitoring")
RULES = "rules"
TARGETS = "targets.json"
"""Folder of the rules, and file of the targets, beside the configuration."""
PORT = "__port"
"""The label of a target that has its port for metrics, on this machine."""

Object = dict[str, Any]


def write(folder: Path, *, interval: str) -> Path:
    """Write configuration and rules to ``folder``; returns the path of the configuration.

    Args:
        folder: exists.
        interval: between two scrapes, and between two evaluations of the rules, such as ``5s``.
    """
    (folder / RULES).mkdir(exist_ok=True)
    for path in (COMPONENT / "rules").glob("*.yaml"):
        rules = _read(path)["spec"]
        (folder / RULES / path.name).write_text(yaml.safe_dump(rules), encoding="utf-8")
    configuration = {
        "global": {"scrape_interval": interval, "evaluation_interval": interval},
        "rule_files": [f"{RULES}/*.yaml"],
        "scrape_configs": [scrape_config(_read(COMPONENT / "podmonitor.yaml"))],
    }
    path = folder / "prometheus.yml"
    path.write_text(yaml.safe_dump(configuration), encoding="utf-8")
    return path


def write_targets(folder: Path, pods: list[Object]) -> None:
    """Write the targets that Prometheus would find in Kubernetes, where these are the pods.

    Debian's Prometheus is built without the discovery of Kubernetes; the labels are those of its
    role ``pod``, as far as they are used.
    """
    groups = [_target(pod, container) for pod in pods for container in pod["spec"]["containers"]]
    draft = folder / "targets.draft"
    draft.write_text(json.dumps(groups), encoding="utf-8")
    draft.replace(folder / TARGETS)


def _target(pod: Object, container: Object) -> Object:
    args = [each.partition("=") for each in container["args"]]
    labels = {_label(name): value for name, value in pod["metadata"]["labels"].items()}
    return {
        "targets": [pod["status"]["podIP"]],
        "labels": {
            **labels,
            "__meta_kubernetes_namespace": pod["metadata"]["namespace"],
            "__meta_kubernetes_pod_name": pod["metadata"]["name"],
            "__meta_kubernetes_pod_phase": pod["status"]["phase"],
            "__meta_kubernetes_pod_ip": pod["status"]["podIP"],
            "__meta_kubernetes_pod_container_name": container["name"],
            # Of a flag that is given twice, the later one counts.
            PORT: [value for flag, _, value in args if flag == "--metrics_port"][-1],
        },
    }


def scrape_config(monitor: Object) -> Object:
    """How to scrape the pods that a PodMonitor selects.

    In a cluster all pods have the same port for metrics, and addresses of their own; here they have
    one address and ports of their own.
    """
    spec = monitor["spec"]
    (endpoint,) = spec["podMetricsEndpoints"]
    relabelings = [
        *[
            {"action": "keep", "source_labels": [_label(label)], "regex": value}
            for label, value in spec["selector"]["matchLabels"].items()
        ],
        {
            "action": "drop",
            "source_labels": ["__meta_kubernetes_pod_phase"],
            "regex": "(Failed|Succeeded)",
        },
        _copy("__meta_kubernetes_namespace", "namespace"),
        _copy("__meta_kubernetes_pod_container_name", "container"),
        _copy("__meta_kubernetes_pod_name", "pod"),
        *[_copy(_label(label), _name(label)) for label in spec["podTargetLabels"]],
        _copy(_label(spec["jobLabel"]), "job"),
        *[
            {_snake_case(field): value for field, value in each.items()}
            for each in endpoint["relabelings"]
        ],
        {
            "source_labels": ["__address__", PORT],
            "regex": "(.*):.*;(.*)",
            "target_label": "__address__",
            "replacement": "${1}:${2}",
        },
    ]
    return {
        "job_name": f"podMonitor/{monitor['metadata']['name']}",
        "metrics_path": endpoint["path"],
        "file_sd_configs": [{"files": [TARGETS]}],
        "relabel_configs": relabelings,
    }


def _copy(source: str, target: str) -> Object:
    return {"source_labels": [source], "target_label": target}


def _label(of_pod: str) -> str:
    return f"__meta_kubernetes_pod_label_{_name(of_pod)}"


def _name(label: str) -> str:
    """A label of Kubernetes under the name that Prometheus gives it."""
    return re.sub(r"\W", "_", label)


def _snake_case(field: str) -> str:
    return re.sub("[A-Z]", lambda letter: f"_{letter[0].lower()}", field)


def _read(path: Path) -> Object:
    found: Object = yaml.safe_load(path.read_text(encoding="utf-8"))
    return found
