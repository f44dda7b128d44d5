"""A version to release: where it is, and its digest."""

import hashlib
from pathlib import Path

import fsspec
import pytest

from predictor.artifact import METADATA_FILE
from rollout.errors import Refused
from rollout.template import Object, Version
from rollout.version import find
from tests.programs import ROOT

MODELS = ROOT / "models"
DIGESTS = {
    version: hashlib.sha256((MODELS / "mnist" / version / METADATA_FILE).read_bytes()).hexdigest()
    for version in ("1", "2")
}


def template(**env: str) -> Object:
    """A predictor's, with these variables."""
    pairs = [{"name": name, "value": value} for name, value in env.items()]
    return {"containers": [{"name": "kserve-container", "image": "predictor", "env": pairs}]}


def found(live: Object, wanted: str, digest: str | None = None) -> Version:
    return find(live, wanted, name="mnist", models_dir=MODELS, digest=digest)


def test_beside_one_in_the_image_a_number_is_one_in_the_image() -> None:
    live = template(MODEL_VERSION="1", MODEL_DIGEST=DIGESTS["1"])
    assert found(live, "2") == Version("MODEL_VERSION", "2", DIGESTS["2"])


@pytest.mark.parametrize("end", ["", "/"])
def test_beside_one_in_a_store_a_number_is_one_in_that_store(end: str) -> None:
    live = template(STORAGE_URI=f"s3://bucket/mnist/1{end}")
    assert found(live, "12", "abc") == Version("STORAGE_URI", "s3://bucket/mnist/12/", "abc")


@pytest.mark.parametrize("end", ["", "/"])
def test_the_digest_is_taken_from_the_store_where_it_can_be_read(end: str) -> None:
    store = fsspec.filesystem("memory")
    store.pipe_file("/models/mnist/2/model.json", b"{}")
    version = found(template(MODEL_VERSION="1"), f"memory://models/mnist/2{end}")
    assert version == Version(
        "STORAGE_URI", "memory://models/mnist/2/", hashlib.sha256(b"{}").hexdigest()
    )


@pytest.mark.parametrize("end", ["", "/"])
def test_one_in_a_folder_is_verified(end: str, tmp_path: Path) -> None:
    uri = (MODELS / "mnist/2").as_uri()
    assert found(template(), f"{uri}{end}").digest == DIGESTS["2"]
    with pytest.raises(Refused, match="does not verify"):
        found(template(), f"{uri}{end}", DIGESTS["1"])
    with pytest.raises(Refused, match="does not verify"):
        found(template(), f"{tmp_path.as_uri()}{end}")


def test_what_cannot_be_read_needs_its_digest() -> None:
    with pytest.raises(Refused, match=r"memory://models/none/model\.json cannot be read.*--digest"):
        found(template(), "memory://models/none")
    assert found(template(), "memory://models/none", "abc").digest == "abc"


def test_what_is_neither_number_nor_uri_is_refused() -> None:
    with pytest.raises(Refused, match="'two' is no version"):
        found(template(MODEL_VERSION="1"), "two")
