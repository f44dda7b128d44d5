"""Real programs, and what goes wrong around them. docs/reliability.md has the whole list."""

import asyncio
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path

import grpc
import httpx
import psutil
import pytest

from containers.__main__ import NAMES
from tests import manifests, programs
from tests.digits import draw, encode
from tests.forms import V1

pytestmark = pytest.mark.anyio

DIGITS = {digit: encode(draw(digit)) for digit in (1, 4, 7)}
CLIENTS = 8
FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)


async def ask(client: httpx.AsyncClient, digit: int = 7) -> int:
    """The status of the answer to an image, which is right if there is one."""
    answer = await client.post(V1, content=DIGITS[digit])
    if answer.status_code == 200:
        assert answer.json()["predictions"][0]["digit"] == digit
    else:
        assert answer.json()["error"]
        assert "127.0.0.1" not in answer.text
    return answer.status_code


class Load:
    """What clients that ask all the time are answered."""

    def __init__(self) -> None:
        self.statuses: Counter[int] = Counter()

    async def until(self, status: int) -> None:
        """Wait for some answers of that status; of others there is none but 503."""
        self.statuses.clear()
        async with asyncio.timeout(programs.START_TIMEOUT):
            while self.statuses[status] < 3 * CLIENTS:
                assert self.statuses.keys() <= {200, 503}
                await asyncio.sleep(0.02)


@asynccontextmanager
async def load(url: str) -> AsyncIterator[Load]:
    """Clients until the end of the block; it is an error if a connection of theirs breaks."""
    found = Load()

    async def one_client(number: int) -> None:
        while True:
            status = await ask(client, list(DIGITS)[number % 3])
            found.statuses[status] += 1
            if status != 200:
                await asyncio.sleep(0.1)

    async with httpx.AsyncClient(base_url=url, timeout=60) as client:
        clients = [asyncio.create_task(one_client(number)) for number in range(CLIENTS)]
        try:
            yield found
        finally:
            for task in clients:
                task.cancel()
            ends = await asyncio.gather(*clients, return_exceptions=True)
        assert not [end for end in ends if not isinstance(end, asyncio.CancelledError)]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_a_predictor_that_restarts_under_load(tmp_path: Path, number: signal.Signals) -> None:
    with programs.predictor(tmp_path) as predictor:
        address = f"127.0.0.1:{predictor.http_port}"
        with programs.transformer(tmp_path, address) as transformer:
            async with load(transformer.url) as found:
                await found.until(200)
                predictor.process.send_signal(number)
                await found.until(503)
                with programs.program(
                    "predictor",
                    tmp_path,
                    "--models_dir=models",
                    env={"MODEL_VERSION": "1"},
                    http_port=predictor.http_port,
                ):
                    await found.until(200)
                    await found.until(200)
                    assert found.statuses.keys() == {200}
            assert "Traceback" not in transformer.output()


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="needs SIGSTOP")
async def test_sigterm_loses_no_request(tmp_path: Path) -> None:
    with (
        programs.predictor(tmp_path) as predictor,
        programs.transformer(tmp_path, f"127.0.0.1:{predictor.http_port}") as transformer,
    ):
        async with httpx.AsyncClient(base_url=transformer.url, timeout=60) as client:
            os.kill(predictor.process.pid, signal.SIGSTOP)
            asked = [asyncio.create_task(ask(client, digit)) for digit in DIGITS for _ in range(9)]
            half = Half(transformer.http_port)
            await asyncio.wait(asked, timeout=1)
            transformer.process.send_signal(signal.SIGTERM)
            while "Shutting down" not in transformer.output():
                await asyncio.sleep(0.02)
            with pytest.raises(httpx.ConnectError):
                httpx.get(transformer.url)
            with (
                grpc.insecure_channel(transformer.grpc_address) as channel,
                pytest.raises(grpc.RpcError, match="UNAVAILABLE"),
            ):
                channel.unary_unary("/inference.GRPCInferenceService/ServerLive")(b"", timeout=5)
            os.kill(predictor.process.pid, signal.SIGCONT)
            assert await asyncio.gather(*asked) == [200] * len(asked)
        assert b" 200 OK" in half.finish()
        assert await asyncio.to_thread(transformer.process.wait, 30) == 0


HANGS = """\
import time
from transformer import image
image.read = lambda *_, **__: time.sleep(99)
"""


async def test_a_decoder_that_hangs_holds_up_neither_its_caller_nor_the_end(
    tmp_path: Path,
) -> None:
    (tmp_path / "sitecustomize.py").write_text(HANGS, encoding="utf-8")
    with programs.transformer(
        tmp_path,
        "127.0.0.1:1",
        "--predictor_request_timeout_seconds=1",
        env={"PYTHONPATH": f"{tmp_path}:{programs.ROOT}"},
    ) as transformer:
        async with httpx.AsyncClient(base_url=transformer.url, timeout=60) as client:
            answer = await client.post(V1, content=encode(draw(7), "JPEG"))
            assert (answer.status_code, "too long" in answer.text) == (504, True)
        transformer.process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(transformer.process.wait, 30) == 0


class Half:
    """A client that has sent the head and half of an image."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        file = DIGITS[7]
        head = f"POST {V1} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(file)}\r\n\r\n"
        self._socket.sendall(head.encode() + file[: len(file) // 2])

    def finish(self) -> bytes:
        """Send the rest, for the head of the answer."""
        file = DIGITS[7]
        self._socket.sendall(file[len(file) // 2 :])
        answer = self._socket.recv(4096)
        self._socket.close()
        return answer


async def test_clients_that_do_nothing_hold_up_nobody(transformer: programs.Program) -> None:
    port = transformer.http_port
    with ExitStack() as stack:
        for beginning in (b"", b"POST ", b"POST / HTTP/1.1\r\nHost: x\r\nX: "):
            for _ in range(300):
                idle = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
                idle.sendall(beginning)
        halves = [Half(port) for _ in range(100)]
        async with httpx.AsyncClient(base_url=transformer.url, timeout=60) as client:
            statuses = await asyncio.gather(
                *(ask(client, digit) for digit in DIGITS for _ in "abc")
            )
        assert statuses == [200] * 9
        for half in halves:
            assert b" 200 OK" in half.finish()


async def test_more_connections_than_files_may_be_open_hold_up_nobody_who_has_one(
    predictor: programs.Program, tmp_path: Path
) -> None:
    address = f"127.0.0.1:{predictor.http_port}"
    with programs.transformer(tmp_path, address) as transformer:
        limit, pid = resource.RLIMIT_NOFILE, transformer.process.pid
        resource.prlimit(pid, limit, (128, resource.prlimit(pid, limit)[1]))
        async with httpx.AsyncClient(base_url=transformer.url, timeout=60) as early:
            assert await ask(early) == 200
            with ExitStack() as stack:
                for _ in range(300):
                    own = socket.create_connection(("127.0.0.1", transformer.http_port))
                    stack.enter_context(own)
                assert await ask(early) == 200
                assert psutil.Process(pid).num_fds() > 120
        async with httpx.AsyncClient(base_url=transformer.url, timeout=60) as late:
            async with asyncio.timeout(10):
                while True:  # it learns a little later that the others have gone
                    with suppress(httpx.TransportError):
                        assert await ask(late) == 200
                        return
                    await asyncio.sleep(0.05)


def cut(content: bytes) -> bytes:
    return content[:-100]


def flip(content: bytes) -> bytes:
    return content[:5000] + bytes([content[5000] ^ 1]) + content[5001:]


@pytest.mark.parametrize(("name", "damage"), [("model.pt2", flip), ("model.json", cut)])
def test_a_damaged_version_never_gets_ready_and_says_why(
    tmp_path: Path, name: str, damage: Callable[[bytes], bytes]
) -> None:
    shutil.copytree(programs.ROOT / "models/mnist/1", tmp_path / "mnist/1")
    path = tmp_path / "mnist/1" / name
    path.write_bytes(damage(path.read_bytes()))
    flag = f"--models_dir={tmp_path}"
    with programs.program("predictor", tmp_path, flag, env={"MODEL_VERSION": "1"}) as running:
        with pytest.raises(programs.NotStarted, match=f"mnist/1/{name}"):
            running.wait_for("/")
        assert running.process.returncode == 1
        assert "Traceback" not in running.output()


@contextmanager
def writing_nothing(folder: Path, predictor: programs.Program) -> Iterator[programs.Program]:
    """A transformer that can write neither its log nor a temporary file."""
    port, grpc_port = programs.free_port(), programs.free_port()
    flags = [f"--predictor_host=127.0.0.1:{predictor.http_port}", f"--http_port={port}"]
    with Path("/dev/full").open("wb") as full:
        process = subprocess.Popen(
            [sys.executable, "-m", "transformer", *flags, f"--grpc_port={grpc_port}"],
            cwd=programs.ROOT,
            env={**os.environ, "TMPDIR": str(folder / "nowhere"), "PYTHONUNBUFFERED": "1"},
            stdout=full,
            stderr=full,
        )
    try:
        yield programs.Program(process, folder / "none", port, grpc_port)
    finally:
        process.terminate()
        assert process.wait(30) == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full of Linux")
async def test_a_full_disk_takes_the_log_and_nothing_else(
    tmp_path: Path, predictor: programs.Program
) -> None:
    """Neither program writes anything but its log."""
    with writing_nothing(tmp_path, predictor) as running:
        running.wait_for("/")
        async with httpx.AsyncClient(base_url=running.url, timeout=60) as client:
            assert await ask(client) == 200
            files = [("images", DIGITS[7])] * 20
            assert (await client.post("/predict", files=files)).status_code == 200
            assert (await client.post(V1, content=b"no image")).status_code == 415
        opened = [file.path for file in psutil.Process(running.process.pid).open_files()]
        assert not [path for path in opened if not path.startswith("/dev/")]


@pytest.mark.skipif(not FAKETIME, reason="needs libfaketime: apt install faketime")
async def test_a_clock_that_jumps_changes_nothing(tmp_path: Path) -> None:
    jump = tmp_path / "jump"
    jump.write_text("+0\n")
    env = {
        "LD_PRELOAD": str(FAKETIME),
        "FAKETIME_TIMESTAMP_FILE": str(jump),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",  # the kernel's does not jump either
        "MODEL_VERSION": "1",
    }
    with programs.program("predictor", tmp_path, "--models_dir=models", env=env) as predictor:
        predictor.wait_for("/v2/models/mnist/ready")
        host = f"--predictor_host=127.0.0.1:{predictor.http_port}"
        with programs.program("transformer", tmp_path, host, env=env) as transformer:
            transformer.wait_for("/")
            async with load(transformer.url) as found:
                await found.until(200)
                for offset in ("+3650d", "-3650d", "+0"):
                    jump.write_text(f"{offset}\n")
                    await found.until(200)
                assert found.statuses.keys() == {200}


@pytest.mark.parametrize("module", NAMES)
def test_sigterm_is_heeded_while_it_starts(tmp_path: Path, module: str) -> None:
    """Process 1, as in a container, would not even get a signal that it does not handle."""
    with programs.program(module, tmp_path, "--predictor_host=127.0.0.1:9") as running:
        while not programs.handles(running.process.pid, signal.SIGTERM):
            assert running.process.poll() is None
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(30) == 128 + signal.SIGTERM


@pytest.mark.parametrize(
    ("module", "imported"),
    [
        ("monitoring", "httpx"),
        ("rollout", "yaml"),
        ("standalone", "aiohttp"),
        ("standalone.kafka", "aiohttp"),
    ],
)
def test_ctrl_c_while_it_imports_is_no_stack_trace(
    tmp_path: Path, module: str, imported: str
) -> None:
    (tmp_path / f"{imported}.py").write_text("import signal; signal.raise_signal(signal.SIGINT)")
    done = subprocess.run(
        [sys.executable, "-m", module, "--help"],
        cwd=programs.ROOT,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (130, "")


@pytest.mark.skipif(not shutil.which("kubectl"), reason="no kubectl to render with")
def test_the_probe_of_liveness_beside_grpc_tells_whether_it_lives(tmp_path: Path) -> None:
    transformer = manifests.component(manifests.render_overlay("production", "grpc"), "transformer")
    python, *options, script = transformer["containers"][0]["livenessProbe"]["exec"]["command"]
    assert python == "python"
    with programs.transformer(tmp_path, "127.0.0.1:9") as running:
        script = script.replace("8080", str(running.http_port))
        command = [sys.executable, *options, script]
        assert subprocess.run(command).returncode == 0
    assert subprocess.run(command, stderr=subprocess.DEVNULL).returncode == 1
