"""What stands around the InferenceService keeps to its rules; what is broken is noticed."""

import copy
import shutil
from collections.abc import Callable

import pytest

from tests import manifests, surroundings
from tests.manifests import Object, component, of_kind
from training.__main__ import NOT_GOOD_ENOUGH

pytestmark = pytest.mark.skipif(not shutil.which("kubectl"), reason="no kubectl to render with")


@pytest.fixture(scope="module")
def rendered() -> list[Object]:
    """The production overlay, which has the rollout, with the retraining."""
    return manifests.render_overlay("production", "retraining")


@pytest.fixture
def objects(rendered: list[Object]) -> list[Object]:
    """A copy of it, to be broken."""
    return copy.deepcopy(rendered)


def test_no_token_is_given_to_an_account(rendered: list[Object]) -> None:
    accounts = of_kind(rendered, "ServiceAccount")
    assert [each["automountServiceAccountToken"] for each in accounts] == [False] * 4


def test_only_what_speaks_to_the_api_server_has_a_token(rendered: list[Object]) -> None:
    pods = [component(rendered, name) for name in ("predictor", "transformer")]
    pods += [job(rendered, name)["spec"] for name in ("mnist-retraining", "mnist-rollout")]
    assert [each["automountServiceAccountToken"] for each in pods] == [False, False, False, True]


def test_a_pod_that_is_moved_costs_a_job_none_of_its_tries(rendered: list[Object]) -> None:
    for each in of_kind(rendered, "CronJob"):
        rules = each["spec"]["jobTemplate"]["spec"]["podFailurePolicy"]["rules"]
        moved = {"type": "DisruptionTarget", "status": "True"}
        assert {"action": "Ignore", "onPodConditions": [moved]} in rules


def test_only_what_another_try_would_not_change_ends_the_retraining(rendered: list[Object]) -> None:
    (retraining,) = [
        each
        for each in of_kind(rendered, "CronJob")
        if each["metadata"]["name"] == "mnist-retraining"
    ]
    first = retraining["spec"]["jobTemplate"]["spec"]["podFailurePolicy"]["rules"][0]
    assert first["action"] == "FailJob"
    # Not 1, with which a store ends it that is out of reach for a moment.
    assert first["onExitCodes"]["values"] == [2, NOT_GOOD_ENOUGH]


def policy(objects: list[Object], name: str) -> Object:
    found: dict[str, Object] = {
        each["metadata"]["name"]: each["spec"] for each in of_kind(objects, "NetworkPolicy")
    }
    return found[name]


def without_policies(objects: list[Object]) -> None:
    objects[:] = [each for each in objects if each["kind"] != "NetworkPolicy"]


def running(name: str, value: str) -> Callable[[list[Object]], None]:
    """Let the predictor run with another variable than the release says."""

    def broken(objects: list[Object]) -> None:
        for variable in component(objects, "predictor")["containers"][0]["env"]:
            if variable["name"] == name:
                variable["value"] = value

    return broken


def splitting(objects: list[Object]) -> None:
    component(objects, "predictor")["canaryTrafficPercent"] = 10


def only_one_pod(objects: list[Object]) -> None:
    component(objects, "predictor")["minReplicas"] = 1


def without(name: str) -> Callable[[list[Object]], None]:
    """Leave a setting out of all ConfigMaps."""

    def broken(objects: list[Object]) -> None:
        for each in of_kind(objects, "ConfigMap"):
            each["data"].pop(name, None)

    return broken


def open_to_all(objects: list[Object]) -> None:
    del policy(objects, "mnist")["ingress"][0]["from"]


def only_from_the_transformer(objects: list[Object]) -> None:
    pods = {"podSelector": {"matchLabels": {"component": "transformer"}}}
    policy(objects, "mnist")["ingress"][0]["from"] = [pods]


def only_the_container_port(objects: list[Object]) -> None:
    policy(objects, "mnist")["ingress"][0]["ports"] = [{"port": 8080, "protocol": "TCP"}]


def without_names(name: str) -> Callable[[list[Object]], None]:
    def broken(objects: list[Object]) -> None:
        policy(objects, name)["egress"] = []

    return broken


def names_of_port_53_alone(objects: list[Object]) -> None:
    ports = policy(objects, "mnist")["egress"][0]["ports"]
    ports[:] = [each for each in ports if each["port"] == 53]


def names_of_pods_alone(objects: list[Object]) -> None:
    system = {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}}
    policy(objects, "mnist")["egress"][0]["to"] = [{"namespaceSelector": system}]


def without_the_gateway(objects: list[Object]) -> None:
    policy(objects, "mnist-transformer")["egress"] = []


def budget(objects: list[Object]) -> Object:
    found: Object = of_kind(objects, "PodDisruptionBudget")[0]["spec"]
    return found


def job(objects: list[Object], name: str = "mnist-retraining") -> Object:
    jobs = {each["metadata"]["name"]: each["spec"] for each in of_kind(objects, "CronJob")}
    template: Object = jobs[name]["jobTemplate"]["spec"]["template"]
    return template


def all_pods_protected(objects: list[Object]) -> None:
    budget(objects)["maxUnavailable"] = 0


def nobody_protected(objects: list[Object]) -> None:
    budget(objects)["selector"]["matchLabels"]["component"] = "explainer"


def other_namespace(objects: list[Object]) -> None:
    objects[-1]["metadata"]["namespace"] = "default"


def recorded(name: str, value: str) -> Callable[[list[Object]], None]:
    """Record another setting of the release than runs."""

    def broken(objects: list[Object]) -> None:
        maps = {each["metadata"]["name"]: each["data"] for each in of_kind(objects, "ConfigMap")}
        maps["mnist-release"][name] = value

    return broken


def job_argument(old: str, new: str) -> Callable[[list[Object]], None]:
    def broken(objects: list[Object]) -> None:
        args = job(objects)["spec"]["containers"][0]["args"]
        args[args.index(old)] = new

    return broken


def job_as_root(objects: list[Object]) -> None:
    job(objects)["spec"]["containers"][0]["securityContext"] = {}


def job_open(objects: list[Object]) -> None:
    job(objects)["metadata"]["labels"] = {"app": "else"}


def job_with_a_token(objects: list[Object]) -> None:
    job(objects)["spec"]["automountServiceAccountToken"] = True


def rollout_without_a_token(objects: list[Object]) -> None:
    job(objects, "mnist-rollout")["spec"]["automountServiceAccountToken"] = False


def rollout_without_rights(objects: list[Object]) -> None:
    objects[:] = [each for each in objects if each["kind"] != "RoleBinding"]


def rights_for_another(objects: list[Object]) -> None:
    of_kind(objects, "RoleBinding")[0]["subjects"][0]["namespace"] = "default"


def rollout_with_other_steps(objects: list[Object]) -> None:
    for each in of_kind(objects, "ConfigMap"):
        if "STEPS" in each["data"]:
            each["data"]["STEPS"] = "50,10"


def rollout_shut_out(objects: list[Object]) -> None:
    policy(objects, "mnist-rollout-metrics")["ingress"] = []


def rollout_shut_in(objects: list[Object]) -> None:
    policy(objects, "mnist-rollout")["egress"].pop()


def job_of_nobody(objects: list[Object]) -> None:
    job(objects)["spec"]["serviceAccountName"] = "default"


@pytest.mark.parametrize(
    ("broken", "objection"),
    [
        (without("STORE"), "mnist-retraining: no variable for"),
        (without("STEPS"), "mnist-rollout: no variable for"),
        (rollout_with_other_steps, "argument --steps: must ascend to 100"),
        (rollout_without_a_token, "mnist-rollout: it has rights, and no token to show for them"),
        (rollout_without_rights, "mnist-rollout: a service account's token is mounted"),
        (rights_for_another, "mnist-rollout: a service account's token is mounted"),
        (rollout_shut_out, "mnist-rollout cannot read the metrics of the service's pods"),
        (rollout_shut_in, "mnist-rollout cannot read the metrics of the service's pods"),
        (job_with_a_token, "mnist-retraining: a service account's token is mounted"),
        (running("STORAGE_URI", "s3://other/2"), "STORAGE_URI is s3://other/2, the"),
        (running("MODEL_DIGEST", ""), "MODEL_DIGEST is , the release says"),
        (recorded("TRANSFORMER_IMAGE", "a:1"), "the release says a:1"),
        (recorded("MODEL_VERSION", "1"), "the release names not one version"),
        (recorded("CANARY_PERCENT", "0"), "CANARY_PERCENT is no share"),
        (splitting, "canaryTrafficPercent belongs to the live object"),
        (other_namespace, "namespaces ['default', 'mnist'] are used, ['mnist'] are made"),
        (all_pods_protected, "may keep a node from being drained"),
        (nobody_protected, "selects no pods"),
        (only_one_pod, "protects the only pod"),
        (job_argument("retrain", "retain"), "mnist-retraining: its arguments are refused: python"),
        (job_argument("--run=/work/run", "--run=runs"), "mnist-retraining: --run cannot be"),
        (job_as_root, "mnist-retraining: it may run as root"),
        (job_open, "mnist-retraining: no NetworkPolicy closes its pods"),
        (job_of_nobody, "mnist-retraining: its service account is not among"),
        (without_policies, "no NetworkPolicy closes the pods"),
        (open_to_all, "a NetworkPolicy lets everybody in"),
        (only_from_the_transformer, "the activator and the autoscaler are shut out"),
        (only_the_container_port, "queue-proxy cannot be reached on all of its ports"),
        (without_names("mnist"), "mnist: names cannot be resolved"),
        (without_names("mnist-rollout"), "mnist-rollout: names cannot be resolved"),
        (without_names("mnist-retraining"), "mnist-retraining: names cannot be resolved"),
        (names_of_pods_alone, "mnist: names cannot be resolved"),
        (names_of_port_53_alone, "mnist: names cannot be resolved"),
        (without_the_gateway, "the transformer cannot reach the gateway"),
    ],
)
def test_what_is_broken_is_noticed(
    objects: list[Object], broken: Callable[[list[Object]], None], objection: str
) -> None:
    broken(objects)
    assert any(objection in each for each in surroundings.objections(objects))
