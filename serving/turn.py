"""When a connection is read again after an answer or a refusal, and whether its client is there."""

import asyncio
import select
import termios
from fcntl import ioctl
from random import uniform

from uvicorn.protocols.http.flow_control import FlowControl

from serving.errors import Overloaded
from serving.gate import InHand
from serving.timeout import Timeout

# Linux's, which has it even if something is unread; elsewhere, what POSIX has.
HAS_HUNG_UP = getattr(select, "POLLRDHUP", select.POLLHUP)


class Turn:
    """Of one connection, which waits for it while there are too many refusals.

    It comes at once after the first refusal: many clients hang up then, which is noticed only when
    their connection is read.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        in_hand: InHand,
        flow: FlowControl,
        transport: asyncio.Transport,
    ) -> None:
        """Read ``transport`` by ``flow`` when ``in_hand`` says so, or after some seconds."""
        self._in_hand = in_hand
        self._flow = flow
        self._transport = transport
        self._is_first = True
        self._was_refused = False
        # Those that are refused at a time are not read again at a time.
        self._longest = Timeout(loop, Overloaded.retry_after * uniform(1, 2), self.read_on)

    def answered(self) -> None:
        """A request has been answered: read the next one when it is our turn."""
        if self._in_hand.line:
            self._wait()

    def refused(self) -> None:
        """A request has been refused: read the next one when it is our turn."""
        if self._was_refused and not self._in_hand.affords():
            self._wait()
        self._was_refused = True

    def is_awaited(self) -> bool:
        """Whether there may be a request that is not read."""
        return self._longest.has_begun()

    def read_on(self) -> bool:
        """It is our turn; ``False`` if the client has hung up."""
        self._longest.end()
        self._in_hand.line.pop(self, None)
        if self._has_hung_up():
            self._end(has_asked=self._is_unread())
            return False
        self._flow.resume_reading()
        return True

    def asked(self) -> bool:
        """A request has been read; ``False`` if it is the first, and its client has hung up."""
        is_first, self._is_first = self._is_first, False
        if is_first and self._has_hung_up():
            self._end(has_asked=True)
            return False
        return True

    def close(self) -> None:
        """The connection is lost."""
        self._in_hand.line.pop(self, None)
        self._longest.close()

    def _has_hung_up(self) -> bool:
        # Read, its request would come first, and be answered for nobody.
        poll = select.poll()
        poll.register(self._transport.get_extra_info("socket"), HAS_HUNG_UP)
        return bool(poll.poll(0))

    def _is_unread(self) -> bool:
        # Without a request it has not waited for an answer.
        socket = self._transport.get_extra_info("socket")
        return any(ioctl(socket, termios.FIONREAD, bytes(4)))

    def _end(self, *, has_asked: bool) -> None:
        if has_asked:
            self._in_hand.hung_up()
        self._transport.abort()

    def _wait(self) -> None:
        self._flow.pause_reading()
        self._longest.begin()
        self._in_hand.wait(self)
