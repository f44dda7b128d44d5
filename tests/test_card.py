"""The model card and its figures: what they show is what was measured."""

import io
import re
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from predictor.metadata import Metrics, Provenance
from serving.scores import Images
from tests.synthetic import digits
from training import card, figures
from training.config import Config
from training.figures import Mistake, worst
from training.measure import measure
from training.probes import KINDS
from training.robustness import DISTURBANCES
from training.run import Run

SEEDS = {
    "seeds": [1, 2, 3],
    "accuracy": {"values": [0.99, 0.98, 0.97], "mean": 0.98, "standard_deviation": 0.01},
    "calibration_error": {
        "values": [0.001, 0.002, 0.006], "mean": 0.003, "standard_deviation": 0.00265,
    },
}  # fmt: skip


def run_of(**settings: Any) -> Run:
    configuration: dict[str, Any] = {
        name: settings.get(name, field.default)
        for name, field in Config.__dataclass_fields__.items()
    }
    return Run(
        temperature=1.25, threshold=0.5, multiply_adds=7840, parameters=7850,
        provenance=Provenance(
            seed=configuration["seed"], configuration=configuration,
            data={"some": "1" * 64, "held out": "6" * 64},
            code="2" * 64, libraries={"torch": "2.13.0"}, hardware="an abacus, torch 2.13.0",
        ),
    )  # fmt: skip


def metrics_of(*, seeds: bool = False, uploads: bool = False) -> tuple[Metrics, ...]:
    """As ``evaluate`` returns them, of a graph that reads the digits 0 to 4 right."""

    def graph(images: Images) -> Any:
        columns = torch.from_numpy(images)[:, 4:24, 4:24:2].float().mean(1)
        probabilities = torch.full((len(images), 10), 0.01)
        read = columns.argmax(1).clamp(0, 4)
        probabilities[torch.arange(len(images)), read] = 0.6 + 0.08 * read
        return probabilities.numpy(), (read < 3).numpy()

    test, validation = (measure(graph, digits(60, seed=seed)) for seed in (3, 2))
    if seeds:
        test = test.model_copy(update={"values": {**test.values, "seeds": SEEDS}})
    metrics = [test, validation]
    if uploads:
        status = {"ok": 3, "uncertain": 1, "multiple": 0, "no_digit": 2}
        values: Any = {
            "accuracy": 0.5, "calibration_error": 0.25, "accepted": 0.5,
            "accuracy_of_accepted": None, "status": status,
        }  # fmt: skip
        name = "scans, of May, half for scoring, through the transformer"
        metrics.append(Metrics(dataset=name, digest="3" * 64, images=6, values=values))
    disturbed: Any = {
        name: {f"{level:g}": 0.1 * i for i, level in enumerate(of.levels)}
        for name, of in DISTURBANCES.items()
    }
    counts: Any = {
        "images": 8, "flagged_by_transformer": 4, "flagged_by_model": 3, "flagged": 7,
    }  # fmt: skip
    outliers: Any = dict.fromkeys(KINDS, counts)
    return (
        *metrics,
        Metrics(dataset="disturbed", digest="4" * 64, images=60, values=disturbed),
        Metrics(dataset="outliers", digest="5" * 64, images=56, values=outliers),
    )


def mistake() -> Mistake:
    return Mistake(np.full((28, 28), 255, np.uint8), label=5, answer=3, confidence=0.9)


def drawn(mistakes: dict[str, list[Mistake]], metrics: tuple[Metrics, ...]) -> dict[str, Any]:
    return {
        name: np.asarray(Image.open(io.BytesIO(content)).convert("L"))
        for name, content in figures.draw(metrics, mistakes).items()
    }


# The card


def row(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def percent(values: Any, *names: str) -> list[str]:
    return [f"{values[name]:.2%}" for name in names]


def test_the_card_gives_the_measured_numbers() -> None:
    metrics = metrics_of()
    page = card.render(run_of(), metrics)
    for of_set in metrics[:2]:
        values: Any = of_set.values
        name, (accuracy,) = of_set.dataset, percent(values, "accuracy")
        others = percent(values, "calibration_error", "accepted", "accuracy_of_accepted")
        assert re.search(
            re.escape(row(name, 60, f"{accuracy} ±", *others)).replace("±", r"± \d\.\d\d%"), page
        )
        for answers in ("right", "wrong"):
            shares = percent(values[f"confidence_when_{answers}"], "mean", "median", "at_least_0.9")
            assert row(f"{name}, {answers} answers", *shares) in page
        assert row(name, *(f"{share:.2%}" for share in values["recall"])) in page
    of_test: Any = metrics[0].values
    for digit, counts in enumerate(of_test["confusion"]):
        assert row(digit, *(count or "·" for count in counts)) in page
    assert "### Confusions on the made up 3" in page
    assert "the first 60 digits of the made up 3" in " ".join(page.split())
    assert "| rotation (degrees) | -45 | -30 | -15 | 0 | 15 | 30 | 45 |" in page
    assert "| accuracy | 0.0% | 10.0% | 20.0% | 30.0% | 40.0% | 50.0% | 60.0% |" in page
    assert "| letters | 8 | 50.0% | 75.0% of 4 | 87.5% |" in page


def test_the_card_says_what_was_not_measured_only_where_it_was() -> None:
    without, full = (
        card.render(run_of(), metrics_of(seeds=all_of_it, uploads=all_of_it))
        for all_of_it in (False, True)
    )
    for part in ("other seeds", "seed 2", "scans", "no_digit"):
        assert part in full
        assert part not in without
    assert "| accuracy | 99.000% | 98.000% | 97.000% | 98.000% | 1.000% |" in full
    assert "| 3 | 1 | 0 | 2 |" in full
    assert re.search(r"\| scans, of May, .* \| 6 \| 50.00% .* \| 25.00% \| 50.00% \| none \|", full)


@pytest.mark.parametrize("all_of_it", [False, True])
def test_the_card_is_filled_in_and_its_tables_are_even(all_of_it: bool) -> None:
    page = card.render(run_of(), metrics_of(seeds=all_of_it, uploads=all_of_it))
    assert not re.search(r"[{}]|None|nan", page)
    assert "\n\n\n" not in page
    for table in re.findall(r"(?:^\|.*\n)+", page, re.MULTILINE):
        assert len({line.count("|") for line in table.splitlines()}) == 1, table


def test_no_mistake_is_not_no_doubt() -> None:
    assert card._standard_error(1, 506) == pytest.approx(0.0028, abs=1e-4)
    assert card._standard_error(0.9933, 10_000) == pytest.approx(0.00082, abs=1e-5)


def test_the_card_names_settings_data_and_hardware() -> None:
    page = card.render(run_of(epochs=7), metrics_of())
    assert "| `epochs` | 7 |" in page
    assert f"| some | `{'1' * 64}` |" in page
    assert "an abacus, torch 2.13.0" in page
    assert "It was made with torch 2.13.0." in page
    assert row("size", "7,850 parameters, 7,840 multiply-adds per image") in page
    assert row("temperature", "1.250") in page
    assert "at least 0.500 |" in page


def test_every_figure_is_on_the_page_and_every_one_on_the_page_is_drawn() -> None:
    metrics = metrics_of()
    shown = re.findall(r"!\[[^\]]+\]\(figures/(\S+)\)", card.render(run_of(), metrics))
    assert sorted(shown) == sorted(figures.draw(metrics, {"made up 3": []}))


def commands(page: str) -> list[str]:
    """What is run after ``python -m training``."""
    (block,) = re.findall(r"```\n(.*?)\n```", page, re.DOTALL)
    return [line.removeprefix("python -m training ") for line in block.splitlines()]


def flags(command: str) -> dict[str, str]:
    """The flags, each of one value, by the names of their settings."""
    found = re.findall(r" --([a-z-]+) (\S+)", command)
    return {name.replace("-", "_"): value for name, value in found}


@pytest.mark.parametrize(
    "settings",
    [{}, {"epochs": 7}, {"seed": 5, "learning_rate": 0.01, "network": "plain", "dropout": 0.0}],
)
def test_the_commands_train_with_the_same_settings(settings: dict[str, Any]) -> None:
    train, *others = commands(card.render(run_of(**settings), metrics_of()))
    assert train.split()[0] == "train"
    assert flags(train) == {name: str(value) for name, value in settings.items()}
    assert train.count("--") == len(settings)
    assert others == ["evaluate", "publish"]


def test_the_commands_train_the_other_seeds_and_measure_them_and_the_uploads() -> None:
    page = card.render(run_of(epochs=7), metrics_of(seeds=True, uploads=True))
    assert commands(page) == [
        "train --epochs 7",
        "train --epochs 7 --seed 2 --run runs/2",
        "train --epochs 7 --seed 3 --run runs/3",
        "evaluate --seeds runs/2 runs/3 --uploads 'scans, of May'",
        "publish",
    ]


# The figures


def test_figures_are_small_pictures_and_the_same_each_time() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (28, 28), np.uint8)  # hard to compress
    found = [mistake()._replace(pixels=noise)] * 30
    metrics, mistakes = metrics_of(), {"test": found, "scans": found}
    made = figures.draw(metrics, mistakes)
    assert sorted(made) == ["confusion.png", "mistakes.png", "reliability.png", "robustness.png"]
    assert figures.draw(metrics, mistakes) == made
    for name, content in made.items():
        picture = Image.open(io.BytesIO(content))
        assert picture.format == "PNG"
        assert "Software" not in picture.info
        assert len(content) <= 60_000, name


def test_figures_name_the_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    metrics, mistakes = metrics_of(), {"test": [mistake()]}
    before = figures.draw(metrics, mistakes)
    monkeypatch.setattr(figures, "LABELS", tuple("ABCDEFGHIJ"))
    after = figures.draw(metrics, mistakes)
    changed = [name for name in before if before[name] != after[name]]
    assert changed == ["confusion.png", "mistakes.png"]


def test_figures_do_not_depend_on_the_users_settings_of_matplotlib() -> None:
    import matplotlib as mpl

    metrics = metrics_of()
    plain = figures.draw(metrics, {"test": []})
    with mpl.rc_context({"font.size": 20, "axes.facecolor": "black"}):
        assert figures.draw(metrics, {"test": []}) == plain


def test_every_figure_shows_what_was_measured() -> None:

    def sevens(images: Images) -> Any:
        return np.eye(10, dtype=np.float32)[[7] * len(images)], np.ones(len(images), np.bool_)

    metrics = metrics_of()
    other = (
        measure(sevens, digits(60, seed=3)),
        metrics[1],
        metrics[2].model_copy(
            update={"values": {n: dict.fromkeys(v, 0.5) for n, v in metrics[2].values.items()}}  # type: ignore[arg-type]
        ),
        metrics[3],
    )  # fmt: skip
    before, after = figures.draw(metrics, {"t": []}), figures.draw(other, {"t": [mistake()]})
    assert [name for name in before if before[name] == after[name]] == []


def test_the_figures_show_the_numbers_where_they_belong() -> None:
    test, validation, *_ = metrics_of()
    counts: Any = test.values["confusion"]
    axes = figures._confusion(test).axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("read", "written")
    assert {text.get_position(): text.get_text() for text in axes.texts} == {
        (read, written): str(count)
        for written, row in enumerate(counts)
        for read, count in enumerate(row)
        if count
    }
    assert not np.asarray(axes.images[0].get_array()).diagonal().any()  # else all others are white
    lines = figures._reliability([test, validation]).axes[0].containers
    for of_set, line in zip((test, validation), lines, strict=True):
        bins: Any = of_set.values["reliability"]
        points = [(each["confidence"], each["accuracy"]) for each in bins if each["images"]]
        assert line[0].get_xydata().tolist() == [pytest.approx(point) for point in points]
    (title,) = [
        axes.get_title() for axes in figures._mistakes({"test": [mistake()]}).axes if axes.images
    ]
    assert title == "5 → 3\n90.0%"


def test_as_many_mistakes_are_drawn_as_there_are_up_to_the_limit() -> None:
    def squares(count: int) -> int:
        page = drawn({"test": [mistake()] * count}, metrics_of())["mistakes.png"]
        # Without the letters, which are thinner than a black picture.
        black = cv2.erode((page < 50).astype(np.uint8), np.ones((9, 9), np.uint8))
        return int(cv2.connectedComponents(black)[0]) - 1

    assert [squares(count) for count in (0, 7, 35)] == [0, 7, 20]


def test_the_most_confident_mistakes_come_first_and_no_answer_is_none() -> None:
    images = torch.arange(5, dtype=torch.uint8).reshape(5, 1, 1).expand(5, 28, 28)
    probabilities = torch.zeros(5, 10)
    probabilities[range(4), [1, 2, 3, 4]] = torch.tensor([0.6, 0.9, 0.99, 0.8])
    found = worst(images, torch.tensor([0, 0, 3, 0, 5]), probabilities)
    assert [(m.pixels[0, 0], m.label, m.answer) for m in found] == [
        (1, 0, 2), (3, 0, 4), (0, 0, 1),
    ]  # fmt: skip
    assert [m.confidence for m in found] == pytest.approx([0.9, 0.8, 0.6])
