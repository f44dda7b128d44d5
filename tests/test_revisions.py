"""Revisions as processes: with what they are started, when they have failed, when they stop."""

import asyncio
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from standalone import service as module
from standalone.address import Address
from standalone.canary import PERCENT
from standalone.manifest import read_manifest
from standalone.objects import Objects
from standalone.processes import ProcessDied, Processes
from standalone.service import Service
from tests.programs import ROOT

pytestmark = pytest.mark.anyio

PATH = "/apis/serving.kserve.io/v1beta1/namespaces/default/inferenceservices/mnist"
FIRST, SECOND = "mnist-predictor-00001", "mnist-predictor-00002"


class Played(Processes):
    """Notes what is started and stopped, and starts nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.done: list[tuple[str, str]] = []
        self.commands: dict[str, tuple[str, ...]] = {}
        self.environments: dict[str, Mapping[str, str]] = {}

    async def start(self, name: str, *command: str, env: Mapping[str, str]) -> None:
        self.done.append(("start", name))
        self.commands[name], self.environments[name] = command, env

    async def stop(self, name: str) -> None:
        self.done.append(("stop", name))

    def ended(self, name: str) -> str | None:
        return None


class World:
    """A service whose programs are played, and all are ready at once unless ``status`` says no."""

    def __init__(self, folder: Path) -> None:
        self.processes = Played()
        self.status = 200
        self.objects = Objects()
        self.objects.create(PATH, read_manifest(ROOT / "manifests/base/inferenceservice.yaml"), "t")
        self._client = httpx.AsyncClient(
            transport=httpx.MockTransport(lambda _: httpx.Response(self.status))
        )
        address = Address("127.0.0.1", 8080, 8081)
        self.service = Service(
            self.objects, PATH, address, envoy="envoy", models_dir=Path("models"), folder=folder
        )

    def change(self, component: str, percent: int | None = None, **container: Any) -> None:
        found = self.objects.get(PATH)
        spec = found["spec"][component]
        spec["containers"][0].update(container)
        spec[PERCENT] = percent
        self.objects.replace(PATH, found, "t")

    def condition(self) -> Any:
        return self.objects.get(PATH)["status"]["conditions"][0]

    async def turn(self, times: int = 2) -> None:
        """In the first turn what is missing is started, in the next one it is looked at."""
        for _ in range(times):
            await self.service._reconcile(self.processes, self._client)

    async def stopped(self) -> None:
        """Wait until what is not needed has been stopped."""
        await asyncio.gather(*self.service._stopping.values())


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(module, "DRAIN", 0.05)
    return World(tmp_path)


@pytest.mark.parametrize("variable", [*module.CHOOSING, "MALLOC_TOP_PAD_"])
async def test_what_the_manifest_says_is_not_said_by_the_users_shell(
    world: World, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "of the shell")
    await world.turn()
    manifest = {"MODEL_VERSION": "1", "MALLOC_TOP_PAD_": "67108864"}
    assert world.processes.environments[FIRST].get(variable) == manifest.get(variable)


@pytest.mark.parametrize(("protocol", "door"), [("v2", "http_port"), ("grpc-v2", "grpc_port")])
async def test_the_predictor_is_called_at_the_door_of_the_protocol(
    world: World, protocol: str, door: str
) -> None:
    world.change("transformer", args=[f"--predictor_protocol={protocol}", "--http_port=1"])
    await world.turn()
    *_, http_port, _, _, host = world.processes.commands["mnist-transformer-00001"]
    assert host == f"--predictor_host=127.0.0.1:{getattr(world.service._inside, door)}"
    assert re.fullmatch(r"--http_port=\d{5}", http_port), "of two the later one counts"


@pytest.mark.parametrize(
    ("uri", "message"),
    [("file:///models/two%20words", None), ("s3://models/2", "only file:// can be served")],
)
async def test_a_version_in_a_folder_can_be_served(
    world: World, uri: str, message: str | None
) -> None:
    world.change("predictor", env=[{"name": "STORAGE_URI", "value": uri}])
    if message:
        with pytest.raises(ProcessDied, match=f"{FIRST} cannot run: STORAGE_URI {uri}: {message}"):
            await world.turn()
    else:
        await world.turn()
        assert world.processes.commands[FIRST][-1] == "--mount_dir=/models/two words"


async def test_one_that_never_gets_ready_has_failed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.turn()
    world.status = 503
    world.change("predictor", 10, args=[])
    await world.turn(3)
    assert world.condition() == {"type": "Ready", "status": "Unknown"}
    monkeypatch.setattr(module, "START_TIMEOUT", -1)
    await world.turn()
    failed = {"type": "Ready", "status": "False", "reason": "RevisionFailed"}
    assert world.condition() == failed


async def test_what_is_needed_again_while_it_stops_is_started_afterwards(world: World) -> None:
    await world.turn()
    world.change("predictor", args=[])
    await world.turn()
    world.change("predictor", 0)  # on what is rolled out: KServe takes it back
    await world.turn()
    await world.stopped()
    await world.turn()
    assert [what for what, name in world.processes.done if name == FIRST] == [
        "start", "stop", "start",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("env", [{"name": "WITHOUT_A_VALUE"}]),
        ("env", [{"value": "without a name"}]),
        ("env", [{"name": "STORAGE_URI", "value": "file://["}]),
        ("args", None),
    ],
)
async def test_what_cannot_be_started_has_failed_and_leaves_no_trace(
    world: World, field: str, value: object
) -> None:
    await world.turn()
    world.change("predictor", 10, **{field: value})
    await world.turn()
    assert "cannot run" in world.service._failures[SECOND]
    world.change("predictor", env=[], args=[])
    await world.turn()
    await world.stopped()
    assert ("stop", SECOND) in world.processes.done
