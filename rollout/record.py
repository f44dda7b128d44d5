"""What rollout remembers between two calls, in one ConfigMap beside the InferenceService.

Not on the InferenceService: KServe copies its annotations into the pods' templates, so that a note
on it would make new revisions in the middle of a canary.
"""

import getpass
import os
import socket
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel

from rollout.canary import Component, read
from rollout.template import Object, describe

RECORD = "mnist-rollout"
"""The ConfigMap."""
RELEASE, HISTORY = "release", "history"
"""Its keys."""
UNKNOWN = "?"
"""What is served by a stable version that nobody has recorded."""
LENGTH = 100
"""Entries that the history keeps."""


class Release(BaseModel):
    """A canary under way."""

    component: str
    stable: str
    canary: str
    """What each serves, in words."""
    stable_template: dict[str, Any]
    """To go back to."""
    stable_revision: str | None
    canary_revision: str | None = None
    """Known once it is being taken back."""
    begun: datetime
    by: str


class Entry(BaseModel):
    """A line of the history."""

    time: datetime
    by: str
    action: str
    component: str
    stable: str
    canary: str
    percent: int
    reason: str = ""


class Record(BaseModel):
    """The whole ConfigMap."""

    release: Release | None = None
    history: list[Entry] = []

    @classmethod
    def read(cls, data: Mapping[str, str]) -> "Record":
        """From the ConfigMap's data."""
        release, history = data.get(RELEASE), data.get(HISTORY, "")
        return cls(
            release=Release.model_validate_json(release) if release else None,
            history=[Entry.model_validate_json(line) for line in history.splitlines()],
        )

    def data(self) -> dict[str, str]:
        """As the ConfigMap's data."""
        history = "\n".join(entry.model_dump_json() for entry in self.history[-LENGTH:])
        return {RELEASE: self.release.model_dump_json() if self.release else "", HISTORY: history}

    def release_of(self, live: Component) -> Release | None:
        """The release, if it is the canary that is live and not one that ended by other means."""
        release = self.release
        if release and (release.component, release.stable_revision) == (live.name, live.rolled_out):
            return release
        return None

    def note(self, action: str, release: Release, percent: int, reason: str = "") -> None:
        """Add a line to the history."""
        found = release.model_dump(include={"component", "stable", "canary"})
        entry = Entry(time=now(), by=who(), action=action, percent=percent, reason=reason, **found)
        self.history.append(entry)


def begin(service: Object, component: str, template: Object) -> Release:
    """The release that puts ``template`` beside what a component serves now."""
    live = read(service, component)
    return Release(
        component=component,
        stable=describe(live.template),
        canary=describe(template),
        stable_template=live.template,
        stable_revision=live.rolled_out,
        begun=now(),
        by=who(),
    )


def now() -> datetime:
    """To the second: people read it."""
    return datetime.now(UTC).replace(microsecond=0)


def who() -> str:
    """The user and machine of this process."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a numeric user, as in a container
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"
