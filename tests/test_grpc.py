"""The gRPC server in this process: how many calls it takes on, and how much it repeats."""

import asyncio
import gc
import gzip
import socket
from collections.abc import AsyncIterator, Awaitable
from contextlib import suppress
from typing import Any

import grpc
import pytest
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from prometheus_client import REGISTRY

from serving import call as calling
from serving import connection, protobuf
from serving import grpc as served
from serving.errors import LONGEST, InvalidInput, TooLarge
from serving.gate import BODIES
from serving.json import LONGEST_NAME, MOST_VALUES
from serving.stream import Streams
from serving.v2 import MOST_DIMENSIONS, MOST_TENSORS, read_message
from tests import apps, programs
from tests.echo import Echo

pytestmark = pytest.mark.anyio

LIMIT = 2**20
INFER = "/inference.GRPCInferenceService/ModelInfer"
TENSOR = {"name": "images", "datatype": "UINT8", "shape": [1]}
GOOD = pb.ModelInferRequest(model_name="mnist", inputs=[TENSOR], raw_input_contents=[b"\x07"])


@pytest.fixture
def address() -> str:
    return f"127.0.0.1:{programs.free_port()}"


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> int:
    """A limit of calls in hand that is lower than usual; to be asked for before the channel."""
    monkeypatch.setattr(served, "CONCURRENT", 8)
    return 8


@pytest.fixture
async def channel(echo: Echo, address: str) -> AsyncIterator[grpc.aio.Channel]:
    host, port = address.split(":")
    server = await served.start(
        echo,
        apps.dataplane(echo),
        host=host,
        port=int(port),
        max_receive=LIMIT,
        max_send=LIMIT,
    )
    async with grpc.aio.insecure_channel(address) as channel:
        yield channel
    await server.stop(0)


def counted(outcome: str) -> float:
    """How many calls are counted with this outcome."""
    labels = {"protocol": "grpc", "outcome": outcome, "model_version": "7"}
    return REGISTRY.get_sample_value("mnist_request_seconds_count", labels) or 0


async def ask(channel: grpc.aio.Channel, request: pb.ModelInferRequest) -> tuple[str, str]:
    """The name of the status, and the message."""
    call = channel.unary_unary(INFER)(request.SerializeToString())
    return (await call.code()).name, await call.details() or ""


async def test_calls_beyond_the_limit_are_told_to_come_back(
    few: int, channel: grpc.aio.Channel, echo: Echo
) -> None:
    echo.hang = True
    before = counted("overloaded")
    infer = channel.unary_unary(INFER)
    calls = [infer(GOOD.SerializeToString()) for _ in range(few + 20)]
    async with asyncio.timeout(10):
        while sum(call.done() for call in calls) < 20:
            await asyncio.sleep(0.02)
    refused = [await call.code() for call in calls if call.done()]
    assert refused == [grpc.StatusCode.RESOURCE_EXHAUSTED] * 20
    assert counted("overloaded") == before + 20
    for call in calls:
        call.cancel()
    echo.hang = False
    async with asyncio.timeout(10):
        while await ask(channel, GOOD) != ("OK", ""):  # the server learns of it a little later
            await asyncio.sleep(0.02)


async def test_a_burst_of_calls_on_a_connection_is_answered(channel: grpc.aio.Channel) -> None:
    answers = await asyncio.gather(*(ask(channel, GOOD) for _ in range(served.CONCURRENT)))
    assert {*answers} == {("OK", "")}


async def test_who_opens_calls_and_sends_nothing_shuts_nobody_out(
    few: int, channel: grpc.aio.Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calling, "TIMEOUT", 0.5)
    invalid = counted("invalid")  # the client's fault, not ours
    calls = [channel.stream_unary(INFER)() for _ in range(2 * few)]
    await asyncio.gather(*(call.wait_for_connection() for call in calls))
    assert await ask(channel, GOOD) == ("OK", "")
    assert {(await call.code()).name for call in calls} == {"DEADLINE_EXCEEDED"}
    assert await calls[0].details() == "the message was not complete in time"
    assert counted("invalid") == invalid + 2 * few


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One of HTTP/2's."""
    head = len(payload).to_bytes(3) + bytes((kind, flags)) + stream.to_bytes(4)
    return head + payload


CONNECTED = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0) + frame(4, 1, 0)


def opened(stream: int, path: bytes, encoding: bytes = b"identity") -> bytes:
    """The head of a call."""
    fields = {
        b":path": path, b":authority": b"x", b"content-type": b"application/grpc",
        b"te": b"trailers", b"grpc-encoding": encoding,
    }  # fmt: skip
    headers = b"\x83\x86" + b"".join(
        b"\0" + b"".join(bytes((len(part),)) + part for part in field) for field in fields.items()
    )
    return frame(1, 4, stream, headers)


def cancelled_at_once(count: int) -> bytes:
    """A connection that opens calls and resets each in the next frame, and waits for no answer."""
    calls = (
        opened(stream, INFER.encode()) + frame(3, 0, stream, bytes((0, 0, 0, 8)))
        for stream in range(1, 2 * count, 2)
    )
    return CONNECTED + b"".join(calls)


async def test_calls_that_are_cancelled_at_once_shut_nobody_out(
    channel: grpc.aio.Channel, address: str
) -> None:
    host, port = address.split(":")
    flood = cancelled_at_once(50_000)

    def attack() -> None:
        with (
            socket.create_connection((host, int(port))) as connection,
            suppress(ConnectionError),  # the server may have enough of it
        ):
            connection.sendall(flood)
            connection.recv(1)

    attacks = asyncio.gather(*(asyncio.to_thread(attack) for _ in range(2)))
    answers = [await ask(channel, GOOD)]
    while not attacks.done():
        answers.append(await ask(channel, GOOD))
    await attacks
    assert {*answers} == {("OK", "")}


PING = frame(6, 0, 0, bytes(8))
PONG = frame(6, 1, 0, bytes(8))


async def test_heads_that_take_long_leave_others_their_turns(
    channel: grpc.aio.Channel, address: str
) -> None:
    """Each of these takes as long as several calls."""
    reader, writer = await asyncio.open_connection(*address.split(":"))
    await ask(channel, GOOD)
    heads = [frame(1, 5, stream, b"\0\x81\x1f\x81\x1f" * 200) for stream in range(1, 400, 2)]
    writer.write(CONNECTED + b"".join(heads) + PING)
    attack = asyncio.create_task(reader.readuntil(PONG))
    answers = 0
    while not attack.done():
        assert await ask(channel, GOOD) == ("OK", "")
        answers += 1
    writer.close()
    assert answers > 5


async def test_a_setting_that_is_repeated_counts_once(
    channel: grpc.aio.Channel, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each would be set for all of the connection's calls, and a frame has room for thousands."""
    await ask(channel, GOOD)
    windows: list[int] = []
    monkeypatch.setattr(Streams, "resize", lambda _, window: windows.append(window))
    reader, writer = await asyncio.open_connection(*address.split(":"))
    sizes = [bytes((0, 4, 0, 0, 0, size)) for size in range(100)]
    writer.write(CONNECTED + frame(4, 0, 0, b"".join(sizes)) + PING)
    await reader.readuntil(PONG)
    writer.close()
    assert windows == [99]


async def test_a_path_that_is_no_text_is_told_so(channel: grpc.aio.Channel, address: str) -> None:
    reader, writer = await asyncio.open_connection(*address.split(":"))
    writer.write(CONNECTED + opened(1, b"/\xff"))
    await reader.readuntil(b"there is no such method")
    writer.close()
    assert await ask(channel, GOOD) == ("OK", "")


@pytest.mark.parametrize(
    ("encoding", "message", "told"),
    [
        (
            b"snappy",
            b"\0",
            (b"12", b"cannot read grpc-encoding 'snappy'", b"identity,gzip,deflate"),
        ),
        (b"x" * 99, b"\0", (b"'" + b"x" * 20 + b"'", b"identity,gzip,deflate")),
        (
            b"gzip",
            gzip.compress(b"7", mtime=0)[:-1],
            (b"3", b"the message is not compressed by gzip"),
        ),
        (b"deflate", b"777", (b"3", b"the message is not compressed by deflate")),
        (b"identity", b"7", (b"3", b"the message is compressed, but not by any grpc-encoding")),
    ],
)
async def test_a_message_in_an_encoding_that_cannot_be_read_is_told_so(
    channel: grpc.aio.Channel,
    address: str,
    encoding: bytes,
    message: bytes,
    told: tuple[bytes, ...],
) -> None:
    """With the encodings that can, as a client may choose one of them."""
    reader, writer = await asyncio.open_connection(*address.split(":"))
    data = b"\1" + len(message).to_bytes(4) + message
    writer.write(CONNECTED + opened(1, INFER.encode(), encoding) + frame(0, 1, 1, data))
    async with asyncio.timeout(5):
        answer = await reader.readuntil(told[-1])
    writer.close()
    assert all(part in answer for part in told)


async def test_a_call_without_a_message_is_told_so_and_counted(channel: grpc.aio.Channel) -> None:
    invalid = counted("invalid")
    call = channel.stream_unary(INFER)()
    await call.done_writing()
    assert (await call.code()).name == "INVALID_ARGUMENT"
    assert await call.details() == "a call without a message"
    assert counted("invalid") == invalid + 1


async def test_what_is_no_message_is_told_so(channel: grpc.aio.Channel) -> None:
    call = channel.unary_unary(INFER)(b"\xff" * 9)
    assert (await call.code()).name == "INVALID_ARGUMENT"
    assert await call.details() == "not a message of V2"


SHAPE = [1] * (MOST_DIMENSIONS + 1)
PARAMETERS = {str(number): {"bool_param": True} for number in range(250)}
"""Each has four fields: itself, its key, its value, and what is in that."""
FILES = {"bytes_contents": [b""] * 1000}
NUMBERS = {"uint_contents": [7] * (MOST_VALUES + 1)}
HALF = {"uint_contents": [7] * (MOST_VALUES // 2)}
MORE = pb.ModelInferRequest(
    inputs=[TENSOR | {"contents": HALF}, TENSOR | {"contents": {"uint_contents": [7]}}]
)
LONG = "x" * (LONGEST_NAME + 1)
ID = pb.ModelInferRequest(id=LONG)
OUTPUT = pb.ModelInferRequest(outputs=[{"name": LONG}])


def request(**more: Any) -> bytes:
    """One whose tensor has this."""
    message = pb.ModelInferRequest(model_name="mnist", inputs=[{**TENSOR, **more}])
    return bytes(message.SerializeToString())


@pytest.mark.parametrize(
    ("message", "told"),
    [
        (b"\x32\x00" * 1001, "the message has more than 1000 fields"),
        (b"\x2a\x00" * 1001, "the message has more than 1000 fields"),
        (request(parameters=PARAMETERS), "the message has more than 1000 fields"),
        (request(contents=FILES), "the message has more than 1000 fields"),
        (b"\x2b" + b"\x32\x00" * 1001 + b"\x2c", "not a message of V2"),
        (b"\xff" * 1000, "not a message of V2"),
        (b"\xff" * 3000, "not a message of V2"),
        (GOOD.SerializeToString() + b"\x32\x00" * 17, "expected at most 16 inputs and 16 outputs"),
        (GOOD.SerializeToString() + b"\x2a\x00" * 16, "expected at most 16 inputs and 16 outputs"),
        (request(shape=SHAPE), "input 'images': 'shape' has more than 16 sizes"),
        (request(contents=NUMBERS), "the inputs have more than 500000 values"),
        (
            request(contents=HALF) + MORE.SerializeToString(),
            "the inputs have more than 500000 values",
        ),
        (request(name=LONG), "'name' has more than 4096 characters"),
        (request() + OUTPUT.SerializeToString(), "'name' has more than 4096 characters"),
        (request() + ID.SerializeToString(), "'id' has more than 4096 characters"),
    ],
)
async def test_a_message_of_too_many_parts_is_refused(
    channel: grpc.aio.Channel, message: bytes, told: str
) -> None:
    """Each of two bytes would be a hundred in memory, and the parser would hold everybody up."""
    call = channel.unary_unary(INFER)(message)
    assert (await call.code()).name == "INVALID_ARGUMENT"
    assert await call.details() == told


def test_a_message_of_256_images_is_none_of_these() -> None:
    numbers = {"shape": [256, 28, 28], "contents": {"uint_contents": [255] * 256 * 28 * 28}}
    files = {"datatype": "BYTES", "shape": [256], "contents": {"bytes_contents": [b"file"] * 256}}
    for parts in (numbers, files):
        read_message(protobuf.parse(pb.ModelInferRequest, request(**parts)))


def test_a_message_at_the_limits_is_read() -> None:
    tensor = {"name": LONG[1:], "datatype": "UINT8", "shape": SHAPE[1:]}
    values = [MOST_VALUES - MOST_TENSORS + 1] + [1] * (MOST_TENSORS - 1)
    inputs = [{**tensor, "contents": {"uint_contents": [7] * count}} for count in values]
    outputs = [{"name": LONG[1:]}] * MOST_TENSORS
    read_message(pb.ModelInferRequest(id=LONG[1:], inputs=inputs, outputs=outputs))


@pytest.mark.parametrize(
    "item",
    [
        b"\x18" + b"\xff" * 9 + b"\x01",
        b"\x35" + b"\xff" * 4,
        b"\x39" + b"\xff" * 8,
        b"\x42\xc8\x01" + b"\xff" * 200,
    ],
    ids=["INT64", "FP32", "FP64", "BYTES"],
)
def test_items_that_come_one_by_one_are_fields(item: bytes) -> None:
    protobuf.parse(pb.InferTensorContents, item * protobuf.MOST_FIELDS)
    beyond = item * (protobuf.MOST_FIELDS + 1)
    with pytest.raises(InvalidInput, match="more than 1000 fields"):
        protobuf.parse(pb.InferTensorContents, beyond + b"\xff" * 10)  # it reads no further


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        ({"datatype": ""}, "cannot read datatype ''"),
        ({"datatype": "FP16"}, "cannot read datatype 'FP16'"),
        ({"contents": {"int_contents": [7]}}, "expected uint_contents, got int_contents"),
        (
            {"contents": {"uint_contents": [7], "bytes_contents": [b"7"]}},
            "expected uint_contents, got bytes_contents",
        ),
    ],
    ids=["none", "other", "in the wrong field", "in two fields"],
)
async def test_contents_must_be_of_the_datatype(
    channel: grpc.aio.Channel, parts: dict[str, Any], told: str
) -> None:
    message = pb.ModelInferRequest(model_name="mnist", inputs=[TENSOR | parts])
    assert await ask(channel, message) == ("INVALID_ARGUMENT", f"input 'images': {told}")


@pytest.mark.parametrize("hang", [False, True], ids=["idle", "in a call"])
async def test_a_connection_does_not_last(
    channel: grpc.aio.Channel, echo: Echo, monkeypatch: pytest.MonkeyPatch, hang: bool
) -> None:
    """Nor do its calls, whatever they wait for."""
    monkeypatch.setattr(connection, "AGE", 1)
    monkeypatch.setattr(connection, "AGE_GRACE", 0)
    echo.hang = hang
    async with asyncio.timeout(10):
        answer = await ask(channel, GOOD)
        assert answer[0] == ("UNAVAILABLE" if hang else "OK")
        while channel.get_state() == grpc.ChannelConnectivity.READY:
            await asyncio.sleep(0.05)


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
async def test_all_addresses_are_those_of_ipv4_too(echo: Echo) -> None:
    port = programs.free_port()
    server = await served.start(
        echo, apps.dataplane(echo), host="::", port=port, max_receive=LIMIT, max_send=LIMIT
    )
    for host in ("127.0.0.1", "[::1]"):
        async with grpc.aio.insecure_channel(f"{host}:{port}") as channel:
            assert await ask(channel, GOOD) == ("OK", "")
    await server.stop(0)


async def test_an_answer_beyond_the_limit_is_refused_and_counted_as_such(echo: Echo) -> None:
    def infer(most: int) -> Awaitable[tuple[bytes, str]]:
        methods = served.Methods(echo, apps.dataplane(echo), max_send=most).by_path()
        return methods[INFER].answer(GOOD.SerializeToString(), {})

    answer, _ = await infer(LIMIT)
    assert await infer(len(answer)) == (answer, "7")
    ok, invalid = counted("ok"), counted("invalid")
    with pytest.raises(TooLarge, match=f"the answer is over the limit of {len(answer) - 1} bytes"):
        await infer(len(answer) - 1)
    assert (counted("ok"), counted("invalid")) == (ok, invalid + 1)


async def test_a_message_does_not_repeat_all_that_was_sent(channel: grpc.aio.Channel) -> None:
    long = "x" * 4000
    both = {**TENSOR, "name": long, "contents": {"uint_contents": [7]}}
    requests = {
        "NOT_FOUND": pb.ModelInferRequest(model_name=long),
        "INVALID_ARGUMENT": pb.ModelInferRequest(
            model_name="mnist", inputs=[both], raw_input_contents=[b"\x07"]
        ),
    }
    for code, request in requests.items():
        found, details = await ask(channel, request)
        assert (found, "xxx" in details) == (code, True)
        assert len(details) <= LONGEST + 1


async def test_messages_beyond_the_limit_are_told_to_come_back(
    channel: grpc.aio.Channel, echo: Echo
) -> None:
    # With its head, there is room for as many as BODIES.
    large = pb.ModelInferRequest(
        model_name="mnist", inputs=[TENSOR], raw_input_contents=[bytes(LIMIT - 2**12)]
    )
    echo.hang = True
    infer = channel.unary_unary(INFER)
    calls = [infer(large.SerializeToString()) for _ in range(BODIES)]
    async with asyncio.timeout(10):
        while len(echo.seen) < BODIES:  # until then, one of them may have to give way
            await asyncio.sleep(0.01)
        calls.append(infer(large.SerializeToString()))
        done, held = await asyncio.wait(map(_ended, calls), return_when=asyncio.FIRST_COMPLETED)
    (refused,) = done
    assert refused.result() == grpc.StatusCode.RESOURCE_EXHAUSTED
    for call in calls:
        call.cancel()
    await asyncio.wait(held)
    echo.hang = False
    assert await ask(channel, GOOD) == ("OK", "")


async def test_refused_messages_do_not_end_the_connection_of_other_calls(
    few: int, channel: grpc.aio.Channel, echo: Echo
) -> None:
    """A client has sent much of a message before it knows that nobody wants it."""
    echo.hang = True
    infer = channel.unary_unary(INFER)
    other = infer(GOOD.SerializeToString())
    calls = [infer(bytes(2 * LIMIT)) for _ in range(40)]
    assert {await call.code() for call in calls} == {grpc.StatusCode.INVALID_ARGUMENT}
    calls = [infer(GOOD.SerializeToString()) for _ in range(few + 1200)]
    async with asyncio.timeout(10):
        while sum(call.done() for call in calls) < 1200:
            await asyncio.sleep(0.02)
    refused = {await call.code() for call in calls if call.done()}
    assert refused == {grpc.StatusCode.RESOURCE_EXHAUSTED}
    assert not other.done()
    for call in (other, *calls):
        call.cancel()


def _ended(call: Any) -> "asyncio.Task[grpc.StatusCode]":
    return asyncio.ensure_future(call.code())


async def test_a_message_is_freed_with_its_refusal(channel: grpc.aio.Channel) -> None:
    def messages() -> int:
        return sum(type(held) is pb.ModelInferRequest for held in gc.get_objects())

    other = pb.ModelInferRequest(model_name="other")
    gc.collect()
    before = messages()
    gc.disable()
    try:
        for _ in range(3):
            code, _ = await ask(channel, other)
            assert code == "NOT_FOUND"
        async with asyncio.timeout(5):
            while messages() > before:  # the server ends the call a little later
                await asyncio.sleep(0.01)
    finally:
        gc.enable()


@pytest.mark.parametrize(
    ("method", "request_", "asked"),
    [
        ("ModelInfer", GOOD, "predict"),
        ("ModelMetadata", pb.ModelMetadataRequest(name="mnist"), "get_input_types"),
        ("ModelReady", pb.ModelReadyRequest(name="mnist"), "healthy"),
    ],
)
async def test_a_defect_shows_nothing_of_itself(
    channel: grpc.aio.Channel,
    echo: Echo,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    method: str,
    request_: Any,
    asked: str,
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("secret at 10.0.0.7")

    monkeypatch.setattr(echo, asked, fail)
    call = channel.unary_unary(f"/inference.GRPCInferenceService/{method}")(
        request_.SerializeToString()
    )
    assert (await call.code(), await call.details()) == (
        grpc.StatusCode.INTERNAL,
        "internal error",
    )
    assert "secret at 10.0.0.7" in caplog.text
