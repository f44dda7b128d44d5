"""The canary by kubectl of ``docs/release.md``: its commands, run as they stand."""

import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from standalone import canary
from standalone.objects import Object, Objects
from tests import cluster, programs
from tests.manifests import render

pytestmark = pytest.mark.skipif(not shutil.which("kubectl"), reason="no kubectl to release with")

PAGE = (programs.ROOT / "docs/release.md").read_text(encoding="utf-8")
State = tuple[str, int | None]


class Recorder(Objects):
    """Remembers each version and percent that the service had, in order.

    Every revision is ready at once.
    """

    def __init__(self) -> None:
        super().__init__(cluster.default)
        self.states: list[State] = []
        self._predictor = canary.Component("mnist-predictor")

    def _store(self, path: str, made: Object) -> Object:
        self._predictor.update(made, "predictor")
        self._predictor.latest_created.ready = True
        self._predictor.settle()
        made["status"] = {"components": {"predictor": self._predictor.status()}}
        predictor = made["spec"]["predictor"]
        version, digest = (each["value"] for each in predictor["containers"][0]["env"][:2])
        published = programs.ROOT / "models/mnist" / version / "model.json"
        assert digest == hashlib.sha256(published.read_bytes()).hexdigest()
        self.states.append((version, predictor.get("canaryTrafficPercent")))
        return super()._store(path, made)


def blocks(heading: str) -> str:
    """The shell commands under a heading of the page."""
    section = re.split(r"\n##+ ", PAGE.split(f" {heading}\n")[1])[0]
    return "\n".join(re.findall(r"```sh\n(.*?)```", section, re.DOTALL))


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Recorder]:
    """A cluster that serves version 1 in the development overlay."""
    api = Recorder()
    objects = render(programs.ROOT / "manifests/overlays/development")
    (service,) = (each for each in objects if each["kind"] == "InferenceService")
    api.create(cluster.SERVICE.format("mnist-development"), service, "rollout")
    with cluster.serve(api, tmp_path):
        yield api


def follow(folder: Path, *headings: str) -> subprocess.CompletedProcess[str]:
    script = "\n".join(["set -eu", *map(blocks, ("A canary with kubectl", *headings))])
    env = {**os.environ, "KUBECONFIG": str(folder / "kubeconfig")}
    command = ["bash", "-c", script]
    return subprocess.run(
        command,
        cwd=programs.ROOT,
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(
    ("end", "states"),
    [
        ("4a. Promote", [("2", None)]),
        ("4b. Or roll back", [("2", 0), ("1", 0), ("1", None)]),
    ],
)
def test_the_steps_go_the_safe_way(
    api: Recorder, tmp_path: Path, end: str, states: list[State]
) -> None:
    done = follow(tmp_path, "1. Send 10 % to version 2", "3. Send 50 %", end)
    assert done.returncode == 0, done.stderr
    assert api.states == [("1", None), ("2", 10), ("2", 50), *states]


@pytest.mark.parametrize(
    "steps",
    [
        ["1. Send 10 % to version 2", "1. Send 10 % to version 2"],  # the percent-only trap
        ["3. Send 50 %"],
        ["1. Send 10 % to version 2", "4a. Promote"],
        ["4b. Or roll back"],
    ],
)
def test_a_step_out_of_order_is_refused(api: Recorder, tmp_path: Path, steps: list[str]) -> None:
    done = follow(tmp_path, *steps)
    assert done.returncode != 0
    assert api.states in ([("1", None)], [("1", None), ("2", 10)])
