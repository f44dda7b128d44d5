"""The endpoints for inference over REST: V1, with CloudEvents, and V2.

They replace the SDK's own on the same paths, which have no limits, treat malformed input as
a failure of the server, and cannot name the model's version. They call the same
``kserve.Model``, with its preprocess, predict and postprocess.
"""

from typing import Any, TypeAlias

from kserve import InferResponse

from serving import events, v2
from serving.json import is_json, read_json, write_json
from serving.message import Request, Response
from serving.model import ServedModel

VERSION_HEADER = "x-model-version"

Answer: TypeAlias = Any
"""A model's answer: a dictionary for V1, an ``InferResponse`` for V2."""


class Endpoints:
    """V1 and V2 inference of one model."""

    def __init__(self, model: ServedModel) -> None:
        self._model = model

    async def predict(self, request: Request) -> Response:
        """V1: the body is JSON, raw bytes, or a CloudEvent with either in it."""
        self._check_served(request)
        body = await request.read()
        event = events.read(request.headers, body)
        if event is None:
            content_type = request.headers.get("content-type", "")
            payload = read_json(body) if is_json(content_type, body) else body
            return v1_response(await self.ask(request, payload))
        answer = await self.ask(request, events.payload(event))
        headers, content = events.reply(
            event,
            write_json(answer),
            self._model.name,
            structured=events.is_structured(request.headers),
        )
        return Response(200, {**headers, **version_header(answer)}, content)

    async def infer(self, request: Request) -> Response:
        """V2: JSON, with or without binary tensor data."""
        self._check_served(request)
        body = await request.read()
        header_length = request.headers.get(v2.HEADER_LENGTH)
        payload = v2.read_request(body, header_length, self._model.name)
        answer = await self.ask(request, payload)
        content, json_length = v2.write_response(answer, payload)
        headers = version_header(answer)
        if json_length is None:
            return Response(200, {"content-type": "application/json", **headers}, content)
        headers[v2.HEADER_LENGTH] = str(json_length)
        return Response(200, {"content-type": "application/octet-stream", **headers}, content)

    async def ask(self, request: Request, payload: Any) -> Answer:
        """The model's answer to ``payload``."""
        return await self._model(payload, request.headers)

    def _check_served(self, request: Request) -> None:
        parameters = request.parameters
        self._model.check_served(parameters["name"] or "", parameters.get("version"))


def v1_response(answer: Answer) -> Response:
    """A V1 answer as a response."""
    headers = {"content-type": "application/json", **version_header(answer)}
    return Response(200, headers, write_json(answer))


def version_header(answer: Answer) -> dict[str, str]:
    """The header that names the version that answered."""
    if isinstance(answer, InferResponse):
        return {VERSION_HEADER: answer.model_version}
    return {VERSION_HEADER: answer["model_version"]}
