"""What an InferenceService must keep to: each rule gives its objections, none if all is well.

What it needs around it is in ``tests/surroundings.py``. Knative's rules are those of its webhook
with the default feature flags. The InferenceService's webhook lets all of it through; the service
then never gets ready.
"""

import argparse
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kserve
import yaml

import predictor.__main__
import transformer.__main__
from serving.server import GRACE
from standalone.admission import unknown
from tests import programs

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
SCHEMAS = programs.ROOT.parent / "shared/schemas"
"""Of custom kinds, where several checkouts share them."""
VOLUMES = {"configMap", "emptyDir", "projected", "secret"}
RESERVED_PORTS = {8008, 8012, 8013, 8022, 9090, 9091}
"""Of queue-proxy, which runs beside the container."""


def render(path: Path) -> list[Object]:
    """What ``kubectl apply -k`` would send."""
    command = ["kubectl", "kustomize", str(path)]
    rendered = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return list(yaml.safe_load_all(rendered))


def render_overlay(name: str, *options: str) -> list[Object]:
    """The same of an overlay to which ``options`` of the components are added, as a user would."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(programs.ROOT / "manifests", folder, dirs_exist_ok=True)
        path = Path(folder) / "overlays" / name / "kustomization.yaml"
        kustomization = yaml.safe_load(path.read_text(encoding="utf-8"))
        added = [f"../../components/{option}" for option in options]
        kustomization["components"] = [*dict.fromkeys([*kustomization["components"], *added])]
        path.write_text(yaml.safe_dump(kustomization), encoding="utf-8")
        return render(path.parent)


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
            for rule in (knative, tokenless, restricted, wiring, images, scaling)
            for objection in rule(spec)
        ]
        found += [f"{name}: {objection}" for objection in arguments(spec, name, objects)]
        accounts = {each["metadata"]["name"] for each in of_kind(objects, "ServiceAccount")}
        if spec.get("serviceAccountName") not in accounts:
            found.append(f"{name}: its service account is not among {sorted(accounts)}")
    found += visibility(service)
    return found


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


def tokenless(spec: Object) -> Iterator[str]:
    """What lets a program speak to the API server that has nothing to say to it."""
    if spec.get("automountServiceAccountToken") is not False:
        yield "a service account's token is mounted"


def restricted(spec: Object) -> Iterator[str]:
    """What the restricted Pod Security Standard refuses, and we."""
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


def images(spec: Object) -> Iterator[str]:
    """Images of which nobody can tell what they are."""
    for container in spec["containers"]:
        _, _, name = container["image"].rpartition("/")
        if not re.fullmatch(r"[\w.-]+((:[\w.-]+)?@sha256:[0-9a-f]{64}|:(?!latest$)[\w.-]+)", name):
            yield f"its image {name} has neither a tag of its own nor a digest"


def scaling(spec: Object) -> Iterator[str]:
    """Bounds and targets that are left to chance, and pods that are killed while they finish."""
    if not 0 <= spec.get("minReplicas", -1) <= spec.get("maxReplicas", -1):
        yield "its replicas are not bounded"
    if spec.get("scaleMetric") != "concurrency" or not spec.get("scaleTarget"):
        yield "it does not scale on concurrency"
    if spec.get("timeout", 0) <= GRACE:
        yield f"its pods are killed before the {GRACE} s that the program may need to finish"


def expanded(container: Object, objects: list[Object]) -> list[str]:
    """The arguments as Kubernetes gives them: what it does not know of, it leaves as it is."""
    variables = {each["name"]: each.get("value", "") for each in container.get("env", ())}
    maps = {each["metadata"]["name"]: each["data"] for each in of_kind(objects, "ConfigMap")}
    for source in container.get("envFrom", ()):
        variables |= maps.get(source["configMapRef"]["name"], {})
    return [
        re.sub(r"\$\((\w+)\)", lambda found: variables.get(found[1], found[0]), each)
        for each in container.get("args", ())
    ]


def arguments(spec: Object, name: str, objects: list[Object]) -> Iterator[str]:
    """What the program does not accept, and what disagrees with the rest of the manifest."""
    (container,) = spec["containers"]
    args = expanded(container, objects)
    flags = COMPONENTS[name]()
    flags.exit_on_error = False
    try:
        given, surplus = flags.parse_known_args(args)
    except argparse.ArgumentError as error:
        yield f"its arguments are refused: {error}"
        return
    if surplus:
        yield f"its arguments are refused: {surplus}"
    for flag in ("workers", "host", "http_port"):
        if not any(each.startswith(f"--{flag}=") for each in args):
            yield f"--{flag} is missing"
    (service,) = of_kind(objects, "InferenceService")
    if given.model_name != service["metadata"]["name"]:
        yield f"--model_name={given.model_name} is not the name of the InferenceService"
    for port in container.get("ports", ()):
        # Knative takes the name for the protocol that the port speaks.
        protocol = "grpc" if port.get("name") == "h2c" else "http"
        if port["containerPort"] != getattr(given, f"{protocol}_port"):
            yield f"port {port['containerPort']} is not its --{protocol}_port"
        # Whatever port an HTTP probe of liveness names, Knative sends it to this one.
        is_http = "httpGet" in container.get("livenessProbe", {})
        if is_http and port["containerPort"] != given.http_port:
            yield "the livenessProbe would be sent to another port than its --http_port"
    readiness, liveness = (container.get(f"{kind}Probe", {}) for kind in ("readiness", "liveness"))
    if readiness.get("httpGet", {}).get("port") != given.http_port:
        yield "the readinessProbe does not ask its --http_port"
    if "exec" not in liveness and liveness.get("httpGet", {}).get("port") != given.http_port:
        yield "the livenessProbe does not ask its --http_port"


def visibility(service: Object) -> Iterator[str]:
    """The transformer is for everybody, the predictor for the cluster."""
    label = "networking.knative.dev/visibility"
    if service["spec"]["predictor"].get("labels", {}).get(label) != "cluster-local":
        yield "the predictor has a public route"
    if label in service["spec"]["transformer"].get("labels", {}):
        yield "the transformer has no public route"
