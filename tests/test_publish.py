"""From a run to a version, in a folder and in S3."""

import hashlib
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from predictor import artifact
from predictor.artifact import ArtifactError
from tests import runs
from training.publish import Published, publish
from training.run import Run, RunError, read_metrics, write_results
from training.store import Store, StoreError

FILES = ["MODEL.md", "figures/confusion.png", "model.json", "model.pt2"]


@pytest.fixture
def s3(s3_server: runs.S3, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A store that is empty."""
    return Store(s3_server.use(monkeypatch))


@pytest.fixture(params=["folder", "S3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """A store that is empty, of either kind."""
    if request.param == "folder":
        return Store(str(tmp_path / "models/mnist"))
    found: Store = request.getfixturevalue("s3")
    return found


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return runs.write(tmp_path / "run")


def names(directory: Path) -> list[str]:
    """Of all files below the directory."""
    return sorted(
        path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()
    )


def test_versions_are_numbered_and_can_be_served(run: Path, store: Store, tmp_path: Path) -> None:
    for number in (1, 2):
        published = publish(run, store)
        assert (published.version, published.uri) == (number, store.uri(number))
        fetched = tmp_path / f"fetched/{number}"
        store.fetch(number, fetched)
        metadata = artifact.load(fetched, digest=published.digest).metadata
        assert (metadata.name, metadata.version) == ("mnist", number)
        known = Run.read(run)
        assert metadata.training == known.provenance
        assert (metadata.temperature, metadata.threshold) == (known.temperature, known.threshold)
        assert (metadata.metrics, metadata.reference) == (read_metrics(run), runs.REFERENCE)
        assert names(fetched) == FILES
    assert store.versions() == [1, 2]


def test_every_file_is_listed_with_its_digest(run: Path, tmp_path: Path) -> None:
    (run / "figures/reliability.png").write_bytes(b"another picture")
    for stray in ("notes.txt", "old.png", "Screenshot 1.png"):
        (run / "figures" / stray).write_bytes(b"not published")
    (run / "MODEL.md").write_text(f"{runs.CARD}![Reliability](figures/reliability.png)\n", "utf-8")
    publish(run, Store(str(tmp_path / "mnist")))
    metadata = artifact.read_metadata(tmp_path / "mnist/1")
    assert metadata.files == {
        name: hashlib.sha256((run / name).read_bytes()).hexdigest()
        for name in ["model.pt2", "MODEL.md", "figures/confusion.png", "figures/reliability.png"]
    }
    assert names(tmp_path / "mnist/1") == sorted([*metadata.files, "model.json"])


def test_a_published_version_is_never_overwritten(run: Path, store: Store, tmp_path: Path) -> None:
    published = publish(run, store, version=4)
    with pytest.raises(StoreError, match="4 exists already"):
        publish(run, store, version=4)
    store.fetch(4, tmp_path / "fetched")
    artifact.load(tmp_path / "fetched", digest=published.digest)
    assert store.versions() == [4]


def test_of_two_publishers_of_one_version_one_is_refused(
    run: Path, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = artifact.load

    def meanwhile(draft: Path) -> artifact.Model:
        monkeypatch.setattr(artifact, "load", load)
        with pytest.raises(StoreError, match="1 is being published by another"):
            publish(run, Store(store.location), version=1)
        return load(draft)

    monkeypatch.setattr(artifact, "load", meanwhile)
    published = publish(run, store, version=1)
    store.fetch(1, tmp_path / "fetched")
    load(tmp_path / "fetched", digest=published.digest)


def test_publishers_at_once_get_versions_of_their_own(
    run: Path, store: Store, tmp_path: Path
) -> None:
    def publisher(own: Store) -> Published:
        return publish(run, own)

    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(publisher, [Store(store.location) for _ in range(3)]))
    assert store.versions() == sorted(published.version for published in found)
    for published in found:
        store.fetch(published.version, tmp_path / published.digest)
        metadata = artifact.load(tmp_path / published.digest, digest=published.digest).metadata
        assert metadata.version == published.version


def fill_up(directory: Path, writes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let so many files be written below the directory, and half of the next."""
    write_bytes = Path.write_bytes
    written: list[Path] = []

    def full(path: Path, content: bytes) -> int:
        if path.is_relative_to(directory):
            if len(written) == writes:
                write_bytes(path, content[: len(content) // 2])
                raise OSError(28, "No space left on device", str(path))
            written.append(path)
        return write_bytes(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)


# What is refused


def test_what_cannot_be_served_is_not_published(run: Path, store: Store) -> None:
    (run / "model.pt2").write_bytes(b"damaged")
    with pytest.raises(ArtifactError, match="cannot be served"):
        publish(run, store)
    assert store.versions() == []
    runs.write(run)
    assert publish(run, store, version=1).version == 1


@pytest.mark.parametrize(
    ("missing", "command"),
    [
        ("run.json", "train"), ("model.pt2", "train"),
        ("metrics.json", "evaluate"), ("reference.json", "evaluate"), ("MODEL.md", "evaluate"),
        ("figures/confusion.png", "evaluate"),
    ],
)  # fmt: skip
def test_an_incomplete_run_says_which_command_is_missing(
    run: Path, tmp_path: Path, missing: str, command: str
) -> None:
    (run / missing).unlink()
    with pytest.raises(RunError, match=f"{missing} .* run `python -m training {command}` first"):
        publish(run, Store(str(tmp_path / "mnist")))
    assert not (tmp_path / "mnist").exists()


@pytest.mark.parametrize("name", ["run.json", "metrics.json", "reference.json"])
def test_a_file_that_is_cut_off_is_named(run: Path, tmp_path: Path, name: str) -> None:
    (run / name).write_bytes((run / name).read_bytes()[:50])
    with pytest.raises(RunError, match=f"{name} is malformed: run `python -m training"):
        publish(run, Store(str(tmp_path / "mnist")))


@pytest.mark.parametrize("writes", range(4))
def test_what_a_full_disk_has_cut_off_when_it_was_evaluated_again_is_not_published(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    metrics = read_metrics(run)
    fill_up(run, writes, monkeypatch)
    with pytest.raises(OSError, match="No space left on device"):
        write_results(
            run, metrics, runs.REFERENCE, card=runs.CARD, figures={"confusion.png": b"a picture"}
        )
    with pytest.raises(RunError, match="run `python -m training evaluate`"):
        publish(run, Store(str(tmp_path / "mnist")))


# Stores that fail


@pytest.mark.parametrize("writes", range(len(FILES)))
def test_a_full_disk_leaves_nothing_half_written(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    store = Store(str(tmp_path / "mnist"))
    published = publish(run, store)
    fill_up(tmp_path / "mnist", writes, monkeypatch)
    with pytest.raises(StoreError, match="No space left on device"):
        publish(run, store)
    assert names(tmp_path / "mnist") == [f"1/{name}" for name in FILES]
    artifact.load(tmp_path / "mnist/1", digest=published.digest)


@pytest.mark.parametrize("refused", ["GET /models", "PUT /.claims/2", "PUT /2/model.json"])
@pytest.mark.parametrize(
    ("status", "code"),
    [("403 Forbidden", "InvalidAccessKeyId"), ("500 Internal Server Error", "InternalError")],
)
def test_a_store_that_refuses_is_one_line_and_keeps_what_it_has(
    run: Path, s3: Store, s3_server: runs.S3, refused: str, status: str, code: str
) -> None:
    publish(run, s3)
    before = s3_server.files()
    s3_server.refused[refused] = (status, code)
    said = f"{code}, says the test; check the address, the credentials and the network"
    with pytest.raises(StoreError, match=rf"^s3://models/team/mnist: (\[Errno \d+\] )?{said}$"):
        publish(run, s3)
    s3_server.refused.clear()
    assert s3_server.files() == before


def test_missing_credentials_are_told(
    run: Path, s3: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "nowhere")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(StoreError, match="Unable to locate credentials; check .* the credentials"):
        publish(run, s3)


@pytest.mark.usefixtures("s3")
def test_a_missing_bucket_is_told(run: Path) -> None:
    with pytest.raises(StoreError, match="s3://nowhere/mnist: The specified bucket does not exist"):
        publish(run, Store("s3://nowhere/mnist"))


def test_a_server_that_is_gone_is_told(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = runs.S3()
    with gone.running():
        store = Store(gone.use(monkeypatch))
    with pytest.raises(StoreError, match="Could not connect to the endpoint .* the network$"):
        publish(run, store)


def test_a_folder_that_cannot_be_made_is_told(run: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match=r"file/mnist: .*Not a directory"):
        publish(run, Store(str(tmp_path / "file/mnist")))


# KServe


def test_kserves_storage_initializer_reads_the_version(
    run: Path, store: Store, tmp_path: Path
) -> None:
    # Its requirements are too many to be among those of the tests.
    pytest.importorskip("kserve_storage", reason="pip install --no-deps kserve-storage==0.21.0")
    published = publish(run, store, version=1)
    publish(run, store, version=10)
    mounted = tmp_path / "mnt/models"
    download = "import sys, kserve_storage as k; k.Storage.download(sys.argv[1], sys.argv[2])"
    subprocess.run([sys.executable, "-c", download, published.uri, mounted], check=True)
    assert artifact.load(mounted, digest=published.digest).metadata.version == 1
    assert sorted(path.name for path in mounted.iterdir()) == [
        "MODEL.md", "figures", "model.json", "model.pt2",
    ]  # fmt: skip
