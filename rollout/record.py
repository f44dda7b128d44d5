"""What rollout remembers between two calls, in one ConfigMap beside the InferenceService.

Not on the InferenceService: KServe copies its annotations into the pods' templates, so that a note
on it would make new revisions in the middle of a canary.
"""

import getpass
import os
import socket
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel

from rollout.canary import Component, read
from rollout.evidence import Evidence
from rollout.template import Object, container, describe, fingerprint

RELEASE, HISTORY = "release", "history"
"""The keys of the ConfigMap."""
UNKNOWN = "?"
"""What is served by a stable version that nobody has recorded."""
ENDS = ("promoted", "aborted")
"""The actions after which there is no canary."""
LENGTH = 100
"""Entries that the history keeps."""


class Release(BaseModel):
    """A canary under way."""

    service: str = ""
    """The UID of the InferenceService."""
    component: str
    stable: str
    canary: str
    """What each serves, in words."""
    fingerprint: str = ""
    """Of the canary's template."""
    stable_template: dict[str, Any]
    """To go back to."""
    stable_revision: str | None
    canary_revision: str | None = None
    """Known once it is being taken back."""
    condemned: str = ""
    """Why it is being taken back."""
    approved: int = 0
    """The percent up to which a person has approved of it."""
    evidence: Evidence | None = None
    begun: datetime
    by: str

    def condemns(self, template: Object) -> bool:
        """Whether it is taking this very canary back."""
        return bool(self.condemned) and self.fingerprint == fingerprint(template)


class Entry(BaseModel):
    """A line of the history."""

    time: datetime
    by: str
    action: str
    component: str
    stable: str
    canary: str
    fingerprint: str = ""
    percent: int
    reason: str = ""
    evidence: list[str] = []
    """What the decision was made on, in words."""


class Record(BaseModel):
    """The whole ConfigMap."""

    version: str | None = None
    """Its ``resourceVersion``; ``None`` if it is not there yet."""
    release: Release | None = None
    history: list[Entry] = []

    @classmethod
    def read(cls, data: Mapping[str, str], version: str | None = None) -> "Record":
        """From the ConfigMap's data."""
        release, history = data.get(RELEASE), data.get(HISTORY, "")
        return cls(
            version=version,
            release=Release.model_validate_json(release) if release else None,
            history=[Entry.model_validate_json(line) for line in history.splitlines()],
        )

    def data(self) -> dict[str, str]:
        """As the ConfigMap's data."""
        history = "\n".join(entry.model_dump_json() for entry in self.history[-LENGTH:])
        return {RELEASE: self.release.model_dump_json() if self.release else "", HISTORY: history}

    def release_of(self, live: Component | None) -> Release | None:
        """The release, if it is the canary that is live and not one that ended by other means."""
        release = self.release
        if release is None or live is None or release.service not in ("", live.service):
            return None
        is_of_it = (release.component, release.stable_revision) == (live.name, live.rolled_out)
        return release if is_of_it else None

    def current(self, release: Release) -> Release | None:
        """What is recorded of ``release``, unless it has ended, or another has begun since."""
        found = self.release
        if found and (found.begun, found.fingerprint) == (release.begun, release.fingerprint):
            return found
        return None

    def forget(self, release: Release) -> None:
        """Take ``release`` for no longer under way."""
        if self.current(release):
            self.release = None

    def has_ended(self, release: Release) -> bool:
        """Whether somebody has noted the end of ``release``."""
        return any(
            entry.action in ENDS
            and entry.fingerprint == release.fingerprint
            and entry.time >= release.begun
            for entry in self.history
        )

    def rolled_back(self, template: Object) -> Entry | None:
        """The last line of the history, if by it this very canary was taken back."""
        last = self.history[-1] if self.history else None
        if last and (last.action, last.fingerprint) == ("aborted", fingerprint(template)):
            return last
        return None

    def note(
        self,
        action: str,
        release: Release,
        percent: int,
        reason: str = "",
        evidence: Iterable[str] = (),
    ) -> None:
        """Add a line to the history; one of ``ENDS`` ends the release."""
        if action in ENDS:
            self.forget(release)
        self.history.append(
            Entry(
                time=now(),
                by=who(),
                action=action,
                component=release.component,
                stable=release.stable,
                canary=release.canary,
                fingerprint=release.fingerprint,
                percent=percent,
                reason=" ".join(reason.split()),  # a line break would end the entry
                evidence=list(evidence),
            )
        )


def name_of(service: str) -> str:
    """The ConfigMap of an InferenceService."""
    return f"{service}-rollout"


def begin(service: Object, component: str, template: Object) -> Release:
    """The release that puts ``template`` beside what a component serves now."""
    live = read(service, component)
    stable, canary = describe(live.template), describe(template)
    if stable == canary:
        stable, canary = (
            f"{stable} in {container(each)['image']}" for each in (live.template, template)
        )
    return Release(
        service=live.service,
        component=component,
        stable=stable,
        canary=canary,
        fingerprint=fingerprint(template),
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
