"""Whatever a client sends by gRPC gets a status of its own, and the next one the right answer."""

import asyncio
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from hypothesis import event, given
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb

from serving import grpc as served
from serving.errors import LONGEST
from tests import anything, apps, programs
from tests.digits import draw as drawn
from tests.digits import encode

SERVICE = "/inference.GRPCInferenceService/"
CODES = {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND}
LONGEST_ERROR = LONGEST + 1
"""Characters."""


def question(*files: bytes) -> bytes:
    tensor = {"name": "images", "datatype": "BYTES", "shape": [len(files)]}
    raw = [anything.framed(list(files))]
    request = pb.ModelInferRequest(model_name="mnist", inputs=[tensor], raw_input_contents=raw)
    return bytes(request.SerializeToString())


class Service:
    """The transformer's gRPC server in this process, and a client of it."""

    def __init__(self) -> None:
        self._runner = asyncio.Runner()
        self._runner.run(self._start())
        self._questions = {digit: question(encode(drawn(digit, 40))) for digit in (7, 1, 4)}

    async def _start(self) -> None:
        model = apps.transformer(apps.load())
        host, port = "127.0.0.1", programs.free_port()
        self._server = await served.start(
            model,
            apps.dataplane(model),
            host=host,
            port=port,
            max_receive=2**20,
            max_send=2**20,
        )
        self._channel = grpc.aio.insecure_channel(f"{host}:{port}")

    def ask(self, method: str, message: bytes) -> None:
        """Send a message as it is; a refusal keeps the rules, and the next answer is right."""
        self._runner.run(self._ask(method, message))

    async def _ask(self, method: str, message: bytes) -> None:
        call = self._channel.unary_unary(SERVICE + method)(message)
        code, details = await call.code(), await call.details() or ""
        event(f"answered with {code}")
        assert code == grpc.StatusCode.OK or code in CODES, details
        assert len(details) <= LONGEST_ERROR
        assert "Traceback" not in details
        infer = self._channel.unary_unary(
            f"{SERVICE}ModelInfer", response_deserializer=pb.ModelInferResponse.FromString
        )
        for digit, good in self._questions.items():
            outputs = (await infer(good)).raw_output_contents
            assert int.from_bytes(outputs[0], "little") == digit

    def close(self) -> None:
        self._runner.run(self._channel.close())
        self._runner.run(self._server.stop(0))
        self._runner.close()


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    running = Service()
    yield running
    running.close()


def parameter(value: Any) -> pb.InferParameter:
    if isinstance(value, bool):
        return pb.InferParameter(bool_param=value)
    if isinstance(value, int):
        return pb.InferParameter(int64_param=value)
    return pb.InferParameter(string_param=value)


parameters = st.dictionaries(
    st.sampled_from(["binary_data", "binary_data_size", "binary_data_output", "x"]),
    (st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(max_size=5)).map(parameter),
    max_size=2,
)
contents = st.one_of(
    st.builds(pb.InferTensorContents, bytes_contents=st.lists(anything.files, max_size=3)),
    st.builds(pb.InferTensorContents, int64_contents=st.lists(st.integers(-9, 9), max_size=3)),
    st.builds(pb.InferTensorContents, uint_contents=st.lists(st.integers(0, 999), max_size=3)),
    st.builds(pb.InferTensorContents, fp32_contents=st.lists(st.just(0.5), max_size=3)),
)
names = st.sampled_from(["images", "images", "images", "", "other", "long" * 1000])


@st.composite
def requests(draw: DrawFn) -> bytes:
    """A request to infer whose parts may not fit one another."""
    if draw(st.booleans()):
        good = draw(st.lists(st.sampled_from(anything.GOOD_FILES), min_size=1, max_size=9))
        return question(*good)
    inputs, raw = [], []
    for _ in range(draw(st.sampled_from([1, 1, 1, 0, 2, 20]))):
        files = draw(st.lists(anything.files, max_size=3))
        tensor = pb.ModelInferRequest.InferInputTensor(
            name=draw(names),
            datatype=draw(st.sampled_from(["BYTES"] * 3 + ["UINT8", "FP32", "FP16", "", "x"])),
            shape=draw(
                st.just([len(files)]) | st.lists(st.integers(-(2**63), 2**63 - 1), max_size=3)
            ),
            parameters=draw(parameters),
        )
        if draw(st.booleans()):
            tensor.contents.CopyFrom(
                draw(st.just(pb.InferTensorContents(bytes_contents=files)) | contents)
            )
        else:
            lengths = [draw(st.just(len(file)) | st.integers(0, 2**32 - 1)) for file in files]
            framed = [n.to_bytes(4, "little") + f for n, f in zip(lengths, files, strict=True)]
            raw.append(b"".join(framed))
        inputs.append(tensor)
    outputs = [
        {"name": name, "parameters": draw(parameters)}
        for name in draw(st.lists(st.sampled_from(anything.OUTPUTS), max_size=3))
    ]
    request = pb.ModelInferRequest(
        model_name=draw(names.map(lambda name: "mnist" if name == "images" else name)),
        model_version=draw(st.sampled_from(["", "", "", "1", "latest"])),
        id=draw(st.text(max_size=4)),
        inputs=inputs,
        raw_input_contents=raw,
        outputs=outputs,
        parameters=draw(parameters),
    )
    return bytes(request.SerializeToString())


@given(requests())
def test_any_request_to_infer(service: Service, message: bytes) -> None:
    service.ask("ModelInfer", message)


@given(
    st.sampled_from(["ModelReady", "ModelMetadata"]),
    st.builds(pb.ModelReadyRequest, name=names | st.just("mnist"), version=st.text(max_size=3)),
)
def test_any_model(service: Service, method: str, request_: Any) -> None:
    service.ask(method, request_.SerializeToString())
