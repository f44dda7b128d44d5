"""What an overlay must have around its InferenceService, so that it is reached and stays up.

Each rule gives its objections, none if all is well, as in ``tests/manifests.py``.
"""

import contextlib
import io
from collections.abc import Callable, Iterator

import rollout.flags
import training.__main__
from tests.manifests import Object, expanded, images, of_kind, restricted, tokenless, wiring

PODS = {"serving.kserve.io/inferenceservice": "mnist"}
"""The label that KServe gives to all pods of the service."""
CLUSTER_KINDS = {"ClusterRole", "Namespace"}
PROGRAMS: dict[str, tuple[Callable[[list[str]], object], tuple[str, ...]]] = {
    "rollout": (rollout.flags.parse, ()),
    "retraining": (training.__main__.parse, ("--data", "--run")),
}
"""By the name of the container: how the arguments are read, and which of them name folders."""


def objections(objects: list[Object]) -> list[str]:
    """Everything that is wrong with what an overlay renders, the InferenceService aside."""
    (service,) = of_kind(objects, "InferenceService")
    found = [*policies(objects, service), *namespaces(objects), *release(objects, service)]
    for budget in of_kind(objects, "PodDisruptionBudget"):
        found += disruption(budget, service)
    for job in of_kind(objects, "CronJob"):
        found += cronjob(job, objects)
        if job["metadata"]["name"] == "mnist-rollout":
            found += metrics(job, objects, service)
    return found


def namespaces(objects: list[Object]) -> Iterator[str]:
    """All of an overlay is in the one namespace that it makes."""
    made = {each["metadata"]["name"] for each in of_kind(objects, "Namespace")}
    used = {
        each["metadata"].get("namespace") for each in objects if each["kind"] not in CLUSTER_KINDS
    }
    if made and used != made:
        yield f"namespaces {sorted(map(str, used))} are used, {sorted(made)} are made"


def release(objects: list[Object], service: Object) -> Iterator[str]:
    """The ConfigMap that records the release says what the InferenceService runs."""
    for record in of_kind(objects, "ConfigMap"):
        if record["metadata"]["name"] != "mnist-release":
            continue
        settings = record["data"]
        predictor = service["spec"]["predictor"]["containers"][0]
        env = {each["name"]: each.get("value") for each in predictor["env"]}
        runs = {
            **{name: env.get(name) for name in ("MODEL_VERSION", "STORAGE_URI", "MODEL_DIGEST")},
            "PREDICTOR_IMAGE": predictor["image"],
            "TRANSFORMER_IMAGE": service["spec"]["transformer"]["containers"][0]["image"],
        }
        for name, value in runs.items():
            if value != settings.get(name):
                yield f"{name} is {value}, the release says {settings.get(name)}"
        if ("MODEL_VERSION" in settings) == ("STORAGE_URI" in settings):
            yield "the release names not one version"
        if not 0 < int(settings.get("CANARY_PERCENT", 0)) <= 100:
            yield "CANARY_PERCENT is no share of the traffic"
        if any("canaryTrafficPercent" in each for each in service["spec"].values()):
            yield "canaryTrafficPercent belongs to the live object"


def disruption(budget: Object, service: Object) -> Iterator[str]:
    """A budget has pods to protect, and still lets a node be drained."""
    name = budget["metadata"]["name"]
    labels = budget["spec"]["selector"]["matchLabels"]
    spec = service["spec"].get(labels.get("component"))
    if spec is None or labels != {**PODS, "component": labels["component"]}:
        yield f"{name} selects no pods"
    elif spec.get("minReplicas", 1) < 2:
        yield f"{name} protects the only pod"
    if budget["spec"].get("maxUnavailable") != 1:
        yield f"{name} may keep a node from being drained"


def cronjob(job: Object, objects: list[Object]) -> Iterator[str]:
    """A job runs a command that the program has, as nobody in particular, and is closed.

    It has a token if rights are bound to its account, and no token otherwise.
    """
    name = job["metadata"]["name"]
    pod = job["spec"]["jobTemplate"]["spec"]["template"]
    spec = pod["spec"]
    for rule in (restricted, wiring, images):
        yield from (f"{name}: {objection}" for objection in rule(spec))
    accounts = {each["metadata"]["name"] for each in of_kind(objects, "ServiceAccount")}
    if spec.get("serviceAccountName") not in accounts:
        yield f"{name}: its service account is not among {sorted(accounts)}"
    if spec.get("serviceAccountName") not in bound(objects):
        yield from (f"{name}: {objection}" for objection in tokenless(spec))
    elif spec.get("automountServiceAccountToken") is not True:
        yield f"{name}: it has rights, and no token to show for them"
    selectors = [each["spec"]["podSelector"] for each in of_kind(objects, "NetworkPolicy")]
    if {"matchLabels": pod["metadata"]["labels"]} not in selectors:
        yield f"{name}: no NetworkPolicy closes its pods"
    args = expanded(spec["containers"][0], objects)
    if any("$(" in each for each in args):
        yield f"{name}: no variable for {args}"
    parse, folders = PROGRAMS[spec["containers"][0]["name"]]
    refusal = io.StringIO()
    try:
        with contextlib.redirect_stderr(refusal):
            parse(args)
    except SystemExit:
        yield f"{name}: its arguments are refused: {refusal.getvalue().splitlines()[-1]}"
    mounts = {mount["mountPath"] for mount in spec["containers"][0].get("volumeMounts", ())}
    for flag in folders:
        values = [each.partition("=")[2] for each in args if each.startswith(f"{flag}=")]
        if not any(value.startswith(tuple(mounts)) for value in values):
            yield f"{name}: {flag} cannot be written"


def bound(objects: list[Object]) -> set[str]:
    """The accounts that a RoleBinding gives rights of a Role that is there, in the namespace."""
    roles = {
        (each["metadata"].get("namespace"), each["metadata"]["name"])
        for each in of_kind(objects, "Role")
    }
    return {
        subject["name"]
        for each in of_kind(objects, "RoleBinding")
        for subject in each["subjects"]
        if subject["kind"] == "ServiceAccount"
        and subject.get("namespace") == each["metadata"].get("namespace")
        and (subject.get("namespace"), each["roleRef"]["name"]) in roles
    }


def metrics(job: Object, objects: list[Object], service: Object) -> Iterator[str]:
    """The pods of ``job`` may ask the service's for their metrics, by the policies of both ends."""
    name = job["metadata"]["name"]
    there = {"podSelector": {"matchLabels": PODS}}
    labels = job["spec"]["jobTemplate"]["spec"]["template"]["metadata"]["labels"]
    here = {"podSelector": {"matchLabels": labels}}
    ports = {
        int(arg.partition("=")[2])
        for each in service["spec"].values()
        for arg in each["containers"][0]["args"]
        if arg.startswith("--metrics_port=")
    }
    ways = [
        (spec["podSelector"], peer, port["port"])
        for spec in (each["spec"] for each in of_kind(objects, "NetworkPolicy"))
        for direction, end in (("ingress", "from"), ("egress", "to"))
        for rule in spec.get(direction, ())
        for peer in rule.get(end, ())
        for port in rule.get("ports", ())
    ]
    for selector, peer in ((here["podSelector"], there), (there["podSelector"], here)):
        if not ports or any((selector, peer, port) not in ways for port in ports):
            yield f"{name} cannot read the metrics of the service's pods"


def policies(objects: list[Object], service: Object) -> Iterator[str]:
    """Every pod is closed but for what a NetworkPolicy opens; Knative's own ways are open."""
    pods = {"serving.kserve.io/inferenceservice": service["metadata"]["name"]}
    for policy in of_kind(objects, "NetworkPolicy"):
        if set(policy["spec"]["policyTypes"]) == {"Ingress", "Egress"}:
            yield from names(policy)
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
    transformer = {"matchLabels": {**pods, "component": "transformer"}}
    to_predictor = [
        rule
        for spec in specs
        if spec["podSelector"] == transformer
        for rule in spec.get("egress", ())
    ]
    if not _namespaces(ways_in, "from") <= _namespaces(to_predictor, "to"):
        yield "the transformer cannot reach the gateway"


def names(policy: Object) -> Iterator[str]:
    """The cluster's DNS may be pods (OpenShift's on 5353), an address of the node, the cloud's."""
    anywhere = [rule for rule in policy["spec"].get("egress", ()) if not rule.get("to")]
    ports = {
        (port["port"], port["protocol"]) for rule in anywhere for port in rule.get("ports", ())
    }
    if not {(port, protocol) for port in (53, 5353) for protocol in ("TCP", "UDP")} <= ports:
        yield f"{policy['metadata']['name']}: names cannot be resolved in every cluster"


def _namespaces(rules: list[Object], direction: str) -> set[str]:
    peers = [peer for rule in rules for peer in rule.get(direction, ())]
    selectors = [peer.get("namespaceSelector", {}) for peer in peers]
    expressions = [each for found in selectors for each in found.get("matchExpressions", ())]
    return {space for each in expressions for space in each["values"]}
