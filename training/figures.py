"""The figures of the model card, as PNG files. The same metrics give the same bytes."""

import io
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

from predictor.metadata import Metrics
from serving.scores import LABELS
from training.robustness import DISTURBANCES

SHOWN = 20
"""The most mistakes shown of each data set."""
ACROSS = 10
"""Mistakes per row."""
GREY = "0.6"


class Mistake(NamedTuple):
    """A digit that was read wrong."""

    pixels: NDArray[np.uint8]
    """uint8 [28, 28], 255 = ink."""
    label: int
    answer: int
    confidence: float


def worst(images: torch.Tensor, labels: torch.Tensor, probabilities: torch.Tensor) -> list[Mistake]:
    """Return the digits that were read wrong, most confident first.

    Args:
        images: uint8 [N, 28, 28].
        labels: int64 [N].
        probabilities: float32 [N, 10]; all 0 if there is no answer: these are left out.
    """
    confidence, predicted = probabilities.max(dim=1)
    wrong = torch.nonzero((predicted != labels) & (confidence > 0)).flatten()
    order = wrong[confidence[wrong].argsort(descending=True, stable=True)]
    return [
        Mistake(images[i].numpy(), int(labels[i]), int(predicted[i]), float(confidence[i]))
        for i in order.tolist()
    ]


def draw(
    metrics: tuple[Metrics, ...], mistakes: Mapping[str, Sequence[Mistake]]
) -> dict[str, bytes]:
    """Return the figures as PNG, by file name.

    Args:
        metrics: those that ``evaluate`` returns: test set and writers held out first, disturbed
            digits and outliers last.
        mistakes: by data set, worst first; the first ``SHOWN`` are drawn.
    """
    test, validation, *_, disturbed, _outliers = metrics
    # Independent of the user's matplotlibrc.
    with matplotlib.rc_context(matplotlib.rcParamsDefault):
        return {
            "confusion.png": _png(_confusion(test)),
            "reliability.png": _png(_reliability([test, validation])),
            "robustness.png": _png(_robustness(disturbed)),
            "mistakes.png": _png(_mistakes(mistakes)),
        }


def _png(figure: Figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()


def _figure(width: float, height: float) -> Figure:
    """Return a figure of a size in inches of 80 pixels; small, since each version carries it."""
    return Figure(figsize=(width, height), dpi=80, layout="constrained")


def _confusion(test: Metrics) -> Figure:
    values: Any = test.values
    counts = np.array(values["confusion"])
    wrong = counts * ~np.eye(len(counts), dtype=bool)  # right answers would make all others white
    figure = _figure(5, 5)
    axes = figure.subplots()
    axes.imshow(wrong, cmap="Reds", vmin=0, vmax=max(1, int(wrong.max()) * 1.5))
    for (row, column), count in np.ndenumerate(counts):
        if count:
            axes.text(column, row, str(count), ha="center", va="center", fontsize=8)
    axes.set_xticks(range(len(LABELS)), LABELS)
    axes.set_yticks(range(len(LABELS)), LABELS)
    axes.set(xlabel="read", ylabel="written")
    axes.set_title(test.dataset, fontsize=10)
    return figure


def _reliability(sets: Sequence[Metrics]) -> Figure:
    figure = _figure(5, 5)
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, label="perfectly calibrated")
    for of_set in sets:
        values: Any = of_set.values
        bins = [row for row in values["reliability"] if row["images"]]
        shares, right = ([row[name] for row in bins] for name in ("confidence", "accuracy"))
        # The standard error of the accuracy if it equalled the confidence.
        errors = [
            (share * (1 - share) / row["images"]) ** 0.5
            for share, row in zip(shares, bins, strict=True)
        ]
        axes.errorbar(shares, right, yerr=errors, marker="o", capsize=2, label=of_set.dataset)
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="mean confidence", ylabel="accuracy")
    axes.legend(fontsize=8, loc="lower right")
    return figure


def _robustness(disturbed: Metrics) -> Figure:
    values: Any = disturbed.values
    figure = _figure(8, 5)
    panels: Any = figure.subplots(2, 3, sharey=True)
    for panel, (name, disturbance) in zip(panels.flat, DISTURBANCES.items(), strict=True):
        panel.plot([float(level) for level in values[name]], list(values[name].values()), "o-")
        panel.axvline(disturbance.neutral, color=GREY, linewidth=1)
        panel.set(title=name, xlabel=disturbance.unit, ylim=(0, 1.02))
    for row in panels:
        row[0].set_ylabel("accuracy")
    return figure


def _mistakes(mistakes: Mapping[str, Sequence[Mistake]]) -> Figure:
    rows = [-(-len(found[:SHOWN]) // ACROSS) for found in mistakes.values()]
    heights = [row or 0.3 for row in rows]  # without pictures there is only the title
    figure = _figure(8, 1.2 * sum(heights))
    parts: Any = figure.subfigures(len(mistakes), height_ratios=heights, squeeze=False)
    for part, row, (name, found) in zip(parts.flat, rows, mistakes.items(), strict=True):
        part.suptitle(name if found else f"{name}: no mistakes", fontsize=10)
        panels = list(part.subplots(row, ACROSS, squeeze=False).flat) if row else []
        for panel in panels:
            panel.axis("off")
        for panel, mistake in zip(panels, found[:SHOWN], strict=False):
            panel.imshow(mistake.pixels, cmap="gray_r", vmin=0, vmax=255, interpolation="nearest")
            read = f"{LABELS[mistake.label]} → {LABELS[mistake.answer]}"
            said = f"{read}\n{mistake.confidence:.1%}"
            panel.set_title(said, fontsize=8)
    return figure
