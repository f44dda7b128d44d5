"""The network, and the graph around it that is published.

**Another model?** Replace ``network`` by yours; docs/another-model.md lists the other places.
"""

import io
import warnings
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.utils.flop_counter import FlopCounterMode

from predictor.metadata import INPUTS
from serving.scores import LABELS
from transformer.image import SIDE

REJECT = len(LABELS)
"""The class of all that is not a digit: the last logit."""


class Convolution(NamedTuple):
    """A 3×3 convolution, followed by batch norm and ReLU."""

    channels: int
    padding: int = 1


POOL = None
"""Max pooling, 2×2."""

NETWORKS: dict[str, tuple[Convolution | None, ...]] = {
    "plain": (
        Convolution(16, padding=0),
        POOL,
        Convolution(32, padding=0),
        POOL,
        Convolution(64, padding=0),
    ),
    "light": (
        Convolution(16),
        POOL,
        Convolution(24),
        POOL,
        Convolution(48),
        Convolution(48, padding=0),
    ),
    "broad": (
        Convolution(16),
        POOL,
        Convolution(32),
        POOL,
        Convolution(64),
        Convolution(64, padding=0),
    ),
    "deep": (
        Convolution(12),
        Convolution(12),
        POOL,
        Convolution(24),
        Convolution(24),
        POOL,
        Convolution(48, padding=0),
    ),
    "large": (
        Convolution(64),
        Convolution(64),
        POOL,
        Convolution(128),
        Convolution(128),
        POOL,
        Convolution(256),
        Convolution(256),
    ),
}
"""The layers before the linear one; docs/decisions/network.md compares the networks."""


def network(name: str, *, dropout: float = 0.0) -> nn.Sequential:
    """Return an untrained network: float32 [N, 1, 28, 28] from 0 to 1 → logits float32 [N, 11].

    The logits are those of the ten digits, then that of ``REJECT``. ``name`` is in ``NETWORKS``.
    """
    layers: list[nn.Module] = []
    channels, side = 1, SIDE
    for layer in NETWORKS[name]:
        if layer is POOL:
            layers.append(nn.MaxPool2d(2))
            side //= 2
        else:
            layers += [
                nn.Conv2d(channels, layer.channels, 3, padding=layer.padding, bias=False),
                nn.BatchNorm2d(layer.channels),
                nn.ReLU(),
            ]
            channels, side = layer.channels, side - 2 + 2 * layer.padding
    head = nn.Linear(channels * side * side, len(LABELS) + 1)
    return nn.Sequential(*layers, nn.Flatten(), nn.Dropout(dropout), head)


def scale(images: torch.Tensor) -> torch.Tensor:
    """Scale uint8 [N, 28, 28] to float32 [N, 1, 28, 28] from 0 to 1, the network's input.

    No more is needed: batch norm after the first convolution normalises. If another model needs
    more, do it in its network, since ``training.augment`` expects 0 to 1.
    """
    return images.unsqueeze(1) / 255


def multiply_adds(module: nn.Module) -> int:
    """Return the number of multiply-adds for one image, a measure of the time it takes."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(scale(_blank(1)))
    return int(counter.get_total_flops()) // 2


def _blank(count: int) -> torch.Tensor:
    return torch.zeros(INPUTS[0].shape_for(count), dtype=torch.uint8)


def fold(module: nn.Sequential) -> nn.Sequential:
    """Return an equivalent network that is faster on a CPU.

    Dropout is removed, batch norm is folded into the convolution before it, and the weights are
    laid out channels-last; docs/decisions/artifact.md says what each gains. ``module`` is switched
    to evaluation mode.
    """
    layers: list[nn.Module] = []
    for layer in module.eval():
        if isinstance(layer, nn.BatchNorm2d) and isinstance(layers[-1], nn.Conv2d):
            layers[-1] = fuse_conv_bn_eval(layers[-1], layer)
        elif not isinstance(layer, nn.Dropout):
            layers.append(layer)
    folded = nn.Sequential(*layers)
    folded.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return folded


class Served(nn.Module):
    """The published graph: scaling, network, calibration and acceptance.

    uint8 [N, 28, 28] → ``probabilities`` float32 [N, 10], ``accepted`` bool [N].
    """

    def __init__(self, network: nn.Module, *, temperature: float, threshold: float) -> None:
        super().__init__()
        self.network = network
        self.temperature = temperature
        self.threshold = threshold
        self.eval().requires_grad_(False)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the probabilities of the digits, and whether the score reaches the threshold."""
        logits = self.network(scale(images)) / self.temperature
        probabilities = torch.softmax(logits[:, : len(LABELS)], dim=1)
        return probabilities, acceptance_score(logits) >= self.threshold


def acceptance_score(logits: torch.Tensor) -> torch.Tensor:
    """Return the probability of the likeliest digit, float32 [N], from calibrated logits [N, 11].

    Here ``REJECT`` takes part in the softmax, so the score is low both if two digits are about as
    likely and if there is none.
    """
    return torch.softmax(logits, dim=1)[:, : len(LABELS)].amax(dim=1)


def export(served: nn.Module) -> bytes:
    """Return the graph as a ``torch.export`` archive (``.pt2``) for any number of images ≥ 1."""
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(served, (_blank(2),), dynamic_shapes=({0: batch},))
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # it names files of this machine
    archive = io.BytesIO()
    with warnings.catch_warnings():
        # torch takes channels-last weights for parts of a larger tensor, but saves them correctly.
        warnings.filterwarnings("ignore", "No complete tensor found in the group")
        torch.export.save(program, archive)
    return archive.getvalue()
