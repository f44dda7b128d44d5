"""Fixtures that several test files share."""

import signal
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, settings
from schemathesis.pytest.plugin import SchemathesisFunction
from xdist.scheduler import LoadScopeScheduling

from serving.app import App
from tests import apps, programs, releases, runs
from tests.echo import Echo

# A shell's background jobs ignore Ctrl-C, and those of nohup that the terminal is closed. Programs
# that tests stop in these ways would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
# Time is measured in the benchmarks; a busy machine is no defect.
settings.register_profile("here", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("long", settings.get_profile("here"), max_examples=3000)
settings.load_profile("here")


class _Scheduling(LoadScopeScheduling):  # type: ignore[misc]
    """Of the processes that ``make test`` runs tests in, one alone has the files that start
    ``standalone`` again and again.

    It chooses ports for its programs before they listen: two at a time could choose the same.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return "standalone" if _runs_standalone(file) else file


@cache
def _runs_standalone(file: str) -> bool:
    text = (programs.ROOT / file).read_text(encoding="utf-8")
    return "programs.service(" in text or '"standalone"' in text


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    return _Scheduling(config, log)


def pytest_itemcollected(item: pytest.Item) -> None:
    if isinstance(item, SchemathesisFunction) and item.parent:
        # From its ids pytest 9.2 leaves out the operation.
        item._id = item.parent.id.child(item.name)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of tests with the same id xdist would run one, and not say so."""
    count = Counter(item.nodeid for item in items)
    if twice := [name for name, times in count.items() if times > 1]:
        raise pytest.UsageError(f"several tests have the id {twice[0]}")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[programs.Program]:
    """The InferenceService as ``make serve`` runs it: predictor, transformer, Envoy."""
    with programs.service(tmp_path_factory.mktemp("service")) as running:
        yield running


@pytest.fixture(scope="session")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[programs.Program]:
    """The predictor alone, with the shipped version 1."""
    with programs.predictor(tmp_path_factory.mktemp("predictor")) as running:
        yield running


@pytest.fixture(scope="module")
def transformer(
    tmp_path_factory: pytest.TempPathFactory, predictor: programs.Program
) -> Iterator[programs.Program]:
    """Over HTTP, without Envoy between."""
    folder = tmp_path_factory.mktemp("transformer")
    with programs.transformer(folder, f"127.0.0.1:{predictor.http_port}") as running:
        yield running


@pytest.fixture
def client(service: programs.Program) -> Iterator[httpx.Client]:
    """A client of the service."""
    with httpx.Client(base_url=service.url, timeout=60) as client:
        yield client


@pytest.fixture(scope="session")
def s3_server() -> Iterator[runs.S3]:
    """A server of S3's protocol on loopback."""
    with runs.S3().running() as running:
        yield running


@pytest.fixture
def echo() -> Echo:
    return Echo()


@pytest.fixture
def echo_app(echo: Echo) -> App:
    return apps.app(echo)


@pytest.fixture
async def echo_client(echo_app: App) -> AsyncIterator[httpx.AsyncClient]:
    async with apps.client(echo_app) as client:
        yield client


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[releases.World]:
    """A cluster's API with the service in it, and the rollout command at work on it."""
    with releases.world(tmp_path, monkeypatch) as made:
        yield made


@pytest.fixture
def traffic(world: releases.World, monkeypatch: pytest.MonkeyPatch) -> releases.Traffic:
    """Made-up traffic that follows the split."""
    return releases.follow(world, monkeypatch)
