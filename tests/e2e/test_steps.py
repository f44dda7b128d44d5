"""The steps of a canary, and how the tests judge a split: what can be tested without a cluster."""

import copy
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import programs
from tests.e2e import cluster, steps
from tests.e2e.steps import Object
from tests.manifests import of_kind, render


def service(created: str, ready: str, **shares: int) -> Object:
    traffic = [{"revisionName": name, "percent": share} for name, share in shares.items()]
    predictor = {"latestCreatedRevision": created, "latestReadyRevision": ready, "traffic": traffic}
    return {"status": {"components": {"predictor": predictor}}}


def applied(value: Object, patch: steps.Patch) -> Object:
    """RFC 6902, as far as it is needed here."""
    value = copy.deepcopy(value)
    for operation in patch:
        *parents, last = operation["path"].strip("/").split("/")
        node: Any = value
        for key in parents:
            node = node[int(key) if isinstance(node, list) else key]
        if operation["op"] == "test":
            assert node[last] == operation["value"]
        elif operation["op"] == "remove":
            del node[last]
        else:
            assert operation["op"] == "add" or last in node
            node[last] = operation["value"]
    return value


def variables(service: Object) -> dict[str, str]:
    return {v["name"]: v["value"] for v in service["spec"]["predictor"]["containers"][0]["env"]}


@pytest.mark.skipif(not shutil.which("kubectl"), reason="no kubectl to render with")
def test_a_canary_is_a_version_and_a_share_in_one_patch(tmp_path: Path) -> None:
    (before,) = of_kind(render(cluster.overlay(tmp_path)), "InferenceService")
    opened = applied(before, steps.version(before, 2, "d" * 64) + steps.share(10))
    assert opened["spec"]["predictor"]["canaryTrafficPercent"] == 10
    assert variables(opened) == {
        **variables(before), "MODEL_VERSION": "2", "MODEL_DIGEST": "d" * 64,
    }  # fmt: skip
    restored = steps.version(opened, 1, variables(before)["MODEL_DIGEST"])
    assert applied(opened, restored + steps.all_of_it()) == before


def test_a_predictor_that_names_no_version_is_refused() -> None:
    env = [{"name": "STORAGE_URI", "value": "s3://"}, {"name": "MODEL_DIGEST", "value": ""}]
    with pytest.raises(ValueError, match="no variable MODEL_VERSION"):
        steps.version({"spec": {"predictor": {"containers": [{"env": env}]}}}, 2, "")


def test_a_revision_is_ready_if_it_is_new_and_the_latest_that_is() -> None:
    assert not steps.is_ready(service("a", "a"), "a")  # not yet seen by the controller
    assert not steps.is_ready(service("b", "a"), "a")
    assert steps.is_ready(service("b", "b"), "a")
    assert not steps.is_ready({}, "")
    assert not steps.is_ready({"status": {}}, "")


def test_a_share_is_given_when_the_latest_revision_has_it() -> None:
    assert steps.gets(service("b", "b", b=10, a=90), 10)
    assert not steps.gets(service("b", "b", b=100), 10)
    assert not steps.gets(service("b", "a", a=90, b=10), 10)
    # At 0 % it may be named or not.
    assert steps.gets(service("b", "b", b=0, a=100), 0)
    assert steps.gets(service("b", "b", a=100), 0)


@pytest.mark.parametrize(
    ("count", "total", "percent", "expected"),
    [
        (40, 400, 10, True),
        (60, 400, 10, True),
        (75, 400, 10, False),
        (15, 400, 10, False),
        (360, 400, 10, False),
        (100, 200, 50, True),
        (140, 200, 50, False),
        (0, 50, 0, True),
        (1, 50, 0, False),
        (50, 50, 100, True),
        (49, 50, 100, False),
    ],
)
def test_a_split_is_judged_by_its_chances(
    count: int, total: int, percent: int, expected: bool
) -> None:
    assert steps.is_plausible(count, total, percent) == expected


def test_waiting_ends_with_what_was_waited_for() -> None:
    answers = iter([False, False, True])
    steps.wait("three", lambda: next(answers), timeout=60, pause=0)
    with pytest.raises(TimeoutError, match="waited 0 s, and still not: rain"):
        steps.wait("rain", lambda: False, timeout=0, pause=0)


@pytest.mark.skipif(not shutil.which("kubectl"), reason="no kubectl to ask with")
def test_without_a_cluster_it_says_how_to_get_one(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-m",
        "e2e",
        "tests/e2e",
        "-x",
        "-p",
        "no:cacheprovider",
    ]
    env = {**os.environ, "KUBECONFIG": str(tmp_path / "none"), "KUBE_CONTEXT": ""}
    done = subprocess.run(command, env=env, capture_output=True, text=True, cwd=programs.ROOT)
    assert done.returncode == 1
    assert "No cluster answers: `make cluster` makes one." in done.stdout
