"""The KServe transformer: image files to pictures, pictures to scores, scores to the answer."""

import asyncio
from collections.abc import Mapping
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
from kserve import InferRequest, InferResponse

from serving import context, tracing, v2
from serving.batcher import Batcher
from serving.errors import ServingError, TimedOut
from serving.gate import Gate
from serving.metrics import STAGE_SECONDS
from serving.model import ServedModel
from serving.scores import DIGITS, Images
from serving.threads import Threads
from transformer import image, metrics
from transformer.answer import Reading, make_answer, show, to_predictions, to_tensors
from transformer.client import PredictorClient
from transformer.decode import decode_plain, format_of
from transformer.image import Picture
from transformer.payload import Payload, Upload, read_files

DECODE_SECONDS = STAGE_SECONDS.labels("decode")
INLINE_BYTES = 64 * 1024
INLINE_PIXELS = 64 * 64
"""A plain PNG within both limits is decoded in the event loop: a thread would cost more."""
INLINE_PIXELS_ALONE = 320 * 320
"""Instead of ``INLINE_PIXELS`` if there is only one thread, which would be no faster."""
TURN = 0.001
"""Seconds after which other requests have their turn, before the next image of this one."""
LATE = "the images took too long to decode"


class Job(NamedTuple):
    """A request on its way through the transformer."""

    payload: Payload
    pictures: list[Picture]
    deadline: float
    """Loop time, in seconds, by which it is answered or given up."""


class Transformer(ServedModel):
    """Turns any image into the picture the model knows, and the model's scores into a digit.

    Input ``images``: BYTES [N], image files. Outputs: see ``transformer.answer.Answer``.
    """

    platform = "mnist-kserve_transformer"

    def __init__(
        self,
        name: str,
        client: PredictorClient,
        *,
        max_instances: int,
        max_pixels: int,
        max_pending: int,
        max_batch: int,
        max_wait: float,
        max_linger: float,
        max_calls: int,
        timeout: float,
        decode_threads: int,
    ) -> None:
        """Transform for the model ``name``.

        Args:
            name: the model's name, here and at the predictor.
            client: scores pictures.
            max_instances: most images in one request.
            max_pixels: most pixels in one image.
            max_pending: most images being decoded, and most images waiting for scores.
            max_batch: most images that share one call to the predictor.
            max_wait: seconds that a request waits to be merged while a call is under way.
            max_linger: seconds that it waits, after a call, while further requests come in.
            max_calls: most calls to the predictor at a time.
            timeout: seconds for a request, from its decoding to the scores.
            decode_threads: images decoded at a time.
        """
        super().__init__(name)
        self._client = client
        self._timeout = timeout
        self._max_instances = max_instances
        self._max_pixels = max_pixels
        self._decoding = Gate(max_pending)
        self.threads = Threads(decode_threads, "decode")
        inline_pixels = INLINE_PIXELS_ALONE if decode_threads == 1 else INLINE_PIXELS
        self._inline_pixels = min(max_pixels, inline_pixels)
        self._batcher = Batcher(
            self._call,
            stage="call",
            max_batch=max_batch,
            max_wait=max_wait,
            max_linger=max_linger,
            until_idle=True,
            max_pending=max_pending,
            concurrency=max_calls,
        )

    def get_input_types(self) -> list[dict[str, Any]]:
        """The signature of the input, as V2 metadata."""
        return [{"name": "images", "datatype": "BYTES", "shape": [-1]}]

    def get_output_types(self) -> list[dict[str, Any]]:
        """The signature of the outputs, as V2 metadata."""
        return [
            {"name": "digit", "datatype": "INT64", "shape": [-1]},
            {"name": "confidence", "datatype": "FP32", "shape": [-1]},
            {"name": "probabilities", "datatype": "FP32", "shape": [-1, DIGITS]},
            {"name": "status", "datatype": "BYTES", "shape": [-1]},
        ]

    async def preprocess(self, payload: Payload, headers: Mapping[str, str] | None = None) -> Job:
        """Decode the images of a request.

        Raises:
            InvalidInput, TooLarge, NotAnImage: the message names the instance.
            Overloaded: too many images are being decoded.
            TimedOut: not all could be decoded in time.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._timeout
        files = read_files(payload, max_instances=self._max_instances)
        context.current().images = len(files)
        pictures: list[Picture] = []
        turn = loop.time() + TURN
        with self._decoding.admit(len(files)):
            for i, file in enumerate(files):
                if loop.time() > turn:
                    await asyncio.sleep(0)
                    turn = loop.time() + TURN
                    if loop.time() > deadline:
                        raise TimedOut(f"instance {i}: {LATE}")
                pictures.append(await self._decode(file, i, deadline))
        return Job(payload, pictures, deadline)

    async def predict(
        self, job: Job, headers: Mapping[str, str] | None = None
    ) -> tuple[Job, Reading]:
        """Have the predictor score the pictures, in a call that other requests may share.

        Raises:
            Overloaded: too many images are waiting for scores, here or at the predictor.
            Unavailable, TimedOut, Failed: depending on the predictor's answer, or why there is
                none.
        """
        pixels = np.array([picture.pixels for picture in job.pictures])
        return job, await self._batcher.submit(pixels, job.deadline)

    async def postprocess(
        self, result: tuple[Job, Reading], headers: Mapping[str, str] | None = None
    ) -> dict[str, Any] | InferResponse:
        """Format the answer in the protocol of the request."""
        job, reading = result
        answer = make_answer(job.pictures, reading)
        metrics.count_answer(answer, reading.model_version)
        if isinstance(job.payload, InferRequest):
            return v2.make_response(
                job.payload,
                to_tensors(answer),
                model_name=self.name,
                model_version=reading.model_version,
            )
        predictions = to_predictions(answer)
        if isinstance(job.payload, Upload) and job.payload.show_picture:
            for prediction, picture in zip(predictions, job.pictures, strict=True):
                prediction["picture"] = show(picture)
        return {
            "predictions": predictions,
            "model_name": self.name,
            "model_version": reading.model_version,
        }

    async def close(self) -> None:
        """Close the connections to the predictor."""
        await self._client.close()
        await super().close()

    async def _call(self, pictures: Images) -> Reading:
        """One call to the predictor."""
        scores = await self._client.score(pictures)
        metrics.count_pictures(pictures)
        return Reading.of(scores)

    async def _decode(self, file: bytes, i: int, deadline: float) -> Picture:
        """Decode one image; a request that is given up stops after it."""
        began = perf_counter()
        try:
            with tracing.stage("decode"):
                picture = self._read_inline(file) or await self._read_in_thread(file, deadline)
        except ServingError as error:
            raise type(error)(f"instance {i}: {error}") from None
        finally:
            DECODE_SECONDS.observe(perf_counter() - began)
        metrics.count_image(len(file), format_of(file))
        return picture

    def _read_inline(self, file: bytes) -> Picture | None:
        """The picture, if it is in a small plain PNG."""
        if len(file) > INLINE_BYTES:
            return None
        grey = decode_plain(file, max_pixels=self._inline_pixels)
        return None if grey is None else image.picture(grey)

    async def _read_in_thread(self, file: bytes, deadline: float) -> Picture:
        # If the call is given up, `read` stays queued until a thread is free; its file must not.
        held = [file]

        def read() -> Picture:
            return image.read(held.pop(), max_pixels=self._max_pixels)

        try:
            async with asyncio.timeout_at(deadline):
                return await self.threads.run(read)
        except TimeoutError:
            raise TimedOut(LATE) from None
        finally:
            held.clear()
