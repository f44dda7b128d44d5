"""A service with a controller behind it, and the command that releases its versions."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp.typedefs import Middleware

from rollout import __main__ as command
from rollout import release
from tests import cluster, programs

PATH = cluster.SERVICE.format("default")


class World:
    """A service that serves version 1, and the command."""

    def __init__(self, api: cluster.Controller, server: str) -> None:
        self.api = api
        self.server = server

    def run(self, *arguments: str) -> int:
        return command.main([f"--server={self.server}", "--namespace=default", *arguments])

    def start(self, *arguments: str) -> int:
        return self.run("start", *(arguments or ("2", "--percent=10")), "--timeout=20")

    @property
    def service(self) -> dict[str, Any]:
        return self.api.get(PATH)

    def patch(self, **predictor: Any) -> None:
        """What somebody else does with kubectl."""
        self.api.patch(PATH, {"spec": {"predictor": predictor}}, "somebody")

    def served(self, since: int = 0) -> set[str]:
        """The versions that had traffic from a look of the controller on."""
        return {
            name
            for shares in self.api.traffic[since:]
            for name, percent in shares.items()
            if percent
        }

    def taken_away(self, since: int) -> int:
        """The look at which the canary had nothing for the first time after ``since``."""
        looks = enumerate(self.api.traffic[since:], since)
        return next(look for look, shares in looks if not shares.get("2"))

    def look(self) -> None:
        """Give the controller time for all that it has to do."""
        for _ in range(5):
            self.api.look()


@contextmanager
def world(folder: Path, patch: pytest.MonkeyPatch, *middlewares: Middleware) -> Iterator[World]:
    """A cluster in which version 1 is rolled out; ``middlewares`` are in front of its API."""
    patch.setattr(release, "INTERVAL", 0.005)
    patch.chdir(programs.ROOT)
    api = cluster.Controller(PATH)
    path = programs.ROOT / "manifests/base/inferenceservice.yaml"
    service = yaml.safe_load(path.read_text(encoding="utf-8"))
    service["metadata"]["namespace"] = "default"
    api.create(PATH, service, "kubectl")
    with cluster.serve(api, folder, *middlewares) as kubeconfig:
        config = yaml.safe_load(kubeconfig.read_text(encoding="utf-8"))
        made = World(api, config["clusters"][0]["cluster"]["server"])
        made.look()
        yield made
