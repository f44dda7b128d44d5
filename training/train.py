"""Trains the network, calibrates it on held-out writers, and writes the run.

The weights are an average over the last steps; none are chosen by their accuracy. After each epoch
a checkpoint is written, from which the same command continues after an interruption.
"""

import dataclasses
import platform
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import nn
from torch.nn import functional

from predictor.metadata import Provenance
from serving.scores import LABELS
from training import data
from training.checkpoint import CHECKPOINT_FILE, Checkpoint
from training.config import Config
from training.data import Digits
from training.fit import fit
from training.network import (
    Served,
    acceptance_score,
    export,
    fold,
    multiply_adds,
    scale,
)
from training.run import Run, check_directory, code_digest


def train(directory: Path, data_directory: Path, config: Config, *, device: str = "cpu") -> None:
    """Train on MNIST with the settings ``config`` and write the run to ``directory``.

    Raises:
        DataError: the data is missing or not as expected.
        CheckpointError, RunError: see ``train_on``.
    """
    training, validation = data.load_training(
        data_directory, validation_share=config.validation_share, seed=config.seed
    )
    train_on(directory, [training], validation, config, device=device).remove()


def train_on(
    directory: Path,
    training: Sequence[Digits],
    validation: Digits,
    config: Config,
    *,
    device: str,
) -> Checkpoint:
    """Train on all of ``training``, calibrate on ``validation``, write the run ``directory``.

    Returns:
        The checkpoint, which the caller removes once all later steps have succeeded.

    Raises:
        CheckpointError: ``directory`` has a damaged checkpoint, or one of another training.
        ConfigError: the loss is not finite.
        RunError: ``directory`` is a published version.
    """
    check_directory(directory)
    digests = {digits.name: digits.digest for digits in (*training, validation)}
    together = Digits(
        "all",
        torch.cat([digits.images for digits in training]),
        torch.cat([digits.labels for digits in training]),
    )
    hardware, code = describe(device), code_digest()
    checkpoint = Checkpoint(
        directory / CHECKPOINT_FILE,
        identity={
            "settings": dataclasses.asdict(config),
            "data": digests,
            "code": code,
            "hardware": hardware,
        },
    )
    model = fit(together, config, device=torch.device(device), checkpoint=checkpoint)
    served = calibrate(model, validation, accepted_share=config.accepted_share)
    run = Run(
        temperature=served.temperature,
        threshold=served.threshold,
        multiply_adds=multiply_adds(model),
        parameters=sum(parameter.numel() for parameter in served.parameters()),
        provenance=Provenance(
            seed=config.seed,
            configuration=dataclasses.asdict(config),
            data=digests,
            code=code,
            libraries={
                "python": platform.python_version(),
                "torch": str(torch.__version__),
                "numpy": np.__version__,
                "opencv": cv2.__version__,
            },
            hardware=hardware,
        ),
    )
    run.write(directory, graph=export(served))
    return checkpoint


def describe(device: str) -> str:
    """Return the name of the processor or GPU and the version of torch."""
    return f"{_processor(device)}, torch {torch.__version__}"


def _processor(device: str) -> str:
    if device == "cuda":
        return torch.cuda.get_device_name()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(": ")[1] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def calibrate(model: nn.Sequential, validation: Digits, *, accepted_share: float) -> Served:
    """Return the graph to publish, with temperature and threshold chosen on ``validation``.

    The temperature minimises the cross-entropy (Guo et al. 2017, arXiv:1706.04599), from 0.1 to 10
    in steps of half a percent. The threshold is the highest score that at least
    ``accepted_share`` of the digits reach.
    """
    prepared = fold(model)
    with torch.no_grad():
        logits = torch.cat(
            [prepared(scale(images)) for images in torch.split(validation.images, 256)]
        )
    digits = logits[:, : len(LABELS)]
    temperatures = torch.logspace(-1, 1, 921)
    losses = [functional.cross_entropy(digits / t, validation.labels) for t in temperatures]
    temperature = float(temperatures[torch.stack(losses).argmin()])
    scores = acceptance_score(logits / temperature).sort().values
    threshold = float(scores[int((1 - accepted_share) * len(validation))])
    return Served(prepared, temperature=temperature, threshold=threshold)
