"""How KServe's controller and Knative manage a component: revisions, traffic, status.

The rules are those of Knative mode. From KServe 0.20: ``ksvc_reconciler.go`` turns
``canaryTrafficPercent`` into traffic, and ``PropagateStatus`` in ``inference_service_status.go``
decides what counts as rolled out. From Knative: ``LatestReadyRevisionName``. Left out: scaling,
gradual rollout (``rollout-duration``), garbage collection, progress deadlines.
"""

from dataclasses import dataclass, field

from standalone.objects import Object

PERCENT = "canaryTrafficPercent"
TAG_ROUTING = "serving.kserve.io/enable-tag-routing"
UNCOPIED = {"kubectl.kubernetes.io/last-applied-configuration"}
"""Annotations that KServe does not copy into the pods' template."""


@dataclass
class Revision:
    """One template of a component; ``ready`` is ``None`` until it is known."""

    name: str
    template: Object
    ready: bool | None = None


@dataclass(frozen=True)
class Target:
    """A share of the traffic."""

    revision: str
    percent: int
    tag: str | None = None
    """``prev`` or ``latest``: requests to the host ``<tag>-<service>-<component>`` all go to it."""
    latest: bool = False
    """Whether it goes to the latest ready revision, whichever that is."""


@dataclass
class Component:
    """A predictor or transformer: its revisions, oldest first, and the state that KServe keeps."""

    name: str
    revisions: list[Revision] = field(default_factory=list)
    rolled_out: str | None = None
    previous_rolled_out: str | None = None
    percent: int | None = None
    tag_routing: bool = False

    def update(self, service: Object, component: str) -> None:
        """Take the specification of ``component`` from ``service``.

        A change in it, the labels or annotations makes a revision; the percent alone does not.
        """
        metadata = service["metadata"]
        annotations = metadata.get("annotations", {})
        spec = service["spec"][component]
        template = {
            "annotations": {key: annotations[key] for key in annotations.keys() - UNCOPIED},
            "labels": metadata.get("labels", {}),
            "spec": {key: value for key, value in spec.items() if key != PERCENT},
        }
        self.percent = spec.get(PERCENT)
        self.tag_routing = annotations.get(TAG_ROUTING) == "true"
        if not self.revisions or self.revisions[-1].template != template:
            name = f"{self.name}-{len(self.revisions) + 1:05}"
            self.revisions.append(Revision(name, template))

    @property
    def latest_created(self) -> Revision:
        """The revision of the current template."""
        return self.revisions[-1]

    @property
    def latest_ready(self) -> Revision | None:
        """The newest revision that is ready."""
        return next((each for each in reversed(self.revisions) if each.ready), None)

    def traffic(self) -> list[Target]:
        """The traffic that KServe asks Knative for; empty until a revision is ready."""
        latest = self.latest_ready
        if latest is None:
            return []
        tag = "latest" if self.tag_routing else None
        if self.percent is None or self.rolled_out is None:
            return [Target(latest.name, 100, tag, latest=True)]
        targets = [Target(latest.name, self.percent, tag, latest=True)]
        if self.percent < 100:
            targets.append(Target(self.rolled_out, 100 - self.percent, "prev"))
        return targets

    def settle(self) -> None:
        """Decide which revision is rolled out."""
        latest = self.latest_ready
        if latest is None:
            return
        share = self.traffic()[0].percent
        if self.rolled_out != latest.name:
            if share == 100:
                self.previous_rolled_out, self.rolled_out = self.rolled_out, latest.name
        elif latest is self.latest_created and share < 100 and self.previous_rolled_out:
            # KServe takes a percent on a template that is rolled out as a request to roll it back.
            self.rolled_out = self.previous_rolled_out

    def needed(self) -> list[Revision]:
        """The revisions that must run: those in the traffic, even at 0 %, and the latest one."""
        names = {target.revision for target in self.traffic()} | {self.latest_created.name}
        return [each for each in self.revisions if each.name in names]

    def status(self) -> Object:
        """The component's part of the InferenceService's status."""
        latest = self.latest_ready
        found = {
            "latestCreatedRevision": self.latest_created.name,
            "latestReadyRevision": latest.name if latest else None,
            "latestRolledoutRevision": self.rolled_out,
            "previousRolledoutRevision": self.previous_rolled_out,
        }
        traffic = [
            {
                "revisionName": target.revision,
                "latestRevision": target.latest,
                "percent": target.percent,
                **({"tag": target.tag} if target.tag else {}),
            }
            for target in self.traffic()
        ]
        return {**{key: value for key, value in found.items() if value}, "traffic": traffic}
