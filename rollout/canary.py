"""A canary in an InferenceService: what is live, and the patches that move it.

The patches are merge patches (RFC 7386) of ``spec`` that name the ``resourceVersion`` they were
made for: whoever changed the object in between makes the API server refuse them. The rules they
keep were seen on KServe in Knative mode: docs/release.md explains each.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from rollout.errors import Refused
from rollout.template import Object

COMPONENTS = ("predictor", "transformer")
PERCENT = "canaryTrafficPercent"
STANDARD = ("Standard", "RawDeployment")
"""The deployment modes, by their new and old name, in which KServe ignores the percent."""


@dataclass(frozen=True)
class Component:
    """A predictor or transformer as it is live."""

    name: str
    template: Object
    """Its specification without the percent."""
    percent: int | None
    created: str | None
    """The revision of the template as it is now."""
    ready: str | None
    """The latest revision that is ready; "latest" in the traffic means this one."""
    rolled_out: str | None
    """The revision that has, or had, all of the traffic: the stable one under a canary."""
    traffic: Mapping[str, int]
    """The percentages by revision that Knative says it has set."""
    service: str = ""
    """The UID of the InferenceService: one made again gives its revisions the same names."""

    @property
    def has_canary(self) -> bool:
        """Whether the traffic is split, or about to be."""
        return self.percent is not None and self.percent < 100

    @property
    def is_ready(self) -> bool:
        """Whether the template as it is now can serve."""
        return self.created is not None and self.created == self.ready

    @property
    def is_settled(self) -> bool:
        """Whether it is ready, and the traffic is what the percent says (kserve issue 2130).

        A status that is older than the template is not taken for it: under a canary two revisions
        must be named.
        """
        if self.has_canary and self.ready == self.rolled_out:
            return False
        share = 100 if self.percent is None else self.percent
        wanted = {self.ready: share}
        if share < 100:
            wanted[self.rolled_out] = wanted.get(self.rolled_out, 0) + 100 - share
        return self.is_ready and dict(self.traffic) == {
            revision: percent for revision, percent in wanted.items() if percent
        }


def read(service: Object, name: str) -> Component:
    """The component ``name`` of an InferenceService.

    Raises:
        Refused: it has none.
    """
    if name not in service["spec"]:
        raise Refused(f"the service has no {name}")
    spec = service["spec"][name]
    status = service.get("status", {}).get("components", {}).get(name, {})
    traffic: dict[str, int] = {}
    for target in status.get("traffic", ()):
        if target.get("percent"):
            revision = target["revisionName"]
            traffic[revision] = traffic.get(revision, 0) + target["percent"]
    return Component(
        name,
        {key: value for key, value in spec.items() if key != PERCENT},
        spec.get(PERCENT),
        status.get("latestCreatedRevision"),
        status.get("latestReadyRevision"),
        status.get("latestRolledoutRevision"),
        traffic,
        service["metadata"].get("uid", ""),
    )


def running(service: Object) -> Component | None:
    """The component under canary, if there is one."""
    found = (read(service, name) for name in COMPONENTS if name in service["spec"])
    return next((each for each in found if each.has_canary), None)


def refuse_standard(service: Object) -> None:
    """Raise ``Refused`` where KServe would give a canary everything."""
    mode = service.get("status", {}).get("deploymentMode") or service["metadata"].get(
        "annotations", {}
    ).get("serving.kserve.io/deploymentMode")
    if mode in STANDARD:
        raise Refused(
            f"the service is in {mode} mode, where KServe ignores the percent; a deployment with"
            " CANARY_PERCENT=100 replaces it at once"
        )


def start(service: Object, name: str, template: Object, percent: int) -> Object:
    """The patch that opens a canary: template and percent together.

    The percent alone, on a template that is rolled out, would send the rest of the traffic to the
    version *before* it; the template alone would get everything as soon as it is ready.

    Raises:
        Refused: there is nothing to compare, or it would disturb what is under way.
    """
    refuse_standard(service)
    if other := running(service):
        raise Refused(
            f"a canary of the {other.name} is running at {other.percent} %: promote or abort it"
            " first. Two at a time would be four mixtures, of which no evidence tells two apart"
        )
    live = read(service, name)
    if template == live.template:
        raise Refused(
            f"the {name} runs this already. A percent without another template would send the"
            " traffic to the version before it"
        )
    if not live.is_ready or live.rolled_out != live.ready:
        raise Refused(
            f"the {name} as it is now is not rolled out (latest revision {live.created}, ready"
            f" {live.ready}, rolled out {live.rolled_out}): wait for it; a deployment of another"
            " with CANARY_PERCENT=100 replaces it"
        )
    return patch(service, name, template, percent)


def patch(service: Object, name: str, template: Object, percent: int | None) -> Object:
    """The merge patch that makes ``template`` and ``percent`` of a component; ``None`` removes."""
    wanted = template if percent is None else {**template, PERCENT: percent}
    change = difference(service["spec"][name], wanted)
    version = service["metadata"]["resourceVersion"]
    return {"metadata": {"resourceVersion": version}, "spec": {name: change}}


def to_promote(service: Object) -> Component:
    """The component whose canary may be promoted.

    Raises:
        Refused: there is none, or it is not one to be promoted.
    """
    live = running(service)
    if live is None:
        raise Refused("no canary is running: there is nothing to promote")
    if live.percent == 0:
        raise Refused(
            f"the canary of the {live.name} is at 0 %, so it is being taken back: abort finishes"
            " that. To promote it all the same, give it a percent first"
        )
    if not live.is_ready:
        raise Refused(
            f"the canary of the {live.name} is not ready (latest revision {live.created}, ready"
            f" {live.ready}): wait for it, or abort"
        )
    return live


def promote(service: Object) -> Object:
    """The patch that gives the canary everything; refused as by ``to_promote``."""
    live = to_promote(service)
    return patch(service, live.name, live.template, None)


def abort(
    service: Object,
    name: str,
    stable: Object,
    *,
    stable_revision: str | None,
    bad: str | None,
    is_late: bool = False,
) -> Object | None:
    """The next patch on the way back to the template ``stable``, or ``None``: wait and ask again.

    1. Percent 0, which takes the traffic off the canary at once. 2. The stable template, with the
    percent still 0: without it, the canary would get everything until the new revision is ready.
    3. When that revision is the latest ready one, the percent goes: before that, the canary would
    be the latest ready one, and promoted.

    Args:
        service: as it is live.
        name: of the component.
        stable: the template to go back to.
        stable_revision: the revision that served it before the canary.
        bad: the revision of the canary; what was created when step 2 was taken.
        is_late: whether the canary has no revision if the status names none by now.
    """
    live = read(service, name)
    if live.template != stable:
        if live.percent != 0:
            return patch(service, name, live.template, 0)
        if live.created != stable_revision:
            return patch(service, name, stable, 0)
        # The status may be older than the canary: its revision must be known to be told apart.
        return patch(service, name, stable, None) if is_late else None
    if live.percent is not None and 0 < live.percent < 100:
        return patch(service, name, stable, 0)
    if live.percent == 0 and live.is_ready and live.created not in (stable_revision, bad):
        return patch(service, name, stable, None)
    return None


def is_aborted(service: Object, name: str, stable: Object) -> bool:
    """Whether ``abort`` has nothing left to do, and the stable template has all traffic."""
    live = read(service, name)
    return live.template == stable and live.percent is None and live.is_settled


def difference(before: Object, after: Object) -> Object:
    """The merge patch from one object to another (RFC 7386: ``null`` removes, lists are whole)."""
    change: Object = dict.fromkeys(before.keys() - after.keys())
    for key, value in after.items():
        old = before.get(key)
        if isinstance(value, dict) and isinstance(old, dict):
            if inner := difference(old, value):
                change[key] = inner
        elif key not in before or old != value:
            change[key] = value
    return change
