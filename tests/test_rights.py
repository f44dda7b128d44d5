"""What the Job in the cluster may do is what it does, and when it is not tried again.

The Role that the production overlay renders stands in front of the API; the metrics come from a
server, as they do from a pod.
"""

import copy
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from aiohttp import web
from aiohttp.typedefs import Handler

from rollout import __main__ as command
from standalone import pod
from standalone.api import PATH
from standalone.canary import Revision
from tests import manifests, releases
from tests.manifests import Object, of_kind
from tests.programs import ROOT
from tests.releases import World

pytestmark = pytest.mark.skipif(not shutil.which("kubectl"), reason="no kubectl to render with")

QUICK = ("--warm-up=0", "--step-time=0", "--poll=0.01", "--timeout=20", "--minimum=50")
VERBS = {"POST": "create", "PATCH": "patch", "PUT": "update", "DELETE": "delete"}
STABLE, CANARY = "mnist-predictor-00001", "mnist-predictor-00002"


@pytest.fixture(scope="module")
def rendered() -> list[Object]:
    return manifests.render(ROOT / "manifests/overlays/production")


@pytest.fixture(scope="module")
def rules(rendered: list[Object]) -> list[Object]:
    """The rights that are bound to the account of the Job."""
    (binding,), (role,) = of_kind(rendered, "RoleBinding"), of_kind(rendered, "Role")
    (job,) = of_kind(rendered, "CronJob")
    account = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]["serviceAccountName"]
    assert [each["name"] for each in binding["subjects"]] == [account]
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    found: list[Object] = role["rules"]
    return found


class Gate:
    """Lets through what the rules allow, as Kubernetes' RBAC does; everything if there are none."""

    def __init__(self) -> None:
        self.rules: list[Object] | None = None
        self.used: set[tuple[str, str]] = set()
        """Resources, and what was done with them."""

    @web.middleware
    async def check(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if self.rules is not None:
            found = PATH.fullmatch(request.path)
            assert found, request.path
            name, resource = found["name"], found["plural"]
            verb = VERBS.get(request.method) or ("get" if name else "list")
            group = (found["group"] or "").rpartition("/")[0]
            if not any(allows(rule, group, resource, name, verb) for rule in self.rules):
                message = f"{resource} is forbidden: cannot {verb} {name or ''}"
                status = {"kind": "Status", "code": 403, "reason": "Forbidden", "message": message}
                return web.json_response(status, status=403)
            self.used.add((resource, verb))
        return await handler(request)


def allows(rule: Object, group: str, resource: str, name: str | None, verb: str) -> bool:
    return (
        group in rule["apiGroups"]
        and resource in rule["resources"]
        and verb in rule["verbs"]
        and ("resourceNames" not in rule or name in rule["resourceNames"])
    )


class Metrics:
    """The metrics of the pods: whoever looks finds calls as the live split routes them."""

    def __init__(self) -> None:
        self.outcome = "ok"
        """Of the canary's calls."""
        self.percent = 10
        self._calls: Counter[tuple[str, str]] = Counter()

    def page(self, revision: str) -> str:
        share = self.percent if revision == CANARY else 100 - self.percent
        self._calls[revision, self.outcome if revision == CANARY else "ok"] += 10 * share
        lines = [
            f'mnist_request_seconds_bucket{{outcome="{outcome}",le="{bound}"}} {calls}'
            for (name, outcome), calls in self._calls.items()
            if name == revision
            for bound in ("0.5", "+Inf")
        ]
        digits = sum(calls for (name, _), calls in self._calls.items() if name == revision)
        lines.append(f'mnist_first_digits_total{{digit="7"}} {digits}')
        return "\n".join([*lines, "process_start_time_seconds 1.7e9", ""])


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def world(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gate: Gate, metrics: Metrics
) -> Iterator[World]:
    """A canary that somebody with more rights has begun, and its two pods."""
    with (
        releases.serving(lambda: metrics.page(STABLE)) as stable,
        releases.serving(lambda: metrics.page(CANARY)) as canary,
        releases.world(tmp_path, monkeypatch, gate.check) as made,
    ):
        for revision, port in ((STABLE, stable), (CANARY, canary)):
            template = Revision(revision, {"spec": {"containers": [{}]}})
            arguments = [f"--metrics_port={port}"]
            described = pod.describe("mnist", "predictor", template, arguments)
            made.api.create(pod.path(revision), described, "test")
        assert made.start() == 0
        yield made


def run(world: World, metrics: Metrics) -> int:
    """What the Job runs; the next step is the last one."""
    look = world.api.look

    def watched() -> None:
        look()
        metrics.percent = world.api.traffic[-1].get("2", 0)

    world.api.look = watched  # type: ignore[method-assign]
    return world.run("run", "--steps=10,50,100", *QUICK)


RIGHTS = {
    ("configmaps", "get"), ("configmaps", "patch"), ("events", "create"),
    ("inferenceservices", "get"), ("inferenceservices", "patch"), ("pods", "list"),
}  # fmt: skip


@pytest.mark.parametrize(("outcome", "end"), [("ok", 0), ("failed", command.ROLLED_BACK)])
def test_a_canary_is_taken_to_its_end_with_the_rights_of_the_role(
    world: World, gate: Gate, metrics: Metrics, rules: list[Object], outcome: str, end: int
) -> None:
    gate.rules = rules
    metrics.outcome = outcome
    assert run(world, metrics) == end
    assert world.api.traffic[-1] == ({"1": 100} if end else {"2": 100})
    assert gate.used == RIGHTS


def test_one_that_was_being_taken_back_is(
    world: World, gate: Gate, metrics: Metrics, rules: list[Object]
) -> None:
    world.patch(canaryTrafficPercent=0)
    gate.rules = rules
    assert run(world, metrics) == command.ROLLED_BACK
    assert world.api.traffic[-1] == {"1": 100}


def test_the_role_has_these_rights_and_no_others(rules: list[Object]) -> None:
    granted = [
        (resource, verb)
        for rule in rules
        for resource in rule["resources"]
        for verb in rule["verbs"]
    ]
    assert sorted(granted) == sorted(RIGHTS)
    # What Kubernetes can limit to a name is limited.
    assert all(
        len(rule.get("resourceNames", ())) == 1
        for rule in rules
        if not {*rule["verbs"]} <= {"create", "list"}
    )


@pytest.mark.parametrize("missing", sorted(RIGHTS), ids=" ".join)
def test_without_any_of_them_it_cannot(
    world: World,
    gate: Gate,
    metrics: Metrics,
    rules: list[Object],
    missing: tuple[str, str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    resource, verb = missing
    gate.rules = copy.deepcopy(rules)
    for rule in gate.rules:
        if resource in rule["resources"]:
            rule["verbs"].remove(verb)
    assert run(world, metrics) == 1
    assert f"{resource} is forbidden: cannot {verb}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/apis/serving.kserve.io/v1beta1/namespaces/default/inferenceservices/other"),
        ("GET", "/api/v1/namespaces/default/configmaps/mnist-release"),
        ("PATCH", "/api/v1/namespaces/default/configmaps/mnist-release"),
        ("GET", "/api/v1/namespaces/default/configmaps"),
        ("DELETE", "/api/v1/namespaces/default/configmaps/mnist-rollout"),
    ],
)
def test_nothing_else_is_allowed(
    world: World, gate: Gate, rules: list[Object], method: str, path: str
) -> None:
    gate.rules = rules
    assert httpx.request(method, f"{world.server}{path}", content="{}").status_code == 403


def test_what_another_try_would_not_change_is_not_tried_again(rendered: list[Object]) -> None:
    (job,) = of_kind(rendered, "CronJob")
    first = job["spec"]["jobTemplate"]["spec"]["podFailurePolicy"]["rules"][0]
    assert first["action"] == "FailJob"
    final = {command.REFUSED, command.ROLLED_BACK, command.INCONCLUSIVE}
    assert set(first["onExitCodes"]["values"]) == {2, *final}
