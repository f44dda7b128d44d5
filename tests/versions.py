"""Versions made up for tests."""

import functools
import hashlib
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import nn

from predictor.metadata import INPUTS, Metadata, Metrics, Provenance, outputs
from serving.scores import LABELS
from training.network import REJECT, Served, export, fold, network
from transformer.image import SIDE


class Linear(nn.Module):
    """The smallest network with the signature."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(SIDE**2, len(LABELS))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.layer(images.flatten(1))
        return result


class Varied(nn.Module):
    """A network of many kinds of operators and arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=4)
        self.last = nn.Linear(8, len(LABELS))
        self.dropout = nn.Dropout()
        self.mean: torch.Tensor
        self.register_buffer("mean", torch.tensor([0.3]))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        images = (images.to(torch.float64) - self.mean).float() / torch.tensor(2.0)
        x = self.norm(self.first(images.contiguous(memory_format=torch.channels_last)))
        x = x + nn.functional.gelu(self.grouped(x), approximate="tanh")
        x = torch.cat([part * 2 for part in x.chunk(2, dim=1)], dim=1)
        x = nn.functional.interpolate(x, scale_factor=0.5, mode="bilinear")
        largest, _ = x.flatten(2).max(dim=2)
        x = x.mean((2, 3)).view(x.size(0), -1) + largest
        x = x + torch.ones(x.shape[0], 1)
        result: torch.Tensor = self.last(self.dropout(x))
        return result


class Rectified(nn.Module):
    """A ReLU of what others read too, such as a view or a convolution; before a pool, or not."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 8, 3)
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.last = nn.Linear(8, len(LABELS))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        centred = images - 0.5
        x = self.first(torch.relu(centred)) + centred.mean()
        x = torch.relu(x.view(x.shape)) - x
        read_twice = self.second(x)
        x = torch.relu(read_twice) - read_twice
        kept = torch.relu(self.second(x))
        x = nn.functional.max_pool2d(kept, 2) + kept[:, :, ::2, ::2]
        x = nn.functional.max_pool2d(torch.relu(self.second(x)), 3, 2, padding=1)
        corner = torch.relu(self.second(x[:, :, :4, :4]))
        # Its only window reaches past the corner on all sides, and finds minus infinity there.
        beyond = nn.functional.max_pool2d(corner, 2, stride=1, padding=1, dilation=5).clamp(min=-1)
        result: torch.Tensor = self.last((torch.relu(self.second(x)) + beyond).mean((2, 3)))
        return result


class Residual(nn.Module):
    """A small ResNet, as others train it: not folded, and computed in place."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.strided, self.second = (
            nn.Sequential(nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after))
            for before, after, stride in ((1, 8, 1), (8, 16, 2), (16, 16, 1))
        )
        self.shortcut = nn.Conv2d(8, 16, 1, 2)
        self.relu = nn.ReLU(inplace=True)
        self.head = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(), nn.Linear(16, REJECT + 1)
        )
        for name, buffer in self.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                nn.init.uniform_(buffer, 0.1, 0.5)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.relu(self.stem((images - 0.1307) / 0.3081))
        y = self.second(self.relu(self.strided(x)))
        y += self.shortcut(x)
        result: torch.Tensor = self.head(self.relu(y))
        return result


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "as trained": lambda: network("plain"),
    "folded": lambda: fold(network("plain")),
    "linear": Linear,
    "varied": Varied,
    "rectified": Rectified,
    "residual": Residual,
}


class Failing(nn.Module):
    """Fails on all pictures but the blank one with which a version is tried at its start."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(SIDE**2, REJECT + 1)
        self.table = nn.Parameter(torch.zeros(1, REJECT + 1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        flat = images.flatten(1)
        result: torch.Tensor = self.layer(flat) + self.table[(flat.amax(1) > 0).long()]
        return result


class Slow(nn.Module):
    """Takes some tenths of a second."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(SIDE**2, REJECT + 1)
        self.burden = nn.Parameter(torch.eye(2048))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        burden = (self.burden + images.mean()) @ self.burden
        result: torch.Tensor = self.layer(images.flatten(1)) + 0 * burden.mean()
        return result


class Nonsense(nn.Module):
    """Sees an 8 everywhere."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        always = torch.zeros(REJECT + 1)
        always[8] = 20
        return images.flatten(1).mean(1, keepdim=True) + always


def publish(models: Path, number: int, network: nn.Module, *, threshold: float = 0.0) -> None:
    """Put a version of ``network`` where the predictor's image has its versions."""
    graph = export(Served(network, temperature=1, threshold=threshold))
    write(models / "mnist" / str(number), graph, version=number)


def served(name: str) -> Served:
    torch.manual_seed(0)
    return Served(NETWORKS[name](), temperature=1.5, threshold=0.11)


def write(directory: Path, graph: bytes, **changes: Any) -> str:
    """Make a version; returns the digest of its model.json."""
    files = {"model.pt2": graph, "MODEL.md": b"# a card\n"}
    metadata = Metadata(
        name="mnist",
        version=3,
        created=datetime(2026, 1, 2, tzinfo=UTC),
        inputs=INPUTS,
        outputs=outputs(len(LABELS)),
        labels=LABELS,
        temperature=1.5,
        threshold=0.11,
        metrics=(Metrics(dataset="d", digest="0" * 64, images=5, values={"accuracy": 0.5}),),
        training=Provenance(
            seed=1, configuration={"epochs": 2}, data={"d": "1" * 64}, code="2" * 64,
            libraries={"torch": "2.13.0"},
        ),
        files={name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
    )  # fmt: skip
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (directory / name).write_bytes(content)
    content = metadata.model_copy(update=changes).to_json()
    (directory / "model.json").write_bytes(content)
    return hashlib.sha256(content).hexdigest()


@functools.cache
def linear_graph() -> bytes:
    return export(served("linear"))
