"""A call by gRPC: a message each way, on a stream of HTTP/2.

Protocol: https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md
"""

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from functools import lru_cache
from struct import Struct
from typing import NamedTuple, TypeAlias
from urllib.parse import quote

import grpc

from serving.context import REQUEST_ID, current
from serving.deadlines import Deadlines
from serving.errors import InvalidInput, NotInTime, Overloaded, ServingError, TooLarge
from serving.frames import Head, block, field
from serving.gate import TOO_MANY, Bodies, InHand
from serving.inference import VERSION_HEADER
from serving.inflate import WINDOWS, inflate
from serving.stream import Stream, Streams

ARRIVING = 1000
"""Most calls whose message is on its way; of more, the oldest is refused."""
TIMEOUT = 10
"""Seconds that a client has to send a message."""

PREFIX = Struct(">BI")
"""What a message begins with: whether it is compressed, and its length in bytes."""
ENCODINGS = ("identity", *WINDOWS)
"""Those of a message."""
CONTENT_TYPE = "application/grpc"
CONTENT_TYPES = (CONTENT_TYPE, "application/grpc+proto")
"""Those of a call."""
HEAD = block([(":status", "200"), ("content-type", CONTENT_TYPE)])
"""What an answer begins with."""
NOTHING = Head({}, 0)
"""The head of a call that is answered."""
LIMIT = re.compile("([0-9]{1,8})([HMSmun])")
"""What ``grpc-timeout`` looks like."""
UNITS = {"H": 3600, "M": 60, "S": 1, "m": 1e-3, "u": 1e-6, "n": 1e-9}
"""Of ``grpc-timeout``, in seconds."""
PRINTABLE = bytes(range(0x20, 0x7F)).decode().replace("%", "")
"""What is sent as it is in ``grpc-message``."""

log = logging.getLogger(__name__)

Headers: TypeAlias = Mapping[str, str]


class Method(NamedTuple):
    """What a path stands for."""

    answer: Callable[[bytes, Headers], Awaitable[tuple[bytes, str]]]
    """Returns the message that answers one, and the version of the model that it comes from.

    Raises:
        ServingError: the caller is told its message.
    """
    refused: Callable[[ServingError], None] | None = None
    """Counts a call that is refused before it is answered. Methods that have none, such as those of
    health, are answered even when too many calls are in hand."""


class Service:
    """What the calls of all connections have in common."""

    def __init__(
        self,
        methods: Mapping[str, Method],
        *,
        version: str,
        max_calls: int,
        max_receive: int,
    ) -> None:
        """Answer with ``methods``, by path.

        Args:
            methods: what is called.
            version: of the model, for errors.
            max_calls: most calls in hand, not counting those on their way.
            max_receive: most bytes in a message.
        """
        self.methods = methods
        self.version = version
        self.max_receive = max_receive
        self.in_hand = InHand(max_calls)
        self.bodies = Bodies(max_receive + PREFIX.size)
        self.deadlines = Deadlines(Call.give_up)

    def call(self, streams: Streams, number: int, head: Head) -> "Call":
        """A call with this ``head``."""
        return Call(self, streams, number, head)


class Call(Stream):
    """A call, from its head to its answer."""

    __slots__ = ("_body", "_deadline", "_head", "_method", "_service", "_size", "_task")

    def __init__(self, service: Service, streams: Streams, number: int, head: Head) -> None:
        """Begin with the head."""
        super().__init__(streams, number)
        self._service = service
        self._head = head
        self._method: Method
        self._body = bytearray()
        self._size = 0
        """Bytes that ``bodies`` holds for it."""
        self._deadline: float | None = None
        """Loop time, in seconds, until which the client waits."""
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Refuse what is no call of ours."""
        headers = self._head.fields
        if headers.get(":method") != "POST":
            self._close(block([(":status", "405"), ("allow", "POST")]))
        elif headers.get("content-type", "").partition(";")[0] not in CONTENT_TYPES:
            self._close(block([(":status", "415")]))
        elif (encoding := headers.get("grpc-encoding", "identity")) not in ENCODINGS:
            known = ("grpc-accept-encoding", ",".join(ENCODINGS))
            self._fail("UNIMPLEMENTED", f"cannot read grpc-encoding '{encoding:.20}'", known)
        elif method := self._service.methods.get(headers.get(":path", "")):
            self._method = method
            self._admit(headers.get("grpc-timeout", ""))
        else:
            self._fail("UNIMPLEMENTED", "there is no such method")

    def receive(self, data: bytes) -> None:
        """Take a piece of the message."""
        self._body += data
        if self.announced() > self._service.bodies.largest:
            self.refuse(
                TooLarge(f"the message is over the limit of {self._service.max_receive} bytes")
            )
        else:
            self._hold(len(data))

    def complete(self) -> None:
        """Answer, unless too many calls are in hand."""
        self._service.bodies.arriving.pop(self, None)
        if self._is_too_many():
            self.refuse(Overloaded(TOO_MANY))
            return
        try:
            message = self._message()
        except ServingError as error:
            self.refuse(error)
            return
        if self._deadline is not None:
            self._service.deadlines.add(self, self._deadline)
        else:
            self._service.deadlines.discard(self)
        self._service.in_hand.busy.add(self)
        self._task = asyncio.get_running_loop().create_task(self._run(message))

    def hang_up(self) -> None:
        """Cancel the work for it."""
        self._release()
        self._cancel()

    def announced(self) -> int:
        """The bytes of the message and what it begins with, as far as that is known.

        Until it is, those that it holds: otherwise a small call, whose head comes first, would give
        way to large messages that never arrive.
        """
        if len(self._body) < PREFIX.size:
            return self._size
        _, length = PREFIX.unpack_from(self._body)
        return max(PREFIX.size + int(length), len(self._body))

    def refuse(self, error: ServingError) -> None:
        """Drop the message, and answer with ``error``."""
        if self._method.refused:
            self._method.refused(error)
        self._fail(error.grpc_status, str(error))

    def give_up(self) -> None:
        """It is late."""
        if self._task:
            self._fail("DEADLINE_EXCEEDED", "the deadline of the call has passed")
            self._cancel()
        else:
            self.refuse(NotInTime("the message was not complete in time"))

    def _cancel(self) -> None:
        if self._task:
            self._task.cancel()
            # It knows the call: its message would be kept until garbage is collected.
            self._task = None

    async def _run(self, message: bytes) -> None:
        try:
            answer, version = await self._method.answer(message, self._head.fields)
            answer = PREFIX.pack(0, len(answer)) + answer
            self.streams.answer(self, HEAD, answer, _succeeded(version) + _request_id())
        except ServingError as error:
            self._fail(error.grpc_status, str(error))
        except Exception:
            log.exception("a defect")
            self._fail("INTERNAL", "internal error")
        finally:
            self._release()

    def _message(self) -> bytes:
        """The message, which is complete."""
        body, self._body = self._body, bytearray()
        if not body:
            raise InvalidInput("a call without a message")
        if len(body) < PREFIX.size:
            raise InvalidInput("the message is not complete")
        is_compressed, length = PREFIX.unpack_from(body)
        message = bytes(memoryview(body)[PREFIX.size :])
        if len(message) != length:
            raise InvalidInput(f"expected a message of {length} bytes, got {len(message)}")
        return self._inflate(message) if is_compressed else message

    def _inflate(self, message: bytes) -> bytes:
        encoding = self._head.fields.get("grpc-encoding", "identity")
        inflated = inflate(message, encoding, most=self._service.max_receive)
        self._service.bodies.admit(len(inflated))
        self._size += len(inflated)
        return inflated

    def _admit(self, timeout: str) -> None:
        if self._is_too_many():
            self.refuse(Overloaded(TOO_MANY))
            return
        now = asyncio.get_running_loop().time()
        limit = now + TIMEOUT
        if (seconds := _seconds(timeout)) is not None:
            self._deadline = now + seconds
            limit = min(limit, self._deadline)
        self._service.deadlines.add(self, limit)
        self._hold(self._head.size)
        arriving = self._service.bodies.arriving
        if len(arriving) > ARRIVING:
            next(iter(arriving)).refuse(Overloaded(TOO_MANY))

    def _is_too_many(self) -> bool:
        return self._method.refused is not None and self._service.in_hand.is_full()

    def _hold(self, size: int) -> None:
        self._size += size
        self._service.bodies.hold(self, size)

    def _fail(self, status: str, message: str, *more: tuple[str, str]) -> None:
        failed = [
            (":status", "200"),
            ("content-type", CONTENT_TYPE),
            ("grpc-status", str(grpc.StatusCode[status].value[0])),
            ("grpc-message", quote(message, safe=PRINTABLE, errors="replace")),
            *more,
        ]
        self._close(block(failed) + _named(self._service.version) + _request_id())

    def _close(self, head: bytes) -> None:
        self._release()
        self.streams.refuse(self, head)

    def _release(self) -> None:
        service = self._service
        service.deadlines.discard(self)
        service.in_hand.leave(self)
        service.bodies.held -= self._size
        service.bodies.arriving.pop(self, None)
        self._size = 0
        self._head = NOTHING  # an answer that is not read may keep the call
        self._body = bytearray()


@lru_cache(maxsize=8)
def _succeeded(version: str) -> bytes:
    return block([("grpc-status", "0")]) + _named(version)


def _named(version: str) -> bytes:
    """The header that names the version; the transformer answers for none about itself."""
    return field(VERSION_HEADER, version) if version else b""


def _request_id() -> bytes:
    """The header of the call that is being answered; a call that is refused at once has none."""
    request_id = current().request_id
    return field(REQUEST_ID, request_id) if request_id else b""


def _seconds(timeout: str) -> float | None:
    """The value of ``grpc-timeout``; ``None`` if it is none."""
    if match := LIMIT.fullmatch(timeout):
        return int(match[1]) * UNITS[match[2]]
    return None
