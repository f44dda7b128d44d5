"""The benchmark: what it reads, what it compares, what it says."""

import json
import os
import re
import shutil
import sys
from itertools import product
from pathlib import Path

import pytest

from benchmarks import bench, coldstart, install, load, report, servers
from benchmarks.bench import read_digits
from benchmarks.bodies import IMAGES, LARGE, MANY, SMALL, Request, digits_sent, files, form, v1
from benchmarks.load import Answers, Failed, read_time, read_wrk
from benchmarks.peers.model import Classifier, read
from benchmarks.report import ASGI, FASTAPI, GRPC, OURS, REST, Goal, Report
from benchmarks.servers import Server
from tests.programs import free_port

WRK = """\
Running 2s test @ http://127.0.0.1:8080/predict
  1 threads and 32 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency    12.10ms    9.98ms 200.12ms   95.00%
    Req/Sec     2.93k   210.11     3.20k    80.00%
  Latency Distribution
     50%    9.61ms
     75%   12.00ms
     90%  800.00us
     99%    1.02s{space}
  5856 requests in 2.00s, 1.20MB read
{failures}Requests/sec:   2928.01
Transfer/sec:    614.40KB
""".replace("{space}", " ")  # which follows seconds, in wrk


def test_wrk_is_read_in_milliseconds() -> None:
    assert read_wrk(WRK.format(failures="")) == Answers(2928.01, 9.61, 1020)


@pytest.mark.parametrize(
    "failures",
    [
        "  Non-2xx or 3xx responses: 12\n",
        "  Socket errors: connect 0, read 3, write 0, timeout 0\n",
    ],
)
def test_failures_are_no_answers(failures: str) -> None:
    with pytest.raises(Failed, match=failures.strip()):
        read_wrk(WRK.format(failures=failures))


@pytest.mark.parametrize(("said", "instead"), [("2928.01", "0.00"), ("99%", "")])
def test_no_answer_at_all_is_a_failure(said: str, instead: str) -> None:
    with pytest.raises(Failed):
        read_wrk(WRK.format(failures="").replace(said, instead))


@pytest.mark.parametrize(
    ("text", "milliseconds"), [("85.00us", 0.085), ("9.61ms", 9.61), ("1.5s", 1500), ("1.00m", 6e4)]
)
def test_wrks_units(text: str, milliseconds: float) -> None:
    assert read_time(text) == pytest.approx(milliseconds)


def test_the_time_of_programs_on_the_two_cores() -> None:
    tick = 1 / os.sysconf("SC_CLK_TCK")
    stat = (
        "cpu 9 9 9 9 9\ncpu0 1 2 4 80 90\ncpu1 8 16 32 80 90\ncpu2 99 99 99 99 99\nintr 5 1 1 1\n"
    )
    assert load.busy(stat) == pytest.approx(63 * tick)


def test_others_are_who_is_neither_server_nor_load(monkeypatch: pytest.MonkeyPatch) -> None:
    # Wall clock, server, load, everyone.
    reads = iter([(5.0, 1.0, 1.0, 10.0), (7.0, 2.5, 2.0, 13.5)])
    monkeypatch.setattr(load.Clock, "_read", lambda _: next(reads))
    assert load.Clock(float).others() == 0.25


@pytest.mark.parametrize("case", [SMALL, LARGE, MANY])
def test_plain_shrinking_reads_what_is_sent(case: str) -> None:
    classify = Classifier()
    for request, digits in zip(files(case), digits_sent(case), strict=True):
        assert len(request) == IMAGES[case]
        answers = [classify(read(file)[None])[0]["digit"] for file in request[:10]]
        assert answers == digits[:10]


def test_every_digit_begins_a_request() -> None:
    assert sorted(first for first, *_ in digits_sent(MANY)) == list(range(10))


def test_forms_of_a_request_hold_the_same_images() -> None:
    assert len(v1("/", MANY).bodies) == len(form("/", MANY).bodies) == 10
    for content, request in zip(form("/", MANY).bodies, files(MANY), strict=True):
        assert all(file in content for file in request)


@pytest.mark.parametrize(
    "answer",
    [
        b'{"predictions": [{"digit": 7}, {"digit": 1}]}',
        b'[{"digit": 7}, {"digit": 1}]',
        b'{"outputs": [{"name": "digit", "shape": [2, 1], "data": [7, 1]}]}',
    ],
)
def test_the_digits_of_every_form_of_answer(answer: bytes) -> None:
    assert read_digits(SMALL, answer, None) == [7, 1]


def results() -> report.Results:
    """Two rounds; ours is ten times as fast as everyone else, in the second round five times."""
    processes = {OURS: 2, REST: 2, GRPC: 2, "one": 1, "two": 1, FASTAPI: 1, ASGI: 1}
    answers = []
    for number, name, case, clients in product((1, 2), processes, IMAGES, (1, 8, 32, 64)):
        rate = {OURS: (1000.0, 500.0)[number - 1], "two": 101.0}.get(name, 100.0)
        answers.append([number, name, case, clients, rate, 32 / rate, 64 / rate, 0.01])
    every = {name: [2.0, 2.0] for name in processes}
    return {
        "processes": processes,
        "answers": answers,
        "start": {**every, OURS: [1.0, 1.2]},
        "memory": {**every, OURS: [1.0, 1.0]},
        "missing": {},
        "forward": [100_000.0, 50_000.0],
        "bare": [1.0, 1.0],
        "about": dict.fromkeys(
            ("machine", "python", "torch", "begun", "ended", "versions", "seconds"), "x"
        ),
    }


def goal(found: report.Results, words: str) -> Goal:
    """The one about these words."""
    (one,) = (goal for goal in Report(found).goals() if words in goal.text)
    return one


def test_a_ratio_is_taken_within_each_round() -> None:
    found = goal(results(), f"{SMALL}: requests/s, to {REST}")
    assert found.ratios == [10, 5]
    assert found.row().endswith("| ≥ 20 | 7.50 (5.00–10.00) | **missed** |")


@pytest.mark.parametrize(
    ("words", "ratios"),
    [
        ("torch's forward pass", [64 * 1000 / 100_000, 64 * 500 / 50_000]),
        ("bare process", [1, 1.2]),
        ("memory", [0.5, 0.5]),
        (f"p50, to {GRPC}", []),
    ],
)
def test_what_is_compared(words: str, ratios: list[float]) -> None:
    goals = [goal for goal in Report(results()).goals() if words in goal.text]
    assert [ratio for goal in goals for ratio in goal.ratios] == ratios


def test_the_best_peer_is_one_that_serves_the_model() -> None:
    found = results()
    assert Report(found).best_peer(SMALL) == "two"
    found["missing"]["two"] = "not installed"
    assert Report(found).best_peer(SMALL, [1]) == "one"


@pytest.mark.parametrize(
    ("least", "median", "verdict"),
    [
        (True, 2.0, "met"),
        (True, 1.9, "**missed**"),
        (False, 2.0, "met"),
        (False, 2.1, "**missed**"),
    ],
)
def test_goals_are_met_or_missed(least: bool, median: float, verdict: str) -> None:
    assert Goal("x", 2, least, [median]).row().endswith(f"| {verdict} |")


def test_a_missing_peer_is_named_and_not_guessed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "PAGE", tmp_path / "benchmark.md")
    found = results()
    found["missing"] = {REST: "round 1: it did not start\nand more", "two": "not installed: no"}
    report.write(found)
    page = (tmp_path / "benchmark.md").read_text(encoding="utf-8")
    assert f"- {REST}: round 1: it did not start\n- two: not installed: no\n" in page
    assert page.count(REST) == 1
    for picture in re.findall(r"\]\((.+?\.png)\)", page):
        assert (tmp_path / picture).exists()


PEER = Server("ours", 1, ("{python}",), {SMALL: Request("/", "", [b""])}, "ours")


def test_a_server_that_is_not_installed_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(servers, "VENVS", tmp_path)
    (tmp_path / "ours").mkdir()  # all that is left of it
    with (
        pytest.raises(SystemExit, match=r"ours is not .* python -m benchmarks\.install"),
        servers.running(PEER, tmp_path),
    ):
        pass


def test_a_stamp_without_an_environment_does_not_pass_for_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(install, "VENVS", tmp_path)
    installed: list[Path] = []
    monkeypatch.setattr(install, "pip", lambda folder, *_: installed.append(folder))
    (tmp_path / "ours.installed").touch()
    install.install("ours")
    assert installed == [tmp_path / "ours"]


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The Python of our environment, which ends at once; its folder is the environment's."""
    monkeypatch.setattr(servers, "VENVS", tmp_path)
    python = tmp_path / "ours/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\necho no such module\nexit 1\n", encoding="utf-8")
    python.chmod(0o755)
    return python


@pytest.mark.parametrize(
    ("command", "why"),
    [("{python}", "it answers nothing"), ("{venv}/bin/tool", "No such file .*/ours/bin/tool")],
)
def test_a_server_that_does_not_start_is_named_and_the_others_go_on(
    stub: Path, command: str, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert stub.exists()
    peer = PEER._replace(name="peer", commands=(command,))
    results = bench.Results({})
    results.visit_all(1, [peer, peer._replace(name="another")], bench.COMPARED, 1)
    assert list(results.found["missing"]) == ["peer", "another"]
    assert re.search(f"in round 1: .*{why}", results.found["missing"]["peer"])
    said = capsys.readouterr()
    assert ("no such module" in said.err) == (command == "{python}")
    assert not said.out  # which may be the results


def test_a_script_that_asks_for_one_server_learns_that_it_failed(
    stub: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert stub.exists()
    monkeypatch.setattr(bench, "servers", lambda: [PEER._replace(name="peer")])
    monkeypatch.setattr(load, "check_machine", lambda: None)
    monkeypatch.setattr(coldstart, "bare", lambda: coldstart.Start(1, 1))
    monkeypatch.setattr(bench, "forward", lambda _: 1.0)
    monkeypatch.setattr(sys, "argv", ["bench", "--only", "peer", "--rounds=1"])
    with pytest.raises(Failed, match="^no figures of peer$"):
        bench.main()
    assert list(json.loads(capsys.readouterr().out)["missing"]) == ["peer"]


@pytest.mark.skipif(not shutil.which("wrk"), reason="needs wrk")
def test_nothing_that_listens_is_a_failure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(load, "LOAD", os.sched_getaffinity(0))
    url = f"http://127.0.0.1:{free_port()}/"
    with pytest.raises(Failed, match="wrk failed: unable to connect"):
        load.wrk(url, [b""], {}, tmp_path, clients=1, seconds=1)


def test_the_load_has_a_core_of_its_own() -> None:
    assert not load.PROGRAM & load.LOAD
