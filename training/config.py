"""Settings that are flags of the commands, with their ranges; and those of a training."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from training.network import NETWORKS


class ConfigError(ValueError):
    """A setting is unknown or out of its range; the message names it."""


def setting(
    default: float | str,
    meaning: str,
    *,
    least: float = 0,
    below: float = math.inf,
    most: float = math.inf,
    choices: tuple[str, ...] | None = None,
) -> Any:
    """Return a field of ``Settings``."""
    limits = {"least": least, "below": below, "most": most, "choices": choices}
    return field(default=default, metadata={"help": meaning, **limits})


@dataclass(frozen=True)
class Settings:
    """The fields of a subclass are its settings.

    Raises:
        ConfigError: a setting is out of its range.
    """

    def __post_init__(self) -> None:
        for each in dataclasses.fields(self):
            value = getattr(self, each.name)
            least, below, most, choices = (
                each.metadata[k] for k in ("least", "below", "most", "choices")
            )
            if choices is not None:
                if value not in choices:
                    expected = ", ".join(choices)
                    raise ConfigError(f"{each.name} must be one of {expected}, found {value}")
            elif not least <= value <= most or value >= below:
                ends = (("below", below), ("at most", most))
                limit = "".join(f" and {word} {end}" for word, end in ends if end < math.inf)
                raise ConfigError(f"{each.name} must be at least {least}{limit}, found {value}")


@dataclass(frozen=True)
class Config(Settings):
    """All that determines the weights besides data, code and hardware.

    Each is a flag of ``train`` and is recorded in the version.
    """

    network: str = setting(
        "broad", "architecture, see training/network.py", choices=tuple(NETWORKS)
    )
    seed: int = setting(1, "seed of weights, batches and the choice of writers", below=2**32)
    epochs: int = setting(100, "passes through all digits", least=1)
    batch_size: int = setting(256, "digits per step", least=1)
    learning_rate: float = setting(4e-3, "learning rate at the peak of the cycle")
    weight_decay: float = setting(1e-2, "weight decay of AdamW")
    dropout: float = setting(0.3, "dropout rate before the last layer", below=1)
    augmented_share: float = setting(0.9, "share of the digits changed at random", most=1)
    round_trip_share: float = setting(
        0.3, "share of the digits drawn as users' images and read back", most=1
    )
    outlier_share: float = setting(0.15, "outliers per digit, for the reject class", most=1)
    averaged_share: float = setting(
        0.05, "span of the weights' average, as a share of all steps", below=1
    )
    validation_share: float = setting(0.1, "share of the writers held out for calibration", below=1)
    accepted_share: float = setting(
        0.996, "share of the held-out digits to accept; sets the threshold", least=0.01, below=1
    )
    threads: int = setting(2, "threads of torch; another number gives other weights", least=1)

    @classmethod
    def of(cls, recorded: Mapping[str, Any]) -> Self:
        """Return the settings that a version records as its ``configuration``.

        Raises:
            ConfigError: their names differ from the present ones, or one is out of its range.
        """
        names = {setting.name for setting in dataclasses.fields(cls)}
        if set(recorded) != names:
            raise ConfigError(
                "its settings are those of other sources: "
                f"missing {sorted(names - set(recorded))}, unknown {sorted(set(recorded) - names)}"
            )
        return cls(**recorded)
