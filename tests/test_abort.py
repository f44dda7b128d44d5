"""A canary that is taken back never serves again, whatever happens meanwhile."""

import copy
from datetime import timedelta
from typing import Any

import pytest
import yaml

from rollout import canary, release
from rollout.api import API
from rollout.record import Record
from rollout.template import with_image
from tests import cluster, releases
from tests.releases import World


def test_an_aborted_version_never_serves_again(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    assert world.start() == 0
    since = len(world.api.traffic)
    capsys.readouterr()
    assert world.run("abort", "--reason=slow") == 0
    assert [line.partition(";")[0] for line in capsys.readouterr().err.splitlines()] == [
        "rollout: the canary gets nothing any more",
        "rollout: version 1 is back in the template",
        "rollout: the percent is removed",
        "rollout: aborted: version 1 of the predictor gets all the traffic",
    ]
    predictor = world.service["spec"]["predictor"]
    assert canary.PERCENT not in predictor
    assert cluster.version(predictor) == "1"
    world.look()
    assert world.served(world.taken_away(since)) == {"1"}


@pytest.mark.parametrize("moment", range(16))
def test_an_abort_may_be_interrupted_at_any_moment_and_called_again(
    world: World, moment: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert world.start() == 0
    since = len(world.api.traffic)
    with releases.interrupted(monkeypatch, moment, "service", "patch", "save", "record"):
        assert world.run("abort") in (0, 130)
    assert world.run("abort") in (0, 3)  # 3: it was done already
    assert world.served(world.taken_away(since)) == {"1"}
    assert canary.PERCENT not in world.service["spec"]["predictor"]
    assert cluster.version(world.service["spec"]["predictor"]) == "1"


def test_an_abort_waits_until_the_revision_of_the_canary_is_known(world: World) -> None:
    """Before, nobody could tell it from the one that restores the stable template."""
    service = world.service
    stable = canary.read(service, "predictor").template
    service["spec"]["predictor"] = {**with_image(stable, "bad"), canary.PERCENT: 0}
    known: Any = {"stable_revision": "mnist-predictor-00001", "bad": "mnist-predictor-00001"}
    assert canary.abort(service, "predictor", stable, **known) is None
    service["status"]["components"]["predictor"]["latestCreatedRevision"] = "mnist-predictor-00002"
    patch = canary.abort(service, "predictor", stable, **known)
    assert patch
    assert canary.PERCENT not in patch["spec"]["predictor"]  # it stays 0


@pytest.mark.parametrize("line_break", ["\n", "\u2028"])
def test_a_reason_of_several_lines_is_one_in_the_history(
    world: World, line_break: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Else nothing could be read of the record any more."""
    assert world.start() == 0
    assert world.run("abort", f"--reason=it is{line_break}slow") == 0
    assert world.run("history") == 0
    assert "it is slow" in capsys.readouterr().out


def test_a_version_that_never_gets_ready_takes_nothing_and_can_be_aborted(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.api.never_ready.add("2")
    assert world.run("start", "2", "--percent=50", "--timeout=1") == 1
    assert "takes no traffic until it is" in capsys.readouterr().err
    assert world.run("promote") == 3
    assert world.run("abort") == 0
    assert world.served() == {"1"}


def test_a_version_of_which_knative_makes_no_revision_can_be_aborted(world: World) -> None:
    """Not by way of percent 0: with the stable template that sends all to the one before it."""
    assert world.start() == 0
    assert world.run("promote") == 0
    since = len(world.api.traffic)
    world.api.refused.add("1")
    assert world.run("start", "1", "--percent=50", "--timeout=0") == 1
    assert world.run("abort", "--timeout=1") == 1  # the status may name one yet
    assert cluster.version(world.service["spec"]["predictor"]) == "1"
    record = world.record()
    assert record.release
    record.release.begun -= timedelta(seconds=release.LAG)
    API("mnist", "default", server=world.server).save(record)
    assert world.run("abort", "--timeout=1") == 0
    predictor = world.service["spec"]["predictor"]
    assert canary.PERCENT not in predictor
    assert cluster.version(predictor) == "2"
    world.look()
    assert world.served(since) == {"2"}


def test_the_canary_of_somebody_else_loses_its_traffic_but_not_its_template(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    containers = copy.deepcopy(world.service["spec"]["predictor"]["containers"])
    containers[0]["env"][0]["value"] = "2"
    world.patch(containers=containers, canaryTrafficPercent=50)
    world.look()
    assert world.run("abort") == 3
    assert "cannot know what to go back to" in capsys.readouterr().err
    world.api.look()
    assert world.api.traffic[-1] == {"2": 0, "1": 100}


@pytest.mark.parametrize(
    ("following", "shares"),
    [
        ((), {"2": 100}),
        (
            ("start", "3", "--percent=10", f"--digest={'0' * 64}", "--models-dir=none"),
            {"3": 10, "2": 90},
        ),
        (("start", "1", "--percent=10"), {"1": 10, "2": 90}),
    ],
)
def test_an_abort_that_was_suspended_leaves_the_next_release_alone(
    world: World,
    following: tuple[str, ...],
    shares: dict[str, int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert world.start() == 0
    record = API.record

    def suspended(api: API) -> Record:
        found = record(api)
        monkeypatch.setattr(API, "record", record)
        assert world.run("promote") == 0
        assert not following or world.run(*following) == 0
        return found

    monkeypatch.setattr(API, "record", suspended)
    assert world.run("abort", "--timeout=1") == 3
    assert "somebody else has ended" in capsys.readouterr().err
    world.look()
    assert world.api.traffic[-1] == shares


def test_a_canary_that_begins_while_the_end_of_another_is_recorded_stays_recorded(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert world.start() == 0
    ours = API.update

    def late(api: API, change: Any) -> None:
        if canary.PERCENT not in world.service["spec"]["predictor"]:
            monkeypatch.setattr(API, "update", ours)
            assert world.start("--image=other", "--percent=10") == 0
        return ours(api, change)

    monkeypatch.setattr(API, "update", late)
    assert world.run("abort") == 0
    release = world.record().release
    assert release
    assert release.canary == "version 1 in other"


def test_a_record_of_an_older_release_is_not_believed(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    assert world.start() == 0
    world.patch(canaryTrafficPercent=None)  # promoted with kubectl
    world.look()
    containers = copy.deepcopy(world.service["spec"]["predictor"]["containers"])
    containers[0]["image"] = "other"
    world.patch(containers=containers, canaryTrafficPercent=50)
    world.look()
    capsys.readouterr()
    assert world.run("abort", "--dry-run") == 0
    assert yaml.safe_load(capsys.readouterr().out)["spec"] == {"predictor": {canary.PERCENT: 0}}
    assert world.run("abort") == 3
    assert cluster.version(world.service["spec"]["predictor"]) == "2"
