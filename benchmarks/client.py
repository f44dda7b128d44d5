"""What a call from the transformer to the predictor costs: ``python -m benchmarks.client``.

Compares our client over HTTP and over gRPC with the SDK's REST client, in turn, against one
real predictor, and prints a Markdown table: the median time of a call, and the processor time
that the caller spends on it. The ratio is that of the processor times, to our client over HTTP.
"""

import asyncio
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import numpy as np
from kserve import InferInput, InferRequest, PredictorConfig
from kserve.inference_client import InferenceRESTClient, RESTConfig

from benchmarks.flags import flags, in_a_line
from tests import programs
from transformer.client import client_for

BATCHES = (1, 16, 64)
ROUNDS = 7
CALLS = 60

Call = Callable[[np.ndarray], Awaitable[object]]


async def sdk_over_http(address: str) -> Call:
    """A call with the SDK's client, with binary tensors in request and answer."""
    client = InferenceRESTClient(RESTConfig(protocol="v2"))

    async def call(images: np.ndarray) -> object:
        tensor = InferInput("images", list(images.shape), "UINT8")
        tensor.set_data_from_numpy(images)
        request = InferRequest("mnist", [tensor], parameters={"binary_data_output": True})
        return await client.infer(f"http://{address}", request, model_name="mnist")

    return call


async def measure(call: Call, images: np.ndarray) -> tuple[float, float]:
    """Median wall time and mean processor time of a call, in microseconds."""
    times = []
    cpu = time.process_time()
    for _ in range(CALLS):
        start = time.perf_counter()
        await call(images)
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e6, (time.process_time() - cpu) / CALLS * 1e6


async def compare(predictor: programs.Program) -> None:
    """Measure all clients in turn, so that a change in the machine's speed affects all of them."""
    http, grpc = f"127.0.0.1:{predictor.http_port}", predictor.grpc_address
    ours = client_for(PredictorConfig(http, "v2", predictor_request_timeout_seconds=60), "mnist")
    ours_grpc = client_for(
        PredictorConfig(grpc, "grpc-v2", predictor_request_timeout_seconds=60), "mnist"
    )
    calls: dict[str, Call] = {
        "ours, HTTP": ours.score,
        "ours, gRPC": ours_grpc.score,
        "SDK, HTTP": await sdk_over_http(http),
    }
    print("| images | client | time, µs | processor time, µs | ratio |")
    print("| ---: | --- | ---: | ---: | ---: |")
    for batch in BATCHES:
        images = np.zeros((batch, 28, 28), np.uint8)
        rounds = {name: [await measure(call, images)] for name, call in calls.items()}
        for _ in range(ROUNDS):
            for name, call in calls.items():
                rounds[name].append(await measure(call, images))
        # The first round warms up.
        medians = {
            name: [statistics.median(column) for column in zip(*measured[1:], strict=True)]
            for name, measured in rounds.items()
        }
        base = medians["ours, HTTP"][1]
        for name, (wall, cpu) in medians.items():
            print(f"| {batch} | {name} | {wall:.0f} | {cpu:.0f} | {cpu / base:.1f} |")
    await ours.close()
    await ours_grpc.close()


if __name__ == "__main__":
    with in_a_line(programs.NotStarted):
        flags(__doc__).parse_args()
        with tempfile.TemporaryDirectory() as folder, programs.predictor(Path(folder)) as running:
            asyncio.run(compare(running))
