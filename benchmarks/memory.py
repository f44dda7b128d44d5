"""How much memory callers can make the transformer use: ``python -m benchmarks.memory``.

Sends the largest bodies, images and messages that the limits let through, many at a time. Prints a
Markdown table: the statuses of the answers, and the most resident memory meanwhile.
"""

import asyncio
import json
import os
import tempfile
import threading
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import grpc
import httpx
import psutil
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from PIL import Image

from benchmarks.flags import flags, in_a_line
from benchmarks.grpc_load import METHOD
from tests import programs
from tests.digits import encode
from tests.forms import V1, V2, v1_json, v2_binary

MIB = 2**20
TIMEOUT = 120


class Request(NamedTuple):
    """A request by REST."""

    path: str
    content: bytes
    headers: dict[str, str]


def v1(body: bytes) -> Request:
    """A V1 request: ``body`` is JSON or an image."""
    kind = "application/json" if body.startswith(b"{") else "image/png"
    return Request(V1, body, {"content-type": kind})


def requests() -> dict[str, Request]:
    """The requests by REST, each with its name in the table."""
    tiff = encode(Image.new("F", (7000, 7000)), "TIFF", compression="tiff_adobe_deflate")
    file = os.urandom(23 * MIB)
    lists = b",".join([b'{"a":[[[[[[[[]]]]]]]]}'] * 400_000)
    return {
        "31 MiB that are no image": v1(os.urandom(31 * MIB)),
        "31 MiB of JSON": v1(json.dumps(v1_json(file)).encode()),
        "JSON of 4 million lists": v1(b'{"instances": [' + lists + b"]}"),
        "PNG of 49 megapixels, RGBA": v1(encode(Image.new("RGBA", (7000, 7000)))),
        "TIFF of 49 megapixels, float": v1(tiff),
        "that TIFF and 30 MiB, in V2": Request(V2, **v2_binary(tiff, bytes(30 * MIB))),
    }


async def over_rest(url: str, request: Request, count: int) -> Counter[str]:
    """Send ``count`` requests at once; return how many answers have which status."""
    limits = httpx.Limits(max_connections=count)
    async with httpx.AsyncClient(base_url=url, timeout=TIMEOUT, limits=limits) as client:

        async def ask() -> str:
            path, content, headers = request
            answer = await client.post(path, content=content, headers=headers)
            return str(answer.status_code)

        return Counter(await asyncio.gather(*(ask() for _ in range(count))))


async def over_grpc(address: str, file: bytes, count: int) -> Counter[str]:
    """The same by gRPC with ``file`` as the image, each call on a connection of its own."""
    raw = len(file).to_bytes(4, "little") + file
    tensor = {"name": "images", "datatype": "BYTES", "shape": [1]}
    request = pb.ModelInferRequest(model_name="mnist", inputs=[tensor], raw_input_contents=[raw])
    message = request.SerializeToString()
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_send_message_length", -1)]

    async def ask() -> str:
        async with grpc.aio.insecure_channel(address, options=options) as channel:
            code = await channel.unary_unary(METHOD)(message, timeout=TIMEOUT).code()
            return str(code.name)

    return Counter(await asyncio.gather(*(ask() for _ in range(count))))


class Peak:
    """The most resident memory of a process until the end of the block, in MiB."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self.mib = 0

    def _look(self) -> None:
        while not self._end.wait(0.01):
            self.mib = max(self.mib, int(self._process.memory_info().rss) // MIB)

    def __enter__(self) -> "Peak":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()


def main() -> None:
    """Send all requests, and print the table."""
    flags(__doc__).parse_args()
    print("| sent | at a time | answered | most memory, MiB |")
    print("| --- | ---: | --- | ---: |")
    with tempfile.TemporaryDirectory() as name, programs.predictor(Path(name)) as predictor:
        address = f"127.0.0.1:{predictor.http_port}"

        def row(sent: str, count: int, of: Request | bytes) -> None:
            # Each on a new program: memory is not always given back.
            with programs.transformer(Path(name), address) as transformer:
                with Peak(transformer.process.pid) as peak:
                    found = asyncio.run(
                        over_grpc(transformer.grpc_address, of, count)
                        if isinstance(of, bytes)
                        else over_rest(transformer.url, of, count)
                    )
                answers = ", ".join(f"{status}: {n}" for status, n in sorted(found.items()))
                print(f"| {sent} | {count} | {answers} | {peak.mib} |", flush=True)

        for sent, request in requests().items():
            row(sent, 40, request)
        row("gRPC, 7.9 MiB that are no image", 300, os.urandom(79 * MIB // 10))
        image = encode(Image.new("RGBA", (7000, 7000)))
        padded = image + bytes(79 * MIB // 10 - len(image))
        row("gRPC, 7.9 MiB of a PNG of 49 megapixels", 300, padded)


if __name__ == "__main__":
    with in_a_line(programs.NotStarted):
        main()
