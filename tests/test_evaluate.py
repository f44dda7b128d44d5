"""Evaluating a run: what is measured, on what, and what is refused."""

import functools
import hashlib
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast
from unittest import mock

import numpy as np
import pytest
import torch
from PIL import Image

from predictor.metadata import Metrics, Provenance
from predictor.runtime import Graph
from tests.digits import encode, write_uploads
from tests.synthetic import digits
from tests.versions import served
from training import data, evaluate, figures, probes
from training.data import DataError, Digits
from training.measure import calibration_error, measure
from training.network import export
from training.robustness import DISTURBANCES
from training.run import Run, RunError, read_metrics, read_reference
from training.uploads import read_uploads
from transformer.image import read

TRAINING, VALIDATION, TEST = (digits(40, seed=seed) for seed in (1, 2, 3))


@pytest.fixture(autouse=True, scope="module")
def made_up_data() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "load_training", lambda directory, **_: (TRAINING, VALIDATION))
        patch.setattr(data, "load_test", lambda directory: TEST)
        patch.setattr(evaluate, "PROBES", 3)
        patch.setattr(evaluate, "DISTURBED", 30)
        yield


@functools.cache
def graph_of(seed: int) -> bytes:
    """A linear network of random weights."""
    network = served("linear")
    torch.manual_seed(seed)
    for weights in network.parameters():
        weights.normal_(std=0.2)
    return export(network)


def write_run(directory: Path, *, seed: int = 1, graph_seed: int = 0, **settings: Any) -> Path:
    """A run that is not evaluated."""
    provenance = Provenance(
        seed=seed,
        configuration={"seed": seed, "validation_share": 0.1, "epochs": 2, **settings},
        data={TRAINING.name: TRAINING.digest, VALIDATION.name: VALIDATION.digest},
        code="2" * 64,
        libraries={"torch": "2.13.0"},
    )
    run = Run(
        temperature=1.5, threshold=0.11, multiply_adds=7840, parameters=7850, provenance=provenance
    )
    run.write(directory, graph=graph_of(graph_seed))
    return directory


def says(*answers: Sequence[float], accepted: Sequence[bool]) -> Graph:
    """A graph that gives these probabilities of 0, 1 and 2, and none of any other digit."""
    rows = torch.zeros(len(answers), 10)
    rows[:, :3] = torch.tensor(answers)
    return lambda images: (rows.numpy(), np.array(accepted))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run")


# A data set


@pytest.fixture
def measured() -> dict[str, Any]:
    """Of four images: a sure right one, a right one, a sure wrong one, a wrong one."""
    graph = says(
        (0.98, 0.02, 0), (0.3, 0.7, 0), (0.05, 0.95, 0), (0.5, 0.1, 0.4),
        accepted=[True, True, True, False],
    )  # fmt: skip
    four = Digits("four", torch.zeros(4, 28, 28, dtype=torch.uint8), torch.tensor([0, 1, 0, 2]))
    return measure(graph, four).values


def test_accuracy_and_recall_count_what_was_read_right(measured: dict[str, Any]) -> None:
    assert measured["accuracy"] == 0.5
    assert measured["recall"] == [0.5, 1, 0, *[None] * 7]
    assert measured["confusion"][0][:3] == [1, 1, 0]
    assert measured["confusion"][2][:3] == [1, 0, 0]


def test_accepted_is_what_the_graph_says(measured: dict[str, Any]) -> None:
    assert measured["accepted"] == 0.75
    assert measured["accuracy_of_accepted"] == pytest.approx(2 / 3)


def test_confidence_is_told_apart_by_right_and_wrong(measured: dict[str, Any]) -> None:
    right, wrong = measured["confidence_when_right"], measured["confidence_when_wrong"]
    assert right == pytest.approx({"mean": 0.84, "median": 0.7, "at_least_0.9": 0.5})
    assert wrong == pytest.approx({"mean": 0.725, "median": 0.5, "at_least_0.9": 0.5})


def test_reliability_has_a_row_for_each_bin_of_confidence(measured: dict[str, Any]) -> None:
    rows = measured["reliability"]
    assert [row["images"] for row in rows] == [0] * 7 + [1, 0, 0, 1, 0, 0, 0, 2]
    assert rows[14] == {"images": 2, "confidence": pytest.approx(0.965), "accuracy": 0.5}
    assert rows[0] == {"images": 0, "confidence": None, "accuracy": None}


def test_the_calibration_error_is_that_of_the_reliability(measured: dict[str, Any]) -> None:
    gaps = [
        row["images"] * abs(row["accuracy"] - row["confidence"])
        for row in measured["reliability"]
        if row["images"]
    ]
    assert measured["calibration_error"] == pytest.approx(sum(gaps) / 4)


def test_where_no_answer_is_wrong_there_is_no_confidence_of_wrong_ones() -> None:
    one = Digits("one", torch.zeros(1, 28, 28, dtype=torch.uint8), torch.tensor([1]))
    values = measure(says((0.1, 0.9, 0), accepted=[False]), one).values
    assert values["confidence_when_wrong"] is None
    assert values["accuracy_of_accepted"] is None


def test_the_calibration_error_ignores_which_images_are_right_within_a_bin() -> None:
    confidence = torch.tensor([0.61, 0.62, 0.63, 0.64])
    right = torch.tensor([True, False, True, False])
    assert calibration_error(confidence, right) == pytest.approx(0.125)
    assert calibration_error(confidence, right.flip(0)) == pytest.approx(0.125)


# A run


class Evaluated(NamedTuple):
    run: Path
    uploads: Path
    metrics: tuple[Metrics, ...]


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory, made_up_data: None) -> Evaluated:
    directory = tmp_path_factory.mktemp("evaluated")
    run, folder = write_run(directory / "run"), write_uploads(directory / "scans")
    return Evaluated(run, folder, evaluate.evaluate(run, directory, uploads=folder))


def test_a_run_is_measured_on_these_in_this_order(evaluated: Evaluated) -> None:
    assert [(of_set.dataset, of_set.images) for of_set in evaluated.metrics] == [
        ("made up 3", 40),
        ("made up 2", 40),
        (
            "scans, half for scoring, through the transformer",
            len(read_uploads(evaluated.uploads, 1)),
        ),
        ("made up 3, disturbed", 30),
        ("outliers", 3 * len(probes.KINDS)),
    ]
    assert read_metrics(evaluated.run) == evaluated.metrics
    assert "NaN" not in (evaluated.run / "metrics.json").read_text(encoding="utf-8")


def test_the_reference_is_of_the_validation_set_and_never_of_the_test_set(
    evaluated: Evaluated,
) -> None:
    reference = read_reference(evaluated.run)
    assert (reference.dataset, reference.images) == (VALIDATION.name, len(VALIDATION))
    assert reference.digest == VALIDATION.digest != TEST.digest


def test_the_files_are_the_same_each_time(evaluated: Evaluated) -> None:
    def files() -> dict[str, bytes]:
        paths = evaluated.run.rglob("*")
        return {path.name: path.read_bytes() for path in paths if path.is_file()}

    first = files()
    assert {"metrics.json", "reference.json", "MODEL.md", "confusion.png"} <= set(first)
    evaluate.evaluate(evaluated.run, Path("unused"), uploads=evaluated.uploads)
    assert files() == first


def test_the_mistakes_of_the_test_set_and_the_uploads_are_drawn(
    evaluated: Evaluated, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = mock.Mock(return_value={})
    monkeypatch.setattr(figures, "draw", drawn)
    monkeypatch.setattr(evaluate, "_measure_disturbed", lambda *_: evaluated.metrics[-2])
    monkeypatch.setattr(evaluate, "_measure_outliers", lambda *_: evaluated.metrics[-1])
    monkeypatch.setattr(evaluate, "write_results", lambda *_, **__: None)
    monkeypatch.chdir(evaluated.uploads)
    test, _, uploads, *_ = evaluate.evaluate(evaluated.run, Path("unused"), uploads=Path())
    assert uploads.dataset == evaluated.metrics[2].dataset
    _, mistakes = drawn.call_args.args
    assert {name: len(found) for name, found in mistakes.items()} == {
        name: round(of_set.images * (1 - cast("float", of_set.values["accuracy"])))
        for name, of_set in (("made up 3", test), ("scans", uploads))
    }


def test_training_again_forgets_what_was_measured(run: Path) -> None:
    for stale in ("metrics.json", "reference.json", "MODEL.md"):
        (run / stale).write_bytes(b"of before")
    Run.read(run).write(run, graph=b"new")
    assert sorted(entry.name for entry in run.iterdir()) == ["model.pt2", "run.json"]


def test_what_lies_in_the_directory_of_a_run_stays(evaluated: Evaluated, tmp_path: Path) -> None:
    """Somebody's own project, with ``--run .``."""
    own = tmp_path / "figures/own.png"
    own.parent.mkdir()
    own.write_bytes(b"own")
    graph = (evaluated.run / "model.pt2").read_bytes()
    Run.read(evaluated.run).write(tmp_path, graph=graph)
    evaluate.evaluate(tmp_path, Path("unused"))
    assert own.read_bytes() == b"own"


def test_digits_are_disturbed_by_every_disturbance_from_the_same_accuracy(
    evaluated: Evaluated,
) -> None:
    disturbed = evaluated.metrics[-2]
    values: Any = disturbed.values
    graph = evaluate.graph_of(evaluated.run)
    whole = measure(graph, Digits("first", TEST.images[:30], TEST.labels[:30])).values["accuracy"]
    for name, disturbance in DISTURBANCES.items():
        assert values[name][f"{disturbance.neutral:g}"] == whole
    assert disturbed.digest == Digits("first", TEST.images[:30], TEST.labels[:30]).digest


def test_outliers_are_counted_by_kind(evaluated: Evaluated) -> None:
    outliers = evaluated.metrics[-1]
    values: Any = outliers.values
    assert list(values) == list(probes.KINDS)
    assert values["blank pages"] == {
        "images": 3, "flagged_by_transformer": 3, "flagged_by_model": 0, "flagged": 3,
    }  # fmt: skip
    files = probes.make(TEST.images.numpy(), 3).values()
    every = b"".join(file for of_kind in files for file in of_kind)
    assert outliers.digest == hashlib.sha256(every).hexdigest()


def test_a_run_trained_on_other_data_is_refused(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = (digits(40, seed=4), VALIDATION)
    monkeypatch.setattr(data, "load_training", lambda directory, **_: other)
    with pytest.raises(RunError, match="was not trained on the data in elsewhere: train again"):
        evaluate.evaluate(run, Path("elsewhere"))
    assert not (run / "metrics.json").exists()


# Seeds


def test_the_spread_over_seeds_is_that_of_their_graphs_on_the_test_set(
    run: Path, tmp_path: Path
) -> None:
    others = [write_run(tmp_path / str(seed), seed=seed, graph_seed=seed) for seed in (2, 7)]
    test, validation, *_ = evaluate.evaluate(run, tmp_path, seeds=others)
    spread: Any = test.values["seeds"]
    assert spread["seeds"] == [1, 2, 7]
    for name in ("accuracy", "calibration_error"):
        each: list[Any] = [
            measure(evaluate.graph_of(path), TEST).values[name] for path in (run, *others)
        ]
        assert len(set(each)) > 1
        assert spread[name]["values"] == each
        assert spread[name]["mean"] == pytest.approx(statistics.mean(each))
        assert spread[name]["standard_deviation"] == pytest.approx(np.std(each, ddof=1))
    assert "seeds" not in validation.values


@pytest.mark.parametrize(
    ("seed", "settings", "problem"),
    [
        (2, {"epochs": 3}, "another epochs: train it with the same settings and another seed"),
        (2, {"dropout": 0.1, "epochs": 3}, "another dropout, epochs"),
        (1, {}, "repeats seed 1: give it another one"),
    ],
)
def test_runs_must_differ_in_their_seed_alone(
    run: Path, tmp_path: Path, seed: int, settings: dict[str, Any], problem: str
) -> None:
    other = write_run(tmp_path / "other", seed=seed, **settings)
    with pytest.raises(RunError, match=problem):
        evaluate.evaluate(run, tmp_path, seeds=[other])
    assert not (run / "metrics.json").exists()


def test_a_run_named_twice_repeats_its_seed(run: Path, tmp_path: Path) -> None:
    other = write_run(tmp_path / "other", seed=2)
    with pytest.raises(RunError, match="other repeats seed 2"):
        evaluate.evaluate(run, tmp_path, seeds=[other, other])


# Uploads


def test_uploads_have_accuracy_and_the_status_of_each_answer(evaluated: Evaluated) -> None:
    values: Any = evaluated.metrics[2].values
    images = len(read_uploads(evaluated.uploads, 1))
    assert list(values["status"]) == ["ok", "uncertain", "multiple", "no_digit"]
    assert sum(values["status"].values()) == images
    assert values["accepted"] == values["status"]["ok"] / images
    graph = evaluate.graph_of(evaluated.run)
    right = 0
    for upload in read_uploads(evaluated.uploads, 1):
        probabilities, _ = graph(read(upload.content).pixels[None])
        right += int(probabilities.argmax()) == upload.label
    assert values["accuracy"] == right / images


def test_an_upload_is_accepted_if_the_graph_is_certain(tmp_path: Path) -> None:
    folder = write_uploads(tmp_path / "scans")
    certain = [number % 3 == 0 for number in range(len(read_uploads(folder, 1)))]
    graph = says(*[(0.9, 0.1, 0)] * len(certain), accepted=certain)
    values: Any = evaluate._measure_uploads(graph, folder)[0].values
    assert 0 < values["status"]["uncertain"] == certain.count(False)
    assert values["accepted"] == sum(certain) / len(certain)


def test_the_digest_of_uploads_is_of_their_files_and_labels(run: Path, tmp_path: Path) -> None:
    folder = write_uploads(tmp_path / "scans")
    graph = evaluate.graph_of(run)
    first = read_uploads(folder, 1)[0]

    def digest() -> str:
        return evaluate._measure_uploads(graph, folder)[0].digest

    before = digest()
    assert digest() == before
    table = folder / "labels.csv"
    row, other = f"\n{first.name},{first.label}", f"\n{first.name},{(first.label + 1) % 10}"
    table.write_text(table.read_text(encoding="utf-8").replace(row, other), encoding="utf-8")
    relabelled = digest()
    assert relabelled != before
    (folder / first.name).write_bytes(encode(Image.new("L", (60, 60), 255)))
    assert digest() not in (before, relabelled)


def test_an_upload_without_a_digit_is_answered_wrong(run: Path, tmp_path: Path) -> None:
    folder = write_uploads(tmp_path / "scans")
    for upload in read_uploads(folder, 1):
        (folder / upload.name).write_bytes(encode(Image.new("L", (60, 60), 255)))
    metrics, mistakes = evaluate._measure_uploads(evaluate.graph_of(run), folder)
    values: Any = metrics.values
    assert mistakes == []
    assert values["status"]["no_digit"] == len(read_uploads(folder, 1))
    assert (values["accuracy"], values["accepted"], values["calibration_error"]) == (0, 0, 0)


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        (None, "labels.csv: the file is missing"),
        ("image,digit\n0.png,1\n", "found image, digit"),
        ("image,label\n0.png,12\n", "line 2, 0.png: the label must be 0 to 9, found '12'"),
        ("image,label\n0.png\n", "line 2, 0.png: the label must be 0 to 9, found ''"),
        ("image,label\nmissing.png,1\n1.png,1\n2.png,1\n", "line 2, missing.png: the file is mis"),
        ("image,label\n1.png,1\n", "half for scoring"),
    ],
)
def test_a_folder_that_is_not_as_it_should_be_is_refused(
    run: Path, tmp_path: Path, table: str | None, problem: str
) -> None:
    folder = write_uploads(tmp_path / "scans")
    if table is None:
        (folder / "labels.csv").unlink()
    else:
        (folder / "labels.csv").write_text(table, encoding="utf-8")
    with pytest.raises(DataError, match=problem):
        evaluate.evaluate(run, tmp_path, uploads=folder)
    assert not (run / "metrics.json").exists()


def test_an_upload_that_does_not_decode_is_named(run: Path, tmp_path: Path) -> None:
    folder = write_uploads(tmp_path / "scans")
    name = read_uploads(folder, 1)[0].name
    (folder / name).write_bytes(b"no image")
    with pytest.raises(DataError, match=f"{name}: not an image"):
        evaluate.evaluate(run, tmp_path, uploads=folder)
