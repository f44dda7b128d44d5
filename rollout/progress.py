"""Takes a canary step by step to all of the traffic, as long as the evidence is for it.

Each look starts from what is live and recorded, and leaves a state that is safe: the process may be
killed at any moment, and another continues. Two processes at a time do no harm either: each change
is made by at most one of them.
"""

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum

from rollout import canary, release
from rollout.api import API
from rollout.canary import Component
from rollout.decision import Labels, Verdict, judge
from rollout.errors import Conflict, NoEvidence, Refused, RolloutError, Unreachable
from rollout.evidence import Evidence
from rollout.record import Record, Release, now
from rollout.release import Say
from rollout.source import Source, look
from rollout.template import Object

NOTHING = "no evidence can be read"
UNNOTED = "nobody has noted by whom"


@dataclass(frozen=True)
class Plan:
    """How a canary should proceed; times are in seconds."""

    steps: tuple[int, ...]
    """Percentages, ascending, the last one 100."""
    pause_at: tuple[int, ...] = ()
    """Steps beyond which a person must approve."""
    warm_up: float = 10
    """After each split, in which calls do not count."""
    step_time: float = 60
    """The minimum for a step."""
    max_time: float = 3600
    """Without a decision, after which the run ends as inconclusive."""
    poll: float = 5
    """Between two looks at the evidence."""
    timeout: int = 600
    """For a revision to get ready, and for the API server to answer again."""
    minimum: int = 100
    """Calls that the canary must answer in a step."""
    alpha: float = 0.05
    labels: Labels | None = None
    slow: float = 0.5

    def after(self, percent: int) -> int:
        """Return the first step above ``percent``, which must be below 100."""
        return next(step for step in self.steps if step > percent)


class End(Enum):
    """How a run ended."""

    PROMOTED = "promoted"
    ROLLED_BACK = "rolled back"
    INCONCLUSIVE = "inconclusive"


class Progress:
    """Takes the live canary to its end; holds what only this process knows."""

    def __init__(self, api: API, source: Source, plan: Plan, say: Say) -> None:
        """Prepare to follow ``plan``; ``say`` gets the messages for the user."""
        self._api = api
        self._source = source
        self._plan = plan
        self._say = say
        self._said = ""
        self._contact = time.monotonic()
        self._unsettled: float | None = None
        """Monotonic time since when the traffic is not as wanted."""
        self._settled: tuple[int, float] | None = None
        """The percent, and the time in seconds since 1970 since when the traffic has it."""
        self._release: Release | None = None
        """The canary that was live at the first look."""
        self._undecided: float | None = None
        """Monotonic time since when there is no decision."""

    def run(self) -> End:
        """Look every ``poll`` seconds until the canary has ended.

        Raises:
            Refused: there is no canary that this run may continue.
            RolloutError: it cannot go on; the message says what state things are in.
        """
        while True:
            try:
                end = self._look()
                self._contact = time.monotonic()
            except (Unreachable, Conflict) as error:
                if time.monotonic() - self._contact > self._plan.timeout:
                    raise Unreachable(
                        f"{error}. The canary stays as it is; run again to go on with it"
                    ) from None
                self._tell(f"{error}; trying again")
                end = None
            if end is not None:
                return end
            time.sleep(self._plan.poll)

    def _look(self) -> End | None:
        service, record = self._api.service(), self._api.record()
        if canary.running(service) is None:
            return self._ended(service, record)
        live, found = record.under_way(service)
        self._release = self._release or found
        if not record.current(self._release):
            raise Refused(
                f"{self._release.canary} has ended, and {found.canary} has begun since: see history"
            )
        if why := found.why_back(live):
            return self._abort(found, why)
        if not live.is_settled:
            return self._wait(live, found)
        self._unsettled = None
        evidence = found.evidence_of(live)
        if evidence is None:
            return self._begin(service, record, found, live)
        return self._judge(service, record, found, live, evidence)

    def _ended(self, service: Object, record: Record) -> End:
        """Return how the canary ended: by somebody else, or by a run that was killed."""
        found = record.release
        if found is None:
            last = record.history[-1] if record.history else None
            # Without having seen a canary: the last one is meant if its template is live.
            if last is None or not (self._release or last.is_live(service)):
                raise Refused("no canary is running: there is nothing to go on with")
            self._say(f"{last.action} by {last.by}: {last.canary} of the {last.component}")
            return End.PROMOTED if last.action == "promoted" else End.ROLLED_BACK
        live = canary.read(service, found.component)
        if live.created == found.stable_revision:  # stopped before anything was patched
            self._api.update(lambda record: record.forget(found))
            raise Refused("no canary is running, since its start was stopped: give the version")
        promoted = live.template != found.stable_template
        action = "promoted" if promoted else "aborted"
        share = 100 if promoted else 0
        self._api.update(lambda record: record.note(action, found, share, UNNOTED))
        self._say(f"{action}, {UNNOTED}: {found.canary} of the {found.component}")
        return End.PROMOTED if promoted else End.ROLLED_BACK

    def _wait(self, live: Component, found: Release) -> End | None:
        """Wait for the revision or the traffic; after ``timeout``, abort or raise."""
        self._settled = None
        self._unsettled = self._unsettled or time.monotonic()
        if time.monotonic() - self._unsettled < self._plan.timeout:
            self._tell(f"waiting until {found.canary} is ready and gets {live.percent} %")
            return None
        if not live.is_ready or live.ready == live.rolled_out:  # no revision of its own
            return self._abort(found, f"it is not ready after {self._plan.timeout} s")
        raise RolloutError(
            f"Knative has not moved the traffic to {live.percent} % in {self._plan.timeout} s:"
            " see status. The canary stays as it is; run again to go on with it"
        )

    def _begin(
        self, service: Object, record: Record, found: Release, live: Component
    ) -> End | None:
        """Begin a stage for the present percent after the warm-up."""
        percent = live.percent or 0
        if self._settled is None or self._settled[0] != percent:
            self._settled = (percent, time.time())
            self._tell(f"{found.canary} gets {percent} %")
        since = self._settled[1] + self._plan.warm_up
        if time.time() < since:
            return None
        evidence = found.evidence or Evidence(slow=self._plan.slow)
        try:
            reading = self._source.read(evidence.slow)
        except NoEvidence as error:
            self._tell(f"no evidence: {error}")
            reading = None
        if reading and reading.time >= since:
            self._undecided = None
            if evidence.stages and record.noted(found) < percent:
                record.note("advanced", found, percent, UNNOTED)
            evidence.begin(live, now(), reading.pods)
            found.evidence = evidence
            self._api.save(record)
        elif time.time() > since + self._plan.max_time:
            return self._give_up(service, found, percent, NOTHING)
        return None

    def _judge(
        self, service: Object, record: Record, found: Release, live: Component, evidence: Evidence
    ) -> End | None:
        percent = live.percent or 0
        is_seen, nothing = False, NOTHING
        try:
            is_seen = look(self._api, self._source, evidence, live)
        except NoEvidence as error:
            nothing = f"no evidence: {error}"
        decision = judge(
            evidence.steps(),
            alpha=self._plan.alpha,
            minimum=self._plan.minimum,
            labels=self._plan.labels,
        )
        if decision.verdict is Verdict.BAD:
            found.condemned = decision.reason
        self._api.save(record)
        if found.condemned:
            return self._abort(found, found.condemned, decision.lines)
        if not is_seen or decision.verdict is Verdict.HOLD:
            why = decision.reason if is_seen else nothing
            self._undecided = self._undecided or time.monotonic()
            if time.monotonic() - self._undecided > self._plan.max_time:
                return self._give_up(service, found, percent, why, decision.lines)
            self._tell(f"at {percent} %: {why}")
            return None
        self._undecided = None
        age = (datetime.now(UTC) - evidence.stages[-1].since).total_seconds()
        if age < self._plan.step_time:
            self._tell(f"at {percent} %: healthy so far")
            return None
        if any(found.approved < pause <= percent for pause in self._plan.pause_at):
            self._tell(f"at {percent} %: healthy, and waiting for `python -m rollout approve`")
            return None
        return self._advance(service, found, live, decision.lines)

    def _advance(
        self, service: Object, found: Release, live: Component, evidence: Sequence[str]
    ) -> End | None:
        share = self._plan.after(live.percent or 0)
        if share == 100:
            release.promote(
                self._api, service, timeout=self._plan.timeout, say=self._say, evidence=evidence
            )
            return End.PROMOTED
        release.patch(
            self._api,
            service,
            lambda planned: canary.patch(planned, live.name, live.template, share),
        )
        self._api.update(lambda record: record.note("advanced", found, share, "", evidence))
        self._api.announce(service, "CanaryAdvanced", f"{found.canary} gets {share} %")
        return None

    def _abort(self, found: Release, why: str, evidence: Sequence[str] = ()) -> End | None:
        self._tell(f"{found.canary} is taken back, {why}")
        with suppress(Refused):  # somebody else has ended it meanwhile: the next look finds how
            release.abort(
                self._api, reason=why, timeout=self._plan.timeout, say=self._say, evidence=evidence
            )
            return End.ROLLED_BACK
        return None

    def _give_up(
        self,
        service: Object,
        found: Release,
        percent: int,
        why: str,
        evidence: Sequence[str] = (),
    ) -> End:
        self._api.update(lambda record: record.note("held", found, percent, why, evidence))
        text = f"{found.canary} stays at {percent} %: {why}"
        self._api.announce(service, "CanaryHeld", text, warning=True)
        self._say(f"{text}. Run again to go on with it, or promote or abort it")
        return End.INCONCLUSIVE

    def _tell(self, text: str) -> None:
        """Say ``text`` unless it was said last."""
        if text != self._said:
            self._said = text
            self._say(text)


def next_patch(service: Object, record: Record, plan: Plan) -> Object | None:
    """Return the patch that a run makes next if all is well; raises as ``Record.under_way``."""
    live, found = record.under_way(service)
    if found.why_back(live):
        return release.next_of_abort(service, record)
    share = plan.after(live.percent or 0)
    return canary.patch(service, live.name, live.template, None if share == 100 else share)
