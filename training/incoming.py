"""New labelled images: a folder or bucket of image files with ``labels.csv``, checked and split.

All errors are reported at once, and there is no training until none is left. Images that are merely
of no use (no digit is seen, or the picture is known already) are dropped and reported.
"""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import chisquare, ks_2samp

from serving.errors import ServingError
from serving.scores import LABELS
from training.data import DataError, Digits
from training.uploads import Fetch, Row, read_rows
from transformer import image
from transformer.image import Picture

HELD_OUT_SHARE = 0.3
MOST_SHOWN = 20
"""The most problems that are listed, and names in a line of the report."""
READERS = 8
"""The number of files read at a time."""

UNUSABLE = {"no_digit": "no digit is seen", "multiple": "several digits are seen"}

Pictures = NDArray[np.uint8]


@dataclass(frozen=True)
class Incoming:
    """The new digits in two parts, and a report on them in Markdown."""

    training: Digits
    held_out: Digits
    report: str


class Found(NamedTuple):
    """A valid row with its picture."""

    row: Row
    picture: Picture


def read(location: str, *, known: Sequence[Digits], reference: Digits) -> Incoming:
    """Read ``labels.csv`` and the images that it names, check them, and split them.

    Images are read as by the service. A hash of the picture puts three in ten into the held-out
    part, so a picture always falls into the same part.

    Args:
        location: a folder, or a URL such as ``s3://bucket/prefix``.
        known: the digits already used; new images with the same picture are dropped.
        reference: the digits trained on, with which the report compares the new ones.

    Raises:
        DataError: anything is wrong, or one of the two parts would be empty.
    """
    rows, fetch = read_rows(location)
    found, problems = _read_all(rows, fetch)
    new, dropped, contradictions = _new(found, known)
    problems += contradictions
    if problems:
        raise DataError(_listed(location, problems))
    training: list[Found] = []
    held_out: list[Found] = []
    # Sorted, so that the order of the rows does not change the data.
    for digest, one in sorted(new.items()):
        (held_out if int(digest[:8], 16) < HELD_OUT_SHARE * 16**8 else training).append(one)
    report = [
        f"{len(rows):,} images read, {len(rows) - len(new):,} dropped, {len(new):,} kept, "
        f"{len(held_out):,} of these held out.",
        *(_dropped(reason, names) for reason, names in dropped.items()),
    ]
    if not training or not held_out:
        raise DataError(
            f"{location}: too few images to train and to judge on, bring more. " + " ".join(report)
        )
    parts = _digits("new images, trained on", training), _digits("new images, held out", held_out)
    report += [_balance(*parts), _drift(np.concatenate([part.images for part in parts]), reference)]
    return Incoming(*parts, "\n\n".join(report))


def _new(
    found: list[Found], known: Sequence[Digits]
) -> tuple[dict[str, Found], dict[str, list[str]], list[str]]:
    """Return new images by their picture's SHA-256, dropped rows by reason, and contradictions.

    A contradiction is a message on a row whose picture is known with another label.
    """
    seen = {
        _digest(pixels): ("known already", f"in the {digits.name}", LABELS[label])
        for digits in known
        for pixels, label in zip(digits.images.numpy(), digits.labels.tolist(), strict=True)
    }
    new: dict[str, Found] = {}
    dropped: dict[str, list[str]] = {}
    contradictions = []
    for one in found:
        row, digest = one.row, _digest(one.picture.pixels)
        if one.picture.status != "ok":
            dropped.setdefault(UNUSABLE[one.picture.status], []).append(str(row))
        elif digest not in seen:
            new[digest] = one
            seen[digest] = ("there twice", f"in line {row.line}", row.label)
        else:
            reason, where, label = seen[digest]
            dropped.setdefault(reason, []).append(str(row))
            if row.label != label:
                contradictions.append(
                    f"{row}: the label is {row.label}, but the same picture has {label} {where}"
                )
    return new, dropped, contradictions


def _digest(pixels: Pictures) -> str:
    return hashlib.sha256(pixels.tobytes()).hexdigest()


# Reading


def _read_all(rows: list[Row], fetch: Fetch) -> tuple[list[Found], list[str]]:
    """Return the valid rows with their pictures, and the problems of the others."""

    def attempt(row: Row) -> Picture | str:
        try:
            return image.read(fetch(row.name))
        except (ServingError, DataError) as error:
            return str(error)

    found, problems = [], []
    with ThreadPoolExecutor(READERS) as pool:
        for row, picture in zip(rows, pool.map(attempt, rows), strict=True):
            if row.problem:
                problems.append(f"{row}: {row.problem}")
            if isinstance(picture, str):
                problems.append(f"{row}: {picture}")
            elif not row.problem:
                found.append(Found(row, picture))
    return found, problems


def _digits(name: str, found: list[Found]) -> Digits:
    images = np.stack([one.picture.pixels for one in found])
    labels = torch.tensor([LABELS.index(one.row.label) for one in found])
    return Digits(name, torch.from_numpy(images), labels)


# Reporting


def _listed(location: str, problems: list[str]) -> str:
    lines = [f"- {problem}" for problem in problems[:MOST_SHOWN]]
    if len(problems) > MOST_SHOWN:
        lines.append(f"- and {len(problems) - MOST_SHOWN} more")
    return "\n".join([f"{location}: correct these and try again:", *lines])


def _dropped(reason: str, names: list[str]) -> str:
    more = f" and {len(names) - MOST_SHOWN} more" if len(names) > MOST_SHOWN else ""
    return f"Dropped, {reason} ({len(names):,}): {'; '.join(names[:MOST_SHOWN])}{more}."


def _balance(*parts: Digits) -> str:
    training, held_out = (np.bincount(part.labels, minlength=len(LABELS)) for part in parts)
    counts = training + held_out
    lines = ["| digit | trained on | held out |", "| --- | ---: | ---: |"]
    rows = zip(LABELS, training, held_out, strict=True)
    lines += [f"| {digit} | {trained} | {held} |" for digit, trained, held in rows]
    lines += ["", f"As many of each digit? p = {chisquare(counts).pvalue:.2g} (chi-square)."]
    if not counts.all():
        absent = ", ".join(LABELS[index] for index in np.flatnonzero(counts == 0))
        lines.append(f"There is none of {absent}.")
    return "\n".join(lines)


def _drift(new: Pictures, reference: Digits) -> str:
    """Compare features of new pictures and reference: means and Kolmogorov–Smirnov test."""
    before, now = features(reference.images.numpy()), features(new)
    lines = [
        f"| feature | {reference.name}: mean | new: mean | KS | p | |",
        "| --- | ---: | ---: | ---: | ---: | --- |",
    ]
    for name, values in now.items():
        test = ks_2samp(values, before[name], method="asymp")
        verdict = "differs" if test.statistic > 0.1 and test.pvalue < 0.01 else "alike"
        means = f"{before[name].mean():.2f} | {values.mean():.2f}"
        lines.append(f"| {name} | {means} | {test.statistic:.2f} | {test.pvalue:.2g} | {verdict} |")
    return "\n".join(lines)


def features(pictures: Pictures) -> dict[str, NDArray[np.float64]]:
    """Return features of pictures (uint8 [N, 28, 28], 255 = ink): by name, float64 [N].

    Ink is the sum of the pixels, 1 = full ink. Stroke is the mean width: twice the area divided by
    the circumference, as in ``transformer.image``. Slant is μ₁₁ / μ₀₂ of the central moments,
    positive if the digit leans to the left. Width / height is columns with ink by rows with ink.
    """
    inside = np.pad(pictures > 127, ((0, 0), (1, 1), (1, 1)))
    edges = sum(np.diff(inside, axis=axis).sum((1, 2)) for axis in (1, 2))
    wide, high = (inside.any(axis).sum(1) for axis in (1, 2))
    ink = pictures.sum((1, 2), np.float64) / 255
    columns, rows = (pictures.sum(axis, np.float64) / 255 for axis in (1, 2))
    place = np.arange(image.SIDE)
    mass = np.maximum(ink, 1e-9)
    x, y = columns @ place / mass, rows @ place / mass
    products = np.einsum("nyx,y,x->n", pictures, place.astype(np.float64), place) / 255
    return {
        "ink, pixels": ink,
        "stroke, pixels": 8 / np.pi * inside.sum((1, 2)) / np.maximum(edges, 1),
        "slant": (products - mass * x * y) / np.maximum(rows @ place**2 - mass * y**2, 1e-9),
        "width / height": wide / np.maximum(high, 1),
    }
