"""KServe's canary: every observation of it on a real cluster is a test of our rules."""

import copy
from typing import Any

import pytest

from standalone.canary import TAG_ROUTING, Component
from standalone.objects import Object

OLD, NEW, RESTORED = (f"mnist-predictor-0000{number}" for number in (1, 2, 3))
SERVICE: Object = {
    "metadata": {"name": "mnist"},
    "spec": {"predictor": {"minReplicas": 1, "containers": [{"env": "1"}]}},
}


class Predictor(Component):
    """The predictor of a service that ``kubectl patch`` changes."""

    def __init__(self) -> None:
        super().__init__("mnist-predictor")
        self.service = copy.deepcopy(SERVICE)

    def patch(
        self, version: str | None = None, *, ready: bool | None = True, **fields: Any
    ) -> dict[str, int]:
        """Change version and fields (``None`` takes one away); gives the share by revision."""
        spec = self.service["spec"]["predictor"]
        if version:
            spec["containers"] = [{"env": version}]
        for name, value in fields.items():
            spec.pop(name, None) if value is None else spec.update({name: value})
        return self.reconcile(ready=ready)

    def reconcile(self, *, ready: bool | None = True) -> dict[str, int]:
        self.update(self.service, "predictor")
        self.latest_created.ready = ready
        self.settle()
        return self.shares()

    def shares(self) -> dict[str, int]:
        shares: dict[str, int] = {}
        for target in self.traffic():
            shares[target.revision] = shares.get(target.revision, 0) + target.percent
        return shares


@pytest.fixture
def predictor() -> Predictor:
    """Version 1, rolled out."""
    predictor = Predictor()
    assert predictor.reconcile() == {OLD: 100}
    return predictor


def test_template_and_percent_in_one_patch_split_the_traffic(predictor: Predictor) -> None:
    assert predictor.patch("2", canaryTrafficPercent=10) == {NEW: 10, OLD: 90}
    assert predictor.status() == {
        "latestCreatedRevision": NEW,
        "latestReadyRevision": NEW,
        "latestRolledoutRevision": OLD,
        "traffic": [
            {"revisionName": NEW, "latestRevision": True, "percent": 10},
            {"revisionName": OLD, "latestRevision": False, "percent": 90, "tag": "prev"},
        ],
    }


@pytest.mark.parametrize("ready", [None, False], ids=["not yet", "never"])
def test_a_canary_that_is_not_ready_takes_no_traffic(
    predictor: Predictor, ready: bool | None
) -> None:
    assert predictor.patch("2", canaryTrafficPercent=10, ready=ready) == {OLD: 100}
    # The columns say 90/10 all the same.
    assert [each["percent"] for each in predictor.status()["traffic"]] == [10, 90]
    assert {each.name for each in predictor.needed()} == {OLD, NEW}


@pytest.mark.parametrize("percent", [0, None])
def test_the_old_one_keeps_serving_beside_one_that_never_gets_ready(
    predictor: Predictor, percent: int | None
) -> None:
    predictor.patch("2", canaryTrafficPercent=10, ready=False)
    assert predictor.patch(canaryTrafficPercent=percent, ready=False) == {OLD: 100}
    assert predictor.patch("1", canaryTrafficPercent=None) == {RESTORED: 100}


def test_the_percent_of_a_running_canary_goes_up_and_down(predictor: Predictor) -> None:
    predictor.patch("2", canaryTrafficPercent=0)
    for percent in (50, 10, 99):
        shares = predictor.patch(canaryTrafficPercent=percent)
        assert shares == {NEW: percent, OLD: 100 - percent}
    assert len(predictor.revisions) == 2


def test_100_percent_promotes_and_removing_it_then_changes_nothing(predictor: Predictor) -> None:
    predictor.patch("2", canaryTrafficPercent=10)
    assert predictor.patch(canaryTrafficPercent=100) == {NEW: 100}
    assert predictor.rolled_out == NEW
    assert len(predictor.status()["traffic"]) == 1
    assert predictor.patch(canaryTrafficPercent=None) == {NEW: 100}
    assert (predictor.rolled_out, predictor.previous_rolled_out) == (NEW, OLD)


def test_removing_the_percent_promotes(predictor: Predictor) -> None:
    predictor.patch("2", canaryTrafficPercent=50)
    assert predictor.patch(canaryTrafficPercent=None) == {NEW: 100}
    assert [each.name for each in predictor.needed()] == [NEW]


def test_a_percent_on_the_first_revision_has_no_effect() -> None:
    predictor = Predictor()
    assert predictor.patch(canaryTrafficPercent=10) == {OLD: 100}
    assert predictor.patch() == {OLD: 100}


def test_the_percent_only_trap(predictor: Predictor) -> None:
    predictor.patch("2", canaryTrafficPercent=None)
    assert predictor.patch(canaryTrafficPercent=10) == {OLD: 90, NEW: 10}
    assert predictor.rolled_out == OLD
    assert len(predictor.revisions) == 2


def test_a_percent_with_a_new_template_is_not_that_trap(predictor: Predictor) -> None:
    predictor.patch("2")
    assert predictor.patch("3", canaryTrafficPercent=10, ready=None) == {NEW: 100}
    assert predictor.rolled_out == NEW


def test_removing_the_percent_after_0_promotes_the_bad_canary(predictor: Predictor) -> None:
    predictor.patch("2", canaryTrafficPercent=10)
    assert predictor.patch(canaryTrafficPercent=0) == {NEW: 0, OLD: 100}
    assert predictor.patch(canaryTrafficPercent=None) == {NEW: 100}


def test_restoring_and_removing_the_percent_in_one_patch_lets_the_bad_one_serve(
    predictor: Predictor,
) -> None:
    predictor.patch("2", canaryTrafficPercent=0)
    assert predictor.patch("1", canaryTrafficPercent=None, ready=None) == {NEW: 100}
    assert predictor.reconcile() == {RESTORED: 100}


def test_the_right_order_of_an_abort_never_lets_the_bad_one_serve(predictor: Predictor) -> None:
    predictor.patch("2", canaryTrafficPercent=10)
    steps = [
        predictor.patch(canaryTrafficPercent=0),
        predictor.patch("1", canaryTrafficPercent=0, ready=None),
        predictor.reconcile(),
        predictor.patch(canaryTrafficPercent=None),
    ]
    assert [shares.get(NEW, 0) for shares in steps] == [0, 0, 0, 0]
    assert steps[-1] == {RESTORED: 100}


def test_replicas_and_metadata_make_revisions(predictor: Predictor) -> None:
    predictor.patch(minReplicas=2)
    predictor.service["metadata"]["annotations"] = {"note": "of somebody"}
    predictor.reconcile()
    predictor.service["metadata"]["labels"] = {"team": "digits"}
    predictor.reconcile()
    assert len(predictor.revisions) == 4
    applied = {"kubectl.kubernetes.io/last-applied-configuration": "{}"}
    predictor.service["metadata"]["annotations"] |= applied
    predictor.reconcile()
    assert len(predictor.revisions) == 4  # what kubectl notes is not copied


def test_both_revisions_run_while_they_are_named_at_0_percent_too(predictor: Predictor) -> None:
    predictor.patch("2", canaryTrafficPercent=0)
    assert [each.name for each in predictor.needed()] == [OLD, NEW]


def test_tags_name_the_revisions_of_a_canary(predictor: Predictor) -> None:
    predictor.patch("2", canaryTrafficPercent=10)
    assert [target.tag for target in predictor.traffic()] == [None, "prev"]
    for routing, tag in (("false", None), ("true", "latest")):
        predictor.service["metadata"]["annotations"] = {TAG_ROUTING: routing}
        predictor.reconcile()
        assert [target.tag for target in predictor.traffic()] == [tag, "prev"]
    assert len(predictor.revisions) == 4  # each annotation made one


def test_repeated_canaries_come_to_rest(predictor: Predictor) -> None:
    for number in range(2, 8):
        predictor.patch(str(number), canaryTrafficPercent=10)
        shares = predictor.patch(canaryTrafficPercent=None)
        assert shares == {f"mnist-predictor-{number:05}": 100}
        assert predictor.latest_created is predictor.latest_ready
