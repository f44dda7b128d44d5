"""The manifests render, are valid, and keep to the rules; a broken one is noticed."""

import copy
import hashlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from tests import manifests, programs, surroundings
from tests.manifests import Object, component, of_kind

MANIFESTS = programs.ROOT / "manifests"
OVERLAYS = ("development", "production")
COMPONENTS = ("grpc", "gpu", "monitoring", "payload-logging", "retraining", "rollout", "tracing")
CUSTOM = {"InferenceService", "PodMonitor", "PrometheusRule"}
"""Kinds that Kubernetes does not have by itself."""
KUBERNETES = "1.34"

pytestmark = pytest.mark.skipif(not shutil.which("kubectl"), reason="no kubectl to render with")


@pytest.fixture(
    scope="module",
    params=[(overlay, option) for overlay in OVERLAYS for option in ("", *COMPONENTS)],
    ids=lambda param: "+".join(param).rstrip("+"),
)
def rendered(request: pytest.FixtureRequest) -> list[Object]:
    """An overlay, alone or with one component."""
    overlay, option = request.param
    return manifests.render_overlay(overlay, *filter(None, [option]))


@pytest.fixture(scope="module")
def production() -> list[Object]:
    return manifests.render(MANIFESTS / "overlays/production")


@pytest.fixture
def objects(production: list[Object]) -> list[Object]:
    """A copy of the production overlay, to be broken."""
    return copy.deepcopy(production)


def test_it_keeps_to_the_rules(rendered: list[Object]) -> None:
    assert manifests.objections(rendered) + surroundings.objections(rendered) == []


def test_built_in_kinds_are_valid(rendered: list[Object]) -> None:
    for each in rendered:
        if each["kind"] not in CUSTOM:
            kubernetes_validate.validate(each, KUBERNETES, strict=True)


def test_custom_kinds_are_valid(rendered: list[Object]) -> None:
    for each in rendered:
        if each["kind"] in CUSTOM:
            group, version = each["apiVersion"].split("/")
            path = manifests.SCHEMAS / f"{group}_{each['kind']}_{version}.json"
            if not path.exists():
                pytest.skip(f"no schema at {path}")
            # The schema itself is not checked: its patterns are Go's.
            jsonschema.Draft202012Validator(json.loads(path.read_text(encoding="utf-8"))).validate(
                each
            )


def test_the_base_alone_is_what_one_machine_serves() -> None:
    base = manifests.render(MANIFESTS / "base")
    assert sorted((each["kind"], each["metadata"]["name"]) for each in base) == [
        ("InferenceService", "mnist"),
        ("NetworkPolicy", "mnist"),
        ("NetworkPolicy", "mnist-transformer"),
        ("ServiceAccount", "mnist-predictor"),
        ("ServiceAccount", "mnist-transformer"),
    ]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_digest_is_that_of_the_shipped_version(overlay: str) -> None:
    lines = (MANIFESTS / "overlays" / overlay / "release.env").read_text(encoding="utf-8")
    release = dict(line.split("=", 1) for line in lines.splitlines() if line[0] != "#")
    version = release.get("MODEL_VERSION") or Path(release["STORAGE_URI"]).name
    content = (programs.ROOT / "models/mnist" / version / "model.json").read_bytes()
    assert hashlib.sha256(content).hexdigest() == release["MODEL_DIGEST"]


def test_a_changed_setting_makes_a_new_revision(tmp_path: Path) -> None:
    shutil.copytree(MANIFESTS, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "overlays/production/kustomization.yaml"
    before = manifests.render(path.parent)
    text = path.read_text(encoding="utf-8").replace("LOG_FORMAT=json", "LOG_FORMAT=text")
    path.write_text(text, encoding="utf-8")
    assert component(manifests.render(path.parent), "predictor") != component(before, "predictor")


@pytest.mark.parametrize(
    ("page", "job", "arguments"),
    [
        (
            "deployment.md",
            "mnist-retraining",
            {"s3://bucket/corrections", "--store=s3://bucket/mnist", "--production=3"},
        ),
        ("pipelines.md", "mnist-rollout", {"--steps=10,50,100", "--pause-at=10"}),
    ],
)
def test_an_overlay_may_change_a_job_as_the_docs_say(
    tmp_path: Path, page: str, job: str, arguments: set[str]
) -> None:
    text = (programs.ROOT / "docs" / page).read_text(encoding="utf-8")
    shutil.copytree(MANIFESTS, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "overlays/production/kustomization.yaml"
    overlay = yaml.safe_load(path.read_text(encoding="utf-8"))
    for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL):
        said = yaml.safe_load(block)
        if "patches" in said:
            for field, values in said.items():
                overlay[field] += [each for each in values if each not in overlay[field]]
    path.write_text(yaml.safe_dump(overlay), encoding="utf-8")
    objects = manifests.render(path.parent)
    assert surroundings.objections(objects) == []
    jobs = {each["metadata"]["name"]: each["spec"] for each in of_kind(objects, "CronJob")}
    (run,) = jobs[job]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    assert arguments <= {*manifests.expanded(run, objects)}


def container(objects: list[Object], name: str) -> Object:
    found: Object = component(objects, name)["containers"][0]
    return found


def change(path: str, value: Any, name: str = "predictor") -> Callable[[list[Object]], None]:
    """Set a field of a component, such as ``containers.0.image``; ``None`` takes it away."""

    def broken(objects: list[Object]) -> None:
        *parents, last = [int(key) if key.isdigit() else key for key in path.split(".")]
        at: Any = component(objects, name)
        for key in parents:
            at = at[key]
        if value is None:
            del at[last]
        else:
            at[last] = value

    return broken


def argument(old: str, new: str | None, name: str = "predictor") -> Callable[[list[Object]], None]:
    """Put one argument in place of another, or take it away."""

    def broken(objects: list[Object]) -> None:
        args = container(objects, name)["args"]
        args[args.index(old) : args.index(old) + 1] = [] if new is None else [new]

    return broken


def without_accounts(objects: list[Object]) -> None:
    objects[:] = [each for each in objects if each["kind"] != "ServiceAccount"]


def without_settings(objects: list[Object]) -> None:
    for each in of_kind(objects, "ConfigMap"):
        each["data"].pop("LOG_FORMAT", None)


SECURITY = "containers.0.securityContext"


@pytest.mark.parametrize(
    ("broken", "objection"),
    [
        (change("containrs", []), "predictor.containrs is unknown"),
        (change("containers.0.imagee", "x"), "containers.0.imagee is unknown"),
        (change("affinity", {}), "predictor: Knative refuses affinity"),
        (change("securityContext", {}), "predictor: Knative refuses securityContext"),
        (change("nodeSelector", {}, "transformer"), "transformer: Knative refuses nodeSelector"),
        (change("containers.0.lifecycle", {}), "Knative refuses lifecycle"),
        (change("terminationGracePeriodSeconds", 60), "refuses terminationGracePeriodSeconds"),
        (change(f"{SECURITY}.privileged", value=False), "refuses securityContext.privileged"),
        (
            change("containers.0.env", [{"name": "A", "valueFrom": {"fieldRef": {}}}]),
            "Knative refuses fieldRef",
        ),
        (
            change("volumes.0", {"name": "tmp", "persistentVolumeClaim": {"claimName": "c"}}),
            "Knative refuses a volume of persistentVolumeClaim",
        ),
        (
            change("containers.0.ports", [{"containerPort": 8080}, {"containerPort": 8081}]),
            "Knative allows one port, found 2",
        ),
        (change("containers.0.ports.0.containerPort", 8012), "port 8012 is queue-proxy's"),
        (change("automountServiceAccountToken", None), "a service account's token is mounted"),
        (change(f"{SECURITY}.runAsNonRoot", None), "it may run as root"),
        (change(f"{SECURITY}.runAsUser", 0), "it may run as root"),
        (change(f"{SECURITY}.allowPrivilegeEscalation", None), "privileges may be gained"),
        (change(f"{SECURITY}.readOnlyRootFilesystem", None), "root file system can be written"),
        (change(f"{SECURITY}.capabilities", {"drop": []}), "capabilities are kept"),
        (change(f"{SECURITY}.seccompProfile", None), "seccomp is off"),
        (change("containers.0.resources.limits", {"cpu": "1"}), "limits of cpu and memory"),
        (change("volumes", []), "volumes [] are not the mounts ['tmp']"),
        (change("serviceAccountName", "someone"), "its service account is not among"),
        (without_accounts, "its service account is not among []"),
        (argument("--max_batch=64", "--max_bach=64"), "arguments are refused: ['--max_bach=64']"),
        (argument("--max_batch=64", "--max_batch=many"), "arguments are refused: argument"),
        (argument("--workers=1", None, "transformer"), "transformer: --workers is missing"),
        (argument("--host=0.0.0.0", None), "--host is missing"),
        (argument("--model_name=mnist", "--model_name=digits"), "--model_name=digits is not"),
        (argument("--http_port=8080", "--http_port=9000"), "port 8080 is not its --http_port"),
        (change("containers.0.readinessProbe.httpGet.port", 9000), "readinessProbe does not ask"),
        (change("containers.0.livenessProbe", None), "livenessProbe does not ask"),
        (change("containers.0.ports.0.containerPort", 8081), "livenessProbe would be sent to"),
        (change("containers.0.ports.0.name", "h2c"), "port 8080 is not its --grpc_port"),
        (change("containers.0.image", "mnist"), "its image mnist has neither a tag"),
        (change("containers.0.image", "a/mnist:latest"), "its image mnist:latest has neither"),
        (change("containers.0.image", "a/mnist@sha256:0"), "its image mnist@sha256:0 has neither"),
        (change("minReplicas", None), "predictor: its replicas are not bounded"),
        (change("maxReplicas", 1, "transformer"), "transformer: its replicas are not bounded"),
        (change("scaleTarget", None), "it does not scale on concurrency"),
        (change("scaleMetric", "rps"), "it does not scale on concurrency"),
        (change("timeout", 30), "its pods are killed before the 30 s"),
        (without_settings, "arguments are refused: argument --log_format: invalid choice: '$(LOG_"),
        (change("labels", {}), "the predictor has a public route"),
        (
            change("labels", {"networking.knative.dev/visibility": "cluster-local"}, "transformer"),
            "the transformer has no public route",
        ),
    ],
)
def test_a_broken_manifest_is_noticed(
    objects: list[Object], broken: Callable[[list[Object]], None], objection: str
) -> None:
    broken(objects)
    assert any(objection in each for each in manifests.objections(objects))


def test_the_rules_hold_for_both_components(objects: list[Object]) -> None:
    for name in manifests.COMPONENTS:
        container(objects, name)["securityContext"] = {}
    found = manifests.objections(objects)
    assert {each.split(":")[0] for each in found} == {"predictor", "transformer"}
