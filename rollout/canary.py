"""A canary in an InferenceService: what is live, and the patches that change it.

The patches are merge patches (RFC 7386) of ``spec``. Each names the ``resourceVersion`` it was made
for, so the API server refuses it if somebody else has changed the object since. The rules they
follow were observed on KServe in Knative mode; docs/release.md explains each.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from rollout.errors import Refused
from rollout.template import Object

COMPONENTS = ("predictor", "transformer")
PERCENT = "canaryTrafficPercent"
STANDARD = ("Standard", "RawDeployment")
"""The new and the old name of the deployment mode in which KServe ignores the percent."""


@dataclass(frozen=True)
class Component:
    """The live state of a predictor or transformer."""

    name: str
    template: Object
    """Its specification without the percent."""
    percent: int | None
    created: str | None
    """The latest created revision, normally that of the present template."""
    ready: str | None
    """The latest ready revision; this is what "latest" means in the traffic."""
    rolled_out: str | None
    """The last revision that had all of the traffic: during a canary, the stable one."""
    traffic: Mapping[str, int]
    """The percent of each revision that Knative reports."""
    service: str = ""
    """The UID of the InferenceService: if it is deleted and recreated, revision names repeat."""

    @property
    def has_canary(self) -> bool:
        """Whether the specification asks for a split."""
        return self.percent is not None and self.percent < 100

    @property
    def is_ready(self) -> bool:
        """Whether the latest created revision is ready."""
        return self.created is not None and self.created == self.ready

    @property
    def is_settled(self) -> bool:
        """Whether it is ready and the traffic matches the percent (kserve issue 2130).

        The status may be older than the template, so during a canary the ready and the rolled out
        revision must differ.
        """
        if self.has_canary and self.ready == self.rolled_out:
            return False
        share = 100 if self.percent is None else self.percent
        wanted = {self.ready: share}
        if share < 100:
            wanted[self.rolled_out] = 100 - share
        return self.is_ready and dict(self.traffic) == {
            revision: percent for revision, percent in wanted.items() if percent
        }


def read(service: Object, name: str) -> Component:
    """Return the component ``name`` of an InferenceService.

    Raises:
        Refused: the service has no such component.
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
    """Return the component that has a canary, or ``None``."""
    found = (read(service, name) for name in COMPONENTS if name in service["spec"])
    return next((each for each in found if each.has_canary), None)


def refuse_standard(service: Object) -> None:
    """Raise ``Refused`` in Standard mode, where KServe would give a canary all of the traffic."""
    mode = service.get("status", {}).get("deploymentMode") or service["metadata"].get(
        "annotations", {}
    ).get("serving.kserve.io/deploymentMode")
    if mode in STANDARD:
        raise Refused(
            f"the service is in {mode} mode, where KServe ignores the percent; a deployment with"
            " CANARY_PERCENT=100 replaces it at once"
        )


def start(service: Object, name: str, template: Object, percent: int) -> Object:
    """Return the patch that starts a canary: template and percent together.

    The percent alone, on a template that is rolled out, would send the rest of the traffic to the
    version *before* it. The template alone would get all of the traffic as soon as it is ready.

    Raises:
        Refused: the service is in Standard mode, a canary is running, the component has this
            template already, or its present one is not rolled out.
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
    """Return the merge patch to ``template`` and ``percent``; ``None`` removes the percent."""
    wanted = template if percent is None else {**template, PERCENT: percent}
    change = difference(service["spec"][name], wanted)
    version = service["metadata"]["resourceVersion"]
    return {"metadata": {"resourceVersion": version}, "spec": {name: change}}


def to_promote(service: Object) -> Component:
    """Return the component whose canary can be promoted.

    Raises:
        Refused: no canary is running, or it is not ready or being taken back.
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
    """Return the patch that gives the canary all of the traffic; raises as ``to_promote``."""
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
    """Return the next patch on the way back to ``stable``; ``None`` means wait and ask again.

    1. Percent 0, which takes the traffic off the canary at once.
    2. The stable template, with the percent still 0. Without the percent, the canary would get all
       of the traffic until the new revision is ready.
    3. Once that revision is the latest ready one, the percent is removed. Any earlier, the canary
       would be the latest ready one and so be promoted.

    Args:
        service: the live InferenceService.
        name: the component.
        stable: the template to go back to.
        stable_revision: the revision that served it before the canary.
        bad: the revision of the canary: the latest created one before step 2.
        is_late: whether it is late enough to conclude that the canary has no revision if the status
            names none.
    """
    live = read(service, name)
    if live.template != stable:
        if live.percent != 0:
            return patch(service, name, live.template, 0)
        if live.created != stable_revision:
            return patch(service, name, stable, 0)
        # The status may be older than the canary, whose revision must be known for step 3.
        return patch(service, name, stable, None) if is_late else None
    if live.percent is not None and 0 < live.percent < 100:
        return patch(service, name, stable, 0)
    if live.percent == 0 and live.is_ready and live.created not in (stable_revision, bad):
        return patch(service, name, stable, None)
    return None


def is_aborted(service: Object, name: str, stable: Object) -> bool:
    """Return whether the stable template is back and has all of the traffic."""
    live = read(service, name)
    return live.template == stable and live.percent is None and live.is_settled


def difference(before: Object, after: Object) -> Object:
    """Return the merge patch between two objects (RFC 7386: ``null`` removes a key)."""
    change: Object = dict.fromkeys(before.keys() - after.keys())
    for key, value in after.items():
        old = before.get(key)
        if isinstance(value, dict) and isinstance(old, dict):
            if inner := difference(old, value):
                change[key] = inner
        elif old != value:
            change[key] = value
    return change
