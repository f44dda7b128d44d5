"""A release by the command, against the API of ``tests/cluster.py`` with a controller behind it."""

import copy
import getpass
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import yaml
from aiohttp import web
from aiohttp.typedefs import Handler

from rollout import __main__ as command
from rollout import canary
from rollout.api import API
from rollout.cluster import MANAGER
from rollout.errors import Conflict, Refused, Unreachable
from rollout.record import LENGTH, Entry, Record, now, who
from rollout.release import start
from rollout.template import Version, describe, variables, with_image, with_version
from standalone.objects import APIError, Objects
from tests import cluster, programs, releases
from tests.manifests import of_kind
from tests.releases import PATH, World


def test_a_canary_gets_its_share_when_start_returns(world: World) -> None:
    assert world.start() == 0
    assert world.api.traffic[-1] == {"2": 10, "1": 90}
    env = world.service["spec"]["predictor"]["containers"][0]["env"]
    assert [each["name"] for each in env] == ["MODEL_VERSION", "MODEL_DIGEST", "MALLOC_TOP_PAD_"]
    assert world.served() == {"1", "2"}


def test_version_and_percent_are_one_patch(world: World) -> None:
    """Else the version alone would have everything for a while, or the percent be the trap."""
    since = len(world.api.traffic)
    assert world.start() == 0
    assert all(shares.get("2", 0) <= 10 for shares in world.api.traffic[since:])


def test_a_promoted_version_gets_everything(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    assert world.start() == 0
    assert world.run("promote") == 0
    assert world.api.traffic[-1] == {"2": 100}
    assert canary.PERCENT not in world.service["spec"]["predictor"]
    assert world.run("history") == 0
    assert "version 1 → version 2  100 %" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("1", "--percent=10"), "runs this already"),  # though its digest is not pinned
        (("7", "--percent=10"), "does not verify: models/mnist/7/model.json cannot be read"),
        (("two", "--percent=10"), "'two' is no version"),
        (("2", "--percent=10", f"--digest={'0' * 64}"), "SHA-256 expected 000"),
        (("--percent=10",), "runs this already"),
        (("2", "--component=transformer", "--percent=10"), "the predictor's; give an --image"),
        (("s3:///nowhere/2", "--percent=10"), "give the digest"),
    ],
)
def test_what_cannot_be_a_canary_is_refused(
    world: World,
    arguments: tuple[str, ...],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = world.service["spec"]
    assert world.start(*arguments) == 3
    assert message in capsys.readouterr().err
    assert world.service["spec"] == before


def test_a_canary_that_somebody_else_ends_is_not_waited_for(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sleep = time.sleep

    def meddle(seconds: float) -> None:
        sleep(seconds)
        world.patch(canaryTrafficPercent=None)

    monkeypatch.setattr(time, "sleep", meddle)
    world.api.never_ready.add("2")
    assert world.start() == 3
    assert "somebody else has ended the canary" in capsys.readouterr().err


def test_a_second_canary_is_refused(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert world.start() == 0
    assert world.start("1", "--percent=50") == 3
    assert world.start("--image=other", "--component=transformer", "--percent=50") == 3
    assert capsys.readouterr().err.count("a canary of the predictor is running at 10 %") == 2


def test_a_percent_of_100_is_no_canary(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.patch(canaryTrafficPercent=100)
    assert world.run("promote") == 3
    assert "no canary is running" in capsys.readouterr().err
    assert world.start() == 0
    assert world.api.traffic[-1] == {"2": 10, "1": 90}


def test_another_service_of_the_namespace_has_a_record_of_its_own(world: World) -> None:
    assert world.start() == 0
    assert API("other", "default", server=world.server).record().release is None


def test_a_service_of_the_same_name_in_another_namespace_is_another(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main([f"--server={world.server}", "--namespace=other", "status"]) == 1
    assert "not found" in capsys.readouterr().err


def test_without_a_cluster_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(tmp_path / "none")
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", path)
    assert command.main(["status"]) == 1
    assert "no cluster is configured" in capsys.readouterr().err


def test_what_a_release_writes_is_known_as_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Among the managed fields of the service and of the record."""
    managers = []

    @web.middleware
    async def note(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.method in ("PATCH", "POST") and "/events" not in request.path:
            managers.append(request.query.get("fieldManager"))
        return await handler(request)

    with releases.world(tmp_path, monkeypatch, note) as world:
        assert world.start() == 0
    assert set(managers) == {MANAGER}


@pytest.mark.parametrize("mode", ["Standard", "RawDeployment"])
def test_standard_mode_is_refused(
    world: World, mode: str, capsys: pytest.CaptureFixture[str]
) -> None:
    annotation = {"metadata": {"annotations": {"serving.kserve.io/deploymentMode": mode}}}
    world.api.patch(PATH, annotation, "somebody")
    assert world.start() == 3
    assert "KServe ignores the percent" in capsys.readouterr().err


def test_a_component_that_there_is_not_or_that_is_no_container_is_refused() -> None:
    service = {"metadata": {}, "spec": {"predictor": {"model": {"modelFormat": {"name": "onnx"}}}}}
    with pytest.raises(Refused, match="the service has no transformer"):
        canary.read(service, "transformer")
    with pytest.raises(Refused, match="a runtime of KServe's"):
        describe(canary.read(service, "predictor").template)


def test_targets_of_one_revision_add_up_and_one_without_a_percent_is_a_name_alone() -> None:
    target = {"revisionName": "one", "percent": 50}
    traffic = [target, target, {"revisionName": "one", "tag": "latest"}]
    status = {"components": {"predictor": {"traffic": traffic}}}
    live = canary.read({"metadata": {}, "spec": {"predictor": {}}, "status": status}, "predictor")
    assert live.traffic == {"one": 100}
    assert not live.is_ready  # there is no revision yet


def test_a_container_without_variables_gets_those_of_the_version() -> None:
    made = with_version({"containers": [{"image": "x"}]}, Version("MODEL_VERSION", "2", "abc"))
    assert variables(made) == {"MODEL_VERSION": "2", "MODEL_DIGEST": "abc"}


@pytest.mark.parametrize("ending", ["promote", "abort"])
@pytest.mark.parametrize("flags", [(), ("--dry-run",)])
def test_nothing_to_promote_or_abort_is_refused(
    world: World, ending: str, flags: tuple[str, ...]
) -> None:
    assert world.run(ending, *flags) == command.REFUSED


def test_a_canary_at_0_percent_cannot_be_promoted(world: World) -> None:
    """Removing the percent then would give everything to what is being taken back."""
    assert world.start() == 0
    world.patch(canaryTrafficPercent=0)
    assert world.run("promote") == 3


def test_who_else_changes_the_service_is_not_overwritten(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ours = API.patch

    def late(api: API, *args: Any, **kwargs: Any) -> Any:
        world.patch(minReplicas=3)
        return ours(api, *args, **kwargs)

    monkeypatch.setattr(API, "patch", late)
    assert world.start() == 1
    assert "somebody else is changing the service; nothing was done" in capsys.readouterr().err
    assert world.service["spec"]["predictor"]["minReplicas"] == 3
    assert canary.PERCENT not in world.service["spec"]["predictor"]


@pytest.mark.parametrize("method", ["service", "record", "save", "patch"])
def test_of_two_starts_at_once_the_one_that_is_live_is_recorded(
    world: World, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whenever the other comes in between."""
    ours = getattr(API, method)

    def late(api: API, *args: Any, **kwargs: Any) -> Any:
        monkeypatch.setattr(API, method, ours)
        found = ours(api, *args, **kwargs) if method in ("service", "record") else None
        assert world.start("--image=other", "--percent=10") == 0
        return found or ours(api, *args, **kwargs)

    monkeypatch.setattr(API, method, late)
    assert world.start() in (1, 3)
    release = world.record().release
    assert release
    assert release.canary == "version 1 in other"


def test_of_two_starts_at_once_the_slower_leaves_no_record(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = API.patch

    def late(api: API, *args: Any, **kwargs: Any) -> Any:
        monkeypatch.setattr(API, "patch", ours)
        other = API("mnist", "default", server=world.server)
        service = other.service()
        template = with_image(canary.read(service, "predictor").template, "other")
        with monkeypatch.context() as patched:
            patched.setattr(API, "patch", refused)
            with pytest.raises(Conflict):
                start(other, service, "predictor", template, 10, print)
        return ours(api, *args, **kwargs)

    monkeypatch.setattr(API, "patch", late)
    assert world.start() == 0
    release = world.record().release
    assert release
    assert release.canary == "version 2"


def test_a_canary_that_is_taken_back_while_its_start_is_recorded_stays_so(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = API.update

    def late(api: API, *args: Any) -> None:
        monkeypatch.setattr(API, "update", ours)
        assert world.run("abort") == 0
        return ours(api, *args)

    monkeypatch.setattr(API, "update", late)
    assert world.start() == command.REFUSED
    record = world.record()
    assert record.release is None
    assert [each.action for each in record.history] == ["aborted"]


def refused(*_: Any, **__: Any) -> None:
    raise Conflict("somebody was faster")


def test_a_change_since_the_template_was_read_is_kept(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = API.record

    def late(api: API) -> Record:
        world.patch(minReplicas=3)
        return ours(api)

    monkeypatch.setattr(API, "record", late)
    assert world.start() == 1
    assert world.service["spec"]["predictor"]["minReplicas"] == 3


def test_a_promotion_of_what_somebody_else_began_does_not_invent_what_was_before(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    containers = copy.deepcopy(world.service["spec"]["predictor"]["containers"])
    containers[0]["env"][0]["value"] = "2"
    world.patch(containers=containers, canaryTrafficPercent=50)
    world.look()
    assert world.run("promote") == 0
    assert world.run("history") == 0
    assert "? → version 2" in capsys.readouterr().out


def test_a_controller_that_writes_the_status_meanwhile_is_no_conflict(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, writes = API.patch, iter(range(2))

    def late(api: API, *args: Any, **kwargs: Any) -> Any:
        if next(writes, None) is not None:
            status = world.service["status"]
            world.api.set_status(PATH, {**status, "seen": len(world.api.traffic)})
        return ours(api, *args, **kwargs)

    monkeypatch.setattr(API, "patch", late)
    assert world.start() == 0


@pytest.mark.parametrize("arguments", [("start", "2", "--percent=10"), ("promote",), ("abort",)])
def test_a_dry_run_prints_the_patch_and_changes_nothing(
    world: World, arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    if arguments[0] != "start":
        assert world.start() == 0
    before = world.api.list()
    capsys.readouterr()
    assert world.run(*arguments, "--dry-run") == 0
    patch = yaml.safe_load(capsys.readouterr().out)
    percent = {"start": 10, "promote": None, "abort": 0}[arguments[0]]
    assert patch["spec"]["predictor"][canary.PERCENT] == percent
    assert patch["metadata"]["resourceVersion"]
    after = world.api.list()
    assert [each["spec"] for each in after if "spec" in each] == [
        each["spec"] for each in before if "spec" in each
    ]


def test_status_shows_both_versions(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert world.start() == 0
    capsys.readouterr()
    assert world.run("status") == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    stable, latest = ("mnist-predictor-00001", "mnist-predictor-00002")
    counted = ["0"] * 4
    shares = (["90", "%", "90", "%", "yes"], ["10", "%", "10", "%", "yes"])
    assert rows[1] == ["predictor", "stable", "version", "1", stable, *shares[0], *counted]
    assert rows[2] == ["predictor", "canary", "version", "2", latest, *shares[1], *counted]
    assert world.run("status", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert [each["wanted"] for each in found["revisions"]] == [90, 10, 100]


def test_a_release_is_told_in_events(world: World) -> None:
    assert world.start() == 0
    assert world.run("abort", "--reason=it is slow") == 0
    events = of_kind(world.api.list(), "Event")
    assert [(each["reason"], each["type"]) for each in events] == [
        ("CanaryStarted", "Normal"), ("CanaryAborted", "Warning"),
    ]  # fmt: skip
    assert events[1]["message"] == "version 2 of the predictor: it is slow"
    assert events[1]["involvedObject"]["uid"] == world.service["metadata"]["uid"]
    for each in events:
        assert each["involvedObject"]["namespace"] == "default"
        assert each["source"] == {"component": MANAGER}
        assert each["firstTimestamp"]
        assert each["lastTimestamp"]


def test_a_long_reason_is_cut_to_what_an_event_may_say(world: World) -> None:
    assert world.start() == 0
    assert world.run("abort", f"--reason={'slow ' * 1000}") == 0
    events = of_kind(world.api.list(), "Event")
    assert len(events[-1]["message"]) == 1024
    assert len(world.record().history[-1].reason) > 4000


def test_the_history_has_its_last_entries() -> None:
    """A ConfigMap takes 1 MiB."""
    entry = {"by": "", "action": "advanced", "component": "", "stable": "", "canary": ""}
    made = [Entry.model_validate({**entry, "time": now(), "percent": n}) for n in range(LENGTH + 1)]
    assert Record.read(Record(history=made).data()).history == made[1:]


@pytest.mark.parametrize("error", [KeyError, OSError])
def test_a_user_without_a_name_has_a_number(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container; which error it is depends on Python's version."""
    monkeypatch.setattr(getpass, "getuser", Mock(side_effect=error))
    assert who().startswith(f"{os.getuid()}@")


@pytest.mark.parametrize(
    ("ending", "message", "repeated"),
    [
        ("promote", "promoted, but after 0 s Knative has not moved all", 3),
        ("abort", "the canary gets nothing, but version 1 is not ready again after 0 s", 0),
    ],
)
def test_an_end_that_takes_too_long_is_said(
    world: World, ending: str, message: str, repeated: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert world.start() == 0
    assert world.run(ending, "--timeout=0") == 1
    assert message in capsys.readouterr().err
    assert world.run(ending) == repeated


def test_a_slash_at_the_end_of_the_servers_url_does_no_harm(world: World) -> None:
    assert command.main([f"--server={world.server}/", "status"]) == 0


def test_a_release_does_not_fail_for_want_of_events(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = world.api.create

    def without(path: str, *args: Any, **flags: Any) -> Any:
        if "/events/" in path:
            raise APIError(429, "TooManyRequests", "too many events")
        return create(path, *args, **flags)

    monkeypatch.setattr(world.api, "create", without)
    assert world.start() == 0
    assert world.run("promote") == 0


@pytest.mark.parametrize("page", ["<html>", "[]", "{}"])
def test_an_error_that_is_not_kubernetes_own_is_said(page: str) -> None:
    """As of a proxy in front of the API server."""
    with (
        releases.serving(lambda: page, status=500) as port,
        pytest.raises(Unreachable, match="the API server: 500 Internal Server Error"),
    ):
        API("mnist", server=f"http://127.0.0.1:{port}").service()


@pytest.mark.parametrize(
    ("context", "namespace"), [(None, "one"), ("second", "two"), ("third", "default")]
)
def test_the_context_chooses_the_namespace(
    tmp_path: Path, context: str | None, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a pod too, where there is a KUBECONFIG."""
    path = tmp_path / "kubeconfig"
    content = yaml.safe_load(cluster.kubeconfig(1))
    (first,) = content["contexts"]
    for name, place in (("second", {"namespace": "two"}), ("third", {})):
        content["contexts"].append({"name": name, "context": {**first["context"], **place}})
    first["context"]["namespace"] = "one"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(path))
    monkeypatch.setenv("KUBECONFIG", str(path))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    assert API("mnist", context=context).namespace == namespace


def test_an_api_server_that_is_away_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    server = f"http://127.0.0.1:{programs.free_port()}"
    assert command.main([f"--server={server}", "status"]) == 1
    assert f"the API server at {server} does not answer" in capsys.readouterr().err
    with pytest.raises(Unreachable):
        API("mnist", server=server).service()


@pytest.mark.parametrize(
    "ask",
    [
        lambda api: api.service(),
        lambda api: api.patch({}),
        lambda api: api.record(),
        lambda api: api.save(Record()),
        lambda api: api.save(Record(version="1")),
        lambda api: api.pods(),
    ],
    ids=["service", "patch", "record", "save a new one", "save", "pods"],
)
def test_an_api_server_that_never_answers_is_not_waited_for(
    ask: Callable[[API], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    with releases.silent(monkeypatch) as port, pytest.raises(Unreachable, match="does not answer"):
        ask(API("mnist", server=f"http://127.0.0.1:{port}"))


def test_an_event_that_is_never_answered_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    with releases.silent(monkeypatch) as port:
        api = API("mnist", server=f"http://127.0.0.1:{port}")
        api.announce({"metadata": {"uid": "1"}}, "CanaryStarted", "a canary")


def test_an_api_server_of_the_kubeconfig_that_never_answers_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "kubeconfig"
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(path))
    with releases.silent(monkeypatch) as port:
        path.write_text(cluster.kubeconfig(port), encoding="utf-8")
        assert command.main(["status"]) == 1
    assert "does not answer" in capsys.readouterr().err


def test_what_is_not_read_is_no_stack_trace_and_what_a_file_lacks_no_error(tmp_path: Path) -> None:
    history = [sys.executable, "-m", "rollout", "history"]
    reader, writer = os.pipe()
    os.close(reader)  # as with "| head"
    with cluster.serve(Objects(), tmp_path) as kubeconfig:
        env = {**os.environ, "KUBECONFIG": str(kubeconfig), "PYTHONIOENCODING": "cp1252"}
        where: dict[str, Any] = {"cwd": programs.ROOT, "env": env, "stderr": subprocess.PIPE}
        unread = subprocess.run(history, stdout=writer, **where)
        written = subprocess.run(history, stdout=subprocess.PIPE, **where)
    os.close(writer)
    assert (unread.returncode, unread.stderr) == (command.BROKEN_PIPE, b"")
    assert (written.returncode, written.stderr) == (0, b"")
    assert b"FROM ? TO" in written.stdout


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_is_said(tmp_path: Path) -> None:
    history = [sys.executable, "-m", "rollout", "history"]
    with cluster.serve(Objects(), tmp_path) as kubeconfig, Path("/dev/full").open("w") as full:
        env = {**os.environ, "KUBECONFIG": str(kubeconfig)}
        unwritten = subprocess.run(
            history, stdout=full, stderr=subprocess.PIPE, text=True, cwd=programs.ROOT, env=env
        )
    assert unwritten.returncode == 1
    assert unwritten.stderr == "rollout: [Errno 28] No space left on device\n"


def test_the_service_alone_is_changed_and_only_its_specification(world: World) -> None:
    """A note on its metadata would make new revisions of both components."""
    before = world.service["metadata"]
    assert world.start() == 0
    after = world.service["metadata"]
    for changing in ("resourceVersion", "generation"):
        del before[changing], after[changing]
    assert before == after
