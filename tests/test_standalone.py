"""One command runs the service from its manifest, says what it does, and leaves nothing behind."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil
import pytest
import yaml

from standalone.address import check_free
from standalone.canary import Target
from standalone.envoy import Door, bootstrap, find_envoy, write_clusters, write_routes
from standalone.manifest import ManifestError, read_container, read_manifest
from tests import programs

MANIFEST = programs.ROOT / "manifests/base/inferenceservice.yaml"


def descendants(process: "subprocess.Popen[bytes]") -> dict[str, psutil.Process]:
    """The processes of a running service, by the name that its log gives them."""
    named = {}
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            line = " ".join(child.cmdline())
        except psutil.NoSuchProcess:  # it has just ended
            continue
        for name in ("predictor", "transformer"):
            if f"-m {name}" in line:
                named[name] = child
        if "--config-yaml" in line:
            named["envoy"] = child
    return named


def test_every_port_is_on_loopback(service: programs.Program) -> None:
    parts = descendants(service.process)
    assert parts.keys() == {"predictor", "transformer", "envoy"}
    listening = [
        connection.laddr
        for part in parts.values()
        for connection in part.connections()
        if connection.status == psutil.CONN_LISTEN
    ]
    assert {service.http_port, service.grpc_port} <= {address.port for address in listening}
    assert {address.ip for address in listening} <= {"127.0.0.1", "::ffff:127.0.0.1"}


def test_it_prints_the_page_and_a_curl_line_that_works(service: programs.Program) -> None:
    page = re.search(r"Draw a digit: +(\S+)", service.output())
    curl = re.search(r"Send an image: +(curl .+)", service.output())
    assert page
    assert curl
    assert "<canvas" in httpx.get(page[1]).text
    answer = subprocess.run(
        [*curl[1].split(), "--silent"], cwd=programs.ROOT, capture_output=True, check=True
    )
    assert b'"digit":7' in answer.stdout
    assert service.output().count("The service is ready.") == 1


def test_the_logs_name_their_part(service: programs.Program) -> None:
    for name in ("predictor", "transformer"):
        assert re.search(rf"^mnist-{name}-00001 +\| .+listening on", service.output(), re.MULTILINE)


def test_a_request_keeps_its_id(service: programs.Program) -> None:
    answer = httpx.post(f"{service.url}/predict", headers={"x-request-id": "order-4711"})
    assert answer.headers["x-request-id"] == "order-4711"


def test_the_arguments_and_the_environment_are_those_of_the_manifest(
    service: programs.Program,
) -> None:
    spec = yaml.safe_load(MANIFEST.read_text(encoding="utf-8"))["spec"]
    for name, part in descendants(service.process).items():
        if name == "envoy":
            continue
        (container,) = spec[name]["containers"]
        assert set(container["args"]) <= set(part.cmdline())
        for variable in container.get("env", ()):
            assert part.environ()[variable["name"]] == variable["value"]


def gone(processes: list[psutil.Process]) -> bool:
    return not psutil.wait_procs(processes, timeout=20)[1]


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        return probe.connect_ex(("127.0.0.1", port)) != 0


@pytest.mark.parametrize("signals", [[signal.SIGINT], [signal.SIGTERM], [signal.SIGINT] * 3])
def test_ctrl_c_leaves_no_process_and_no_port(
    tmp_path: Path, signals: list[signal.Signals]
) -> None:
    with programs.service(tmp_path) as running:
        parts = list(descendants(running.process).values())
        for number in signals:
            running.process.send_signal(number)
        assert running.process.wait(30) == 0
        assert gone(parts)
        assert is_free(running.http_port)
        assert is_free(running.grpc_port)
        assert running.output().rstrip().endswith("stopped")


def test_ctrl_c_while_it_starts_leaves_nothing_either(tmp_path: Path) -> None:
    with programs.program("standalone", tmp_path) as running:
        while len(parts := descendants(running.process)) < 3:
            time.sleep(0.01)
        running.process.send_signal(signal.SIGINT)
        assert running.process.wait(30) == 0
        assert gone(list(parts.values()))


@pytest.mark.skipif(sys.platform != "linux", reason="relies on prctl(2) of Linux")
def test_even_killed_it_takes_its_parts_along(tmp_path: Path) -> None:
    with programs.service(tmp_path) as running:
        parts = list(descendants(running.process).values())
        running.process.kill()
        assert gone(parts)


@pytest.mark.parametrize("name", ["predictor", "transformer", "envoy"])
def test_a_part_that_dies_is_named_and_stops_the_rest(tmp_path: Path, name: str) -> None:
    with programs.service(tmp_path) as running:
        parts = descendants(running.process)
        parts[name].kill()
        assert running.process.wait(30) == 1
        part = name if name == "envoy" else f"mnist-{name}-00001"
        assert f"standalone: {part} has ended with status" in running.output()
        assert gone(list(parts.values()))


def test_a_taken_port_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = subprocess.run(
            [sys.executable, "-m", "standalone", f"--port={port}"],
            cwd=programs.ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
    assert result.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}" in result.stderr
    assert "--port" in result.stderr


@pytest.mark.parametrize("port", [-1, 0, 65_536])
def test_a_port_that_there_is_not_is_named(port: int) -> None:
    with pytest.raises(OSError, match=f"--grpc_port={port}: expected a port"):
        check_free(("--grpc_port", "127.0.0.1", port))


def test_ports_that_are_one_are_refused() -> None:
    with pytest.raises(OSError, match="--port, --grpc_port and --api_port must differ"):
        check_free(*((flag, "127.0.0.1", 9000) for flag in ("--port", "--grpc_port", "--api_port")))


def test_a_model_that_does_not_verify_ends_the_start(tmp_path: Path) -> None:
    with programs.program("standalone", tmp_path, f"--models_dir={tmp_path}") as running:
        assert running.process.wait(60) == 1
        assert "model.json cannot be read" in running.output()
        assert "standalone: mnist-predictor-00001 has ended with status 1" in running.output()


def test_without_envoy_it_serves_and_says_there_is_no_split(
    tmp_path: Path, service: programs.Program
) -> None:
    # A Python whose folder holds no Envoy, with everything else.
    python = tmp_path / "python"
    python.symlink_to(sys.executable)
    paths = os.pathsep.join(path for path in sys.path if path)
    ports = (f"--port={programs.free_port()}", f"--grpc_port={programs.free_port()}")
    process = subprocess.Popen(
        [python, "-m", "standalone", *ports],
        cwd=programs.ROOT,
        # A proxy that the user has is not for the programs of this machine.
        env={**os.environ, "PYTHONPATH": paths, "HTTP_PROXY": "http://127.0.0.1:9"},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    try:
        output = ""
        while "Ctrl-C stops it" not in output:
            line = process.stdout.readline()
            assert line, output
            output += line
        assert "no traffic split" in output
        url = f"http://127.0.0.1:{ports[0].partition('=')[2]}/predict"
        file = (programs.ROOT / "docs/seven.png").read_bytes()
        answer = httpx.post(url, files={"images": file})
        assert (
            answer.json()["predictions"]
            == httpx.post(f"{service.url}/predict", files={"images": file}).json()["predictions"]
        )
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)
        process.stdout.close()


def test_envoy_takes_the_configuration(tmp_path: Path) -> None:
    envoy = find_envoy()
    if not envoy:
        pytest.skip("Envoy has no build for this machine")
    doors = {
        Door("p", "127.0.0.1", 1080): [Target("p-1", 90, "prev"), Target("p-2", 10)],
        Door("p", "127.0.0.1", 1081, http2=True): [],
    }
    write_clusters({door: {"p-1": 81, "p-2": 82} for door in doors}, tmp_path)
    write_routes(doors, tmp_path)
    config = yaml.safe_dump(bootstrap(list(doors), tmp_path))
    subprocess.run(
        [envoy, "--mode", "validate", "--config-yaml", config], check=True, capture_output=True
    )


def test_envoy_waits_for_an_answer_as_long_as_knative(tmp_path: Path) -> None:
    write_routes({Door("p", "127.0.0.1", 1080): [Target("p-1", 100, "latest")]}, tmp_path)
    found = re.findall(r'"timeout": "(\d+)s"', (tmp_path / "p.json").read_text())
    predictor = yaml.safe_load(MANIFEST.read_text(encoding="utf-8"))["spec"]["predictor"]
    assert found == [str(predictor["timeout"])] * 2


def test_the_manifest_is_read() -> None:
    service = read_manifest(MANIFEST)
    assert service["metadata"]["name"] == "mnist"
    predictor = read_container(service["spec"]["predictor"], "predictor")
    assert predictor.env["MODEL_VERSION"] == "1"
    transformer = read_container(service["spec"]["transformer"], "transformer")
    assert transformer.flag("predictor_protocol", "v1") == "v2"
    assert transformer.flag("nothing", "default") == "default"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[", "cannot read"),
        ("kind: Service", "expected an InferenceService"),
        ("kind: InferenceService", "metadata"),
        ("just text", "no predictor and transformer"),
        (
            "{kind: InferenceService, metadata: {name: m}, "
            "spec: {predictor: {containers: [{command: [sh]}]}}}",
            "'command'",
        ),
        (
            "{kind: InferenceService, metadata: {name: m}, "
            "spec: {predictor: {containers: [{env: [{name: A, valueFrom: {}}]}]}}}",
            "A has no plain value",
        ),
        (
            "{kind: InferenceService, metadata: {name: m}, "
            "spec: {predictor: {containers: [{args: [--model_name=n]}]}}}",
            "predictor has --model_name=n, the InferenceService is m",
        ),
        (
            "{kind: InferenceService, metadata: {name: m}, "
            "spec: {predictor: {containers: [{args: [--model_name]}]}}}",
            "predictor: argument --model_name: expected one argument",
        ),
        ("name: Müller", "cannot read"),
    ],
)
def test_a_manifest_that_cannot_be_run_says_why(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "isvc.yaml"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(ManifestError, match=message):
        read_manifest(path)


def test_a_missing_manifest_is_named(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="nowhere.yaml"):
        read_manifest(tmp_path / "nowhere.yaml")
