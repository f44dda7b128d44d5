"""The servers: how each is started, and what is sent to it.

In commands and environments, ``{http}`` and the like are free ports: ``http`` takes the images,
``inner`` and ``inner_grpc`` are those of a predictor behind it. ``{venv}`` is the environment that
``python -m benchmarks.install`` has made, ``{python}`` its Python, ``{folder}`` for scratch files.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import psutil

from benchmarks import bodies
from benchmarks.bodies import CALL, LARGE, MANY, SMALL, TENSOR, Request
from tests.programs import ROOT, free_port

VENVS = ROOT / "build/bench"
PORTS = ("http", "inner", "inner_grpc", "other", "another", "third", "fourth")
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    # See docs/decisions/artifact.md; it makes torch faster, in any server.
    "MALLOC_TOP_PAD_": "67108864",
    "PYTHONPATH": str(ROOT),
    "PORT": "{http}",
}
"""For all servers."""


class Server(NamedTuple):
    """A server to measure."""

    name: str
    processes: int
    """How many a request passes through."""
    commands: tuple[str, ...]
    """The last one takes the requests."""
    requests: Mapping[str, Request]
    venv: str
    """The name of its environment in ``VENVS``."""
    environment: Mapping[str, str] = {}


def ours(predictor: Mapping[str, Request]) -> Server:
    """Predictor and transformer, with the arguments of the manifest; see ``kserve``."""
    path = "/v1/models/mnist:predict"
    return Server(
        "ours",
        2,
        (
            "{python} -m predictor --models_dir=models --compute_threads=1"
            " --http_port={inner} --grpc_port={inner_grpc}",
            "{python} -m transformer --decode_threads=1"
            " --predictor_host=127.0.0.1:{inner}"
            " --http_port={http} --grpc_port={other}",
        ),
        {
            SMALL: bodies.body(path, SMALL),
            LARGE: bodies.body(path, LARGE),
            MANY: bodies.v1(path, MANY),
            **predictor,
        },
        "ours",
        {"MODEL_VERSION": "1"},
    )


def kserve(name: str, protocol: str, port: str, predictor: Mapping[str, Request]) -> Server:
    """KServe's documented pair; ``predictor`` has the requests for its predictor alone."""
    path = "/v1/models/mnist:predict"
    program = "{python} -m benchmarks.peers.kserve_pair"
    return Server(
        name,
        2,
        (
            f"{program} predictor --model_name=mnist"
            " --http_port={inner} --grpc_port={inner_grpc}",
            f"{program} transformer --model_name=mnist --predictor_protocol={protocol}"
            f" --predictor_host=127.0.0.1:{{{port}}} --http_port={{http}} --grpc_port={{other}}",
        ),
        {
            **{case: bodies.v1(path, case) for case in (SMALL, LARGE, MANY)},
            **predictor,
        },
        "kserve",
    )


def uvicorn(app: str) -> str:
    """The command that serves ``app`` without an access log."""
    return "{python} -m uvicorn --no-access-log --port={http} " + app


def servers() -> list[Server]:
    """All servers, ours first."""
    predictor = {TENSOR: bodies.tensor("/v2/models/mnist/infer"), CALL: bodies.call()}
    empty = {SMALL: bodies.body("/", SMALL)}
    return [
        ours(predictor),
        kserve("KServe's pair, REST", "v1", "inner", predictor),
        kserve("KServe's pair, gRPC", "grpc-v2", "inner_grpc", {}),
        Server(
            "FastAPI",
            1,
            (uvicorn("benchmarks.peers.fastapi_app:app"),),
            {
                SMALL: bodies.body("/image", SMALL),
                LARGE: bodies.body("/image", LARGE),
                MANY: bodies.plain("/images", MANY),
            },
            "fastapi",
        ),
        Server(
            "LitServe",
            2,
            ("{python} -m benchmarks.peers.litserve_api",),
            {case: bodies.plain("/predict", case) for case in (SMALL, LARGE, MANY)},
            "litserve",
        ),
        Server(
            "BentoML",
            1,
            (
                "{venv}/bin/bentoml serve benchmarks.peers.bentoml_service:Digits"
                " --host=127.0.0.1 --port={http}",
            ),
            {case: bodies.form("/predict", case) for case in (SMALL, LARGE, MANY)},
            "bentoml",
            {"BENTOML_DO_NOT_TRACK": "true", "BENTOML_HOME": "{venv}/home"},
        ),
        Server(
            "MLServer",
            1,
            ("{venv}/bin/mlserver start benchmarks/peers/mlserver",),
            {case: bodies.v2("/v2/models/mnist/infer", case) for case in (SMALL, LARGE, MANY)},
            "mlserver",
            {
                "MLSERVER_HOST": "127.0.0.1",
                "MLSERVER_HTTP_PORT": "{http}",
                "MLSERVER_GRPC_PORT": "{other}",
                "MLSERVER_METRICS_PORT": "{another}",
            },
        ),
        Server(
            "TorchServe",
            2,
            (
                "{venv}/bin/torchserve --start --foreground --ncs --disable-token-auth"
                " --model-store={venv}/store --models=mnist.mar"
                " --ts-config=benchmarks/peers/torchserve/config.properties",
            ),
            {
                SMALL: bodies.body("/predictions/mnist", SMALL),
                LARGE: bodies.body("/predictions/mnist", LARGE),
                MANY: bodies.plain("/predictions/mnist", MANY),
            },
            "torchserve",
            {
                "PATH": "{venv}/bin:" + os.environ["PATH"],
                "TEMP": "{folder}",  # where it keeps its process id
                "LOG_LOCATION": "{folder}",
                "METRICS_LOCATION": "{folder}",
                "TS_INFERENCE_ADDRESS": "http://127.0.0.1:{http}",
                "TS_MANAGEMENT_ADDRESS": "http://127.0.0.1:{other}",
                "TS_METRICS_ADDRESS": "http://127.0.0.1:{another}",
                "TS_GRPC_INFERENCE_PORT": "{third}",
                "TS_GRPC_MANAGEMENT_PORT": "{fourth}",
            },
        ),
        Server(
            "empty FastAPI endpoint",
            1,
            (uvicorn("benchmarks.peers.empty:fastapi"),),
            empty,
            "fastapi",
        ),
        Server("empty ASGI app", 1, (uvicorn("benchmarks.peers.empty:asgi"),), empty, "fastapi"),
    ]


class Running:
    """A server's processes."""

    def __init__(self, server: Server, folder: Path) -> None:
        """Start them; their output goes to ``log`` in ``folder``."""
        self.ports = {name: free_port() for name in PORTS}
        venv = VENVS / server.venv
        names = {**self.ports, "python": venv / "bin/python", "venv": venv, "folder": folder}
        environment = {**ENVIRONMENT, **server.environment}
        with (folder / "log").open("ab") as log:
            self._processes = [
                psutil.Popen(
                    command.format(**names).split(),
                    cwd=ROOT,
                    env={**os.environ, **{k: v.format(**names) for k, v in environment.items()}},
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
                for command in server.commands
            ]

    def all(self) -> list[psutil.Process]:
        """The processes that were started, and their children.

        Raises:
            psutil.NoSuchProcess: one has exited.
        """
        return [each for p in self._processes for each in (p, *p.children(recursive=True))]

    def alive(self) -> bool:
        """Whether all that were started are still running."""
        return all(process.poll() is None for process in self._processes)

    def pin(self, cores: set[int]) -> None:
        """Restrict every thread to ``cores``."""
        for process in self.all():
            for thread in process.threads():
                os.sched_setaffinity(thread.id, cores)

    def memory(self) -> float:
        """Memory of all, in MB: private memory, and each mapped file once, where it is largest.

        Not the proportional set size: that counts only half of a file that this process maps too.
        """
        own, files = 0, dict[str, int]()
        for process in self.all():
            for each in process.memory_maps():
                own += each.anonymous
                files[each.path] = max(files.get(each.path, 0), each.rss - each.anonymous)
        return (own + sum(files.values())) / 1e6

    def processor_time(self) -> float:
        """The processor time of all so far, in seconds."""
        return sum(sum(process.cpu_times()[:2]) for process in self.all())

    def stop(self) -> None:
        """Terminate all, and kill what is left after 10 s."""
        self._signal(signal.SIGTERM)
        psutil.wait_procs(self._processes, 10)
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        """Send a signal to each process that was started and to its children, if any is left."""
        for process in self._processes:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, number)


@contextmanager
def running(server: Server, folder: Path) -> Iterator[Running]:
    """Run ``server`` until the end of the block; exit if it is not installed.

    If the block fails, what the server has logged last is printed.
    """
    if not (VENVS / server.venv / "bin/python").exists():
        sys.exit(f"{server.name} is not installed; run first: python -m benchmarks.install")
    processes = Running(server, folder)
    try:
        yield processes
    except Exception:
        log = (folder / "log").read_text(encoding="utf-8", errors="replace")
        print(log[-4000:], file=sys.stderr)
        raise
    finally:
        processes.stop()
