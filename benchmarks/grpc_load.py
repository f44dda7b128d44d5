"""Calls V2's ``ModelInfer``: ``python -m benchmarks.grpc_load ADDRESS REQUEST CLIENTS SECONDS``.

``REQUEST`` is a file with a serialized request. Prints a JSON list: calls per second, and the 50th
and 99th percentiles of the time of a call, in milliseconds. Requests and answers are not parsed
here, so that it is the server that is measured.
"""

import asyncio
import json
import sys
import time
from pathlib import Path

import grpc
import numpy as np

from benchmarks.flags import flags, in_a_line
from serving.numbers import positive

METHOD = "/inference.GRPCInferenceService/ModelInfer"


async def load(address: str, request: bytes, clients: int, seconds: float) -> list[float]:
    """Calls per second, and the 50th and 99th percentiles of their time in milliseconds."""
    times: list[float] = []
    async with grpc.aio.insecure_channel(address) as channel:
        call = channel.unary_unary(METHOD)
        await call(request)
        begin = time.perf_counter()

        async def client() -> None:
            while (start := time.perf_counter()) < begin + seconds:
                await call(request)
                times.append(time.perf_counter() - start)

        await asyncio.gather(*(client() for _ in range(clients)))
        elapsed = time.perf_counter() - begin
    p50, p99 = np.percentile(times, (50, 99)) * 1e3
    return [len(times) / elapsed, float(p50), float(p99)]


if __name__ == "__main__":
    with in_a_line():
        parser = flags(__doc__)
        parser.add_argument("address", help="host:port")
        parser.add_argument("request", type=Path, help="file with a serialized ModelInferRequest")
        parser.add_argument("clients", type=positive, help="each waits for its answer")
        parser.add_argument("seconds", type=positive, help="seconds to call for")
        args = parser.parse_args()
        measured = load(args.address, args.request.read_bytes(), args.clients, args.seconds)
        try:
            print(json.dumps(asyncio.run(measured)))
        except grpc.RpcError as error:
            sys.exit(f"{error.code().name}: {error.details()}")
