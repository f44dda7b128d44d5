"""Who owns the version: git says what it wants, the live object what is released.

The real ``kubectl`` and the real command against the API of ``tests/cluster.py``.
"""

import copy
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rollout import canary, deploy
from rollout.canary import PERCENT
from rollout.cluster import Cluster as Client
from rollout.errors import ClusterError, Refused
from rollout.record import Record, Release
from rollout.template import VERSION, Version, fingerprint, variables, with_version
from standalone.objects import APIError, Objects
from tests import cluster, programs
from tests.manifests import Object, of_kind, render

pytestmark = pytest.mark.skipif(not shutil.which("kubectl"), reason="no kubectl to deploy with")

OLD_URI, NEW_URI = "s3://mnist-models/mnist/1/", "s3://mnist-models/mnist/2/"
OLD_IMAGE, NEW_IMAGE = "mnist-kserve-predictor:0.1.0", "mnist-kserve-predictor:0.2.0"
CREATED, READY, ROLLED_OUT = (f"latest{each}Revision" for each in ("Created", "Ready", "Rolledout"))


class World:
    """A cluster, and a checkout of the manifests that is deployed to it."""

    def __init__(self, checkout: Path, api: Objects, kubeconfig: Path) -> None:
        self.api = api
        self.env = {**os.environ, "KUBECONFIG": str(kubeconfig)}
        self.overlays = checkout / "overlays"

    def deploy(self, *flags: str, overlay: str = "production") -> subprocess.CompletedProcess[str]:
        path = str(self.overlays / overlay)
        return self.run(sys.executable, "-m", "rollout", "deploy", path, *flags)

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, cwd=programs.ROOT, env=self.env, capture_output=True, text=True, check=False
        )

    def commit(self, file: str, old: str, new: str, overlay: str = "production") -> None:
        """Change a file of the overlay, as a commit would."""
        path = self.overlays / overlay / file
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new), encoding="utf-8")

    def patch(self, **predictor: Any) -> None:
        """Change the live predictor with ``kubectl``."""
        patch = json.dumps({"spec": {"predictor": predictor}})
        command = ("kubectl", "patch", "isvc", "mnist", "-n", "mnist", "--type=merge")
        done = self.run(*command, f"--patch={patch}")
        assert done.returncode == 0, done.stderr

    def release(self, uri: str, percent: int | None) -> None:
        """Release a version with ``kubectl``: template and percent in one patch."""
        containers = copy.deepcopy(self.predictor["containers"])
        containers[0]["env"][0]["value"] = uri
        self.patch(containers=containers, canaryTrafficPercent=percent)

    def observe(self, **predictor: str) -> None:
        """Let the status name these revisions of the predictor, and one of the transformer."""
        transformer = dict.fromkeys((CREATED, READY, ROLLED_OUT), "mnist-transformer-00001")
        components = {"predictor": predictor, "transformer": transformer}
        self.api.set_status(cluster.SERVICE.format("mnist"), {"components": components})

    def live(self, overlay: str = "production") -> Object:
        name = "mnist" if overlay == "production" else "mnist-development"
        return self.api.get(cluster.SERVICE.format(name))

    def release_begun(self) -> Release:
        path = "/api/v1/namespaces/mnist/configmaps/mnist-rollout"
        found = Record.read(self.api.get(path)["data"]).release
        assert found
        return found

    @property
    def predictor(self) -> Object:
        found: Object = self.live()["spec"]["predictor"]
        return found

    @property
    def transformer(self) -> Object:
        found: Object = self.live()["spec"]["transformer"]
        return found

    @property
    def version(self) -> str:
        uri: str = self.predictor["containers"][0]["env"][0]["value"]
        return uri


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A cluster to which the production overlay was deployed once, and that serves it."""
    checkout = tmp_path / "manifests"
    shutil.copytree(programs.ROOT / "manifests", checkout)
    api = Objects(cluster.default)
    with cluster.serve(api, tmp_path) as kubeconfig:
        world = World(checkout, api, kubeconfig)
        assert world.deploy().stderr == "rollout: the service is new\n"
        world.observe(**dict.fromkeys((CREATED, READY, ROLLED_OUT), "mnist-predictor-00001"))
        yield world


def test_the_first_revision_has_no_percent(world: World) -> None:
    assert world.version == OLD_URI
    assert PERCENT not in world.predictor
    kinds = [each["kind"] for each in world.api.list()]
    assert kinds[-2:] == ["InferenceService", "ConfigMap"]  # what its pods need was there first
    assert world.api.list()[-1]["metadata"]["name"] == deploy.CONFIG_MAP
    assert world.api.get("/api/v1/namespaces/mnist")["kind"] == "Namespace"


def test_a_deployment_that_failed_midway_is_made_up_for(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.commit("release.env", OLD_URI, NEW_URI)
    apply = Objects.apply

    def changed_in_between(self: Objects, path: str, *args: Any, **flags: Any) -> Object:
        if "inferenceservices" in path and not flags.get("dry"):
            monkeypatch.setattr(Objects, "apply", apply)
            self.set_status(path, {**self.get(path)["status"], "url": "http://mnist"})
        return apply(self, path, *args, **flags)

    monkeypatch.setattr(Objects, "apply", changed_in_between)
    assert world.deploy().returncode == 1
    assert world.version == OLD_URI
    assert world.deploy().returncode == 0
    assert (world.version, world.predictor[PERCENT]) == (NEW_URI, 10)


def test_no_canary_begins_that_could_not_be_recorded(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody would know what to go back to; and kubectl goes on with what comes behind."""
    world.commit("release.env", OLD_URI, NEW_URI)
    apply = Objects.apply

    def full(self: Objects, path: str, *args: Any, **flags: Any) -> Object:
        if path.endswith("/mnist-rollout"):
            raise APIError(403, "Forbidden", "exceeded quota")
        return apply(self, path, *args, **flags)

    monkeypatch.setattr(Objects, "apply", full)
    done = world.deploy()
    assert done.returncode == 1
    assert "exceeded quota" in done.stderr
    assert world.version == OLD_URI


def test_what_was_begun_is_known_again(world: World) -> None:
    """When ``run`` is to try it again, by the template with what the cluster fills in."""
    world.commit("release.env", OLD_URI, NEW_URI)
    assert world.deploy().returncode == 0
    release = world.release_begun()
    digest = variables(canary.read(world.live(), "predictor").template)["MODEL_DIGEST"]
    again = with_version(release.stable_template, Version("STORAGE_URI", NEW_URI, digest or ""))
    assert release.fingerprint == fingerprint(again)


@pytest.mark.parametrize(
    "steps",
    [
        [],
        [(NEW_URI, 10)],
        [(NEW_URI, 10), (NEW_URI, 50)],
        [(NEW_URI, 10), (NEW_URI, None)],  # promoted
        [(NEW_URI, 10), (NEW_URI, 100)],
        [(NEW_URI, 10), (NEW_URI, 0), (OLD_URI, 0), (OLD_URI, None)],  # aborted
    ],
)
def test_deploying_again_changes_nothing_whatever_was_released_since(
    world: World, steps: list[tuple[str, int | None]]
) -> None:
    for uri, percent in steps:
        world.release(uri, percent)
    before = world.api.list()
    assert world.deploy().stderr == "rollout: the service stays as it is\n"
    assert world.api.list() == before


def test_a_new_version_in_git_becomes_a_canary(world: World) -> None:
    world.commit("release.env", OLD_URI, NEW_URI)
    done = world.deploy()
    assert done.stderr == "rollout: a canary of the predictor gets 10 % of the traffic\n"
    assert (world.version, world.predictor[PERCENT]) == (NEW_URI, 10)
    assert PERCENT not in world.transformer


@pytest.mark.parametrize("last", [(NEW_URI, None), (OLD_URI, None)], ids=["promoted", "aborted"])
def test_the_end_of_a_canary_from_git_is_not_undone(
    world: World, last: tuple[str, int | None]
) -> None:
    world.commit("release.env", OLD_URI, NEW_URI)
    world.deploy()
    world.release(*last)
    before = world.live()
    assert world.deploy().stderr == "rollout: the service stays as it is\n"
    assert world.live() == before


def test_git_may_catch_up_with_a_promotion(world: World) -> None:
    world.release(NEW_URI, None)
    world.commit("release.env", OLD_URI, NEW_URI)
    before = world.live()
    assert world.deploy().stderr == "rollout: the service stays as it is\n"
    assert world.live() == before


@pytest.mark.parametrize("percent", [None, 100])
def test_another_change_in_git_keeps_the_version_that_was_promoted(
    world: World, percent: int | None
) -> None:
    world.release(NEW_URI, percent)
    world.commit("images.env", OLD_IMAGE, NEW_IMAGE)
    assert "a canary of the predictor" in world.deploy().stderr
    assert world.version == NEW_URI
    assert world.predictor["containers"][0]["image"].endswith(NEW_IMAGE)
    begun = canary.read(world.live(), "predictor").template
    assert world.release_begun().fingerprint == fingerprint(begun)


def test_a_running_canary_is_not_replaced(world: World) -> None:
    world.release(NEW_URI, 10)
    world.commit("images.env", OLD_IMAGE, NEW_IMAGE)
    before = world.api.list()
    done = world.deploy()
    assert done.returncode == 3
    assert done.stderr == (
        "rollout: a canary is running, and the predictor would change under it: "
        "promote or abort it first\n"
    )
    assert world.api.list() == before


def test_of_two_changed_components_one_waits_for_the_other(world: World) -> None:
    world.commit("images.env", ":0.1.0", ":0.2.0")
    waits = "; the transformer waits: deploy again when this is promoted\n"
    assert world.deploy().stderr.endswith(waits)
    assert world.predictor[PERCENT] == 10
    assert world.transformer["containers"][0]["image"].endswith(":0.1.0")

    world.patch(canaryTrafficPercent=None)
    assert "a canary of the transformer gets 10 %" in world.deploy().stderr
    assert world.transformer[PERCENT] == 10
    assert PERCENT not in world.predictor
    assert world.deploy().stderr == "rollout: the service stays as it is\n"


def test_at_100_percent_all_is_replaced_at_once(world: World) -> None:
    world.deploy(overlay="development")
    world.commit("images.env", ":dev", ":next", overlay="development")
    done = world.deploy(overlay="development")
    assert done.stderr == "rollout: replaced: the predictor and the transformer\n"
    for component in world.live("development")["spec"].values():
        assert component["containers"][0]["image"].endswith(":next")
        assert PERCENT not in component


def test_what_has_never_served_is_replaced_at_once(world: World) -> None:
    """There is nothing to compare with, nor to go back to."""
    world.observe(**{CREATED: "mnist-predictor-00001"})
    world.commit("images.env", OLD_IMAGE, NEW_IMAGE)
    assert world.deploy().stderr == "rollout: replaced: the predictor\n"
    assert world.predictor["containers"][0]["image"].endswith(NEW_IMAGE)
    assert PERCENT not in world.predictor


@pytest.mark.parametrize("mode", ["Standard", "RawDeployment"])
def test_in_standard_mode_nothing_is_replaced_that_should_be_a_canary(
    world: World, mode: str
) -> None:
    """There are no revisions there, and the status names none that is rolled out."""
    world.api.set_status(cluster.SERVICE.format("mnist"), {"deploymentMode": mode})
    world.commit("images.env", OLD_IMAGE, NEW_IMAGE)
    done = world.deploy()
    assert done.returncode == 3
    assert f"the service is in {mode} mode" in done.stderr
    assert world.predictor["containers"][0]["image"].endswith(OLD_IMAGE)

    world.commit("release.env", "CANARY_PERCENT=10", "CANARY_PERCENT=100")
    assert world.deploy().stderr == "rollout: replaced: the predictor\n"


def test_a_live_service_that_lacks_what_git_has_is_no_stack_trace(world: World) -> None:
    live = world.live()
    del live["spec"]["predictor"]["containers"][0]["env"]
    kept = deploy.keep_released(render(world.overlays / "production"), live, {})
    chosen = variables(deploy.service(kept)["spec"]["predictor"])
    assert not chosen.keys() & {*VERSION}
    del live["spec"]["transformer"]
    with pytest.raises(Refused, match="the service has no transformer"):
        deploy.keep_released(kept, live, {})


def test_beside_a_template_that_is_not_rolled_out_no_canary_begins(world: World) -> None:
    """An abort would go back to it, and wait for it in vain."""
    stable, broken = "mnist-predictor-00001", "mnist-predictor-00002"
    world.observe(**{CREATED: broken, READY: stable, ROLLED_OUT: stable})
    world.commit("images.env", OLD_IMAGE, NEW_IMAGE)
    before = world.api.list()
    done = world.deploy()
    assert done.returncode == 3
    assert "with CANARY_PERCENT=100 replaces it" in done.stderr
    assert world.api.list() == before

    world.commit("release.env", "CANARY_PERCENT=10", "CANARY_PERCENT=100")
    assert world.deploy().stderr == "rollout: replaced: the predictor\n"
    assert PERCENT not in world.predictor


def test_a_changed_setting_of_both_is_a_canary_too(world: World) -> None:
    world.commit("kustomization.yaml", "LOG_LEVEL=INFO", "LOG_LEVEL=DEBUG")
    assert world.deploy().stderr.startswith("rollout: a canary of the predictor")
    old, new = (
        each["containers"][0]["envFrom"][0]["configMapRef"]["name"]
        for each in (world.transformer, world.predictor)
    )
    maps = {each["metadata"]["name"] for each in of_kind(world.api.list(), "ConfigMap")}
    assert {old, new} <= maps  # both revisions find their settings


def test_a_dry_run_prints_and_changes_nothing(world: World) -> None:
    world.commit("release.env", OLD_URI, NEW_URI)
    before = world.api.list()
    done = world.deploy("--dry-run")
    assert "canaryTrafficPercent: 10" in done.stdout
    assert world.api.list() == before


def test_kubectl_alone_refuses_to_undo_a_release(world: World) -> None:
    world.release(NEW_URI, None)
    before = world.live()
    done = world.run("kubectl", "apply", "--server-side", "-k", str(world.overlays / "production"))
    assert done.returncode == 1
    assert "conflict with" in done.stderr
    assert ".spec.predictor.containers" in done.stderr
    assert world.live() == before


def test_what_changes_in_between_is_not_overwritten(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", world.env["KUBECONFIG"])
    overlay = str(world.overlays / "production")
    kept = deploy.keep_released(render(Path(overlay)), world.live(), {})
    world.release(NEW_URI, 10)
    with pytest.raises(ClusterError, match="the object has been modified"):
        Client().apply([deploy.service(kept)])
    assert world.version == NEW_URI


def test_a_service_that_nobody_recorded_keeps_its_release(world: World) -> None:
    world.release(NEW_URI, None)
    world.run("kubectl", "delete", "configmap", "mnist-release", "-n", "mnist", "--wait=false")
    assert "mnist-release" not in {each["metadata"]["name"] for each in world.api.list()}
    world.commit("kustomization.yaml", "LOG_LEVEL=INFO", "LOG_LEVEL=DEBUG")
    assert world.deploy().stderr.startswith("rollout: a canary of the predictor gets 10 %")
    assert world.version == NEW_URI


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("manifests/nowhere", "no such file or directory"),
        ("manifests/base", "the overlay must render one ConfigMap mnist-release, found 0"),
    ],
)
def test_what_is_no_overlay_is_refused(world: World, path: str, message: str) -> None:
    done = world.run(sys.executable, "-m", "rollout", "deploy", path)
    assert done.returncode == 1
    assert message in done.stderr


@pytest.mark.parametrize("count", [0, 2])
def test_an_overlay_of_no_service_or_several_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match=f"must render one InferenceService, found {count}"):
        deploy.service([{"kind": "InferenceService"}] * count)


def test_without_kubectl_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ClusterError, match="there is no kubectl"):
        Client().get("inferenceservice", "mnist", "mnist")


def test_the_examples_of_the_help_name_real_overlays() -> None:
    command = [sys.executable, "-m", "rollout", "--help"]
    text = subprocess.run(command, capture_output=True, text=True, check=True, cwd=programs.ROOT)
    paths = re.findall(r"manifests/\S+", text.stdout)
    assert paths
    assert all((programs.ROOT / path / "kustomization.yaml").exists() for path in paths)
