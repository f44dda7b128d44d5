"""A version directory: what is served, and what is refused before anything of it is loaded."""

import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from predictor import artifact
from predictor.artifact import ArtifactError
from predictor.metadata import INPUTS, Metadata, outputs
from serving.scores import Images
from tests.versions import linear_graph, served, write
from training.network import export

OUTPUTS = outputs(10)
PLACES: Any = {
    "name": "mnist",
    "models_dir": Path("/models"),
    "mount_dir": Path("/mnt/models"),
}


@pytest.fixture
def version(tmp_path: Path) -> Path:
    write(tmp_path / "3", linear_graph())
    return tmp_path / "3"


# Which version is served


@pytest.mark.parametrize(
    ("environ", "directory"),
    [
        ({"MODEL_VERSION": "2"}, "/models/mnist/2"),
        ({"MODEL_VERSION": "12", "STORAGE_URI": ""}, "/models/mnist/12"),
        ({"STORAGE_URI": "s3://bucket/mnist/2"}, "/mnt/models"),
        ({"STORAGE_URI": "s3://bucket/mnist/2", "MODEL_VERSION": "1"}, "/mnt/models"),
    ],
)
def test_two_variables_choose_the_version(environ: dict[str, str], directory: str) -> None:
    assert artifact.select_directory(environ, **PLACES) == Path(directory)


@pytest.mark.parametrize("text", ["0", "-1", "1.0", "01", "latest", "../1", "1/../2", " 1", "²"])
def test_a_version_is_a_positive_integer(text: str) -> None:
    with pytest.raises(ArtifactError, match="MODEL_VERSION must be a positive integer"):
        artifact.select_directory({"MODEL_VERSION": text}, **PLACES)


def test_without_either_variable_there_is_nothing_to_serve() -> None:
    with pytest.raises(ArtifactError, match=r"set MODEL_VERSION .* or STORAGE_URI"):
        artifact.select_directory({}, **PLACES)


# What is refused


@pytest.fixture
def nothing_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails the test if a graph is read after all."""

    def forbidden(content: bytes, **_: object) -> None:
        pytest.fail("the graph was deserialised")

    monkeypatch.setattr("predictor.runtime.open_graph", forbidden)


@pytest.mark.usefixtures("nothing_is_loaded")
@pytest.mark.parametrize("name", ["model.pt2", "MODEL.md"])
def test_a_flipped_byte_anywhere_is_refused(version: Path, name: str) -> None:
    content = (version / name).read_bytes()
    places = range(0, len(content), max(1, len(content) // 100))
    for place in [*places, len(content) - 1]:
        damaged = bytearray(content)
        damaged[place] ^= 1
        (version / name).write_bytes(damaged)
        with pytest.raises(ArtifactError) as raised:
            artifact.load(version)
        assert f"{name}: SHA-256 expected {hashlib.sha256(content).hexdigest()}" in str(
            raised.value
        )
        assert f"found {hashlib.sha256(damaged).hexdigest()}" in str(raised.value)


@pytest.mark.usefixtures("nothing_is_loaded")
@pytest.mark.parametrize("name", ["model.json", "model.pt2", "MODEL.md"])
@pytest.mark.parametrize("change", [Path.unlink, lambda path: path.rename(f"{path}.bak")])
def test_a_file_that_is_missing_or_renamed_is_named(
    version: Path, name: str, change: Callable[[Path], None]
) -> None:
    change(version / name)
    with pytest.raises(ArtifactError, match=f"{name} cannot be read: No such file"):
        artifact.load(version)


@pytest.mark.usefixtures("nothing_is_loaded")
@pytest.mark.parametrize("name", ["model.json", "model.pt2"])
@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero"), Path.mkdir])
def test_what_is_no_file_is_not_read(
    version: Path, name: str, make: Callable[[Path], None]
) -> None:
    (version / name).unlink()
    make(version / name)
    with pytest.raises(ArtifactError, match=f"{name} cannot be read: it is not a regular file"):
        artifact.load(version)


@pytest.mark.usefixtures("nothing_is_loaded")
@pytest.mark.parametrize("change", [lambda content: content[:-1], lambda content: content + b"\0"])
def test_a_file_of_another_length_is_refused(
    version: Path, change: Callable[[bytes], bytes]
) -> None:
    path = version / "model.pt2"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ArtifactError, match=r"model\.pt2: SHA-256 expected"):
        artifact.load(version)


@pytest.mark.usefixtures("nothing_is_loaded")
def test_another_model_json_than_the_one_wanted_is_refused(version: Path) -> None:
    path = version / "model.json"
    path.write_text(path.read_text().replace('"threshold": 0.11', '"threshold": 0.01'))
    with pytest.raises(ArtifactError, match=r"model\.json: SHA-256 expected 0{64}, found .*DIGEST"):
        artifact.load(version, digest="0" * 64)


def test_the_digest_wanted_may_have_large_letters(version: Path) -> None:
    digest = hashlib.sha256((version / "model.json").read_bytes()).hexdigest()
    assert artifact.load(version, digest=digest.upper()).metadata.version == 3


def test_files_that_are_not_listed_are_never_read(version: Path) -> None:
    (version / "extra.pt2").mkdir()  # reading it would fail
    (version / "extra.json").write_bytes(b"\xff")
    artifact.load(version)


def test_a_file_may_be_a_link_to_one(version: Path) -> None:
    path = version / "model.pt2"
    path.symlink_to(path.rename(version.parent / "elsewhere"))
    artifact.load(version)


@pytest.mark.usefixtures("nothing_is_loaded")
@pytest.mark.parametrize(
    "name",
    ["../outside", "a/../../outside", "/etc/hostname", "a//b", "", ".", "..", "./model.pt2",
     "C:\\x", "C:x", "a\\b", "x\n", "a\0b"],
)  # fmt: skip
def test_a_name_that_could_lead_elsewhere_is_refused(version: Path, name: str) -> None:
    (version.parent / "outside").write_bytes(linear_graph())
    digest = hashlib.sha256(linear_graph()).hexdigest()
    write(version, linear_graph(), files={"model.pt2": digest, name: digest})
    with pytest.raises(ArtifactError, match=r"model\.json is malformed: files\."):
        artifact.load(version)


@pytest.mark.parametrize("graph", [b"", b"not a zip file", b"PK\5\6" + bytes(18)])
def test_a_graph_that_does_not_load_is_an_error_that_says_so(version: Path, graph: bytes) -> None:
    write(version, graph)
    with pytest.raises(ArtifactError, match=r"model\.pt2 cannot be served: .*torch 2\.13\.0"):
        artifact.load(version)


def test_a_message_is_one_line_whatever_torch_and_the_files_say(
    version: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        torch.ones(1).ge("x" * 5000)  # type: ignore[call-overload]

    monkeypatch.setattr("predictor.runtime.open_graph", refuse)
    many = {f"line\nbreak {number}": "" for number in range(99)}
    for changes in ({}, {"files": many}):
        write(version, linear_graph(), **changes)
        with pytest.raises(ArtifactError) as raised:
            artifact.load(version)
        assert len(str(raised.value).splitlines()) == 1
        assert len(str(raised.value)) < 800


@pytest.mark.parametrize(
    "changes",
    [
        {"outputs": OUTPUTS[::-1]},
        {"outputs": OUTPUTS[:1]},
        {"labels": ("0", "1")},
        {"inputs": (INPUTS[0].model_copy(update={"shape": (-1, 27, 28)}),)},
        {"inputs": INPUTS * 2},
    ],
)
def test_what_the_predictor_cannot_serve_is_refused(version: Path, changes: dict[str, Any]) -> None:
    path = version / "model.json"
    document = json.loads(path.read_bytes())
    for key, value in changes.items():
        document[key] = [each if key == "labels" else each.model_dump() for each in value]
    path.write_text(json.dumps(document))
    with pytest.raises(ArtifactError, match=r"malformed: document: .*that the predictor serves"):
        artifact.load(version)


@pytest.mark.parametrize(
    ("size", "datatype", "value", "told"),
    [
        (2, np.float32, 0, "declared are outputs"),
        (10, np.float64, 0, "declared are outputs"),
        (10, np.float32, math.inf, "of a blank picture it gives numbers that are not finite"),
    ],
    ids=["labels", "datatype", "infinite"],
)
def test_a_graph_must_do_what_is_declared(
    version: Path,
    monkeypatch: pytest.MonkeyPatch,
    size: int,
    datatype: type[Any],
    value: float,
    told: str,
) -> None:
    def graph(images: Images) -> Any:
        count = len(images)
        return np.full((count, size), value, datatype), np.zeros(count, np.bool_)

    monkeypatch.setattr("predictor.runtime.open_graph", lambda *_, **__: graph)
    with pytest.raises(ArtifactError, match=rf"model\.pt2 cannot be served: {told}"):
        artifact.load(version)


@pytest.mark.parametrize("fixed", [1, 3])
def test_a_graph_must_take_any_number_of_images(
    version: Path, monkeypatch: pytest.MonkeyPatch, fixed: int
) -> None:
    same = np.zeros((fixed, 10), np.float32), np.zeros(fixed, np.bool_)
    monkeypatch.setattr("predictor.runtime.open_graph", lambda *_, **__: lambda _: same)
    with pytest.raises(ArtifactError, match=r"model\.pt2 cannot be served: declared are outputs"):
        artifact.load(version)


def test_a_graph_of_weights_that_are_no_numbers_is_refused(version: Path) -> None:
    network = served("linear")
    torch.nn.init.constant_(next(network.parameters()), math.nan)
    write(version, export(network))
    with pytest.raises(ArtifactError, match=r"model\.pt2 cannot be served: .* not finite"):
        artifact.load(version)


def test_a_directory_must_hold_the_version_of_its_name(version: Path) -> None:
    version.rename(version.parent / "4")
    with pytest.raises(ArtifactError, match=r"4/model\.json describes version 3"):
        artifact.load(version.parent / "4")


def test_a_version_without_a_graph_is_refused(version: Path) -> None:
    write(version, linear_graph(), files={})
    with pytest.raises(ArtifactError, match=r"lists no model\.pt2"):
        artifact.load(version)


# model.json


def test_model_json_is_read_as_it_was_written(version: Path) -> None:
    metadata = artifact.read_metadata(version)
    assert metadata.to_json() == (version / "model.json").read_bytes()
    assert metadata.created == datetime(2026, 1, 2, tzinfo=UTC)
    assert metadata.files["model.pt2"] == hashlib.sha256(linear_graph()).hexdigest()


def test_what_a_newer_version_adds_is_ignored(version: Path) -> None:
    path = version / "model.json"
    document = json.loads(path.read_bytes())
    path.write_text(json.dumps({**document, "teacher": "an ensemble"}))
    assert artifact.read_metadata(version).version == 3


@pytest.mark.parametrize("key", sorted(Metadata.model_fields.keys() - {"reference"}))
def test_each_key_is_needed_and_named_when_missing(version: Path, key: str) -> None:
    path = version / "model.json"
    document = json.loads(path.read_bytes())
    del document[key]
    path.write_text(json.dumps(document))
    with pytest.raises(ArtifactError, match=f"malformed: {key}: Field required"):
        artifact.read_metadata(version)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("version", 0),
        ("version", "1"),
        ("created", "yesterday"),
        ("threshold", None),
        ("threshold", math.nan),
        ("inputs", [{"name": "images", "datatype": "COMPLEX", "shape": [-1]}]),
        ("files", {"model.pt2": "0" * 63}),
        ("files", {"model.pt2": "0" * 65}),
        ("files", {"model.pt2": "A" * 64}),
    ],
)
def test_a_wrong_value_is_refused_by_its_key(version: Path, key: str, value: object) -> None:
    path = version / "model.json"
    path.write_text(json.dumps({**json.loads(path.read_bytes()), key: value}))
    with pytest.raises(ArtifactError, match=f"malformed: {key}"):
        artifact.read_metadata(version)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@pytest.fixture(scope="module")
def playground(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One directory for all examples of a property."""
    directory = tmp_path_factory.mktemp("playground")
    write(directory, linear_graph())
    shutil.copy(directory / "model.json", directory / "good.json")
    return directory


@given(content=st.binary(max_size=200) | json_values.map(lambda v: json.dumps(v).encode()))
def test_any_bytes_in_model_json_are_an_artifact_error(playground: Path, content: bytes) -> None:
    (playground / "model.json").write_bytes(content)
    with pytest.raises(ArtifactError):
        artifact.load(playground)


@given(data=st.data(), value=json_values)
def test_any_value_anywhere_in_model_json_is_accepted_or_an_artifact_error(
    playground: Path, data: st.DataObject, value: object
) -> None:
    document = json.loads((playground / "good.json").read_bytes())
    place: Any = document
    key: Any = data.draw(st.sampled_from(sorted(document)))
    while isinstance(place[key], dict | list) and place[key] and data.draw(st.booleans()):
        place = place[key]
        key = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else [0]))
    place[key] = value
    (playground / "model.json").write_text(json.dumps(document))
    try:
        metadata = artifact.read_metadata(playground)
    except ArtifactError:
        return
    assert Metadata.model_validate_json(metadata.to_json()).to_json() == metadata.to_json()
