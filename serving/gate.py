"""Limits: how much work is accepted at a time, and how large a request may be."""

from serving.errors import Overloaded, TooLarge


class Gate:
    """Admits images, or bytes, up to a limit; they count until their work is done."""

    def __init__(self, limit: int, unit: str = "images") -> None:
        self._limit = limit
        self._unit = unit
        self.inside = 0
        """How many are admitted whose work is not done."""

    def admit(self, count: int) -> "_Admitted":
        """Count ``count`` in, and out at the end of the block.

        Raises:
            Overloaded: there would be more than the limit. A request that is larger than the
                limit is admitted when nothing else is inside.
        """
        if self.inside and self.inside + count > self._limit:
            raise Overloaded(f"{self.inside} {self._unit} are waiting already; try again later")
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


class InHand:
    """The requests in hand over all connections, and their limit.

    Requests that wait for their client, to send a body or to read, do not count: otherwise a few
    slow clients would shut everybody out.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.busy: set[object] = set()
        """Connections on whose request we are at work; each has one at a time."""

    def is_full(self) -> bool:
        """Whether the limit is reached."""
        return len(self.busy) >= self._limit


def check_instances(count: int, limit: int) -> None:
    """Check the number of images in one request.

    Raises:
        TooLarge: it is over the limit.
    """
    if count > limit:
        raise TooLarge(f"{count} images in one request; the limit is {limit}")
