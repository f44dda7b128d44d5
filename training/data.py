"""The MNIST digits, and the choice of writers held out for validation.

**Another data set?** Replace ``load_training`` and ``load_test``; docs/another-model.md lists the
other places.

The files are the four of MNIST (LeCun et al. 1998) and the labels of QMNIST (Yadav and Bottou
2019, arXiv:1905.10498), which say who wrote each of MNIST's digits.
"""

import gzip
import hashlib
import math
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

QMNIST = "https://raw.githubusercontent.com/facebookresearch/qmnist/master/"
TRAINING_IMAGES = "train-images-idx3-ubyte.gz"
TRAINING_LABELS = "train-labels-idx1-ubyte.gz"
TRAINING_WRITERS = "qmnist_labels/qmnist-train-labels.tsv.gz"
TEST_IMAGES = "t10k-images-idx3-ubyte.gz"
TEST_LABELS = "t10k-labels-idx1-ubyte.gz"

DIGESTS = {
    TRAINING_IMAGES: "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    TRAINING_LABELS: "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    TRAINING_WRITERS: "063229afb535986df50a905c6fa03b716f503bd859d2d9bc8a9b4e2c6a2ccee4",
    TEST_IMAGES: "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    TEST_LABELS: "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
}
"""SHA-256 of the published files, by their path in the data directory."""


class DataError(Exception):
    """Data is missing or not as expected; the message says which."""


@dataclass(frozen=True)
class Digits:
    """A data set: ``images`` uint8 [N, 28, 28], 255 = ink; ``labels`` int64 [N], 0 to 9."""

    name: str
    images: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def digest(self) -> str:
        """SHA-256 over the bytes of the images, then of the labels as uint8."""
        content = hashlib.sha256(self.images.numpy().tobytes())
        content.update(self.labels.to(torch.uint8).numpy().tobytes())
        return content.hexdigest()


def load_training(directory: Path, *, validation_share: float, seed: int) -> tuple[Digits, Digits]:
    """Return MNIST's 60,000 training images in two parts: to train on, and to validate on.

    The two have no writer in common.

    Args:
        directory: the folder of the files; missing ones are downloaded.
        validation_share: share of the writers in the second part, from 0 to 1.
        seed: chooses these writers.

    Raises:
        DataError: a file cannot be downloaded or is not the published one.
    """
    require(directory, TRAINING_IMAGES, TRAINING_LABELS, TRAINING_WRITERS)
    images = read_idx(directory / TRAINING_IMAGES)
    labels = read_idx(directory / TRAINING_LABELS).long()
    held_out = choose_writers(
        read_writers(directory / TRAINING_WRITERS), share=validation_share, seed=seed
    )
    return (
        Digits("MNIST training set, writers trained on", images[~held_out], labels[~held_out]),
        Digits("MNIST training set, writers held out", images[held_out], labels[held_out]),
    )


def load_test(directory: Path) -> Digits:
    """Return MNIST's 10,000 test images. Nothing may be chosen on them.

    Raises:
        DataError: a file cannot be downloaded or is not the published one.
    """
    require(directory, TEST_IMAGES, TEST_LABELS)
    labels = read_idx(directory / TEST_LABELS).long()
    return Digits("MNIST test set", read_idx(directory / TEST_IMAGES), labels)


def choose_writers(writers: torch.Tensor, *, share: float, seed: int) -> torch.Tensor:
    """Choose ``share`` of the writers, at least one; return bool [N], true for their digits.

    Args:
        writers: int64 [N], the writer of each digit.
        share: from 0 to 1.
        seed: the same seed chooses the same writers.
    """
    everyone = torch.unique(writers)
    order = torch.randperm(len(everyone), generator=torch.Generator().manual_seed(seed))
    return torch.isin(writers, everyone[order[: max(1, round(share * len(everyone)))]])


def read_idx(path: Path) -> torch.Tensor:
    """Read a gzipped IDX file of bytes, such as MNIST's: uint8, of the shape that it declares.

    The format: two zero bytes, the type (8 = unsigned byte), the number of dimensions, each
    dimension as a big-endian 32-bit integer, the bytes (yann.lecun.com/exdb/mnist).

    Raises:
        DataError: it is no such file, or its length does not match its header.
    """
    content = _unzip(path)
    if len(content) < 4 or content[:3] != b"\0\0\x08":
        raise DataError(
            f"{path}: an IDX file of bytes begins with 00 00 08, found {content[:3].hex(' ')}"
        )
    start = 4 + 4 * content[3]
    if len(content) < start:
        raise DataError(f"{path}: the IDX header is cut off after {len(content)} bytes")
    shape = struct.unpack(f">{content[3]}I", content[4:start])
    if len(content) - start != math.prod(shape):
        raise DataError(
            f"{path}: shape {list(shape)} is {math.prod(shape)} bytes, found {len(content) - start}"
        )
    return torch.from_numpy(np.frombuffer(content, np.uint8, offset=start).reshape(shape).copy())


def read_writers(path: Path) -> torch.Tensor:
    """Read the writer of each digit, int64 [N], from the third column of QMNIST's label file.

    Raises:
        DataError: the file is not a gzipped table of integers separated by tabs.
    """
    try:
        writers = [int(line.split(b"\t")[2]) for line in _unzip(path).splitlines()]
    except (ValueError, IndexError) as error:
        raise DataError(f"{path}: expected integers with tabs between them: {error}") from error
    return torch.tensor(writers)


def _unzip(path: Path) -> bytes:
    try:
        return gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def require(directory: Path, *names: str) -> None:
    """Download those of ``names`` that are missing, and check all against ``DIGESTS``.

    Raises:
        DataError: a download failed, or a file is not the published one.
    """
    missing = [name for name in names if not (directory / name).exists()]
    if missing:
        _download(directory, missing)
    for name in names:
        found = hashlib.sha256((directory / name).read_bytes()).hexdigest()
        if found != DIGESTS[name]:
            raise DataError(
                f"{directory / name}: SHA-256 expected {DIGESTS[name]}, found {found}; "
                "delete it to have it downloaded again"
            )


def _download(directory: Path, names: list[str]) -> None:
    datasets = torchvision_datasets()
    for name in names:
        path = directory / name
        sources = [QMNIST] if name == TRAINING_WRITERS else datasets.MNIST.mirrors
        for source in sources:
            try:
                datasets.utils.download_url(source + path.name, path.parent)
                break
            except OSError as error:
                path.unlink(missing_ok=True)  # it may be incomplete
                reason = error
        else:
            raise DataError(
                f"{path} is missing and cannot be downloaded from {' or '.join(sources)}: {reason}"
            )


def torchvision_datasets() -> Any:
    """Return the module ``torchvision.datasets``, with a CPU build of torch too."""
    try:
        from torchvision import datasets
    except RuntimeError:
        # The binaries of torchvision on PyPI need the CUDA build of torch. With another build they
        # do not load, and the import fails for two missing operators, which data sets never call.
        library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
        for operator in ("nms", "qnms"):
            signature = f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            library.define(signature)  # type: ignore[no-untyped-call]
        from torchvision import datasets
    return datasets
