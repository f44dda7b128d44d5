"""Users' images with their digits, in two halves: one to develop on, one to score on."""

import csv
import hashlib
from pathlib import Path
from typing import NamedTuple

from training.data import DataError
from training.network import LABELS


class Upload(NamedTuple):
    """An image file of a user, and the digit in it."""

    name: str
    content: bytes
    label: int


def read_uploads(folder: Path, half: int) -> list[Upload]:
    """One half of the images in a folder, by a hash of the file's name.

    Half 0 is to develop on, half 1 to score on.

    Raises:
        DataError: ``labels.csv`` or an image is missing, or a label is not a digit.
    """
    table = folder / "labels.csv"
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            rows = [(row["image"], row["label"]) for row in csv.DictReader(file, strict=True)]
        return [
            Upload(name, (folder / name).read_bytes(), list(LABELS).index(label))
            for name, label in rows
            if int(hashlib.sha256(Path(name).name.encode()).hexdigest(), 16) % 2 == half
        ]
    except KeyError as error:
        raise DataError(f"{table} has no column {error}: expected image and label") from error
    except (OSError, ValueError, TypeError, csv.Error) as error:
        raise DataError(
            f"{folder} cannot be read: {error}; expected labels.csv with the columns image and "
            "label, a file in the folder and a digit"
        ) from error
