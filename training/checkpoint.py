"""What training needs to go on after an interruption: the state at the end of an epoch."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

CHECKPOINT_FILE = "checkpoint.pt"


class CheckpointError(Exception):
    """The checkpoint cannot be gone on from; the message says what to do."""


@dataclass(frozen=True)
class Checkpoint:
    """The checkpoint of a run: it fits one training alone, told by its ``identity``."""

    path: Path
    identity: dict[str, Any]
    """Settings, data and device of the training."""

    def read(self) -> dict[str, Any] | None:
        """The state that was written last, if any.

        Raises:
            CheckpointError: it is of another training, or is damaged.
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
        except Exception as error:  # torch raises nearly anything, and says to unpickle it anyway
            raise CheckpointError(f"{self.path} is damaged: {remedy}") from error
        if identity != self.identity:
            raise CheckpointError(
                f"{self.path} is of an unfinished training with other {', '.join(different)}: "
                f"finish that one with its own flags and sources, {remedy}"
            )
        return state

    def write(self, state: dict[str, Any]) -> None:
        """Replace the state, whole or not at all.

        Raises:
            CheckpointError: another training has begun in the same directory.
        """
        self.read()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        draft = self.path.with_suffix(".part")
        content = io.BytesIO()
        torch.save({"identity": self.identity, "state": state}, content)
        draft.write_bytes(content.getbuffer())  # torch itself has RuntimeError for a full disk
        draft.replace(self.path)

    def remove(self) -> None:
        """The training is done."""
        self.path.unlink(missing_ok=True)
