"""What the commands around ``run`` say of a canary and its evidence."""

import json

import pytest

from rollout import __main__ as command
from tests import releases
from tests.releases import Traffic, World

STEPS = ("--steps=10,50,100", "--minimum=50")


def test_check_judges_and_changes_nothing(
    world: World, traffic: Traffic, capsys: pytest.CaptureFixture[str]
) -> None:
    assert world.start() == 0
    before = world.api.list()
    traffic.calls = 100
    capsys.readouterr()
    assert world.run("check", "--minimum=50") == command.INCONCLUSIVE
    assert "of the 50 calls that are needed" in capsys.readouterr().out
    traffic.calls = 1000
    assert world.run("check", "--minimum=50") == 0
    assert capsys.readouterr().out.endswith("version 2: healthy\n")
    assert world.run("check", "--labels=40:2") == command.ROLLED_BACK
    traffic.away = True
    assert world.run("check", "--minimum=0") == command.INCONCLUSIVE
    traffic.away = False
    traffic.canary = lambda: {"failed": 1}
    assert world.run("check") == command.ROLLED_BACK
    out = capsys.readouterr().out
    assert "bad      failed  canary" in out
    traffic.away = True
    assert world.run("check") == command.INCONCLUSIVE
    assert "what was recorded at last" in capsys.readouterr().err
    after = world.api.list()
    assert [each for each in after if each["kind"] == "ConfigMap"] == [
        each for each in before if each["kind"] == "ConfigMap"
    ]


def test_a_canary_that_was_changed_is_not_judged_by_what_was_counted_before(
    world: World, traffic: Traffic, capsys: pytest.CaptureFixture[str]
) -> None:
    assert world.start() == 0
    containers = world.service["spec"]["predictor"]["containers"]
    containers[0]["image"] = "another"
    world.patch(containers=containers)
    world.look()
    assert world.run("check") == command.REFUSED
    assert "was changed under the canary" in capsys.readouterr().err
    assert world.run("status", "--json") == 0
    assert [row["calls"] for row in json.loads(capsys.readouterr().out)["revisions"][:2]] == [0, 0]


def test_what_was_counted_at_another_percent_says_nothing_of_this_one(
    world: World, traffic: Traffic, capsys: pytest.CaptureFixture[str]
) -> None:
    assert world.start() == 0
    traffic.calls = 2000
    world.patch(canaryTrafficPercent=50)
    world.look()
    assert world.run("check") == 1
    assert "no evidence has been taken since version 2 got 50 %" in capsys.readouterr().err


def test_a_canary_whose_pods_cannot_be_read_is_not_healthy(world: World, traffic: Traffic) -> None:
    traffic.calls = 2000
    quick = ("--warm-up=0", "--poll=0.01", "--max-time=0.2", "--minimum=100000")
    assert world.run("run", "2", "--steps=10,100", *quick) == command.INCONCLUSIVE
    traffic.calls = 0
    assert world.run("check") == 0
    releases.silence(world, traffic, "mnist-predictor-00002", *range(100))
    assert world.run("check") == command.INCONCLUSIVE


def test_there_is_nothing_to_check_or_approve_without_a_canary(world: World) -> None:
    assert world.run("check") == world.run("approve") == command.REFUSED


def test_status_shows_what_was_counted(
    world: World, traffic: Traffic, capsys: pytest.CaptureFixture[str]
) -> None:
    assert world.start() == 0
    traffic.canary = lambda: {"slow": 1}
    capsys.readouterr()
    assert world.run("status", "--json") == 0
    stable, latest, _ = json.loads(capsys.readouterr().out)["revisions"]
    assert stable["calls"] + latest["calls"] == 200
    assert (stable["slow"], latest["slow"]) == (0, latest["calls"])


@pytest.mark.parametrize(
    ("arguments", "share"), [(("2",), 10), ((), 50)], ids=["to begin", "to go on"]
)
def test_a_dry_run_prints_the_next_patch(
    world: World,
    traffic: Traffic,
    arguments: tuple[str, ...],
    share: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if not arguments:
        assert world.start() == 0
    before = world.service["spec"]
    capsys.readouterr()
    assert world.run("run", *arguments, *STEPS, "--dry-run") == 0
    assert f"canaryTrafficPercent: {share}" in capsys.readouterr().out
    assert world.service["spec"] == before


def test_a_dry_run_of_what_would_be_taken_back_prints_that(
    world: World, traffic: Traffic, capsys: pytest.CaptureFixture[str]
) -> None:
    assert world.start() == 0
    world.patch(canaryTrafficPercent=0)
    world.look()
    capsys.readouterr()
    assert world.run("run", *STEPS, "--dry-run") == 0
    printed = capsys.readouterr().out
    assert "canaryTrafficPercent: 10" not in printed
    assert 'value: "1"' in printed or "value: '1'" in printed


ASCEND = "must ascend to 100, such as 5,25,100"
COUNTS = "must be two counts, such as 12:7"


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--steps=10,5,100", ASCEND),
        ("--steps=10,50", ASCEND),
        ("--steps=100", ASCEND),
        ("--steps=0,100", ASCEND),
        ("--steps=10,10,100", ASCEND),
        ("--steps=10,x,100", ASCEND),
        ("--pause-at=0", "must be 1 to 99"),
        ("--alpha=0", "must be between 0 and 1"),
        ("--alpha=1", "must be between 0 and 1"),
        ("--warm-up=-1", "must be at least 0"),
        ("--warm-up=nan", "must be at least 0"),
        ("--slow=0.3", "invalid choice: 0.3"),
        ("--labels=3", COUNTS),
        ("--labels=5:-1", COUNTS),
        ("--labels=1:2:3", COUNTS),
        ("--minimum=-1", "must be at least 0"),
        ("--timeout=-1", "must be at least 0"),
    ],
)
def test_flags_that_make_no_sense_are_refused(
    flag: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as refusal:
        command.main(["run", "2", flag])
    assert refusal.value.code == 2
    told = capsys.readouterr().err
    assert f"argument {flag.partition('=')[0]}: {message}" in told


@pytest.mark.parametrize("percent", [0, 100])
def test_no_canary_begins_with_nothing_or_all(world: World, percent: int) -> None:
    with pytest.raises(SystemExit) as refusal:
        world.start("2", f"--percent={percent}")
    assert refusal.value.code == 2


@pytest.mark.parametrize("flag", ["--server=localhost:8001", "--prometheus=prometheus:9090"])
def test_an_address_is_no_url(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refusal:
        command.main([flag, "status"])
    assert refusal.value.code == 2
    assert "must begin with http:// or https://" in capsys.readouterr().err


@pytest.mark.parametrize("judging", ["check", "approve"])
def test_without_a_canary_it_says_how_to_begin_one(
    world: World, judging: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert world.run(judging) == command.REFUSED
    assert "no canary is running: begin one with run or start" in capsys.readouterr().err
