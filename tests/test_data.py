"""The data files: read, checked, and split by writer."""

import gzip
import hashlib
import struct
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.data import MNIST
from tests.digits import needs_mnist
from training import data
from training.data import DataError

compress = partial(gzip.compress, mtime=0)
"""The same bytes at any time: tests are named after them."""


def idx(shape: tuple[int, ...], content: bytes) -> bytes:
    return b"\0\0\x08" + bytes([len(shape)]) + struct.pack(f">{len(shape)}I", *shape) + content


@pytest.mark.parametrize("shape", [(6,), (2, 3), (1, 2, 3), (0, 28, 28)])
def test_idx_files_are_read_in_the_shape_they_declare(
    tmp_path: Path, shape: tuple[int, ...]
) -> None:
    content = bytes(range(int(torch.tensor(shape).prod())))
    path = tmp_path / "x.gz"
    path.write_bytes(gzip.compress(idx(shape, content)))
    result = data.read_idx(path)
    assert (result.dtype, result.shape) == (torch.uint8, shape)
    assert bytes(result.flatten().tolist()) == content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not gzip", "cannot be read"),
        (compress(idx((4,), b"1234"))[:-9], "cannot be read"),
        (compress(b""), "begins with 00 00 08"),
        (compress(b"\0\0\x0d\1"), "begins with 00 00 08, found 00 00 0d"),
        (compress(b"\0\0\x08\3\0\0"), "header is cut off after 6 bytes"),
        (compress(idx((2, 3), b"12345")), r"shape \[2, 3\] is 6 bytes, found 5"),
        (compress(idx((2, 3), b"1234567")), r"shape \[2, 3\] is 6 bytes, found 7"),
    ],
)
def test_what_is_no_idx_file_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "bad.gz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as raised:
        data.read_idx(path)
    assert "bad.gz" in str(raised.value)


@given(content=st.binary(max_size=64), zipped=st.booleans())
def test_any_bytes_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, zipped: bool
) -> None:
    path = tmp_path_factory.mktemp("idx") / "x.gz"
    path.write_bytes(gzip.compress(content) if zipped else content)
    try:
        result = data.read_idx(path)
    except DataError:
        return
    assert content == idx(tuple(result.shape), bytes(result.flatten().tolist()))


def test_writers_are_the_third_column(tmp_path: Path) -> None:
    path = tmp_path / "labels.tsv.gz"
    path.write_bytes(gzip.compress(b"7\t4\t2578\t69\t37\t1\t0\t0\n2\t4\t2359\t55\t32\t1\t0\t0\n"))
    assert data.read_writers(path).tolist() == [2578, 2359]


@pytest.mark.parametrize("line", [b"7\t4", b"7\t4\tx\t1"])
def test_a_bad_label_file_is_refused(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "labels.tsv.gz"
    path.write_bytes(gzip.compress(line))
    with pytest.raises(DataError, match=r"labels\.tsv\.gz: expected integers"):
        data.read_writers(path)


@given(
    writers=st.lists(st.integers(0, 30), min_size=1),
    share=st.floats(0, 1),
    seed=st.integers(0, 2**32),
)
def test_a_writer_is_on_one_side_only(writers: list[int], share: float, seed: int) -> None:
    tensor = torch.tensor(writers)
    chosen = data.choose_writers(tensor, share=share, seed=seed)
    inside, outside = set(tensor[chosen].tolist()), set(tensor[~chosen].tolist())
    assert not inside & outside
    assert len(inside) == max(1, round(share * len(set(writers))))
    assert torch.equal(chosen, data.choose_writers(tensor, share=share, seed=seed))


def test_the_seed_chooses_the_writers() -> None:
    writers = torch.arange(100)
    choices = {tuple(data.choose_writers(writers, share=0.1, seed=s).tolist()) for s in range(5)}
    assert len(choices) == 5


def test_a_digest_is_of_images_and_labels() -> None:
    images, labels = torch.zeros(2, 28, 28, dtype=torch.uint8), torch.tensor([3, 8])
    digests = {
        data.Digits("d", *each).digest
        for each in ((images, labels), (images, labels.flip(0)), (images + 1, labels))
    }
    assert len(digests) == 3


def test_a_file_that_is_not_the_published_one_is_named_with_both_digests(tmp_path: Path) -> None:
    (tmp_path / data.TEST_IMAGES).write_bytes(b"damaged")
    (tmp_path / data.TEST_LABELS).write_bytes(b"damaged")
    with pytest.raises(DataError) as raised:
        data.load_test(tmp_path)
    for part in (
        data.TEST_IMAGES,
        f"expected {data.DIGESTS[data.TEST_IMAGES]}",
        f"found {hashlib.sha256(b'damaged').hexdigest()}",
        "delete it",
    ):
        assert part in str(raised.value)


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The addresses asked for, by a download of which the first mirror of MNIST breaks off."""
    addresses: list[str] = []

    def download_url(url: str, root: Path) -> None:
        addresses.append(url)
        root.mkdir(parents=True, exist_ok=True)
        (root / url.rpartition("/")[2]).write_bytes(b"half")
        if url.startswith(data.torchvision_datasets().MNIST.mirrors[0]):
            raise ConnectionResetError("reset by peer")

    monkeypatch.setattr(data.torchvision_datasets().utils, "download_url", download_url)
    return addresses


def test_what_is_missing_is_downloaded_from_the_next_mirror_then_checked(
    tmp_path: Path, fetched: list[str]
) -> None:
    with pytest.raises(DataError, match=f"SHA-256 expected {data.DIGESTS[data.TRAINING_IMAGES]}"):
        data.load_training(tmp_path, validation_share=0.1, seed=1)
    mirrors = data.torchvision_datasets().MNIST.mirrors
    assert fetched == [
        *(mirror + data.TRAINING_IMAGES for mirror in mirrors),
        *(mirror + data.TRAINING_LABELS for mirror in mirrors),
        data.QMNIST + "qmnist-train-labels.tsv.gz",
    ]


def test_a_download_that_fails_leaves_no_half_of_a_file(
    tmp_path: Path, fetched: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = data.torchvision_datasets()
    monkeypatch.setattr(datasets.MNIST, "mirrors", datasets.MNIST.mirrors[:1])
    with pytest.raises(DataError, match=f"{data.TEST_IMAGES} is missing .* reset by peer"):
        data.load_test(tmp_path)
    assert fetched
    assert list(tmp_path.iterdir()) == []


@needs_mnist
def test_mnist_is_split_by_writer() -> None:
    training, validation = data.load_training(MNIST, validation_share=0.1, seed=1)
    assert len(training) + len(validation) == 60_000
    assert len(validation) == pytest.approx(6_000, rel=0.1)
    assert training.images.shape[1:] == validation.images.shape[1:] == (28, 28)
    for digits in (training, validation):
        assert digits.images.dtype == torch.uint8
        assert digits.labels.dtype == torch.int64
        assert torch.unique(digits.labels).tolist() == list(range(10))


@needs_mnist
def test_qmnist_labels_belong_to_mnist_images() -> None:
    lines = gzip.decompress((MNIST / data.TRAINING_WRITERS).read_bytes()).splitlines()
    labels = [int(line.split(b"\t")[0]) for line in lines]
    assert data.read_idx(MNIST / data.TRAINING_LABELS).tolist() == labels


@needs_mnist
def test_the_test_set_has_the_published_counts() -> None:
    digits = data.load_test(MNIST)
    # Counts per digit of the MNIST test set, as published.
    assert digits.labels.bincount().tolist() == [
        980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009,
    ]  # fmt: skip
