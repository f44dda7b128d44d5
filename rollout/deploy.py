"""Applies an overlay without undoing what was released in the cluster since.

Git says which release it wants, in the overlay's ``release.env`` and ``images.env``. The ConfigMap
``mnist-release`` records what git wanted at the last deployment. A canary that is promoted or
aborted changes only the live InferenceService. So the three are compared, as ``kubectl apply``
does: what git has not changed since the last deployment stays as it is live, and what it has
changed becomes a canary.
"""

import copy
from dataclasses import dataclass

from rollout import canary
from rollout.canary import COMPONENTS, PERCENT
from rollout.cluster import Cluster, render
from rollout.errors import Refused
from rollout.record import RELEASE, begin, name_of
from rollout.template import VERSION, Object, choose_version, container

CONFIG_MAP = "mnist-release"


@dataclass(frozen=True)
class Plan:
    """The objects to apply, and a summary of what they do to the service."""

    objects: list[Object]
    summary: str


def service(objects: list[Object]) -> Object:
    """Return the InferenceService among ``objects``; ``ValueError`` unless there is one."""
    return _only(objects, "InferenceService")


def config_map(objects: list[Object]) -> Object:
    """Return the ConfigMap ``mnist-release`` among ``objects``; errors as in ``service``."""
    return _only(objects, "ConfigMap", CONFIG_MAP)


def keep_released(rendered: list[Object], live: Object, recorded: dict[str, str]) -> list[Object]:
    """Return ``rendered`` with the live release wherever git wants the same as before.

    Args:
        rendered: the objects of the overlay.
        live: the live InferenceService.
        recorded: the settings of the last deployment; if empty, all of the live release is kept.

    Raises:
        Refused: the service lacks a component.
    """
    objects = copy.deepcopy(rendered)
    wanted = config_map(objects)["data"]
    recorded = recorded or wanted
    spec = service(objects)["spec"]
    for name in COMPONENTS:
        image, present = f"{name.upper()}_IMAGE", canary.read(live, name)
        if wanted.get(image) == recorded.get(image):
            container(spec[name])["image"] = container(present.template)["image"]
        if present.percent is not None:
            spec[name][PERCENT] = present.percent
    if all(wanted.get(name) == recorded.get(name) for name in VERSION):
        running = container(live["spec"]["predictor"]).get("env", ())
        released = [each for each in running if each["name"] in VERSION]
        choose_version(spec["predictor"], released)
    # So that the API server refuses it if somebody has changed the service since it was read.
    service(objects)["metadata"]["resourceVersion"] = live["metadata"]["resourceVersion"]
    return objects


def plan(kept: list[Object], live: Object, after: Object, recorded: dict[str, str]) -> Plan:
    """Plan the way from ``live`` to ``after``.

    Args:
        kept: the objects from ``keep_released``.
        live: the live InferenceService.
        after: what it would become if ``kept`` were applied, with defaults; from a dry run.
        recorded: the settings of the last deployment.

    Raises:
        Refused: a component would change while a canary is running; or see ``canary.start``.
    """
    changed = [name for name in COMPONENTS if after["spec"][name] != live["spec"][name]]
    if not changed:
        return Plan(kept, "the service stays as it is")
    if canary.running(live):
        raise Refused(
            f"a canary is running, and the {' and the '.join(changed)} would change under it: "
            "promote or abort it first"
        )
    objects = copy.deepcopy(kept)
    percent = int(config_map(objects)["data"]["CANARY_PERCENT"])
    if percent < 100:
        canary.refuse_standard(live)  # first, since there nothing is ever rolled out
    # A template that never served is nothing to compare a canary with, or to go back to.
    if percent == 100 or not all(canary.read(live, name).rolled_out for name in COMPONENTS):
        return Plan(objects, f"replaced: the {' and the '.join(changed)}")
    first, *waiting = changed
    spec = service(objects)["spec"]
    canary.start(live, first, spec[first], percent)  # refused if an abort would not end
    spec[first][PERCENT] = percent
    objects.append(_begun(live, first, after["spec"][first]))
    summary = f"a canary of the {first} gets {percent} % of the traffic"
    for name in waiting:
        # Two splits at once make four mixtures, which no evidence could tell apart.
        spec[name] = live["spec"][name]
        settings, image = config_map(objects)["data"], f"{name.upper()}_IMAGE"
        settings[image] = recorded.get(image, settings[image])
        summary += f"; the {name} waits: deploy again when this is promoted"
    return Plan(objects, summary)


def apply(overlay: str, cluster: Cluster, *, dry_run: bool) -> Plan:
    """Apply an overlay and return its plan; with ``dry_run`` change nothing.

    Raises:
        ClusterError: ``kubectl`` failed.
        Refused: see ``keep_released`` and ``plan``.
        ValueError: the overlay does not render one InferenceService and one ``mnist-release``.
    """
    rendered = render(overlay)
    config_map(rendered)
    named = service(rendered)["metadata"]
    live = cluster.get("inferenceservice", named["name"], named["namespace"])
    if live is None:
        made = Plan(rendered, "the service is new")
    else:
        found = cluster.get("configmap", CONFIG_MAP, named["namespace"])
        recorded = found["data"] if found else {}
        kept = keep_released(rendered, live, recorded)
        (after,) = cluster.apply([service(kept)], dry_run=True)
        made = plan(kept, live, after, recorded)
    if not dry_run:
        # The InferenceService comes after all that its pods and an abort need, in a call of its
        # own: if one of several objects is refused, kubectl still applies the rest. What git wanted
        # is recorded last, so that a deployment that failed before does not count as done.
        last = [service(made.objects), config_map(made.objects)]
        cluster.apply([each for each in made.objects if each not in last])
        for each in last:
            cluster.apply([each])
    return made


def _begun(live: Object, name: str, wanted: Object) -> Object:
    """Return the ConfigMap that tells ``rollout abort`` what to go back to."""
    template = {key: value for key, value in wanted.items() if key != PERCENT}
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": name_of(live["metadata"]["name"]),
            "namespace": live["metadata"]["namespace"],
        },
        "data": {RELEASE: begin(live, name, template).model_dump_json()},
    }


def _only(objects: list[Object], kind: str, name: str | None = None) -> Object:
    found = [
        each
        for each in objects
        if each["kind"] == kind and (name is None or each["metadata"]["name"] == name)
    ]
    if len(found) != 1:
        wanted = f"{kind} {name}" if name else kind
        raise ValueError(f"the overlay must render one {wanted}, found {len(found)}")
    return found[0]
