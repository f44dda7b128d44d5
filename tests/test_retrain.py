"""Retraining on new images, and comparing versions: from a folder of images to a verdict."""

import csv
import dataclasses
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.image import draw
from predictor import artifact
from tests import runs, versions
from tests.synthetic import digits
from training import compare, data, evaluate, incoming, retrain
from training.__main__ import main
from training.checkpoint import Checkpoint
from training.data import Digits
from training.publish import publish
from training.store import Store

WIDE = [
    "--overall", "0.6", "--per-digit", "0.95", "--accepted", "0.6",
    "--calibration", "0.95", "--slower", "50",
]  # fmt: skip
SMALL = ["--network", "plain", "--epochs", "4", "--batch-size", "32", "--threads", "1"]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store with version 1, trained on made-up digits."""

    def load_training(directory: Path, **_: Any) -> tuple[Digits, Digits]:
        return digits(256, seed=1), digits(200, seed=2)

    monkeypatch.setattr(data, "load_training", load_training)
    monkeypatch.setattr(data, "load_test", lambda directory: digits(64, seed=3))
    monkeypatch.setattr(evaluate, "PROBES", 2)
    run, models = str(tmp_path / "first"), tmp_path / "mnist"
    threads = torch.get_num_threads()
    assert main(["train", "--run", run, "--data", "unused", *SMALL]) == 0
    assert main(["evaluate", "--run", run, "--data", "unused"]) == 0
    assert main(["publish", "--run", run, "--store", str(models)]) == 0
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(mode=False)
    return models


def worsened(store: Path, tmp_path: Path) -> None:
    """Publish version 2: like version 1, with a network that is fast and knows nothing."""
    (tmp_path / "first/model.pt2").write_bytes(versions.linear_graph())
    publish(tmp_path / "first", Store(str(store)))


@pytest.fixture
def corrections(tmp_path: Path) -> Path:
    """A folder of labelled images."""
    folder = tmp_path / "corrections"
    folder.mkdir()
    random = np.random.default_rng(9)
    with (folder / "labels.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "label"])
        for index in range(40):
            page = 255 - draw(random, index % 10, (120, 120), 8)
            Image.fromarray(page).save(folder / f"{index}.png")
            rows.writerow([f"{index}.png", index % 10])
    return folder


def retrained(store: Path, new: Path, tmp_path: Path, *limits: str) -> int:
    run = str(tmp_path / "second")
    return main(
        ["retrain", str(new), "--store", str(store), "--run", run, "--data", "unused", *limits]
    )


@pytest.fixture
def lenient(monkeypatch: pytest.MonkeyPatch) -> None:
    """So few new images decide nothing: the gate looks at the old ones alone."""
    verdict = compare.verdict
    monkeypatch.setattr(retrain, "verdict", lambda *a, new, **k: verdict(*a, **k))


def test_what_passes_the_gate_is_published(
    store: Path,
    corrections: Path,
    lenient: None,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert retrained(store, corrections, tmp_path, *WIDE) == 0
    report = (tmp_path / "second/report.md").read_text(encoding="utf-8")
    assert f"Judged by version 1 of {store}.\n\nGood enough.\n" in report
    assert f"STORAGE_URI={(store / '2').as_uri()}/" in capsys.readouterr().out
    published = artifact.load(store / "2").metadata
    assert len(published.training.data) == 3, "old, held-out and new digits"
    assert "new images, held out" in [metrics.dataset for metrics in published.metrics]
    card = (store / "2/MODEL.md").read_text(encoding="utf-8")
    assert re.search(r"^\| new images, held out \| \d+ \| \d", card, re.MULTILINE)
    assert "python -m training retrain" in card
    assert "python -m training train" not in card


@pytest.mark.parametrize("production", [(), ("--production", "1")])
def test_what_a_version_was_trained_on_is_nothing_new(
    store: Path,
    corrections: Path,
    lenient: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    production: tuple[str, ...],
) -> None:
    """Every week without a correction, and after one who was killed when it was published."""
    assert retrained(store, corrections, tmp_path, *WIDE) == 0
    monkeypatch.setattr(retrain, "train_on", None)
    assert retrained(store, corrections, tmp_path, *WIDE, *production) == 0
    assert "Nothing new: version 2 was trained on these" in capsys.readouterr().out
    assert not (store / "3").exists()


def test_what_another_version_was_trained_on_is_new_if_that_was_earlier_or_of_other_settings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    images = digits(4, seed=8)

    def made(version: int, epochs: int, *of: str) -> Any:
        training = SimpleNamespace(configuration={"epochs": epochs}, data=dict.fromkeys(of, of[0]))
        return SimpleNamespace(version=version, training=training)

    known = [made(1, 4, images.digest), made(2, 4, "old"), made(3, 5, images.digest)]
    store: Any = SimpleNamespace(versions=lambda: [each.version for each in known])
    monkeypatch.setattr(
        retrain, "load", lambda _, version: SimpleNamespace(metadata=known[version - 1])
    )
    assert retrain._same(store, known[1], images) is None
    known.append(made(4, 4, images.digest))
    assert retrain._same(store, known[1], images) == 4


def test_of_two_retrainings_at_once_one_publishes(
    store: Path,
    corrections: Path,
    lenient: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def evaluated(*arguments: Any, **flags: Any) -> None:
        monkeypatch.setattr(retrain, "evaluate", evaluate.evaluate)
        assert retrained(store, corrections, tmp_path / "other", *WIDE) == 0
        evaluate.evaluate(*arguments, **flags)

    monkeypatch.setattr(retrain, "evaluate", evaluated)
    assert retrained(store, corrections, tmp_path, *WIDE) == 0
    assert Store(str(store)).versions() == [1, 2]
    assert capsys.readouterr().out.endswith("\nNothing new: version 2 was trained on these\n")


def test_what_fails_the_gate_is_not_published(
    store: Path, corrections: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is better than production, and far slower."""
    worsened(store, tmp_path)
    before = {path: path.read_bytes() for path in store.rglob("*") if path.is_file()}
    assert retrained(store, corrections, tmp_path) == 3
    told = capsys.readouterr().out
    assert "Not good enough: " in told
    assert re.search(r"overall \| passed \| \d+ lost and 1\d\d won", told)
    assert re.search(r"speed \| \*\*failed", told)
    held_out = re.search(r"(\d+) of these held out", told)
    assert held_out
    judged = rf"new images.*mistakes: \d+ of {held_out[1]}, "
    assert re.search(judged, told), "those that it was trained on prove nothing"
    assert {path: path.read_bytes() for path in store.rglob("*") if path.is_file()} == before


def test_what_was_interrupted_after_training_is_not_trained_again(
    store: Path, corrections: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(retrain, "verdict", interrupt)
        assert retrained(store, corrections, tmp_path) == 130
    trained: list[object] = []
    monkeypatch.setattr(Checkpoint, "write", lambda *state: trained.append(state))
    assert retrained(store, corrections, tmp_path, "--overall", "0.0001") == 3
    assert trained == []
    assert not (tmp_path / "second/checkpoint.pt").exists()


def test_bad_new_images_are_refused_before_any_training(
    store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    read = mock.Mock(side_effect=incoming.read)
    monkeypatch.setattr(incoming, "read", read)
    (tmp_path / "empty").mkdir()
    assert retrained(store, tmp_path / "empty", tmp_path) == 1
    assert [of_set.name for of_set in read.call_args.kwargs["known"]] == [
        "made up 1", "made up 2", "made up 3",
    ]  # fmt: skip
    assert "labels.csv" in capsys.readouterr().err
    assert not (tmp_path / "second").exists()
    assert [entry.name for entry in store.iterdir() if entry.name.isdecimal()] == ["1"]


def test_a_store_that_cannot_be_written_to_is_told_before_any_training(
    store: Path, corrections: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (store / ".claims").rmdir()
    (store / ".claims").touch()
    assert retrained(store, corrections, tmp_path) == 1
    assert f"retrain: {store}: " in capsys.readouterr().err
    assert not (tmp_path / "second").exists()


def test_an_empty_store_is_nothing_to_begin_from(
    corrections: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert retrained(tmp_path / "mnist", corrections, tmp_path) == 1
    assert "holds no version to begin from" in capsys.readouterr().err


@pytest.mark.parametrize(("flags", "version"), [((), 2), (("--production=1",), 1)])
def test_the_version_to_begin_from_is_the_latest_or_the_one_that_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: tuple[str, ...], version: int
) -> None:
    store = tmp_path / "mnist"
    for _ in range(2):
        publish(runs.write(tmp_path / "run"), Store(str(store)))
    assert retrained(store, tmp_path, tmp_path, *flags) == 1
    assert f"version {version} " in capsys.readouterr().err


def test_a_version_compares_well_with_itself_and_with_a_worse_one(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--store", str(store), "--data", "unused", *WIDE]
    assert main(["compare", "1", "1", *flags]) == 0
    assert "Good enough." in capsys.readouterr().out
    assert main(["compare", "1", "1", "--store", str(store), "--data", "unused"]) == 3

    worsened(store, tmp_path)
    assert main(["compare", "1", "2", *flags]) == 3
    capsys.readouterr()
    main(["compare", "2", "1", *flags])  # which is slower, too
    assert re.search(r"overall \| passed \| 0 lost and [1-9]", capsys.readouterr().out)


def test_a_version_of_another_making_or_damaged_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, flags = tmp_path / "mnist", ["--store", str(tmp_path / "mnist"), "--data", "unused"]
    publish(runs.write(tmp_path / "run"), Store(str(folder)))
    assert main(["compare", "1", "1", *flags]) == 1
    assert "version 1 is not of `python -m training`" in capsys.readouterr().err
    (folder / "1/model.pt2").write_bytes(b"damaged")
    assert main(["compare", "1", "1", *flags]) == 1
    assert f"compare: version 1 of {folder}: " in capsys.readouterr().err


def test_another_held_out_set_is_not_compared_on(
    store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    other = digits(256, seed=4), dataclasses.replace(digits(200, seed=5), name="made up 2")
    monkeypatch.setattr(data, "load_training", lambda directory, **_: other)
    assert main(["compare", "1", "1", "--store", str(store), "--data", "elsewhere"]) == 1
    assert "was not trained on the data in elsewhere" in capsys.readouterr().err
