"""Trains the network, calibrates it on writers it has not seen, and writes the run.

The weights are those of the final epoch: none is picked by its accuracy.
"""

import dataclasses
import math
import platform
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from tqdm import tqdm

from predictor.artifact import Provenance
from training import data
from training.data import Digits
from training.network import Served, export, fold, multiply_adds, network, scale
from training.run import Run, code_digest


class ConfigError(ValueError):
    """A setting is out of its range; the message names it."""


def _setting(default: float, meaning: str, *, below: float = math.inf) -> Any:
    return field(default=default, metadata={"help": meaning, "below": below})


@dataclass(frozen=True)
class Config:
    """Everything that decides the weights, beside data and code.

    Raises:
        ConfigError: a setting is out of its range.
    """

    seed: int = _setting(1, "of weights, batches and the choice of writers")
    epochs: int = _setting(15, "the last one's weights are kept")
    batch_size: int = _setting(128, "images per step")
    learning_rate: float = _setting(3e-3, "at the top of the cycle")
    weight_decay: float = _setting(1e-2, "of AdamW")
    dropout: float = _setting(0.3, "before the last layer", below=1)
    validation_share: float = _setting(0.1, "of the writers, held out for calibration", below=1)
    accepted_share: float = _setting(0.995, "of the held-out digits, fixes the threshold", below=1)
    threads: int = _setting(2, "of torch; another number gives other weights")

    def __post_init__(self) -> None:
        for setting in dataclasses.fields(self):
            value, below = getattr(self, setting.name), setting.metadata["below"]
            least = 1 if setting.name in ("epochs", "batch_size", "threads") else 0
            if not least <= value < below:
                limit = "" if below == math.inf else f" and below {below}"
                raise ConfigError(f"{setting.name} must be at least {least}{limit}, found {value}")


def train(directory: Path, data_directory: Path, config: Config) -> None:
    """Train as ``config`` says and write the run to ``directory``.

    Raises:
        DataError: the data is not there or not what it should be.
    """
    training, validation = data.load_training(
        data_directory, validation_share=config.validation_share, seed=config.seed
    )
    model = fit(training, config)
    served = calibrate(model, validation, accepted_share=config.accepted_share)
    run = Run(
        temperature=served.temperature,
        threshold=served.threshold,
        multiply_adds=multiply_adds(model),
        parameters=sum(parameter.numel() for parameter in served.parameters()),
        provenance=Provenance(
            seed=config.seed,
            configuration=dataclasses.asdict(config),
            data={digits.name: digits.digest for digits in (training, validation)},
            code=code_digest(),
            libraries={
                "python": platform.python_version(),
                "torch": str(torch.__version__),
                "numpy": np.__version__,
            },
        ),
    )
    run.write(directory, graph=export(served))


def fit(training: Digits, config: Config) -> nn.Sequential:
    """Train a network on ``training``: AdamW, one cycle of the learning rate, cross-entropy.

    The same data, configuration and machine give the same weights.
    """
    torch.set_num_threads(config.threads)
    torch.use_deterministic_algorithms(mode=True)
    torch.manual_seed(config.seed)
    model = network(dropout=config.dropout).train()
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(
        model.parameters(), config.learning_rate, weight_decay=config.weight_decay
    )
    steps = -(-len(training) // config.batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, config.learning_rate, total_steps=config.epochs * steps
    )
    with tqdm(total=config.epochs * steps, unit="batch") as progress:
        for epoch in range(1, config.epochs + 1):
            progress.set_description(f"epoch {epoch}/{config.epochs}")
            loss_sum = right = seen = 0.0
            for batch in torch.split(torch.randperm(len(training)), config.batch_size):
                logits = model(scale(training.images[batch]))
                labels = training.labels[batch]
                loss = functional.cross_entropy(logits, labels)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                schedule.step()
                seen += len(batch)
                loss_sum += loss.item() * len(batch)
                right += (logits.argmax(1) == labels).sum().item()
                progress.set_postfix(
                    loss=f"{loss_sum / seen:.4f}", accuracy=f"{right / seen:.2%}", refresh=False
                )
                progress.update()
    return model


def calibrate(model: nn.Sequential, validation: Digits, *, accepted_share: float) -> Served:
    """The graph to publish, with temperature and threshold from digits not trained on.

    The temperature is the one of least cross-entropy (Guo et al. 2017, arXiv:1706.04599), sought
    from 0.1 to 10 in steps of half a percent. The threshold is the confidence that at least
    ``accepted_share`` of the digits reach.
    """
    prepared = fold(model)
    with torch.no_grad():
        logits = torch.cat(
            [prepared(scale(images)) for images in torch.split(validation.images, 256)]
        )
    temperatures = torch.logspace(-1, 1, 921)
    losses = [functional.cross_entropy(logits / t, validation.labels) for t in temperatures]
    temperature = float(temperatures[torch.stack(losses).argmin()])
    confidences = torch.softmax(logits / temperature, dim=1).amax(dim=1).sort().values
    threshold = float(confidences[int((1 - accepted_share) * len(validation))])
    return Served(prepared, temperature=temperature, threshold=threshold)
