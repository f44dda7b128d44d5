"""The plots of the benchmark."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib import pyplot as plt

mpl.use("agg")
OURS, OTHERS, LIMITS = "#1f6fb4", "#9aa5b1", "#d9dee3"
LINES = (OURS, "#c8553d", "#5b8c5a")


def bars(
    path: Path,
    panels: Mapping[str, Mapping[str, float]],
    *,
    ours: str,
    limits: Sequence[str],
) -> None:
    """Plot to ``path`` a panel for each figure, with a bar for each server."""
    figure, axes = plt.subplots(1, len(panels), figsize=(3.1 * len(panels), 3.6), sharey=True)
    for axis, (title, values) in zip(axes, panels.items(), strict=True):
        names = list(values)[::-1]
        colours = [OURS if n == ours else LIMITS if n in limits else OTHERS for n in names]
        drawn = axis.barh(names, [values[name] for name in names], color=colours)
        axis.bar_label(
            drawn, fmt=lambda x: f"{x:,.0f}" if x >= 10 else f"{x:.2f}", padding=3, fontsize=8
        )
        axis.set_title(title, fontsize=10)
        axis.margins(x=0.3)
        axis.set_xticks([])
        axis.spines[["top", "right", "bottom"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def lines(path: Path, panels: Mapping[str, Mapping[str, Mapping[int, float]]], xlabel: str) -> None:
    """Plot to ``path`` a panel for each figure, with a line for each server over ``xlabel``."""
    figure, axes = plt.subplots(1, len(panels), figsize=(3.6 * len(panels), 3.2))
    for axis, (title, servers) in zip(axes, panels.items(), strict=True):
        for colour, (name, points) in zip(LINES, servers.items(), strict=False):
            axis.plot(list(points), list(points.values()), "o-", color=colour, label=name)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel(xlabel, fontsize=9)
        axis.set_xscale("log", base=2)
        axis.set_xticks(list(points), [str(x) for x in points])
        axis.set_ylim(bottom=0)
        axis.grid(axis="y", color="#e5e8eb")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].legend(fontsize=8, frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
