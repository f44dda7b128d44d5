"""What gRPC itself costs a server: ``python -m benchmarks.http2``.

Three servers, each in a process of its own, answer a call with its own message: ours, grpcio's,
and one on the library h2, without any limits. They get the load of 32 clients in turn. Prints a
Markdown table: calls per second, and the server's processor time for each. Medians over the rounds;
the ratio is to ours.
"""

import asyncio
import multiprocessing
import signal
import socket
import statistics
from collections.abc import Awaitable, Callable

import grpc
import psutil
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, RequestReceived, StreamEnded
from tqdm import tqdm
from uvicorn.loops.auto import auto_loop_factory

from benchmarks.flags import flags, in_a_line
from benchmarks.grpc_load import METHOD, load
from serving import http2
from serving.call import CONTENT_TYPE, Headers, Method, Service
from tests import programs

CLIENTS, SECONDS, ROUNDS = 32, 2, 3
MESSAGE = bytes(784)
HEAD = [(":status", "200"), ("content-type", CONTENT_TYPE)]
TRAILERS = [("grpc-status", "0"), ("x-model-version", "1")]


async def ours(port: int) -> None:
    """Serve by ``serving.http2``."""

    async def echo(message: bytes, _: Headers) -> tuple[bytes, str]:
        return message, "1"

    service = Service({METHOD: Method(echo)}, version="1", max_calls=80, max_receive=2**20)
    server = http2.Server(service.call, largest=2**20)
    await server.start(socket.create_server(("127.0.0.1", port)))
    await asyncio.Event().wait()


async def grpcio(port: int) -> None:
    """Serve by ``grpc.aio``."""

    async def echo(message: bytes, context: grpc.aio.ServicerContext) -> bytes:
        context.set_trailing_metadata(TRAILERS[1:])
        return message

    service, method = METHOD[1:].split("/")
    handlers = {method: grpc.unary_unary_rpc_method_handler(echo)}
    server = grpc.aio.server()
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, handlers)])
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


class OnH2(asyncio.Protocol):
    """One connection of a server on h2."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the settings."""
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]
        self._h2 = H2Connection(H2Configuration(client_side=False))
        self._h2.initiate_connection()
        self._bodies: dict[int, bytes] = {}
        self._transport.write(self._h2.data_to_send())

    def data_received(self, data: bytes) -> None:
        """Answer the calls that are complete."""
        for event in self._h2.receive_data(data):
            match event:
                case RequestReceived():
                    self._bodies[event.stream_id] = b""
                case DataReceived():
                    self._bodies[event.stream_id] += event.data
                    self._h2.acknowledge_received_data(
                        event.flow_controlled_length, event.stream_id
                    )
                case StreamEnded():
                    asyncio.get_running_loop().create_task(self._answer(event.stream_id))
        self._transport.write(self._h2.data_to_send())

    async def _answer(self, stream: int) -> None:
        self._h2.send_headers(stream, HEAD)
        self._h2.send_data(stream, self._bodies.pop(stream))
        self._h2.send_headers(stream, TRAILERS, end_stream=True)
        self._transport.write(self._h2.data_to_send())


async def on_h2(port: int) -> None:
    """Serve by h2."""
    server = await asyncio.get_running_loop().create_server(OnH2, "127.0.0.1", port)
    await server.serve_forever()


SERVERS = {"ours": ours, "grpcio": grpcio, "on h2": on_h2}


def run(serve: Callable[[int], Awaitable[None]], port: int) -> None:
    """Serve until the process is killed; Ctrl-C is for the program that started it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    async def forever() -> None:
        await serve(port)

    with asyncio.Runner(loop_factory=auto_loop_factory()) as runner:
        runner.run(forever())


def compare() -> None:
    """Measure the servers in turn, so that a change in the machine's speed affects all of them."""
    ports = {name: programs.free_port() for name in SERVERS}
    spawn = multiprocessing.get_context("spawn")
    processes = {
        name: spawn.Process(target=run, args=(serve, ports[name]), daemon=True)
        for name, serve in SERVERS.items()
    }
    for process in processes.values():
        process.start()
    for port in ports.values():
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            grpc.channel_ready_future(channel).result(timeout=60)
    measured: dict[str, list[tuple[float, float]]] = {name: [] for name in SERVERS}
    for name in tqdm([*SERVERS] * ROUNDS, leave=False):
        server = psutil.Process(processes[name].pid)
        before = server.cpu_times()
        rate, *_ = asyncio.run(load(f"127.0.0.1:{ports[name]}", MESSAGE, CLIENTS, SECONDS))
        after = server.cpu_times()
        busy = after.user + after.system - before.user - before.system
        measured[name].append((rate, busy / (rate * SECONDS) * 1e6))
    for process in processes.values():
        process.kill()
    print("| server | calls/s | processor time, µs | ratio |")
    print("| --- | ---: | ---: | ---: |")
    medians = {
        name: [statistics.median(column) for column in zip(*rounds, strict=True)]
        for name, rounds in measured.items()
    }
    for name, (rate, busy) in medians.items():
        print(f"| {name} | {rate:,.0f} | {busy:.0f} | {busy / medians['ours'][1]:.1f} |")


if __name__ == "__main__":
    with in_a_line():
        flags(__doc__).parse_args()
        compare()
