"""The training loop: from digits, settings and a device to the trained network.

Every epoch seeds torch anew from the seed and its own number, so it only depends on the state it
begins with. So training continued from a checkpoint gives the same weights as uninterrupted
training.
"""

import os
from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from training.augment import augment
from training.checkpoint import Checkpoint
from training.config import Config, ConfigError
from training.data import Digits
from training.network import REJECT, network, scale
from training.outliers import outliers
from training.pages import round_trips

OUTLIERS = 12_000
"""The most pictures of outliers that the batches draw from."""
SHOWN = 20
"""Steps between two displays of loss and accuracy, since each waits for the device."""


class Pool:
    """The digits, their round trips and the outliers, on the device."""

    def __init__(self, training: Digits, config: Config, device: torch.device) -> None:
        self.config = config
        self.images = training.images.to(device)
        self.labels = training.labels.to(device)
        digits = training.images.numpy()
        self.trips = self.outliers = self.images[:0]
        if config.round_trip_share:
            self.trips = torch.from_numpy(round_trips(digits, seed=config.seed)).to(device)
        if config.outlier_share:
            count = min(OUTLIERS, len(training))
            self.outliers = torch.from_numpy(outliers(digits, count, seed=config.seed)).to(device)

    def batch(self, chosen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return a batch: images float32 [N, 1, 28, 28] from 0 to 1, labels int64 [N].

        Args:
            chosen: int64, the indices of the digits; outliers are added to them.
        """
        images, labels, device = self.images[chosen], self.labels[chosen], self.images.device
        if len(self.trips):
            instead = torch.rand(len(chosen), 1, 1, device=device) < self.config.round_trip_share
            images = torch.where(instead, self.trips[chosen], images)
        if len(self.outliers):
            count = round(self.config.outlier_share * len(chosen))
            which = torch.randint(len(self.outliers), (count,), device=device)
            images = torch.cat([images, self.outliers[which]])
            labels = torch.cat([labels, labels.new_full((count,), REJECT)])
        scaled = scale(images)
        changed = torch.rand(len(scaled), 1, 1, 1, device=device) < self.config.augmented_share
        return torch.where(changed, augment(scaled), scaled), labels


def fit(
    training: Digits,
    config: Config,
    *,
    device: torch.device,
    checkpoint: Checkpoint | None = None,
) -> nn.Sequential:
    """Train a network on ``training``: AdamW, one cycle of the learning rate, cross-entropy.

    Returns a network with the exponential average of the weights, on the CPU. The same data,
    settings and machine give the same weights. On CUDA, training computes in bfloat16.

    Raises:
        CheckpointError: the checkpoint is damaged or belongs to another training.
        ConfigError: the loss is not finite.
    """
    # Without this, CUDA's matrix products are not reproducible.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(config.threads)
    torch.use_deterministic_algorithms(mode=True)
    torch.manual_seed(config.seed)
    model = network(config.network, dropout=config.dropout).train()
    model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(
        model.parameters(), config.learning_rate, weight_decay=config.weight_decay
    )
    steps = -(-len(training) // config.batch_size)
    total = config.epochs * steps
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, config.learning_rate, total_steps=total
    )
    decay = 1 - 1 / max(1, config.averaged_share * total)
    exponential = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
    average = AveragedModel(model, multi_avg_fn=exponential, use_buffers=True)
    parts: dict[str, Any] = {
        "model": model, "optimizer": optimizer, "schedule": schedule, "average": average,
    }  # fmt: skip
    state = checkpoint.read() if checkpoint else None
    done = 0
    if state:
        done = int(state["epochs"])
        for name, part in parts.items():
            part.load_state_dict(state[name])
    if done < config.epochs:
        pool = Pool(training, config, device)
        with tqdm(total=total, initial=done * steps, unit="batch") as progress:
            for epoch in range(done + 1, config.epochs + 1):
                progress.set_description(f"epoch {epoch}/{config.epochs}")
                torch.manual_seed(config.seed * 1_000_003 + epoch)
                _epoch(pool, progress=progress, **parts)
                if checkpoint:
                    states = {name: part.state_dict() for name, part in parts.items()}
                    checkpoint.write({"epochs": epoch, **states})
    return cast("nn.Sequential", average.module.cpu())


def _epoch(
    pool: Pool,
    *,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    average: AveragedModel,
    progress: "tqdm[Any]",
) -> None:
    """Train on all digits once, in random order."""
    device = pool.images.device
    order = torch.randperm(len(pool.images), device=device)
    loss_sum, right, seen = torch.zeros((), device=device), torch.zeros((), device=device), 0
    for step, chosen in enumerate(torch.split(order, pool.config.batch_size)):
        images, labels = pool.batch(chosen)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            logits = model(images)
        loss = functional.cross_entropy(logits.float(), labels)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        average.update_parameters(model)
        loss_sum += loss.detach() * len(labels)
        right += (logits.argmax(1) == labels).sum()
        seen += len(labels)
        if step % SHOWN == 0:
            progress.set_postfix(
                loss=f"{loss_sum.item() / seen:.4f}",
                accuracy=f"{right.item() / seen:.2%}",
                refresh=False,
            )
        progress.update()
    if not loss_sum.isfinite():
        raise ConfigError(
            "the loss is no number: lower the learning_rate, and look at what the network is given"
        )
