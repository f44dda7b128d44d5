"""What rollout remembers between two commands, in one ConfigMap beside the InferenceService.

Annotations of the InferenceService would not do: KServe copies them into the pods' templates, so
each change would make a new revision in the middle of a canary.
"""

import getpass
import os
import socket
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel

from rollout.canary import Component, read, running
from rollout.errors import Refused
from rollout.evidence import Evidence
from rollout.template import Object, container, describe, fingerprint

RELEASE, HISTORY = "release", "history"
"""The keys of the ConfigMap."""
UNKNOWN = "?"
"""Shown for a stable version that nobody has recorded."""
ENDS = ("promoted", "aborted")
"""The actions that end a canary."""
LENGTH = 100
"""The number of entries that the history keeps."""


class Release(BaseModel):
    """A canary under way."""

    service: str = ""
    """The UID of the InferenceService."""
    component: str
    stable: str
    canary: str
    """``stable`` and ``canary``: what each serves, in words."""
    fingerprint: str = ""
    """The fingerprint of the canary's template."""
    stable_template: dict[str, Any]
    """The template to go back to."""
    stable_revision: str | None
    canary_revision: str | None = None
    """Set once it is being taken back."""
    condemned: str = ""
    """Why it must be taken back; empty if it need not."""
    approved: int = 0
    """The percent at which a person last let it go on."""
    evidence: Evidence | None = None
    begun: datetime
    by: str

    def is_of(self, uid: str) -> bool:
        """Return whether it is of the InferenceService ``uid``, not of a former one of its name."""
        return self.service in ("", uid)

    def condemns(self, template: Object) -> bool:
        """Return whether this release is condemned and its canary has this ``template``."""
        return bool(self.condemned) and self.fingerprint == fingerprint(template)

    def why_back(self, live: Component) -> str:
        """Return why the canary ``live`` is to be taken back, empty if it is not."""
        return self.condemned or ("its percent was set to 0" if live.percent == 0 else "")

    def evidence_of(self, live: Component) -> Evidence | None:
        """Return the evidence of the canary ``live``, ``None`` if its present split has none yet.

        Raises:
            Refused: somebody has changed it since its calls were counted.
        """
        evidence = self.evidence
        if evidence is None:
            return None
        if evidence.revision not in (None, live.created):
            raise Refused(
                f"the {live.name} was changed under the canary: {evidence.revision} was counted,"
                f" {live.created} is live. Promote or abort it"
            )
        return evidence if evidence.stages[-1].percent == live.percent else None


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
    """The checks of the decision, a line each."""

    def is_live(self, service: Object) -> bool:
        """Return whether the template of its canary is that of ``service``."""
        return self.fingerprint == fingerprint(read(service, self.component).template)


class Record(BaseModel):
    """The content of the ConfigMap."""

    version: str | None = None
    """Its ``resourceVersion``; ``None`` if it does not exist yet."""
    release: Release | None = None
    history: list[Entry] = []

    @classmethod
    def read(cls, data: Mapping[str, str], version: str | None = None) -> "Record":
        """Parse the ConfigMap's data; ``version`` is its ``resourceVersion``."""
        release, history = data.get(RELEASE), data.get(HISTORY, "")
        return cls(
            version=version,
            release=Release.model_validate_json(release) if release else None,
            history=[Entry.model_validate_json(line) for line in history.splitlines()],
        )

    def data(self) -> dict[str, str]:
        """Return the ConfigMap's data, with the last ``LENGTH`` entries."""
        history = "\n".join(entry.model_dump_json() for entry in self.history[-LENGTH:])
        return {RELEASE: self.release.model_dump_json() if self.release else "", HISTORY: history}

    def release_of(self, live: Component | None) -> Release | None:
        """Return the release if it belongs to the live canary, not to one that ended unnoticed."""
        release = self.release
        if release is None or live is None or not release.is_of(live.service):
            return None
        is_of_it = (release.component, release.stable_revision) == (live.name, live.rolled_out)
        return release if is_of_it else None

    def under_way(self, service: Object) -> tuple[Component, Release]:
        """Return the live canary and its release.

        Raises:
            Refused: no canary is running, or rollout has not started it.
        """
        live = running(service)
        if live is None:
            raise Refused("no canary is running: begin one with run or start, or see history")
        found = self.release_of(live)
        if found is None:
            raise Refused(
                f"the canary of the {live.name} was not started by rollout, which cannot know what"
                " to go back to: promote or abort it"
            )
        return live, found

    def current(self, release: Release) -> Release | None:
        """Return the recorded state of ``release``; ``None`` if it ended or another has begun."""
        found = self.release
        if found and (found.begun, found.fingerprint) == (release.begun, release.fingerprint):
            return found
        return None

    def forget(self, release: Release) -> None:
        """Remove ``release`` if it is the current one."""
        if self.current(release):
            self.release = None

    def has_ended(self, release: Release) -> bool:
        """Return whether the history has the end of ``release``."""
        return any(entry.action in ENDS for entry in self._of(release))

    def noted(self, release: Release) -> int:
        """Return the highest percent of ``release`` that the history has, 0 if it has none."""
        return max((entry.percent for entry in self._of(release)), default=0)

    def _of(self, release: Release) -> Iterator[Entry]:
        for entry in self.history:
            if entry.fingerprint == release.fingerprint and entry.time >= release.begun:
                yield entry

    def rolled_back(self, template: Object) -> Entry | None:
        """Return the last entry of the history if it is the abort of a canary with ``template``."""
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
        """Add an entry to the history; one of ``ENDS`` ends ``release`` and stays its last."""
        if action in ENDS:
            self.forget(release)
        elif not self.current(release):
            return
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
                reason=" ".join(reason.split()),  # a line break would break the table
                evidence=list(evidence),
            )
        )


def name_of(service: str) -> str:
    """Return the name of the ConfigMap of an InferenceService."""
    return f"{service}-rollout"


def begin(service: Object, component: str, template: Object) -> Release:
    """Return the release of ``template`` as a canary of a component."""
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
    """Return the time in UTC, without fractions of a second, for people to read."""
    return datetime.now(UTC).replace(microsecond=0)


def who() -> str:
    """Return user and machine of this process, as ``user@machine``."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a numeric user, as in a container
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"
