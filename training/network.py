"""The network, and the graph around it that is published.

**Another model?** This is one of the three files to change (with ``training/data.py`` and
``transformer/image.py``): replace ``network`` by yours, and ``INPUTS``, ``OUTPUTS`` and ``LABELS``
where they differ. The predictor takes them from ``model.json`` and needs no change.
"""

import io
import warnings

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.utils.flop_counter import FlopCounterMode

from predictor.artifact import TensorSpec

INPUTS = (TensorSpec(name="images", datatype="UINT8", shape=(-1, 28, 28)),)
OUTPUTS = (
    TensorSpec(name="probabilities", datatype="FP32", shape=(-1, 10)),
    TensorSpec(name="accepted", datatype="BOOL", shape=(-1,)),
)
LABELS = tuple("0123456789")


def network(*, dropout: float = 0.0) -> nn.Sequential:
    """A plain CNN: float32 [N, 1, 28, 28] from 0 to 1 → logits float32 [N, 10].

    Three convolutions without padding (28 → 26 → 13 → 11 → 5 → 3 pixels), then one linear layer.
    """
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(dropout),
        nn.Linear(64 * 3 * 3, 10),
    )


def scale(images: torch.Tensor) -> torch.Tensor:
    """uint8 [N, 28, 28] → float32 [N, 1, 28, 28] from 0 to 1, what the network takes.

    There is no other normalising: the batch norm after the first convolution does it.
    """
    return images.unsqueeze(1) / 255


def multiply_adds(module: nn.Module) -> int:
    """How many multiply-adds the network spends on one image: its price in time."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(torch.zeros(1, 1, 28, 28))
    return int(counter.get_total_flops()) // 2


def fold(module: nn.Sequential) -> nn.Sequential:
    """The same function of an image, made to run fast on a CPU.

    Dropout is gone, batch norm is folded into the convolution before it, and the weights are laid
    out channels-last. docs/decisions/artifact.md has what each is worth.
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
    """What is published: scaling, network, calibration and acceptance in one graph.

    uint8 [N, 28, 28] → ``probabilities`` float32 [N, 10], ``accepted`` bool [N].
    """

    def __init__(self, network: nn.Module, *, temperature: float, threshold: float) -> None:
        super().__init__()
        self.network = network
        self.temperature = temperature
        self.threshold = threshold
        self.eval().requires_grad_(False)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Probabilities, and whether the largest of them reaches the threshold."""
        logits = self.network(scale(images))
        probabilities = torch.softmax(logits / self.temperature, dim=1)
        return probabilities, probabilities.amax(dim=1) >= self.threshold


def export(served: nn.Module) -> bytes:
    """The served graph as a ``torch.export`` archive (``.pt2``), for any number of images ≥ 1."""
    batch = torch.export.Dim("batch", min=1)
    images = torch.zeros(2, 28, 28, dtype=torch.uint8)
    program = torch.export.export(served, (images,), dynamic_shapes=({0: batch},))
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # names files of this machine
    archive = io.BytesIO()
    with warnings.catch_warnings():
        # torch mistakes channels-last weights for parts of a larger tensor; it saves them whole.
        warnings.filterwarnings("ignore", "No complete tensor found in the group")
        torch.export.save(program, archive)
    return archive.getvalue()
