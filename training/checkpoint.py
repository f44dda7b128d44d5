"""Checkpoints: the state at the end of an epoch, to continue after an interruption."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

CHECKPOINT_FILE = "checkpoint.pt"


class CheckpointError(Exception):
    """Training cannot continue from the checkpoint; the message says what to do."""


@dataclass(frozen=True)
class Checkpoint:
    """The checkpoint of a run; only the training with the same ``identity`` may use it."""

    path: Path
    identity: dict[str, Any]
    """Settings, data, code and hardware of the training."""

    def read(self) -> dict[str, Any] | None:
        """Return the state that was written last, or ``None``; tensors are on the CPU.

        Raises:
            CheckpointError: it belongs to another training, or is damaged.
        """
        if not self.path.exists():
            return None
        remedy = f"delete {self.path} to begin anew, or choose another directory with --run"
        try:
            content = torch.load(self.path, map_location="cpu", weights_only=True)
            identity, state = content["identity"], dict(content["state"])
            different = sorted(
                key for key in self.identity if self.identity[key] != identity.get(key)
            )
        except OSError:
            raise
        except Exception as error:  # torch raises all kinds, and advises to unpickle unsafely
            raise CheckpointError(f"{self.path} is damaged: {remedy}") from error
        if identity != self.identity:
            raise CheckpointError(
                f"{self.path} is of an unfinished training with other {', '.join(different)}: "
                f"finish that one with its own flags and sources, {remedy}"
            )
        return state

    def write(self, state: dict[str, Any]) -> None:
        """Replace the state atomically.

        Raises:
            CheckpointError: see ``read``; another training has begun in the same directory.
        """
        self.read()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        draft = self.path.with_suffix(".part")
        content = io.BytesIO()
        torch.save({"identity": self.identity, "state": state}, content)
        draft.write_bytes(content.getbuffer())  # torch raises RuntimeError for a full disk
        draft.replace(self.path)

    def remove(self) -> None:
        """Delete the checkpoint, if there is one."""
        self.path.unlink(missing_ok=True)
