"""The files for a Prometheus on this machine, made from the manifests for a cluster.

In a cluster, prometheus-operator makes the configuration from the PodMonitor and the
PrometheusRules (in ``pkg/prometheus/promcfg.go``). This does the same for the few fields we use.
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
"""The label that holds a target's metrics port on this machine."""

Object = dict[str, Any]


def write(folder: Path, *, interval: str) -> Path:
    """Write configuration and rules to ``folder``; returns the path of the configuration.

    Args:
        folder: a folder that exists.
        interval: time between two scrapes, and two evaluations of the rules, such as ``5s``.
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
    """Write the targets that Prometheus would find in a cluster with these pods.

    Debian's Prometheus is built without Kubernetes discovery. The labels are those of its role
    ``pod``, as far as they are used.
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
            # If a flag is given twice, the last one counts.
            PORT: [value for flag, _, value in args if flag == "--metrics_port"][-1],
        },
    }


def scrape_config(monitor: Object) -> Object:
    """The configuration to scrape the pods that a PodMonitor selects.

    In a cluster the pods have different addresses and the same metrics port; here they have the
    same address and different ports.
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
    """The name that Prometheus gives to a label of Kubernetes."""
    return re.sub(r"\W", "_", label)


def _snake_case(field: str) -> str:
    return re.sub("[A-Z]", lambda letter: f"_{letter[0].lower()}", field)


def _read(path: Path) -> Object:
    found: Object = yaml.safe_load(path.read_text(encoding="utf-8"))
    return found
