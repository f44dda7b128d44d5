"""Stores of published versions: a folder, or an object store through fsspec.

=====================  ========================================================
``<n>/model.json``     version n exists if and only if this file does
``<n>/…``              its other files
``.claims/<n>``        a publisher is writing version n, or was killed doing so
=====================  ========================================================

docs/decisions/store.md explains why two publishers cannot collide.
"""

import os
import platform
import re
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

from fsspec.core import url_to_fs

from predictor.artifact import METADATA_FILE

_CLAIMS = ".claims"
_EXTRAS = {"s3": "s3", "gs": "gcs", "abfs": "azure", "abfss": "azure", "az": "azure"}
"""By URL scheme, the extra of this package that installs the driver."""
_VERSION = re.compile(rf"([1-9][0-9]*)/{re.escape(METADATA_FILE)}")
_NUMBER = re.compile("([1-9][0-9]*)")
_LEFT_OVER = (
    "{} is there already: take the next number, or, if its publisher was killed, "
    "delete what is there of this one"
)


class StoreError(Exception):
    """The store refuses or cannot be reached; nothing was published. The message says why."""


class Store:
    """The versions of one model.

    Args:
        location: a path, or a URL: ``file://``, ``s3://bucket/…``, ``gs://bucket/…``,
            ``abfs://container@account.dfs.core.windows.net/…``, or ``az://container/…`` with the
            account in ``AZURE_STORAGE_ACCOUNT_NAME``. The last part is the model's name.
            Credentials are taken from where the store's own tools look.

    Raises:
        StoreError: the scheme is unknown, or its driver is not installed.
    """

    def __init__(self, location: str) -> None:
        self.location = location
        self._scheme = location.partition("://")[0] if "://" in location else "file"
        self._local = self._scheme == "file"
        if not self._local and self._scheme not in _EXTRAS:
            raise StoreError(
                f"{location}: no store of versions; "
                f"give a path or one of file://, {', '.join(f'{s}://' for s in _EXTRAS)}"
            )
        with self._explained():
            # Others write to it too, so listings must not be cached.
            files, root = url_to_fs(location, use_listings_cache=False, skip_instance_cache=True)
        self._files: Any = files
        self._root: str = root.rstrip("/")

    @property
    def name(self) -> str:
        """The name of the model."""
        return PurePosixPath(self._root).name

    def versions(self) -> list[int]:
        """Return the numbers of the versions, ascending; raises StoreError."""
        with self._explained():
            return sorted(_numbers(_VERSION, self._names(self._root)))

    def uri(self, version: int) -> str:
        """Return the location of a version for KServe's ``STORAGE_URI``.

        It ends in a slash: without one, KServe's download of version 1 from S3 also fetches 10.
        """
        if self._local:
            return f"{Path(self._root, str(version)).as_uri()}/"
        place = f"{self._root}/{version}/"
        if _EXTRAS.get(self._scheme) == "azure":
            return f"https://{self._files.account_name}.blob.core.windows.net/{place}"
        return f"{self._scheme}://{place}"

    @contextmanager
    def claim(self, version: int | None = None) -> Iterator[int]:
        """Reserve a number, so that no other publisher can take it meanwhile.

        Args:
            version: the wanted number; ``None`` for the next free one, after those that killed
                publishers still hold.

        Raises:
            StoreError: the version exists, another publisher holds its number, the location is
                itself a version, or the store refuses.
        """
        with self._explained():
            if self._files.exists(f"{self._root}/{METADATA_FILE}"):
                raise StoreError(f"{self.location} is a version: name the folder that it lies in")
            number = self._claim_next() if version is None else self._claim_this(version)
        try:
            yield number
        finally:
            # A claim that stays does no harm: whoever wants the number is told of it.
            with suppress(Exception):
                self._files.rm_file(self._claim_path(number))

    def write(self, version: int, contents: Mapping[str, bytes]) -> None:
        """Write a claimed version, completely or not at all.

        Args:
            version: its number.
            contents: every file, including ``model.json``, by its path within the version.

        Raises:
            StoreError: the store refuses, or has files of that number; these were not changed.
        """
        with self._explained():
            if self._local:
                self._write_folder(version, contents)
            else:
                self._write_objects(version, contents)

    def fetch(self, version: int, directory: Path) -> None:
        """Copy the files of a version to ``directory``; raises StoreError."""
        with self._explained():
            place = f"{self._root}/{version}"
            names = self._names(place)
            if METADATA_FILE not in names:
                there = ", ".join(map(str, self.versions())) or "none"
                raise StoreError(f"{self.location} has no version {version}: there are {there}")
            for name in names:
                target = directory / name
                if not target.resolve().is_relative_to(directory.resolve()):
                    raise StoreError(f"{self.uri(version)}{name} would be written elsewhere")
                target.parent.mkdir(parents=True, exist_ok=True)
                self._files.get_file(f"{place}/{name}", str(target))

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn the errors of the drivers into StoreError."""
        try:
            yield
        except StoreError:
            raise
        except ImportError as error:
            raise StoreError(
                f"{self.location} needs a driver that is not installed: "
                f"python -m pip install -c constraints.txt -e '.[{_EXTRAS[self._scheme]}]'"
            ) from error
        except Exception as error:
            said = " ".join(str(error).split()) or type(error).__name__
            remedy = "" if self._local else "; check the address, the credentials and the network"
            raise StoreError(f"{self.location}: {said}{remedy}") from error

    def _names(self, folder: str) -> list[str]:
        """Return the paths of all files in the folder, relative to it."""
        try:
            found = self._files.find(folder)
        except FileNotFoundError:
            return []
        # Consoles and mounts create empty objects to stand for folders.
        return [path.removeprefix(f"{folder}/") for path in found if not path.endswith("/")]

    def _claim_path(self, number: int) -> str:
        return f"{self._root}/{_CLAIMS}/{number}"

    def _claim_next(self) -> int:
        # A half-written version of a killed publisher, or an empty folder, is no version but still
        # occupies the number.
        try:
            found = self._files.ls(self._root, detail=False)
        except FileNotFoundError:
            found = []
        names = [PurePosixPath(path).name for path in found]
        number = 1 + max(_numbers(_NUMBER, names), default=0)
        while not self._try_claim(number):
            number += 1
        return number

    def _claim_this(self, number: int) -> int:
        if number < 1:
            raise StoreError(f"a version is a positive integer, found {number}")
        if self._try_claim(number):
            return number
        if self._exists(number):
            raise StoreError(
                f"{self.location}: version {number} exists already, and a published version "
                "never changes: take the next number"
            )
        raise StoreError(
            f"{self.location}: version {number} is being published by another; if that publisher "
            f"was killed, delete {self._scheme}://{self._claim_path(number)}"
        )

    def _try_claim(self, number: int) -> bool:
        """Claim a number; return False if another holds it or the version exists."""
        path = self._claim_path(number)
        by = f"{platform.node()}, {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC, {uuid.uuid4()}\n"
        if not (_touch(Path(path)) if self._local else self._create_object(path, by.encode())):
            return False
        # Its last holder may have published it since the versions were listed.
        if self._exists(number):
            self._files.rm_file(path)
            return False
        return True

    def _exists(self, version: int) -> bool:
        return bool(self._files.exists(f"{self._root}/{version}/{METADATA_FILE}"))

    def _create_object(self, path: str, content: bytes) -> bool:
        """Create an object; return False if it exists. Of several callers only one gets True."""
        try:
            self._files.pipe_file(path, content, mode="create")
        except OSError as error:
            if not (isinstance(error, FileExistsError) or _precondition_failed(error)):
                raise
            # A driver that lost the answer retries, and may find the object that it wrote itself.
            with suppress(FileNotFoundError):
                return bool(self._files.cat_file(path) == content)
            return False
        return True

    def _write_folder(self, version: int, contents: Mapping[str, bytes]) -> None:
        target = Path(self._root, str(version))
        if target.exists():  # if it appears later, the rename fails
            raise StoreError(_LEFT_OVER.format(target))
        with tempfile.TemporaryDirectory(dir=self._root, prefix=".writing-") as temporary:
            draft = Path(temporary, target.name)
            for name, content in contents.items():
                (draft / name).parent.mkdir(parents=True, exist_ok=True)
                (draft / name).write_bytes(content)
                # A file system may keep the rename and, if the power fails, not what was written.
                with (draft / name).open("r+b") as file:
                    os.fsync(file.fileno())
            draft.rename(target)
        with suppress(OSError):  # not every system does this for a folder
            _sync_folder(target.parent)

    def _write_objects(self, version: int, contents: Mapping[str, bytes]) -> None:
        begun: list[str] = []
        try:
            for name in sorted(contents, key=lambda name: name == METADATA_FILE):
                path = f"{self._root}/{version}/{name}"
                begun.append(path)
                if not self._create_object(path, contents[name]):
                    begun.pop()  # it is not ours to remove
                    raise StoreError(_LEFT_OVER.format(f"{self._scheme}://{path}"))
        except BaseException:
            # In reverse, model.json first: as long as it exists, the others must.
            with suppress(Exception):
                for path in reversed(begun):
                    with suppress(FileNotFoundError):
                        self._files.rm_file(path)
            raise


def _numbers(pattern: re.Pattern[str], names: list[str]) -> set[int]:
    return {int(found[1]) for found in map(pattern.fullmatch, names) if found}


def _touch(path: Path) -> bool:
    """Create a file; return False if it exists. Of several callers only one gets True."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def _sync_folder(path: Path) -> None:
    """Wait until the disk has the names in a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _precondition_failed(error: OSError) -> bool:
    # s3fs raises FileExistsError for the answer of AWS, but not for that of MinIO.
    response = getattr(error.__cause__, "response", None) or {}
    return bool(response.get("Error", {}).get("Code") == "PreconditionFailed")
