"""The images, once they are built: ``make images ENGINE=buildah``, then ``make try``."""

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from benchmarks.data import MNIST
from containers.__main__ import NAMES
from tests import images, releases, runs
from tests.digits import needs_mnist
from tests.programs import ROOT, Program, handles

pytestmark = pytest.mark.skipif(
    "IMAGES" not in os.environ or os.geteuid() != 0,
    reason="needs root and images built by buildah: make images ENGINE=buildah, then make try",
)
OWNER = 65532
SEVEN = (ROOT / "docs/seven.png").read_bytes()


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    folder = tmp_path_factory.mktemp("predictor")
    with images.served("predictor", folder, env=("MODEL_VERSION=1",)) as running:
        running.wait_for("/v2/models/mnist/ready")
        yield running


@pytest.fixture(scope="module")
def transformer(tmp_path_factory: pytest.TempPathFactory, predictor: Program) -> Iterator[Program]:
    folder = tmp_path_factory.mktemp("transformer")
    there = f"--predictor_host=127.0.0.1:{predictor.http_port}"
    with images.served("transformer", folder, there) as running:
        running.wait_for("/")
        yield running


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    """An empty volume that the programs' user may write to."""
    folder = tmp_path / "work"
    folder.mkdir()
    os.chown(folder, OWNER, OWNER)
    # The user must be able to pass through the folders of pytest, too.
    for parent in (tmp_path, *tmp_path.parents[:2]):
        parent.chmod(0o755)
    return folder


def first(running: subprocess.Popen[bytes]) -> psutil.Process:
    """The program itself, which ``unshare`` has started."""
    [program] = psutil.Process(running.pid).children()
    return program


@pytest.mark.parametrize("name", NAMES)
def test_what_it_says_of_itself(name: str) -> None:
    config = images.config(name)
    assert config["User"] == f"{OWNER}:{OWNER}"
    assert config["Entrypoint"] == ["python", "-m", name]
    assert config["Labels"]["org.opencontainers.image.title"] == f"mnist-kserve-{name}"
    assert len(config["Labels"]["org.opencontainers.image.revision"]) == 40


def test_the_predictor_serves_both_versions(predictor: Program, tmp_path: Path) -> None:
    answer = httpx.get(f"{predictor.url}/v2/models/mnist").json()
    assert answer["versions"] == ["1"]
    with images.served("predictor", tmp_path, env=("MODEL_VERSION=2",)) as second:
        second.wait_for("/v2/models/mnist/ready")
        assert httpx.get(f"{second.url}/v2/models/mnist").json()["versions"] == ["2"]


def test_the_predictor_answers(predictor: Program) -> None:
    pixels = {"name": "images", "datatype": "UINT8", "shape": [1, 28, 28], "data": [0] * 784}
    answer = httpx.post(f"{predictor.url}/v2/models/mnist/infer", json={"inputs": [pixels]})
    assert answer.is_success, answer.text
    assert {output["name"] for output in answer.json()["outputs"]} == {"probabilities", "accepted"}


def test_a_seven_is_a_seven(transformer: Program) -> None:
    answer = httpx.post(f"{transformer.url}/predict", files={"images": SEVEN})
    assert answer.json()["predictions"][0]["digit"] == 7


def test_a_large_upload(transformer: Program) -> None:
    padded = SEVEN + bytes(2 * 2**20)
    answer = httpx.post(f"{transformer.url}/predict", files={"images": padded})
    assert answer.json()["predictions"][0]["digit"] == 7


def test_there_is_a_playground(transformer: Program) -> None:
    assert "<canvas" in httpx.get(f"{transformer.url}/playground").text


def test_nobody_can_write_but_to_tmp(predictor: Program) -> None:
    program = first(predictor.process)
    assert program.uids().real == program.gids().real == OWNER
    root = next(
        line.split()[5]
        for line in Path(f"/proc/{program.pid}/mountinfo").read_text().splitlines()
        if line.split()[4] == "/"
    )
    assert "ro" in root.split(",")


def test_there_is_no_pip_no_compiler_and_no_test(predictor: Program) -> None:
    root = Path(f"/proc/{first(predictor.process).pid}/root")
    tool = re.compile(r"g?cc(-[0-9.]+)?|pip[0-9.]*(-.+)?|ensurepip|python-wheels|tests")
    places = [*root.glob("usr/**/*"), *root.glob("venv/**/*")]
    assert len(places) > 1000
    found = [path for path in places if tool.fullmatch(path.name)]
    # Debian has a folder of this name for the library that every program needs.
    assert [str(path) for path in found if path.is_file() or path.name != "gcc"] == []


def test_the_modules_are_compiled(transformer: Program) -> None:
    root = Path(f"/proc/{first(transformer.process).pid}/root")
    modules = [*root.glob("app/**/*.py"), *root.glob("venv/lib/python3*/site-packages/kserve/*.py")]
    assert modules
    for module in modules:
        assert [*(module.parent / "__pycache__").glob(f"{module.stem}.*.pyc")], module


@pytest.mark.parametrize("name", ["predictor", "transformer"])
def test_sigterm_ends_it(name: str, tmp_path: Path) -> None:
    args = ("--predictor_host=127.0.0.1:9",) if name == "transformer" else ()
    with images.served(name, tmp_path, *args, env=("MODEL_VERSION=1",)) as running:
        running.wait_for("/")
        begun = time.monotonic()
        first(running.process).terminate()
        assert running.process.wait(15) == 0
        assert time.monotonic() - begun < 5


@pytest.mark.parametrize("name", NAMES)
def test_sigterm_ends_it_while_it_starts(name: str, tmp_path: Path) -> None:
    with images.started(name, tmp_path / "log", env=("MODEL_VERSION=1",)) as process:
        while not (found := psutil.Process(process.pid).children()):
            assert process.poll() is None
        while not handles(found[0].pid, signal.SIGTERM):
            assert process.poll() is None
        found[0].terminate()
        assert process.wait(15) == 128 + signal.SIGTERM


def test_rollout_takes_a_canary_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "rollout.log"
    with releases.world(tmp_path, monkeypatch) as world:
        assert world.start() == 0
        place = (f"--server={world.server}", "--namespace=default")
        with images.started("rollout", log, *place, "abort") as process:
            assert process.wait(60) == 0, log.read_text()
        assert world.api.traffic[-1] == {"1": 100}


def test_rollout_is_stopped_by_sigterm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "rollout.log"
    with releases.world(tmp_path, monkeypatch) as world:
        assert world.start() == 0
        place = (f"--server={world.server}", "--namespace=default")
        with images.started("rollout", log, *place, "run") as process:
            while "no traffic" not in log.read_text():
                assert process.poll() is None, log.read_text()
                time.sleep(0.1)
            first(process).terminate()
            assert process.wait(15) == 130
    assert "what was done stays as it is" in log.read_text()


def test_training_publishes_a_run(tmp_path: Path, volume: Path) -> None:
    runs.write(volume / "run")
    for path in (volume / "run").rglob("*"):
        os.chown(path, OWNER, OWNER)
    command = ("publish", "--run=/work/run", "--store=/work/mnist")
    assert "MODEL_DIGEST=" in training(tmp_path, *command, volume=volume)
    assert (volume / "mnist/1/model.json").stat().st_uid == OWNER


def test_training_reaches_a_store_of_objects(
    tmp_path: Path, volume: Path, s3_server: runs.S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = s3_server.use(monkeypatch)
    runs.write(volume / "run")
    env = tuple(f"{name}={value}" for name, value in os.environ.items() if name.startswith("AWS_"))
    command = ("publish", "--run=/work/run", f"--store={store}")
    assert "MODEL_DIGEST=" in training(tmp_path, *command, volume=volume, env=env)
    assert "1/model.json" in s3_server.files()


@needs_mnist
def test_training_trains(tmp_path: Path, volume: Path) -> None:
    shutil.copytree(MNIST, volume / "data", copy_function=shutil.copyfile)
    command = (
        "train",
        "--network=plain",
        "--epochs=1",
        "--round-trip-share=0.01",
        "--threads=1",  # two, on a busy machine, wait for each other
        "--data=/work/data",
        "--run=/work/run",
    )
    assert "trained" in training(tmp_path, *command, volume=volume)


def training(folder: Path, *args: str, volume: Path, env: tuple[str, ...] = ()) -> str:
    """What the training's image says; fails if it fails."""
    log = folder / "training.log"
    with images.started("training", log, *args, env=env, volume=volume) as process:
        status = process.wait(600)
    assert status == 0, log.read_text()
    return log.read_text()
