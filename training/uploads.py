"""Image files of users and the digits in them: a folder or bucket with ``labels.csv``.

The file has the columns ``image``, a path relative to it, and ``label``, a digit; others are
ignored.
"""

import csv
import hashlib
import io
from collections.abc import Callable
from pathlib import Path, PureWindowsPath
from typing import NamedTuple

from fsspec.core import url_to_fs

from training.data import DataError
from training.network import LABELS

LABELS_FILE = "labels.csv"

Fetch = Callable[[str], bytes]


class Row(NamedTuple):
    """A line of ``labels.csv``."""

    line: int
    name: str
    label: str

    def __str__(self) -> str:
        return f"line {self.line}, {_plain(self.name)}"

    @property
    def problem(self) -> str | None:
        """What is wrong with the label, if anything."""
        if self.label in LABELS:
            return None
        return f"the label must be {LABELS[0]} to {LABELS[-1]}, found '{_plain(self.label)}'"


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
    rows, fetch = read_rows(str(folder))
    uploads = []
    for row in rows:
        if int(hashlib.sha256(Path(row.name).name.encode()).hexdigest(), 16) % 2 != half:
            continue
        try:
            if row.problem:
                raise DataError(row.problem)
            uploads.append(Upload(row.name, fetch(row.name), LABELS.index(row.label)))
        except DataError as error:
            raise DataError(f"{folder}, {row}: {error}") from error
    return uploads


def read_rows(location: str) -> tuple[list[Row], Fetch]:
    """The lines of ``labels.csv``, and a function that reads an image by the name it has there.

    Args:
        location: a folder, or a URL such as ``s3://bucket/prefix``.

    Raises:
        DataError: the file cannot be had or is no such table; by the function: the image cannot be
            had, or lies elsewhere.
    """
    try:
        files, root = url_to_fs(location)
    except (ImportError, ValueError, OSError) as error:
        raise DataError(f"{location} cannot be opened: {error}") from error

    def fetch(name: str) -> bytes:
        path = PureWindowsPath(name)  # knows both kinds of slashes, and drives
        if not path.parts or path.anchor or ".." in path.parts or "\0" in name:
            raise DataError(f"expected a path below the folder of {LABELS_FILE}")
        try:
            content: bytes = files.cat_file(f"{root.rstrip('/')}/{name}")
        except FileNotFoundError:
            raise DataError("the file is missing") from None
        except Exception as error:  # each store has its own, by no means all of them OSError
            reason = _plain(" ".join(str(error).split()))
            raise DataError(f"the file cannot be read: {reason}") from error
        return content

    try:
        return _parse(fetch(LABELS_FILE)), fetch
    except DataError as error:
        raise DataError(f"{location}, {LABELS_FILE}: {error}") from error


def _parse(content: bytes) -> list[Row]:
    try:
        text = content.decode("utf-8-sig")
        # Else a quote that is not closed swallows all lines behind it without a word.
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        columns = list(reader.fieldnames or [])
        if [columns.count(name) for name in ("image", "label")] != [1, 1]:
            raise DataError(
                "expected the columns image and label in the first line, "
                f"found {_plain(', '.join(columns)) or 'none'}"
            )
        # A line that is cut off has None where the table has no more to say.
        rows = [
            Row(reader.line_num, row["image"] or "", (row["label"] or "").strip()) for row in reader
        ]
    except csv.Error as error:
        raise DataError(f"{error}: is a quotation mark not closed?") from error
    except UnicodeDecodeError as error:
        raise DataError(f"byte {error.start} is not UTF-8; save it as UTF-8") from error
    if not rows:
        raise DataError("no images are listed")
    return rows


def _plain(text: str) -> str:
    """Somebody's text, such that it spoils neither a terminal nor a table."""
    shown = "".join(c if c.isprintable() and c not in "|`<" else "?" for c in text[:100])
    return shown if len(text) <= 100 else f"{shown}…"
