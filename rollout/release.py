"""The single steps of a release: start a canary, promote it, take it back.

Every step is decided anew from the live object, so each command can be interrupted and called
again. The record only adds what to go back to.
"""

import time
from collections.abc import Callable, Iterable
from contextlib import suppress

from rollout import canary
from rollout.api import API, ATTEMPTS
from rollout.errors import Conflict, Refused, RolloutError, Unreachable
from rollout.record import UNKNOWN, Record, Release, begin
from rollout.template import Object, describe

INTERVAL = 0.5
"""Seconds between two looks at the service."""
LAG = 60
"""Seconds from a canary's start until the status names its revision, if Knative makes one."""

Say = Callable[[str], None]


def start(
    api: API,
    service: Object,
    component: str,
    template: Object,
    percent: int,
    say: Say,
) -> Release:
    """Send ``percent`` of the traffic to ``template`` as soon as it is ready; does not wait.

    ``service`` is the InferenceService from which ``template`` was made; if its spec has changed
    since, that is a conflict.

    Raises:
        Refused: see ``canary.start``.
        Conflict: somebody else has changed the service meanwhile.
    """
    release = begin(service, component, template)
    # Of two processes at a time, one is refused: it sees the other's canary, or its record or patch
    # conflicts. If its record has overwritten the other's, the other writes it again in started().
    record = api.record()
    canary.start(api.service(), component, template, percent)  # refused before anything is written
    record.release = release
    api.save(record)
    patch(api, service, lambda live: canary.start(live, component, template, percent))

    def started(record: Record) -> None:
        if not record.has_ended(release):
            record.release = record.current(release) or release
            record.note("started", release, percent)

    with suppress(Unreachable):  # it has begun: at worst the history does not say so
        api.update(started)
    text = (
        f"canary of the {component}: {release.canary} gets {percent} %, {release.stable} the rest"
    )
    api.announce(service, "CanaryStarted", text)
    say(f"{text}; waiting until it is ready")
    return release


def wait_until_ready(api: API, component: str, *, timeout: int, say: Say) -> None:
    """Wait until the canary of ``component`` is ready and gets its traffic.

    Raises:
        Refused: somebody else has ended it.
        RolloutError: it is not ready after ``timeout`` seconds.
    """

    def is_ready(service: Object) -> bool:
        live = canary.read(service, component)
        if not live.has_canary:
            raise Refused("somebody else has ended the canary: see history")
        return live.is_settled

    try:
        _wait(api, is_ready, timeout)
    except TimeoutError:
        raise RolloutError(
            f"the canary is not ready after {timeout} s. It takes no traffic until it is: look at"
            " its pods, or abort"
        ) from None
    say("it is ready, and the traffic is split")


def promote(
    api: API, service: Object, *, timeout: int, say: Say, evidence: Iterable[str] = ()
) -> None:
    """Give the canary all of the traffic and wait until it has it.

    ``service`` is the InferenceService on which the decision was made; if its spec has changed
    since, that is a conflict. ``evidence`` goes into the history.

    Raises:
        Refused: see ``canary.promote``.
        Conflict: somebody else has changed the service meanwhile.
        RolloutError: the traffic has not moved in ``timeout`` seconds.
    """
    live = canary.to_promote(service)
    release = api.record().release_of(live)
    if release is None:
        release = begin(service, live.name, live.template)
        release.stable = UNKNOWN
    patch(api, service, canary.promote)
    api.update(lambda record: record.note("promoted", release, 100, evidence=evidence))
    promoted = f"{describe(live.template)} of the {live.name}"
    api.announce(service, "CanaryPromoted", f"{promoted} gets all")
    try:
        _wait(api, lambda found: canary.read(found, live.name).is_settled, timeout)
    except TimeoutError:
        raise RolloutError(
            f"promoted, but after {timeout} s Knative has not moved all the traffic: see status"
        ) from None
    say(f"promoted: {promoted} gets all the traffic")


def abort(api: API, *, reason: str, timeout: int, say: Say, evidence: Iterable[str] = ()) -> None:
    """Take the canary back in the steps of ``canary.abort``; called again, it continues.

    ``reason`` and ``evidence`` go into the history.

    Raises:
        Refused: there is no canary, or somebody else has ended it; or it was not started by
            rollout: then its traffic is taken away, but it is unknown what to go back to.
        RolloutError: the stable template is not ready after ``timeout`` seconds.
    """
    service = api.service()
    live = _to_abort(service)
    release = api.record().release_of(live)
    if release is None:
        patch(api, service, lambda found: _without_traffic(found, live))
        raise Refused(
            f"the canary of the {live.name} gets nothing any more. It was not started by rollout,"
            " which cannot know what to go back to: docs/release.md says how, under 'Or roll back'"
        )
    name, stable = release.component, release.stable_template

    def step(found: Object) -> bool:
        live = canary.read(found, name)
        # Since the last look, another release may have begun.
        is_ours = live.template == stable
        if live.has_canary:
            is_ours = live.rolled_out == release.stable_revision
        if not is_ours:
            raise Refused(f"somebody else has ended the canary of {release.canary}: see history")
        if live.template != stable and live.created != release.canary_revision:
            release.canary_revision = live.created
            api.update(lambda record: _remember(record, release))
        change = _back(found, release)
        if change is not None:
            try:
                api.patch(change)
            except Conflict:
                return False  # look again at what it is now
            say(_words(change["spec"][name], release.stable))
        return canary.is_aborted(found, name, stable)

    try:
        _wait(api, step, timeout)
    except TimeoutError:
        raise RolloutError(
            f"the canary gets nothing, but {release.stable} is not ready again after {timeout} s:"
            " see status, and call abort again"
        ) from None
    api.update(lambda record: record.note("aborted", release, 0, reason, evidence))
    why = f"{release.canary} of the {name}: {reason}"
    api.announce(service, "CanaryAborted", why, warning=True)
    say(f"aborted: {release.stable} of the {name} gets all the traffic")


def next_of_abort(service: Object, record: Record) -> Object | None:
    """Return the patch that ``abort`` would make now, ``None`` if it would wait; refuses as it."""
    live = _to_abort(service)
    release = record.release_of(live)
    if release is None:
        return _without_traffic(service, live)
    return _back(service, release)


def _to_abort(service: Object) -> canary.Component:
    live = canary.running(service)
    if live is None:
        raise Refused("no canary is running: there is nothing to abort")
    return live


def _without_traffic(service: Object, live: canary.Component) -> Object:
    return canary.patch(service, live.name, live.template, 0)


def _back(service: Object, release: Release) -> Object | None:
    return canary.abort(
        service,
        release.component,
        release.stable_template,
        stable_revision=release.stable_revision,
        bad=release.canary_revision,
        is_late=time.time() > release.begun.timestamp() + LAG,
    )


def _words(change: Object, stable: str) -> str:
    """Describe a step of an abort."""
    if "containers" in change:
        return f"{stable} is back in the template; waiting until it is ready"
    if change[canary.PERCENT] == 0:
        return "the canary gets nothing any more"
    return "the percent is removed"


def _remember(record: Record, release: Release) -> None:
    """Record the canary's revision, so that the next one can be told from it."""
    if found := record.current(release):
        found.canary_revision = release.canary_revision


def patch(api: API, planned: Object, make: Callable[[Object], Object]) -> None:
    """Apply the patch that ``make`` returns for the service.

    Raises:
        Conflict: the spec is no longer that of ``planned``, or each try met another change.
    """
    service = planned
    for _ in range(ATTEMPTS):
        try:
            api.patch(make(service))
        except Conflict:
            service = api.service()
            if service["spec"] != planned["spec"]:
                break
        else:
            return
    raise Conflict(
        "somebody else is changing the service; nothing was done. See status, then try again"
    )


def _wait(api: API, done: Callable[[Object], bool], timeout: int) -> None:
    deadline = time.monotonic() + timeout
    while not done(api.service()):
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(INTERVAL)
