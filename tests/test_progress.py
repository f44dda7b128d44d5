"""A canary on its way to all of the traffic or back, with made-up traffic and a real API."""

import json
import re
import time
from itertools import groupby
from typing import Any

import pytest
import yaml

from rollout import __main__ as command
from rollout import canary, progress, release
from rollout.api import API
from rollout.errors import Conflict, Unreachable
from rollout.evidence import Counts
from rollout.source import Reading
from tests import cluster, releases
from tests.manifests import of_kind
from tests.releases import Traffic, World

QUICK = ("--warm-up=0", "--step-time=0", "--poll=0.01", "--timeout=20")
STEPS = ("--steps=10,50,100", "--minimum=50")


def run(world: World, *arguments: str) -> int:
    return world.run("run", *(arguments or ("2",)), *STEPS, *QUICK)


def history(world: World, capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    capsys.readouterr()
    assert world.run("history", "--json") == 0
    return list(json.loads(capsys.readouterr().out))


def percent(world: World) -> int | None:
    found: int | None = world.service["spec"]["predictor"].get(canary.PERCENT)
    return found


def test_a_healthy_canary_goes_up_the_steps_and_is_promoted(
    world: World, traffic: Traffic, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(world) == 0
    shares = [each.get("2", 0) for each in world.api.traffic]
    assert sorted(set(shares)) == [0, 10, 50, 100]
    assert shares == sorted(shares)
    told = history(world, capsys)
    assert [(each["action"], each["percent"]) for each in told] == [
        ("started", 10), ("advanced", 50), ("promoted", 100),
    ]  # fmt: skip
    for ended in told[1:]:
        assert [line.split()[:2] for line in ended["evidence"]] == [
            ["healthy", name] for name in ("split", "failed", "slow", "unsure", "digits", "sample")
        ]
    lines = [ended["evidence"][-1] for ended in told[1:]]
    in_all = sum(int(calls) for calls in re.findall(r"(\d+) calls, 50 are needed", str(lines)))
    assert f"canary 0 of {in_all} calls" in told[-1]["evidence"][1]
    events = [each["reason"] for each in of_kind(world.api.list(), "Event")]
    assert events == ["CanaryStarted", "CanaryAdvanced", "CanaryPromoted"]


@pytest.mark.parametrize(
    ("ill", "guardrail"),
    [
        ({"failed": 1.0}, "failed"),
        ({"slow": 1.0}, "slow"),
        ({"unsure": 1.0}, "unsure"),
    ],
)
def test_a_bad_canary_is_taken_back_at_the_next_look(
    world: World,
    traffic: Traffic,
    ill: Counts,
    guardrail: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    traffic.canary = lambda: ill
    assert run(world) == command.ROLLED_BACK
    assert world.api.traffic[-1] == {"1": 100}
    # The stage began with a look, and the one after it condemned.
    assert traffic.looks == 2
    last = history(world, capsys)[-1]
    assert last["action"] == "aborted"
    assert last["reason"].startswith(f"{guardrail}: canary")
    assert any(line.startswith(f"bad      {guardrail}") for line in last["evidence"])


def test_a_canary_that_reads_labelled_images_worse_is_taken_back(
    world: World, traffic: Traffic
) -> None:
    assert run(world, "2", "--labels=40:2") == command.ROLLED_BACK


def test_how_sure_it_must_be_is_said_by_alpha(world: World, traffic: Traffic) -> None:
    """The labels are evidence of some 1,000 to 1."""
    sure = "--alpha=0.0001"
    assert world.start() == 0
    assert world.run("check", "--labels=14:0") == command.ROLLED_BACK
    assert world.run("check", "--labels=14:0", sure, "--minimum=0") != command.ROLLED_BACK
    assert run(world, "2", "--labels=14:0", sure) == 0


@pytest.mark.parametrize("flag", ["--warm-up=1", "--step-time=2"])
def test_each_step_takes_its_time(
    world: World, traffic: Traffic, flag: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The beginning of a step is recorded in whole seconds. Between two looks its traffic moves."""
    sleep, at_50 = time.sleep, []

    def moving(seconds: float) -> None:
        sleep(seconds)
        world.look()
        if percent(world) == 50:
            at_50.append(time.monotonic())

    monkeypatch.setattr(time, "sleep", moving)
    assert world.run("run", "2", *STEPS, *QUICK, flag) == 0
    assert time.monotonic() - at_50[0] >= 1


def test_a_split_that_does_not_move_is_no_fault_of_the_canarys(
    world: World,
    traffic: Traffic,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert world.start() == 0
    monkeypatch.setattr(world.api, "look", lambda: None)
    world.patch(canaryTrafficPercent=30)
    assert world.run("run", *STEPS, *QUICK, "--timeout=0") == 1
    assert "Knative has not moved the traffic to 30 %" in capsys.readouterr().err
    assert percent(world) == 30


def test_a_canary_that_loses_its_calls_is_taken_back(world: World, traffic: Traffic) -> None:
    """It dies of them: no pod of it has counted a failure."""
    traffic.lost = 0.9
    assert run(world) == command.ROLLED_BACK


def test_a_canary_that_gets_worse_later_is_taken_back(world: World, traffic: Traffic) -> None:
    traffic.canary = lambda: {"failed": float(traffic.sent > 100)}
    assert run(world) == command.ROLLED_BACK
    assert 50 in {shares.get("2") for shares in world.api.traffic}


def test_without_traffic_it_stays_where_it_is(
    world: World, traffic: Traffic, capsys: pytest.CaptureFixture[str]
) -> None:
    traffic.calls = 0
    assert run(world, "2", "--max-time=0.3") == command.INCONCLUSIVE
    assert "no traffic: no evidence" in capsys.readouterr().err
    assert percent(world) == 10
    last = history(world, capsys)[-1]
    assert (last["action"], len(last["evidence"])) == ("held", 6)
    event = of_kind(world.api.list(), "Event")[-1]
    assert (event["reason"], event["type"]) == ("CanaryHeld", "Warning")


def test_without_a_source_it_stays_where_it_is(
    world: World, traffic: Traffic, capsys: pytest.CaptureFixture[str]
) -> None:
    traffic.away = True
    assert run(world, "2", "--max-time=0.3") == command.INCONCLUSIVE
    assert capsys.readouterr().err.count("no evidence: nothing answers") == 1  # not at each look
    assert percent(world) == 10


def test_other_digits_hold_and_do_not_condemn(
    world: World, traffic: Traffic, capsys: pytest.CaptureFixture[str]
) -> None:
    traffic.canary = lambda: {"digit_7": -1.0, "digit_1": 1.0}
    assert run(world, "2", "--max-time=0.5") == command.INCONCLUSIVE
    assert "digits: Jensen-Shannon distance 1.00" in capsys.readouterr().err
    assert percent(world) == 10


def test_it_waits_where_a_person_must_approve(
    world: World, traffic: Traffic, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = iter(range(1000))
    sleep = time.sleep

    def approve_later(seconds: float) -> None:
        sleep(seconds)
        if percent(world) == 50 and next(waits) == 10:
            assert world.run("approve", "--reason=looks well") == 0

    monkeypatch.setattr(time, "sleep", approve_later)
    assert run(world, "2", "--pause-at=50") == 0
    assert next(waits) > 10
    assert "CanaryApproved" in [each["reason"] for each in of_kind(world.api.list(), "Event")]


def test_a_paused_canary_is_taken_back_all_the_same(world: World, traffic: Traffic) -> None:
    traffic.canary = lambda: {"failed": float(traffic.looks > 10)}
    assert run(world, "2", "--pause-at=10") == command.ROLLED_BACK


@pytest.mark.parametrize("ill", [False, True])
@pytest.mark.parametrize("moment", [*range(0, 60, 3)])
def test_it_may_be_killed_at_any_moment_and_called_again(
    world: World, traffic: Traffic, moment: int, ill: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    traffic.canary = lambda: {"failed": float(ill)}
    with releases.interrupted(
        monkeypatch, moment, "service", "patch", "save", "record", "announce"
    ):
        first = run(world)
    end = command.ROLLED_BACK if ill else 0
    assert first in (130, end)
    if first == 130:
        assert run(world) == end
    assert world.api.traffic[-1] == ({"1": 100} if ill else {"2": 100})
    assert percent(world) is None


def test_who_is_killed_between_a_split_and_its_note_has_it_noted_by_the_next(
    world: World,
    traffic: Traffic,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with releases.interrupted(monkeypatch, 1, "update"):
        assert run(world) == 130
    assert percent(world) == 50
    assert run(world) == 0
    told = history(world, capsys)
    assert [(each["action"], each["percent"], each["reason"]) for each in told] == [
        ("started", 10, ""), ("advanced", 50, "nobody has noted by whom"), ("promoted", 100, ""),
    ]  # fmt: skip


def test_an_api_server_that_is_away_for_a_while_is_waited_for(
    world: World,
    traffic: Traffic,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert world.start() == 0
    ours, calls = API.service, iter(range(10_000))

    def sometimes(api: API) -> Any:
        if 5 <= next(calls) % 20 < 8:
            raise Unreachable("the API server does not answer")
        return ours(api)

    monkeypatch.setattr(API, "service", sometimes)
    assert run(world) == 0
    assert "does not answer; trying again" in capsys.readouterr().err


def test_an_api_server_that_is_away_when_the_canary_has_begun_is_waited_for(
    world: World, traffic: Traffic, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = API.update

    def away(api: API, *_: Any) -> Any:
        monkeypatch.setattr(API, "update", ours)
        raise Unreachable("the API server does not answer")

    monkeypatch.setattr(API, "update", away)
    assert run(world) == 0


def test_a_promotion_that_could_not_be_noted_is_not_said_to_be_by_others(
    world: World,
    traffic: Traffic,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    ours = API.update

    def away(api: API, *args: Any) -> Any:
        if percent(world) is None:
            monkeypatch.setattr(API, "update", ours)
            raise Unreachable("the API server does not answer")
        return ours(api, *args)

    monkeypatch.setattr(API, "update", away)
    assert run(world) == 0
    assert "promoted, nobody has noted by whom: version 2" in capsys.readouterr().err
    last = history(world, capsys)[-1]
    assert (last["percent"], last["reason"]) == (100, "nobody has noted by whom")


def test_an_api_server_that_stays_away_ends_it_and_the_state_is_said(
    world: World,
    traffic: Traffic,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert world.start() == 0
    ours, calls = API.service, iter(range(10_000))

    def away(api: API) -> Any:
        if next(calls) > 2:
            raise Unreachable("the API server does not answer")
        return ours(api)

    monkeypatch.setattr(API, "service", away)
    assert world.run("run", "2", *STEPS, *QUICK, "--timeout=0") == 1
    message = "The canary stays as it is; run again to go on with it"
    assert message in capsys.readouterr().err


def test_what_has_gone_well_in_between_has_its_time_again(
    world: World, traffic: Traffic, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Traffic that moves, and an API server that is away."""
    ours, read = API.service, traffic.read

    def away(api: API) -> Any:
        monkeypatch.setattr(API, "service", ours)
        raise Unreachable("the API server does not answer")

    def later(slow: float) -> Reading:
        if percent(world) == 50 and traffic.read is not read:
            traffic.read = read  # type: ignore[method-assign]
            time.sleep(2.1)
            monkeypatch.setattr(API, "service", away)
        return read(slow)

    traffic.read = later  # type: ignore[method-assign]
    flags = ("--steps=10,50,80,100", "--timeout=2")
    assert world.run("run", "2", *STEPS, *QUICK, *flags) == 0


STABLE, CANARY = "mnist-predictor-00001", "mnist-predictor-00002"


def killed(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


def test_a_canary_whose_pods_cannot_be_read_is_not_promoted(
    world: World, traffic: Traffic, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was counted before they fell silent says nothing of how it does now."""
    releases.silence(world, traffic, CANARY, *range(3, 1000))
    traffic.calls = 2000
    assert run(world, "2", "--max-time=0.5") == command.INCONCLUSIVE
    assert progress.NOTHING in capsys.readouterr().err
    assert percent(world) == 50


def test_what_goes_wrong_for_both_condemns_nobody_though_the_stable_pods_cannot_be_read(
    world: World, traffic: Traffic
) -> None:
    releases.silence(world, traffic, STABLE, 5)
    traffic.both = lambda: {"failed": float(traffic.looks == 5)}
    assert run(world) == 0


def test_what_goes_wrong_for_both_condemns_nobody_though_one_stable_pod_cannot_be_read(
    world: World, traffic: Traffic
) -> None:
    """The canary's part of what is seen would be larger than its share."""
    releases.silence(world, traffic, STABLE)
    read, ill = traffic.read, range(8, 12)
    traffic.calls = 1000
    traffic.both = lambda: {"failed": float(traffic.looks in ill)}

    def by_two(slow: float) -> Reading:
        found = read(slow)
        pods = dict(found.pods)
        if whole := pods.pop(STABLE, None):
            half = {name: count / 2 for name, count in whole.counts.items()}
            pods["heard"] = whole._replace(counts=half)
            if traffic.looks not in ill:
                pods["silent"] = pods["heard"]
        return Reading(found.time, pods)

    traffic.read = by_two  # type: ignore[method-assign]
    assert world.run("run", "2", "--steps=10,100", "--minimum=2000", *QUICK) == 0


def test_time_in_which_it_waits_for_a_person_is_not_time_without_a_decision(
    world: World, traffic: Traffic
) -> None:
    read = traffic.read

    def later(slow: float) -> Reading:
        if traffic.looks == 5:
            time.sleep(0.5)
            traffic.away = True
        if traffic.looks == 8:
            traffic.away = False
        if traffic.looks == 10:
            assert world.run("approve") == 0
        return read(slow)

    traffic.read = later  # type: ignore[method-assign]
    assert run(world, "2", "--pause-at=10", "--max-time=0.4") == 0


def test_what_is_left_undecided_has_its_time_again_when_it_is_run_again(
    world: World, traffic: Traffic
) -> None:
    traffic.calls = 0
    assert run(world, "2", "--max-time=0.2") == command.INCONCLUSIVE
    before = traffic.looks
    assert run(world, "2", "--max-time=0.2") == command.INCONCLUSIVE
    assert traffic.looks > before + 2


def test_the_canary_of_the_other_component_is_left_alone(world: World, traffic: Traffic) -> None:
    started = ("start", "--image=new:1", "--component=transformer", "--percent=10", "--timeout=20")
    assert world.run(*started) == 0
    assert run(world, "1") == 0
    assert world.service["spec"]["transformer"][canary.PERCENT] == 10


def test_what_one_revision_did_does_not_promote_another(
    world: World, traffic: Traffic, capsys: pytest.CaptureFixture[str]
) -> None:
    read = traffic.read

    def meddle(slow: float) -> Reading:
        if traffic.looks == 2:
            containers = world.service["spec"]["predictor"]["containers"]
            version = next(each for each in containers[0]["env"] if each["name"] == "MODEL_VERSION")
            version["value"] = "3"
            world.patch(containers=containers)
            world.look()
        return read(slow)

    traffic.read = meddle  # type: ignore[method-assign]
    assert run(world) == command.REFUSED
    assert "was changed under the canary: mnist-predictor-00002" in capsys.readouterr().err
    assert percent(world) == 10
    assert world.run("abort") == 0
    assert world.api.traffic[-1] == {"1": 100}


def test_a_canary_that_somebody_changes_and_that_does_not_get_ready_is_taken_back(
    world: World, traffic: Traffic
) -> None:
    assert world.start() == 0
    world.api.never_ready.add("3")
    containers = world.service["spec"]["predictor"]["containers"]
    containers[0]["env"][0]["value"] = "3"
    world.patch(containers=containers)
    assert world.run("run", *STEPS, *QUICK, "--timeout=1") == command.ROLLED_BACK
    assert world.api.traffic[-1] == {"1": 100}


@pytest.mark.parametrize("promoted", [False, True])
def test_what_is_not_ready_and_was_never_a_canary_is_none(
    world: World, traffic: Traffic, promoted: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whether or not another one was, before it."""
    version = "1" if promoted else "2"
    containers = world.service["spec"]["predictor"]["containers"]
    containers[0]["env"][0]["value"] = version
    if promoted:
        assert world.start() == 0
        assert world.run("promote") == 0
    world.api.never_ready.add(version)
    world.patch(containers=containers)
    world.look()
    assert run(world, version) == command.REFUSED
    assert "there is nothing to go on with" in capsys.readouterr().err


def test_what_was_never_begun_is_no_rollback(
    world: World, traffic: Traffic, capsys: pytest.CaptureFixture[str]
) -> None:
    with releases.interrupted(pytest.MonkeyPatch(), 0, "patch"):
        assert run(world) == 130
    assert world.run("run", *STEPS, *QUICK) == command.REFUSED
    assert "its start was stopped" in capsys.readouterr().err
    assert run(world) == 0


def test_what_somebody_else_does_meanwhile_is_respected(world: World, traffic: Traffic) -> None:
    """A percent begins a stage of its own; a rollback is one."""
    traffic.canary = dict
    read = traffic.read

    def meddle(slow: float) -> Reading:
        if traffic.looks == 2:
            world.patch(canaryTrafficPercent=30)
        return read(slow)

    traffic.read = meddle  # type: ignore[method-assign]
    assert run(world) == 0
    assert 30 in {shares.get("2") for shares in world.api.traffic}


def test_nothing_is_promoted_that_was_changed_since_it_was_judged(
    world: World, traffic: Traffic
) -> None:
    traffic.calls = 2000
    read = traffic.read
    at_50 = iter(range(1000))

    def meddle(slow: float) -> Reading:
        found = read(slow)
        if percent(world) == 50 and next(at_50) == 1:
            world.patch(canaryTrafficPercent=1)
        return found

    traffic.read = meddle  # type: ignore[method-assign]
    assert run(world) == 0
    shares = [each.get("2", 0) for each in world.api.traffic]
    assert [share for share, _ in groupby(shares)] == [0, 10, 50, 1, 10, 50, 100]


@pytest.mark.parametrize(
    ("ending", "end", "action"),
    [("promote", 0, "promoted"), ("abort", command.ROLLED_BACK, "aborted")],
)
def test_a_canary_that_somebody_else_ends_has_ended(
    world: World,
    traffic: Traffic,
    ending: str,
    end: int,
    action: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    read = traffic.read

    def meddle(slow: float) -> Reading:
        if traffic.looks == 2:
            assert world.run(ending) == 0
        return read(slow)

    traffic.read = meddle  # type: ignore[method-assign]
    traffic.calls = 10
    assert run(world) == end
    assert history(world, capsys)[-1]["action"] == action


def test_another_canary_that_begins_meanwhile_is_left_to_its_own_run(
    world: World, traffic: Traffic, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its steps, and where a person must approve, may be others."""
    read = traffic.read

    def meddle(slow: float) -> Reading:
        if traffic.looks == 2:
            traffic.read = read  # type: ignore[method-assign]
            assert world.run("promote") == 0
            assert world.start("1", "--percent=10") == 0
        return read(slow)

    traffic.read = meddle  # type: ignore[method-assign]
    assert run(world) == command.REFUSED
    assert "version 2 has ended, and version 1 has begun since" in capsys.readouterr().err
    assert percent(world) == 10


@pytest.mark.parametrize(
    ("arguments", "end"),
    [(("approve",), command.REFUSED), (("run", *STEPS, *QUICK), command.ROLLED_BACK)],
)
def test_the_end_of_a_canary_stays_the_last_that_is_said_of_it(
    world: World,
    traffic: Traffic,
    arguments: tuple[str, ...],
    end: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else what was taken back is tried again."""
    assert world.start() == 0
    ours = API.update

    def late(api: API, *args: Any) -> None:
        monkeypatch.setattr(API, "update", ours)
        assert world.run("abort") == 0
        ours(api, *args)

    monkeypatch.setattr(API, "update", late)
    assert world.run(*arguments) == end
    assert [each.action for each in world.record().history] == ["started", "aborted"]
    assert run(world) == command.ROLLED_BACK


def test_an_abort_that_was_stopped_is_finished(
    world: World, traffic: Traffic, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert world.start() == 0
    with releases.interrupted(monkeypatch, 2, "patch"):  # the stable template is back, at 0 %
        assert world.run("abort") == 130
    assert run(world) == command.ROLLED_BACK
    assert percent(world) is None


def test_a_percent_of_0_by_hand_is_a_rollback(
    world: World, traffic: Traffic, capsys: pytest.CaptureFixture[str]
) -> None:
    assert world.start() == 0
    for steps, following in (("10,50,100", 50), ("10,100", None)):
        capsys.readouterr()
        assert world.run("run", "2", f"--steps={steps}", "--dry-run") == 0
        patch = yaml.safe_load(capsys.readouterr().out)
        assert patch["spec"] == {"predictor": {canary.PERCENT: following}}
    world.patch(canaryTrafficPercent=0)
    assert run(world, "2", "--dry-run") == 0
    next_patch = yaml.safe_load(capsys.readouterr().out)["spec"]["predictor"]
    assert cluster.version(next_patch) == "1"
    assert run(world) == command.ROLLED_BACK
    assert world.api.traffic[-1] == {"1": 100}


@pytest.mark.parametrize("started", [False, True])
@pytest.mark.parametrize("reason", ["never_ready", "refused"])
def test_a_revision_that_never_gets_ready_is_taken_back(
    world: World,
    traffic: Traffic,
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    *,
    started: bool,
) -> None:
    monkeypatch.setattr(release, "LAG", 0.1)
    getattr(world.api, reason).add("2")
    if started:
        assert world.run("start", "2", "--percent=10", "--timeout=0") == 1
    assert world.run("run", "2", *STEPS, "--warm-up=0", "--poll=0.01", "--timeout=1") == (
        command.ROLLED_BACK
    )
    assert "it is not ready after 1 s" in history(world, capsys)[-1]["reason"]
    assert world.served() == {"1"}


@pytest.mark.parametrize("flags", [(), ("--dry-run",)])
def test_a_canary_of_somebody_elses_is_left_alone(
    world: World, traffic: Traffic, flags: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    containers = world.service["spec"]["predictor"]["containers"]
    containers[0]["env"][0]["value"] = "2"
    world.patch(containers=containers, canaryTrafficPercent=50)
    world.look()
    assert world.run("run", *STEPS, *QUICK, *flags) == command.REFUSED
    assert "was not started by rollout" in capsys.readouterr().err
    assert percent(world) == 50


def test_a_service_that_was_made_again_has_none_of_the_evidence_of_the_former(
    world: World, traffic: Traffic, capsys: pytest.CaptureFixture[str]
) -> None:
    before = world.service
    traffic.calls = 2000
    with releases.interrupted(pytest.MonkeyPatch(), 1, "patch"):  # at the first step
        assert run(world) == 130
    version_2 = world.service["spec"]["predictor"]
    world.make_again(before)
    world.patch(**version_2)
    world.look()
    traffic.canary = lambda: {"failed": 1.0}
    assert run(world) == command.REFUSED
    assert "was not started by rollout" in capsys.readouterr().err


def test_the_canary_of_a_service_that_was_made_again_has_not_ended_in_this_one(
    world: World, traffic: Traffic, capsys: pytest.CaptureFixture[str]
) -> None:
    before = world.service
    assert world.start() == 0
    assert world.run("promote") == 0
    assert world.start("1", "--percent=10") == 0
    world.make_again(before)
    assert world.run("run", *STEPS, *QUICK) == command.REFUSED
    assert world.run("run", "1", *STEPS, *QUICK) == 0
    assert history(world, capsys)[-1]["action"] == "started"


def test_what_is_released_already_is_done(
    world: World, traffic: Traffic, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(world) == 0
    assert run(world) == 0
    assert "runs this already" in capsys.readouterr().err
    assert world.run("run", *QUICK) == command.REFUSED


def test_what_was_taken_back_is_not_tried_again_unless_it_is_started(
    world: World, traffic: Traffic, capsys: pytest.CaptureFixture[str]
) -> None:
    """Else a pipeline that is run again would do the harm again."""
    traffic.canary = lambda: {"failed": 1}
    assert run(world) == command.ROLLED_BACK
    capsys.readouterr()
    before = world.service["spec"]
    assert run(world) == command.ROLLED_BACK
    assert "was taken back at" in capsys.readouterr().err
    assert world.service["spec"] == before
    assert world.start() == 0
    assert percent(world) == 10


def test_another_image_for_the_same_version_is_another_canary(
    world: World, traffic: Traffic, capsys: pytest.CaptureFixture[str]
) -> None:
    traffic.canary = lambda: {"failed": 1}
    assert run(world, "--image=registry/predictor:bad") == command.ROLLED_BACK
    assert run(world, "--image=registry/predictor:bad") == command.ROLLED_BACK
    traffic.canary = dict
    assert run(world, "--image=registry/predictor:mended") == 0
    assert [each["canary"] for each in history(world, capsys) if each["action"] == "started"] == [
        "version 1 in registry/predictor:bad", "version 1 in registry/predictor:mended",
    ]  # fmt: skip


def test_the_version_that_is_served_is_no_canary(world: World, traffic: Traffic) -> None:
    """Whether or not its digest is pinned."""
    before = world.service["spec"]
    assert run(world, "1") == 0
    assert world.service["spec"] == before


@pytest.mark.parametrize("flag", ["--pause-at=25", "--labels=-1:5"])
def test_flags_that_make_no_sense_are_refused(world: World, flag: str) -> None:
    with pytest.raises(SystemExit) as end:
        run(world, "2", flag)
    assert end.value.code == 2


def test_a_share_by_hand_beyond_where_a_person_must_approve_waits_too(
    world: World, traffic: Traffic, capsys: pytest.CaptureFixture[str]
) -> None:
    assert world.start("2", "--percent=30") == 0
    read = traffic.read

    def approve_later(slow: float) -> Reading:
        if traffic.looks == 10:
            assert world.run("approve") == 0
        return read(slow)

    traffic.read = approve_later  # type: ignore[method-assign]
    assert run(world, "--pause-at=10") == 0
    assert traffic.looks > 10
    assert "at 30 %: healthy, and waiting" in capsys.readouterr().err


def test_of_two_that_take_a_canary_back_at_once_both_end_as_rolled_back(
    world: World, traffic: Traffic, monkeypatch: pytest.MonkeyPatch
) -> None:
    abort = release.abort

    def slower(*args: Any, **kwargs: Any) -> None:
        monkeypatch.setattr(release, "abort", abort)
        assert run(world) == command.ROLLED_BACK
        abort(*args, **kwargs)

    monkeypatch.setattr(release, "abort", slower)
    traffic.canary = lambda: {"failed": 1.0}
    assert run(world) == command.ROLLED_BACK


@pytest.mark.parametrize(
    ("version", "end"),
    [("2", command.ROLLED_BACK), (f"3 --models-dir=none --digest={'0' * 64}", 0)],
)
def test_a_condemned_canary_that_somebody_else_took_back_does_not_stand_in_for_the_next(
    world: World, traffic: Traffic, version: str, end: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    traffic.canary = lambda: {"failed": 1.0}
    before = world.service["spec"]["predictor"]["containers"]
    with monkeypatch.context() as patched:
        patched.setattr(release, "abort", killed)
        assert run(world) == 130
    for patch in ({canary.PERCENT: 0}, {"containers": before}, {canary.PERCENT: None}):
        world.patch(**patch)
        world.look()
    traffic.canary = dict
    assert run(world, *version.split()) == end


def test_another_version_is_refused_while_one_is_under_way(world: World, traffic: Traffic) -> None:
    assert world.start() == 0
    assert run(world, "1") == command.REFUSED


def test_two_at_a_time_do_not_count_twice(world: World, traffic: Traffic) -> None:
    assert world.start() == 0
    api = API("mnist", "default", server=world.server)
    one, two = api.record(), api.record()
    for record in (one, two):
        assert record.release
        record.release.approved = 10
    api.save(one)
    with pytest.raises(Conflict, match="has been modified"):
        api.save(two)
