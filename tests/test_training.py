"""The commands of training, from made-up digits to a version, and the version that is shipped."""

import hashlib
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.data import MNIST
from predictor import artifact
from tests.digits import needs_mnist
from tests.programs import ROOT
from tests.synthetic import digits
from training import data
from training.__main__ import main
from training.config import Config
from training.data import DataError, Digits
from training.measure import measure
from training.run import Run, RunError, code_digest

MODELS = Path(__file__).parents[1] / "models/mnist"


@pytest.fixture
def made_up_data(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The commands train and test on made-up digits."""

    def load_training(directory: Path, **_: Any) -> tuple[Digits, Digits]:
        return digits(256, seed=1), digits(64, seed=2)

    monkeypatch.setattr(data, "load_training", load_training)
    monkeypatch.setattr(data, "load_test", lambda directory: digits(64, seed=3))
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)  # training sets these for its process
    torch.use_deterministic_algorithms(mode=False)


@pytest.fixture
def run(tmp_path: Path, made_up_data: None) -> Path:
    """A run, trained and evaluated."""
    directory = tmp_path / "run"
    flags = ["--run", str(directory), "--data", "unused"]
    assert main(["train", *flags, "--epochs", "4", "--batch-size", "32", "--threads", "1"]) == 0
    assert main(["evaluate", *flags]) == 0
    return directory


def test_a_malformed_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(RunError, match=r"run\.json is malformed"):
        Run.read(tmp_path)


# The commands


def test_missing_data_is_one_line_and_exit_status_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def load_training(directory: Path, **_: Any) -> None:
        raise DataError(f"{directory}/train-images is missing")

    monkeypatch.setattr(data, "load_training", load_training)
    assert main(["train", "--run", str(tmp_path / "run"), "--data", "nowhere"]) == 1
    assert capsys.readouterr().err == (
        "python -m training train: nowhere/train-images is missing\n"
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("command", "trained", "goes_on"),
    [
        (["train"], True, True),
        (["train"], False, False),
        (["retrain", "new"], True, True),
        (["evaluate"], True, False),
    ],
)
def test_an_interruption_says_how_to_go_on_if_there_is_something_to_go_on_from(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    *,
    command: list[str],
    trained: bool,
    goes_on: bool,
) -> None:
    if trained:
        (tmp_path / "checkpoint.pt").touch()

    def stopped(*_: Any, **__: Any) -> None:
        signal.raise_signal(signal.SIGTERM)  # of a pod that is stopped

    monkeypatch.setattr(f"training.__main__.{command[0]}", stopped)
    assert main([*command, "--run", str(tmp_path)]) == 130
    assert ("what was trained goes on" in capsys.readouterr().err) == goes_on


def test_a_training_that_was_interrupted_does_not_go_on_with_other_sources(
    made_up_data: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The version would name sources that half of its training knew nothing of."""

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    train = ["train", "--run", str(tmp_path / "run"), "--network", "plain", "--epochs", "1"]
    with monkeypatch.context() as patched:
        patched.setattr("training.train.calibrate", interrupt)
        assert main(train) == 130
    monkeypatch.setattr("training.train.code_digest", lambda: "0" * 64)
    assert main(train) == 1
    assert "is of an unfinished training with other code: " in capsys.readouterr().err


@pytest.mark.usefixtures("made_up_data")
def test_nothing_is_trained_in_the_folder_of_a_version(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "model.json").touch()
    assert main(["train", "--run", str(tmp_path)]) == 1
    assert f"{tmp_path} is a published version, which never changes" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["model.json"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA")
def test_a_device_that_is_not_there_is_no_choice(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["train", "--device", "cuda"])
    assert "invalid choice: 'cuda'" in capsys.readouterr().err


def test_the_published_version_and_its_digest_are_printed(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    models = tmp_path / "mnist"
    assert main(["publish", "--run", str(run), "--store", str(models)]) == 0
    digest = hashlib.sha256((models / "1/model.json").read_bytes()).hexdigest()
    assert capsys.readouterr().out == (
        f"STORAGE_URI={(models / '1').as_uri()}/\nMODEL_DIGEST={digest}\n"
    )


@pytest.mark.parametrize("command", ["train", "evaluate", "publish", "retrain"])
def test_help_shows_an_example_and_the_defaults(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="0"):
        main([command, "--help"])
    shown = capsys.readouterr().out
    assert f"example: python -m training {command} " in shown
    assert "(default: runs/latest)" in shown


def test_without_its_packages_it_says_how_to_install_them() -> None:
    code = (
        "import runpy, sys; sys.modules['matplotlib'] = None; "
        "runpy.run_module('training', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == (
        "training: first python -m pip install -c constraints.txt -e '.[training]'\n"
    )


def test_the_code_digest_covers_the_sources(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.run.__file__", str(tmp_path / "run.py"))
    (tmp_path / "a.py").write_text("1\n", encoding="utf-8")
    first = code_digest()
    (tmp_path / "a.py").write_bytes(b"1\r\n")  # as git checks it out on Windows
    assert code_digest() == first
    (tmp_path / "a.py").write_text("2\n", encoding="utf-8")
    assert code_digest() != first


# The shipped versions


@pytest.mark.parametrize("version", [1, 2])
def test_a_shipped_version_can_be_served(version: int) -> None:
    directory = MODELS / str(version)
    metadata = artifact.load(directory).metadata
    files = [path for path in directory.rglob("*") if path.is_file()]
    assert (metadata.name, metadata.version) == ("mnist", version)
    assert sum(path.stat().st_size for path in files) < 5_000_000
    names = {path.relative_to(directory).as_posix() for path in files}
    assert set(metadata.files) | {"model.json"} == names


@needs_mnist
@pytest.mark.parametrize(("version", "least"), [(1, 0.993), (2, 0.9955)])
def test_a_shipped_version_is_as_good_as_it_says(version: int, least: float) -> None:
    model = artifact.load(MODELS / str(version))
    test = data.load_test(MNIST)
    training, validation = data.load_training(
        MNIST, validation_share=Config().validation_share, seed=model.metadata.training.seed
    )
    assert model.metadata.training.data == {d.name: d.digest for d in (training, validation)}
    for said, digits_of in zip(model.metadata.metrics, (test, validation), strict=False):
        found = measure(model.graph, digits_of)
        assert (said.dataset, said.digest) == (found.dataset, found.digest)
        assert found.values["accuracy"] == said.values["accuracy"]
        assert found.values["confusion"] == said.values["confusion"]
    accuracy = model.metadata.metrics[0].values["accuracy"]
    assert isinstance(accuracy, float)
    assert accuracy >= least
