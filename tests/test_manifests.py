"""The manifests render, are valid, and keep to the rules; a broken one is noticed."""

import copy
import json
import shutil
from collections.abc import Callable
from typing import Any

import jsonschema
import kubernetes_validate
import pytest

from tests import manifests, programs
from tests.manifests import Object, component, objections, of_kind

BASE = programs.ROOT / "manifests/base"
SCHEMAS = programs.ROOT.parent / "shared/schemas"
KUBERNETES = "1.34"

pytestmark = pytest.mark.skipif(not shutil.which("kubectl"), reason="no kubectl to render with")


@pytest.fixture(scope="module")
def rendered() -> list[Object]:
    return manifests.render(BASE)


@pytest.fixture
def objects(rendered: list[Object]) -> list[Object]:
    """What the base renders, to be broken."""
    return copy.deepcopy(rendered)


def test_the_base_has_all_that_belongs_to_it(rendered: list[Object]) -> None:
    assert sorted((each["kind"], each["metadata"]["name"]) for each in rendered) == [
        ("InferenceService", "mnist"),
        ("NetworkPolicy", "mnist"),
        ("NetworkPolicy", "mnist-transformer"),
        ("ServiceAccount", "mnist-predictor"),
        ("ServiceAccount", "mnist-transformer"),
    ]


def test_the_base_keeps_to_the_rules(rendered: list[Object]) -> None:
    assert objections(rendered) == []


def test_built_in_kinds_are_valid(rendered: list[Object]) -> None:
    for each in rendered:
        if each["kind"] != "InferenceService":
            kubernetes_validate.validate(each, KUBERNETES, strict=True)


def test_the_inference_service_is_valid(rendered: list[Object]) -> None:
    path = SCHEMAS / "serving.kserve.io_InferenceService_v1beta1.json"
    if not path.exists():
        pytest.skip(f"no schema at {path}")
    (service,) = of_kind(rendered, "InferenceService")
    jsonschema.validate(service, json.loads(path.read_text(encoding="utf-8")))


def container(objects: list[Object], name: str) -> Object:
    found: Object = component(objects, name)["containers"][0]
    return found


def policy(objects: list[Object], name: str) -> Object:
    found: dict[str, Object] = {
        each["metadata"]["name"]: each["spec"] for each in of_kind(objects, "NetworkPolicy")
    }
    return found[name]


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


def without(kind: str) -> Callable[[list[Object]], None]:
    def broken(objects: list[Object]) -> None:
        objects[:] = [each for each in objects if each["kind"] != kind]

    return broken


def open_to_all(objects: list[Object]) -> None:
    del policy(objects, "mnist")["ingress"][0]["from"]


def only_from_the_transformer(objects: list[Object]) -> None:
    pods = {"podSelector": {"matchLabels": {"component": "transformer"}}}
    policy(objects, "mnist")["ingress"][0]["from"] = [pods]


def only_the_container_port(objects: list[Object]) -> None:
    policy(objects, "mnist")["ingress"][0]["ports"] = [{"port": 8080, "protocol": "TCP"}]


def without_names(objects: list[Object]) -> None:
    policy(objects, "mnist")["egress"] = []


def without_the_gateway(objects: list[Object]) -> None:
    policy(objects, "mnist-transformer")["egress"] = []


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
        (without("ServiceAccount"), "its service account is not among []"),
        (argument("--max_batch=64", "--max_bach=64"), "arguments are refused: ['--max_bach=64']"),
        (argument("--max_batch=64", "--max_batch=many"), "arguments are refused: argument"),
        (argument("--workers=1", None, "transformer"), "transformer: --workers is missing"),
        (argument("--host=0.0.0.0", None), "--host is missing"),
        (argument("--model_name=mnist", "--model_name=digits"), "--model_name=digits is not"),
        (argument("--http_port=8080", "--http_port=9000"), "--http_port=9000 and the probe's"),
        (change("containers.0.readinessProbe.httpGet.port", 9000), "and the probe's disagree"),
        (change("labels", {}), "the predictor has a public route"),
        (
            change("labels", {"networking.knative.dev/visibility": "cluster-local"}, "transformer"),
            "the transformer has no public route",
        ),
        (without("NetworkPolicy"), "no NetworkPolicy closes the pods"),
        (open_to_all, "a NetworkPolicy lets everybody in"),
        (only_from_the_transformer, "the activator and the autoscaler are shut out"),
        (only_the_container_port, "queue-proxy cannot be reached on all of its ports"),
        (without_names, "names cannot be resolved"),
        (without_the_gateway, "the transformer cannot reach the gateway"),
    ],
)
def test_a_broken_manifest_is_noticed(
    objects: list[Object], broken: Callable[[list[Object]], None], objection: str
) -> None:
    broken(objects)
    assert any(objection in each for each in objections(objects)), objections(objects)


def test_the_rules_hold_for_both_components(objects: list[Object]) -> None:
    for name in manifests.COMPONENTS:
        container(objects, name)["securityContext"] = {}
    found = objections(objects)
    assert {each.split(":")[0] for each in found} == {"predictor", "transformer"}


def test_no_token_is_given_to_an_account(rendered: list[Object]) -> None:
    accounts = of_kind(rendered, "ServiceAccount")
    assert [each["automountServiceAccountToken"] for each in accounts] == [False, False]
