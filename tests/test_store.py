"""Where versions are kept: a folder, and S3 as a server of its protocol answers."""

import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests import runs
from training.store import Store, StoreError

CONTENTS = {"model.json": b"{}", "model.pt2": b"graph", "figures/confusion.png": b"picture"}
PUBLISHERS = 4


@pytest.fixture
def s3(s3_server: runs.S3, monkeypatch: pytest.MonkeyPatch) -> str:
    """A location that is empty."""
    return s3_server.use(monkeypatch)


@pytest.fixture(params=["folder", "S3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """A store that is empty, of either kind."""
    folder = str(tmp_path / "team/mnist")
    return Store(folder if request.param == "folder" else request.getfixturevalue("s3"))


def add(store: Store, version: int | None = None) -> int:
    """Write a version as a publisher does; returns its number."""
    with store.claim(version) as number:
        store.write(number, CONTENTS)
    return number


def kill_a_publisher(store: Store, version: int | None = None) -> int:
    """Leave a claim behind, as a process does that is killed; returns the number."""
    claim = store.claim(version)
    ABANDONED.append(claim)  # else Python releases it
    return claim.__enter__()


ABANDONED: list[AbstractContextManager[int]] = []


def at_once(location: str, version: int | None) -> list[int | StoreError]:
    """What each of several publishers got that began together."""
    barrier = threading.Barrier(PUBLISHERS)

    def publisher(store: Store) -> int | StoreError:
        barrier.wait()
        try:
            return add(store, version)
        except StoreError as error:
            return error

    with ThreadPoolExecutor(PUBLISHERS) as pool:
        return list(pool.map(publisher, [Store(location) for _ in range(PUBLISHERS)]))


def read(directory: Path) -> dict[str, bytes]:
    """Every file below the directory."""
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


# Names and places


@pytest.mark.parametrize(
    "location", ["models/mnist", "./mnist/", "s3://b/mnist", "s3://b/c/mnist/"]
)
def test_the_last_part_of_the_location_is_the_name(location: str) -> None:
    assert Store(location).name == "mnist"


def test_a_folder_is_known_by_its_path_or_its_url(tmp_path: Path) -> None:
    add(Store(f"file://{tmp_path}/mnist"))
    assert Store(str(tmp_path / "mnist")).versions() == [1]
    assert Store(f"file://{tmp_path}/mnist").uri(1) == f"file://{tmp_path}/mnist/1/"


def test_the_uri_of_a_relative_path_is_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert Store("models/mnist").uri(2) == f"file://{tmp_path}/models/mnist/2/"


@pytest.mark.parametrize(
    ("driver", "location", "uri"),
    [
        ("s3fs", "s3://bucket/team/mnist/", "s3://bucket/team/mnist/3/"),
        ("gcsfs", "gs://bucket/mnist", "gs://bucket/mnist/3/"),
        (
            "adlfs",
            "abfs://container@account.dfs.core.windows.net/team/mnist",
            "https://account.blob.core.windows.net/container/team/mnist/3/",
        ),
        ("adlfs", "az://container/mnist", "https://else.blob.core.windows.net/container/mnist/3/"),
    ],
)
def test_a_uri_is_one_that_kserve_knows(
    driver: str, location: str, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(driver)
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "else")
    monkeypatch.setenv("AZURE_STORAGE_ANON", "true")
    assert Store(location).uri(3) == uri


@pytest.mark.parametrize(
    ("location", "driver", "extra"),
    [
        ("s3://bucket/mnist", "s3fs", "s3"),
        ("gs://bucket/mnist", "gcsfs", "gcs"),
        ("abfs://container@account.dfs.core.windows.net/mnist", "adlfs", "azure"),
    ],
)
def test_a_driver_that_is_not_installed_is_named(
    location: str, driver: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, driver, None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, location.split(":")[0], False)
    with pytest.raises(StoreError, match=rf"install -c constraints.txt -e '\.\[{extra}\]'"):
        Store(location)


@pytest.mark.parametrize("location", ["http://host/mnist", "memory://mnist", "nonsense://mnist"])
def test_a_store_that_cannot_create_exclusively_is_refused(location: str) -> None:
    with pytest.raises(StoreError, match="give a path or one of file://, s3://, gs://"):
        Store(location)


# Versions


def test_a_new_store_has_no_versions(store: Store) -> None:
    assert store.versions() == []


def test_versions_are_in_the_order_of_their_numbers(store: Store) -> None:
    for number in (10, 9, 1):
        add(store, number)
    assert store.versions() == [1, 9, 10]


def test_a_version_without_its_model_json_is_none(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    kill_a_publisher(store, 3)
    for name in ("2/model.pt2", "notes/model.json"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(b"{}")
    assert store.versions() == []


def test_a_store_sees_what_another_has_written(store: Store) -> None:
    assert store.versions() == []
    add(Store(store.location))
    assert store.versions() == [1]


# Claims


def test_the_next_number_is_claimed(store: Store) -> None:
    assert [add(store), add(store, 5), add(store)] == [1, 5, 6]


def test_a_version_that_exists_cannot_be_claimed(store: Store) -> None:
    add(store, 4)
    with pytest.raises(StoreError, match="4 exists already, .* take the next number"):
        add(store, 4)


@pytest.mark.parametrize("number", [0, -1])
def test_only_positive_numbers_can_be_claimed(tmp_path: Path, number: int) -> None:
    with pytest.raises(StoreError, match=f"positive integer, found {number}"):
        add(Store(str(tmp_path)), number)


def test_a_claim_is_released_when_publishing_fails(store: Store) -> None:
    with pytest.raises(ZeroDivisionError), store.claim():
        _ = 1 / 0
    assert add(store, 1) == 1


def test_the_next_number_is_past_the_one_a_killed_publisher_holds(store: Store) -> None:
    assert kill_a_publisher(store) == 1
    assert add(store) == 2


def test_who_wants_the_number_of_a_killed_publisher_is_told_its_claim(store: Store) -> None:
    kill_a_publisher(store, 7)
    with pytest.raises(StoreError, match=r"published by another; .* delete .+://.+/\.claims/7$"):
        add(store, 7)


def test_of_publishers_of_one_number_at_once_one_succeeds(store: Store) -> None:
    got = at_once(store.location, 1)
    assert got.count(1) == 1
    assert all(number == 1 or isinstance(number, StoreError) for number in got)
    assert store.versions() == [1]


def test_publishers_at_once_get_different_numbers(store: Store) -> None:
    got = at_once(store.location, None)
    assert len(set(got)) == PUBLISHERS
    assert set(store.versions()) == set(got)


def test_a_server_that_says_less_of_a_claim_taken_is_understood(
    s3: str, s3_server: runs.S3
) -> None:
    # AWS names the condition that failed; MinIO does not.
    s3_server.refused["PUT /.claims/1"] = ("412 Precondition Failed", "PreconditionFailed")
    assert add(Store(s3)) == 2


# Writing


def test_what_was_written_is_fetched(store: Store, tmp_path: Path) -> None:
    add(store, 1)
    add(store, 10)
    store.fetch(1, tmp_path / "copy")
    assert read(tmp_path / "copy") == CONTENTS


def test_a_version_is_written_over_nothing_that_is_there(store: Store, tmp_path: Path) -> None:
    add(store, 1)
    with pytest.raises(StoreError, match="mnist/1.* is there already: take the next number"):
        store.write(1, dict.fromkeys(CONTENTS, b"another"))
    store.fetch(1, tmp_path / "copy")
    assert read(tmp_path / "copy") == CONTENTS


def test_what_a_killed_publisher_left_is_passed_over(s3: str, s3_server: runs.S3) -> None:
    s3_server.put("1/model.pt2", b"half")
    store = Store(s3)
    with pytest.raises(StoreError, match=r"1/model\.pt2 is there already: take the next number"):
        add(store, 1)
    assert s3_server.files() == {"1/model.pt2": b"half"}
    assert add(store) == 2


def test_an_empty_folder_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "mnist/1").mkdir(parents=True)
    assert add(Store(str(tmp_path / "mnist"))) == 2


def test_nothing_is_published_into_a_version(store: Store, tmp_path: Path) -> None:
    add(store, 1)
    with pytest.raises(StoreError, match="mnist/1 is a version: name the folder that it lies in"):
        add(Store(f"{store.location}/1"))
    store.fetch(1, tmp_path / "copy")
    assert read(tmp_path / "copy") == CONTENTS


def test_a_power_cut_leaves_no_version_or_a_whole_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk has the files before they are a version, and the version before that is said."""
    done: list[int | str] = []
    rename = Path.rename

    def renamed(path: Path, target: Path) -> Path:
        done.append("renamed")
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", lambda file: done.append(os.fstat(file).st_ino))
    monkeypatch.setattr(Path, "rename", renamed)
    add(Store(str(tmp_path)), 1)
    files = [(tmp_path / "1" / name).stat().st_ino for name in CONTENTS]
    assert done == [*files, "renamed", tmp_path.stat().st_ino]


@pytest.mark.parametrize("name", CONTENTS)
def test_a_write_that_fails_leaves_nothing(s3: str, s3_server: runs.S3, name: str) -> None:
    store = Store(s3)
    add(store)
    before = s3_server.files()
    s3_server.refused[f"PUT /2/{name}"] = ("403 Forbidden", "ExpiredToken")
    with pytest.raises(StoreError, match="ExpiredToken, says the test; check .* credentials"):
        add(store)
    assert s3_server.files() == before


@pytest.mark.parametrize("name", [".claims/1", *(f"1/{name}" for name in CONTENTS)])
def test_a_write_whose_answer_is_lost_is_done_once(s3: str, s3_server: runs.S3, name: str) -> None:
    s3_server.lost.append(f"PUT /{name}")
    assert add(Store(s3), 1) == 1
    assert s3_server.lost == []
    assert s3_server.files() == {f"1/{name}": content for name, content in CONTENTS.items()}


def test_model_json_is_written_last(s3: str, s3_server: runs.S3) -> None:
    s3_server.refused["PUT /1/model.json"] = ("403 Forbidden", "ExpiredToken")
    s3_server.refused["DELETE "] = ("403 Forbidden", "ExpiredToken")
    with pytest.raises(StoreError, match="ExpiredToken"):
        add(Store(s3))
    assert set(s3_server.files()) == {".claims/1", "1/model.pt2", "1/figures/confusion.png"}


# Fetching


def test_placeholders_of_folders_are_no_files(s3: str, s3_server: runs.S3, tmp_path: Path) -> None:
    store = Store(s3)
    add(store, 1)
    for name in ("", "1/", "1/figures/"):
        s3_server.put(name, b"")
    store.fetch(1, tmp_path / "copy")
    assert read(tmp_path / "copy") == CONTENTS


def test_a_version_that_is_not_there_is_not_fetched(store: Store, tmp_path: Path) -> None:
    add(store, 2)
    with pytest.raises(StoreError, match="has no version 3: there are 2"):
        store.fetch(3, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_a_name_that_leads_elsewhere_is_refused(
    s3: str, s3_server: runs.S3, tmp_path: Path
) -> None:
    s3_server.put("1/model.json", b"{}")
    s3_server.put("1/../../escaped", b"x")
    with pytest.raises(StoreError, match="escaped would be written elsewhere"):
        Store(s3).fetch(1, tmp_path / "a/b")
    assert list(tmp_path.rglob("escaped")) == []
