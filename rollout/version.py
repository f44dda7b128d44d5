"""Finds a version of the model to release: its location for the predictor, and its digest."""

import hashlib
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from predictor.artifact import METADATA_FILE, ArtifactError, verify
from rollout.errors import Refused
from rollout.template import Object, Version, variables


def find(
    template: Object, wanted: str, *, name: str, models_dir: Path, digest: str | None
) -> Version:
    """Return the version ``wanted``; a number is looked for where ``template`` has its version.

    That is in the image or in a store. Files on this machine are verified. Files that cannot be
    read from here are trusted if ``digest`` is given: the predictor refuses any others, and a
    revision that does not get ready takes no traffic.

    Args:
        template: the live template of the predictor.
        wanted: a number, or the URI of a version in a store.
        name: the name of the model.
        models_dir: the directory on this machine with the versions that are in the image.
        digest: SHA-256 of the version's ``model.json``, if known.

    Raises:
        Refused: there is no such version, it is damaged, or it cannot be read and has no digest.
    """
    uri = variables(template).get("STORAGE_URI")
    if "://" in wanted:
        uri = wanted
    elif not wanted.isdecimal():
        raise Refused(f"{wanted!r} is no version: give a number, or the URI of one in a store")
    elif uri:
        uri = f"{uri.rstrip('/').rpartition('/')[0]}/{wanted}"
    if uri is None:
        directory = models_dir / name / wanted
        if digest and not models_dir.is_dir():
            return Version("MODEL_VERSION", wanted, digest)
        return Version("MODEL_VERSION", wanted, _verified(directory, digest))
    uri = f"{uri.rstrip('/')}/"  # the form in which it is published, see training/store.py
    parts = urlsplit(uri)
    if parts.scheme == "file":
        digest = _verified(Path(url2pathname(parts.path)), digest)
    return Version("STORAGE_URI", uri, digest or _fetched(uri))


def _verified(directory: Path, digest: str | None) -> str:
    try:
        verify(directory, digest=digest)
    except ArtifactError as error:
        raise Refused(f"the version does not verify: {error}") from None
    return hashlib.sha256((directory / METADATA_FILE).read_bytes()).hexdigest()


def _fetched(uri: str) -> str:
    try:
        import fsspec  # not needed where the digest is given

        with fsspec.open(f"{uri}{METADATA_FILE}") as file:
            return hashlib.sha256(file.read()).hexdigest()
    except Exception as error:  # each store's driver has its own errors
        raise Refused(
            f"{uri}{METADATA_FILE} cannot be read from here ({type(error).__name__}: {error});"
            " give the digest that publishing printed, with --digest"
        ) from None
