"""Labelled image files of users: a folder or bucket with ``labels.csv``.

The table has the columns ``image``, a path relative to it, and ``label``, a digit; other columns
are ignored.
"""

import csv
import hashlib
import io
from collections.abc import Callable
from itertools import islice
from pathlib import Path, PureWindowsPath
from typing import NamedTuple

from fsspec.core import url_to_fs

from serving.scores import LABELS
from training.data import DataError

LABELS_FILE = "labels.csv"
LARGEST = 32 * 2**20
"""Of a file, in bytes; the service takes no larger body either."""
MOST_ROWS = 1_000_000
"""Of ``labels.csv``; each takes up to 3 KB of memory."""

Fetch = Callable[[str], bytes]


class Row(NamedTuple):
    """A row of ``labels.csv``; ``line`` is its number in the file."""

    line: int
    name: str
    label: str

    def __str__(self) -> str:
        return f"line {self.line}, {_plain(self.name)}"

    @property
    def problem(self) -> str | None:
        """What is wrong with the label, or ``None``."""
        if self.label in LABELS:
            return None
        return f"the label must be {LABELS[0]} to {LABELS[-1]}, found '{_plain(self.label)}'"


class Upload(NamedTuple):
    """An image file of a user, and the digit in it."""

    name: str
    content: bytes
    label: int


def read_uploads(folder: Path, half: int) -> list[Upload]:
    """Return one half of the images in a folder, split by a hash of the file name.

    Half 0 is for development, half 1 for scoring.

    Raises:
        DataError: ``labels.csv`` or an image cannot be read, or a label is not a digit.
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
    """Return the rows of ``labels.csv``, and a function that reads an image by its name there.

    The function raises DataError too: if the image cannot be read, or is not below ``location``.

    Args:
        location: a folder, or a URL such as ``s3://bucket/prefix``.

    Raises:
        DataError: the file cannot be read, or is not such a table.
    """
    try:
        files, root = url_to_fs(location)
    except (ImportError, ValueError, OSError) as error:
        raise DataError(f"{location} cannot be opened: {error}") from error

    def fetch(name: str) -> bytes:
        path = PureWindowsPath(name)  # it knows both kinds of slashes, and drive letters
        if not path.parts or path.anchor or ".." in path.parts or "\0" in name:
            raise DataError(f"expected a path below the folder of {LABELS_FILE}")
        place = f"{root.rstrip('/')}/{name}"
        try:
            if files.info(place)["type"] != "file":  # a pipe has no end if nobody writes to it
                raise OSError("it is not a regular file")
            with files.open(place) as file:
                content: bytes = file.read(LARGEST + 1)
        except FileNotFoundError:
            raise DataError("the file is missing") from None
        except Exception as error:  # each store has its own errors, not all of them OSError
            reason = _plain(" ".join(str(error).split()))
            raise DataError(f"the file cannot be read: {reason}") from error
        if len(content) > LARGEST:
            raise DataError(f"the file is larger than {LARGEST // 2**20} MiB")
        return content

    try:
        return _parse(fetch(LABELS_FILE)), fetch
    except DataError as error:
        raise DataError(f"{location}, {LABELS_FILE}: {error}") from error


def _parse(content: bytes) -> list[Row]:
    try:
        text = content.decode("utf-8-sig")
        # strict, or an unclosed quotation mark silently swallows all lines after it.
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        columns = list(reader.fieldnames or [])
        if [columns.count(name) for name in ("image", "label")] != [1, 1]:
            raise DataError(
                "expected the columns image and label in the first line, "
                f"found {_plain(', '.join(columns)) or 'none'}"
            )
        # A line that is too short has None for the missing columns.
        rows = [
            Row(reader.line_num, row["image"] or "", (row["label"] or "").strip())
            for row in islice(reader, MOST_ROWS + 1)
        ]
    except csv.Error as error:
        raise DataError(f"{error}: is a quotation mark not closed?") from error
    except UnicodeDecodeError as error:
        raise DataError(f"byte {error.start} is not UTF-8; save it as UTF-8") from error
    if not rows:
        raise DataError("no images are listed")
    if len(rows) > MOST_ROWS:
        raise DataError(f"more than {MOST_ROWS:,} images are listed")
    return rows


def _plain(text: str) -> str:
    """Return foreign text made safe for a terminal and a Markdown table, at most 100 characters."""
    shown = "".join(c if c.isprintable() and c not in "|`<" else "?" for c in text[:100])
    return shown if len(text) <= 100 else f"{shown}…"
