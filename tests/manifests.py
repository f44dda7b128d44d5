"""What the manifests must keep to: each rule gives its objections, none if all is well.

Knative's rules are those of its webhook with the default feature flags. The InferenceService's
webhook lets all of it through; the service then never gets ready.
"""

import argparse
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kserve
import kubernetes.client
import yaml

import predictor.__main__
import transformer.__main__

Object = dict[str, Any]

COMPONENTS = {
    "predictor": predictor.__main__.command_line,
    "transformer": transformer.__main__.command_line,
}
EXTENSIONS = set(kserve.V1beta1ComponentExtensionSpec.attribute_map.values())
"""What KServe adds to a pod's specification."""
POD_FIELDS = {
    "automountServiceAccountToken", "containers", "enableServiceLinks", "imagePullSecrets",
    "serviceAccountName", "volumes",
}  # fmt: skip
CONTAINER_FIELDS = {
    "args", "command", "env", "envFrom", "image", "imagePullPolicy", "livenessProbe", "name",
    "ports", "readinessProbe", "resources", "securityContext", "startupProbe",
    "terminationMessagePath", "terminationMessagePolicy", "volumeMounts", "workingDir",
}  # fmt: skip
SECURITY_FIELDS = {
    "allowPrivilegeEscalation", "capabilities", "readOnlyRootFilesystem", "runAsGroup",
    "runAsNonRoot", "runAsUser", "seccompProfile",
}  # fmt: skip
REFUSED_SOURCES = {"fieldRef", "resourceFieldRef"}
"""Of environment variables."""
VOLUMES = {"configMap", "emptyDir", "projected", "secret"}
RESERVED_PORTS = {8008, 8012, 8013, 8022, 9090, 9091}
"""Of queue-proxy, which runs beside the container."""


def render(path: Path) -> list[Object]:
    """What ``kubectl apply -k`` would send."""
    command = ["kubectl", "kustomize", str(path)]
    rendered = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return list(yaml.safe_load_all(rendered))


def of_kind(objects: list[Object], kind: str) -> list[Object]:
    return [each for each in objects if each["kind"] == kind]


def component(objects: list[Object], name: str) -> Object:
    (service,) = of_kind(objects, "InferenceService")
    found: Object = service["spec"][name]
    return found


def objections(objects: list[Object]) -> list[str]:
    """Everything that is wrong with what an overlay renders."""
    (service,) = of_kind(objects, "InferenceService")
    found = list(unknown(service, "V1beta1InferenceService", "InferenceService"))
    for name in COMPONENTS:
        spec = component(objects, name)
        found += [
            f"{name}: {objection}"
            for rule in (knative, restricted, wiring)
            for objection in rule(spec)
        ]
        found += [f"{name}: {objection}" for objection in arguments(spec, name, service)]
        accounts = {each["metadata"]["name"] for each in of_kind(objects, "ServiceAccount")}
        if spec.get("serviceAccountName") not in accounts:
            found.append(f"{name}: its service account is not among {sorted(accounts)}")
    found += visibility(service)
    found += policies(objects, service)
    return found


def unknown(value: Any, kind: str, where: str) -> Iterator[str]:
    """Fields that KServe's own models, and Kubernetes', do not have."""
    if kind.startswith(("list[", "dict(")):
        inner = kind[5:-1].split(", ")[-1]
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for key, each in pairs:
            yield from unknown(each, inner, f"{where}.{key}")
        return
    model = getattr(kserve, kind, None) or getattr(kubernetes.client, kind, None)
    if model is None:  # a plain value
        return
    fields = {model.attribute_map[name]: model.openapi_types[name] for name in model.attribute_map}
    for key, each in value.items():
        if key in fields:
            yield from unknown(each, fields[key], f"{where}.{key}")
        else:
            yield f"{where}.{key} is unknown"


def knative(spec: Object) -> Iterator[str]:
    """What Knative's webhook refuses."""
    for field in sorted(spec.keys() - POD_FIELDS - EXTENSIONS):
        yield f"Knative refuses {field}"
    for volume in spec.get("volumes", ()):
        for source in sorted(volume.keys() - {"name"} - VOLUMES):
            yield f"Knative refuses a volume of {source}"
    for container in spec["containers"]:
        for field in sorted(container.keys() - CONTAINER_FIELDS):
            yield f"Knative refuses {field}"
        for field in sorted(container.get("securityContext", {}).keys() - SECURITY_FIELDS):
            yield f"Knative refuses securityContext.{field}"
        for variable in container.get("env", ()):
            for source in sorted(
                variable.get("valueFrom", {}).keys() & {"fieldRef", "resourceFieldRef"}
            ):
                yield f"Knative refuses {source}"
    ports = [port for container in spec["containers"] for port in container.get("ports", ())]
    if len(ports) != 1:
        yield f"Knative allows one port, found {len(ports)}"
    for port in ports:
        if port["containerPort"] in RESERVED_PORTS:
            yield f"port {port['containerPort']} is queue-proxy's"


def restricted(spec: Object) -> Iterator[str]:
    """What the restricted Pod Security Standard refuses, and we."""
    if spec.get("automountServiceAccountToken") is not False:
        yield "a service account's token is mounted"
    for container in spec["containers"]:
        context = container.get("securityContext", {})
        if context.get("runAsNonRoot") is not True or not context.get("runAsUser"):
            yield "it may run as root"
        if context.get("allowPrivilegeEscalation") is not False:
            yield "privileges may be gained"
        if context.get("readOnlyRootFilesystem") is not True:
            yield "the root file system can be written"
        if context.get("capabilities") != {"drop": ["ALL"]}:
            yield "capabilities are kept"
        if context.get("seccompProfile") != {"type": "RuntimeDefault"}:
            yield "seccomp is off"
        resources = container.get("resources", {})
        for bound in ("requests", "limits"):
            if {"cpu", "memory"} - resources.get(bound, {}).keys():
                yield f"{bound} of cpu and memory are missing"


def wiring(spec: Object) -> Iterator[str]:
    """Mounts without a volume, and the other way round."""
    volumes = {volume["name"] for volume in spec.get("volumes", ())}
    mounts = {
        mount["name"] for each in spec["containers"] for mount in each.get("volumeMounts", ())
    }
    if volumes != mounts:
        yield f"volumes {sorted(volumes)} are not the mounts {sorted(mounts)}"


def arguments(spec: Object, name: str, service: Object) -> Iterator[str]:
    """What the program does not accept, and what disagrees with the rest of the manifest."""
    (container,) = spec["containers"]
    flags = COMPONENTS[name]()
    flags.exit_on_error = False
    try:
        given, surplus = flags.parse_known_args(container.get("args", []))
    except argparse.ArgumentError as error:
        yield f"its arguments are refused: {error}"
        return
    if surplus:
        yield f"its arguments are refused: {surplus}"
    for flag in ("workers", "host", "http_port"):
        if not any(each.startswith(f"--{flag}=") for each in container.get("args", [])):
            yield f"--{flag} is missing"
    if given.model_name != service["metadata"]["name"]:
        yield f"--model_name={given.model_name} is not the name of the InferenceService"
    probe = container.get("readinessProbe", {}).get("httpGet", {})
    ports = {port["containerPort"] for port in container.get("ports", ())}
    if ports != {given.http_port} or probe.get("port") != given.http_port:
        yield f"port {sorted(ports)}, --http_port={given.http_port} and the probe's disagree"


def visibility(service: Object) -> Iterator[str]:
    """The transformer is for everybody, the predictor for the cluster."""
    label = "networking.knative.dev/visibility"
    if service["spec"]["predictor"].get("labels", {}).get(label) != "cluster-local":
        yield "the predictor has a public route"
    if label in service["spec"]["transformer"].get("labels", {}):
        yield "the transformer has no public route"


def policies(objects: list[Object], service: Object) -> Iterator[str]:
    """Every pod is closed but for what a NetworkPolicy opens; Knative's own ways are open."""
    pods = {"serving.kserve.io/inferenceservice": service["metadata"]["name"]}
    specs = [policy["spec"] for policy in of_kind(objects, "NetworkPolicy")]
    of_all = [spec for spec in specs if spec["podSelector"] == {"matchLabels": pods}]
    if not any(set(spec["policyTypes"]) == {"Ingress", "Egress"} for spec in of_all):
        yield "no NetworkPolicy closes the pods"
    ways_in = [rule for spec in of_all for rule in spec.get("ingress", ())]
    if any(not rule.get("from") for rule in ways_in):
        yield "a NetworkPolicy lets everybody in"
    ports = {port["port"] for rule in ways_in for port in rule.get("ports", ())}
    if not {8012, 8013, 8112, 9090} <= ports:
        yield f"queue-proxy cannot be reached on all of its ports, only {sorted(ports)}"
    if "knative-serving" not in _namespaces(ways_in, "from"):
        yield "the activator and the autoscaler are shut out"
    ways_out = [rule for spec in of_all for rule in spec.get("egress", ())]
    if not any(port["port"] == 53 for rule in ways_out for port in rule.get("ports", ())):
        yield "names cannot be resolved"
    transformer = {"matchLabels": {**pods, "component": "transformer"}}
    to_predictor = [
        rule
        for spec in specs
        if spec["podSelector"] == transformer
        for rule in spec.get("egress", ())
    ]
    if not _namespaces(ways_in, "from") <= _namespaces(to_predictor, "to"):
        yield "the transformer cannot reach the gateway"


def _namespaces(rules: list[Object], direction: str) -> set[str]:
    peers = [peer for rule in rules for peer in rule.get(direction, ())]
    selectors = [peer.get("namespaceSelector", {}) for peer in peers]
    expressions = [each for found in selectors for each in found.get("matchExpressions", ())]
    return {space for each in expressions for space in each["values"]}
