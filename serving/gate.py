"""Limits: how much work is accepted at a time, and how large a request may be."""

import asyncio
from collections import OrderedDict
from typing import Protocol

from serving.errors import Overloaded, ServingError, TooLarge

BODIES = 4
"""How many bodies of the largest size may be held at a time, or as many smaller ones as take the
same room. Each is in memory up to three times: as it came, its tensors, and their items."""


class Gate:
    """Admits images up to a limit; they count until their work is done."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.inside = 0
        """How many are admitted whose work is not done."""

    def admit(self, count: int) -> "_Admitted":
        """Count ``count`` in, and out at the end of the block.

        Raises:
            Overloaded: there would be more than the limit. A request that is larger than the
                limit is admitted when nothing else is inside.
        """
        if self.inside and self.inside + count > self._limit:
            raise Overloaded(f"{self.inside} images are waiting already; try again later")
        self.inside += count
        return _Admitted(self, count)


class _Admitted:
    """Counts out what a gate has admitted; a generator's context would take three times as long."""

    __slots__ = ("_count", "_gate")

    def __init__(self, gate: Gate, count: int) -> None:
        self._gate = gate
        self._count = count

    def __enter__(self) -> None:
        """It is counted in already."""

    def __exit__(self, *_: object) -> None:
        self._gate.inside -= self._count


TOO_MANY = "overloaded; try again later"
"""The error of a request that exceeds the limit of ``InHand``."""


AFFORDABLE = 3
"""Refusals for each answer that leave most of the time to the answers."""
SPARE = 2000
"""How many more there may be at once, such as when many clients connect."""
HANG_UP = 30
"""Answers that pay for a client that hangs up instead of waiting: its next connection takes longer
than a refusal."""
DEBT = 20_000
"""Answers after which clients may wait again at the latest."""
PAUSE = 0.001
"""Seconds between two looks at who may be let in."""


class Waiting(Protocol):
    """A connection that waits in line, and is not read meanwhile."""

    def read_on(self) -> bool:
        """Read the next request; ``False`` if the client has hung up."""


class InHand:
    """The requests in hand over all connections, and their limit.

    Requests that wait for their client, to send a body or to read, do not count: otherwise a few
    slow clients would shut everybody out.

    Refusals take time, too. Once there are too many of them for the answers, there is a line: until
    nobody waits in it any more, who is refused again or answered goes to its end, and as many as
    there is room for are read from its front. While clients do not wait so long, there is none.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.busy: set[object] = set()
        """Those at work: connections of HTTP/1.1, with one request at a time, or calls by gRPC."""
        self.line: OrderedDict[Waiting, None] = OrderedDict()
        """The connections that are not read, the one that has waited longest first."""
        self._spare = SPARE
        """Refusals."""
        self._patience = SPARE
        """In answers; below 0, clients have hung up too often for others to wait."""
        self._timer: asyncio.TimerHandle | None = None

    def is_full(self) -> bool:
        """Whether the limit is reached."""
        return len(self.busy) >= self._limit

    def leave(self, one: object) -> None:
        """``one`` is not at work any more."""
        if one in self.busy:
            self.busy.remove(one)
            self._spare = min(self._spare + AFFORDABLE, SPARE)
            self._patience = min(self._patience + 1, SPARE)

    def affords(self) -> bool:
        """Whether one more refusal is better than to let its client wait; if so, it is counted."""
        if self._patience < 0:
            return True
        if self.line or not self._spare:
            return False
        self._spare -= 1
        return True

    def wait(self, one: Waiting) -> None:
        """Call the ``read_on`` of ``one`` when there is room for its next request."""
        self.line[one] = None
        self._look_again()

    def hung_up(self) -> None:
        """A client has hung up that waited."""
        self._patience = max(self._patience - HANG_UP, -DEBT)

    def _look_again(self) -> None:
        # Not with each answer: who is let in may have nothing to ask, and so gets none.
        if self.line and not self._timer:
            self._timer = asyncio.get_running_loop().call_later(PAUSE, self._let_in)

    def _let_in(self) -> None:
        self._timer = None
        room = self._limit - len(self.busy)
        while self.line and (room > 0 or self._patience < 0):
            first, _ = self.line.popitem(last=False)
            room -= first.read_on()
        self._look_again()


def check_instances(count: int, limit: int) -> None:
    """Check the number of images in one request.

    Raises:
        TooLarge: it is over the limit.
    """
    if count > limit:
        raise TooLarge(f"{count} images in one request; the limit is {limit}")


TOO_MANY_BODIES = "too many bodies are being read; try again later"
"""The error of a request for which ``Bodies`` has no room."""


class Arriving(Protocol):
    """A request, as ``Bodies`` sees it."""

    def announced(self) -> int:
        """The bytes of the body; as long as that is not known, those to reckon with."""

    def refuse(self, error: ServingError) -> None:
        """Drop the body, and answer with ``error``."""


class Bodies:
    """Limits the memory for the bodies of all requests."""

    def __init__(self, largest: int) -> None:
        """Allow ``largest`` bytes for one body, and ``BODIES`` times as many for all."""
        self.largest = largest
        self.held = 0
        """Bytes of bodies whose requests are not answered yet."""
        self.arriving: dict[Arriving, None] = {}
        """Requests that have not arrived completely, the oldest first."""

    def hold(self, request: Arriving, size: int) -> None:
        """Count ``size`` more bytes of ``request``; while there is no room, refuse requests.

        The one that announces the largest body is refused first: otherwise a few large bodies that
        never arrive would shut out the small ones. Among equals it is ``request``, so that some
        of the others can be completed.
        """
        self.held += size
        self.arriving[request] = None
        while self.held > BODIES * self.largest:
            largest = max([request, *self.arriving], key=lambda each: each.announced())
            largest.refuse(Overloaded(TOO_MANY_BODIES))

    def admit(self, size: int) -> None:
        """Count ``size`` more bytes of a request that has arrived: those that it is inflated to.

        Raises:
            Overloaded: there is no room.
        """
        if self.held + size > BODIES * self.largest:
            raise Overloaded(TOO_MANY_BODIES)
        self.held += size
