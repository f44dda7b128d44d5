"""What is taken on: how much work at a time, and how large a request."""

from collections.abc import Iterator
from contextlib import contextmanager

from serving.errors import Overloaded, TooLarge


class Gate:
    """Admits images up to a limit, or bytes, counted until their work is done."""

    def __init__(self, limit: int, unit: str = "images") -> None:
        self._limit = limit
        self._unit = unit
        self.inside = 0
        """Those whose work is not done."""

    @contextmanager
    def admit(self, count: int) -> Iterator[None]:
        """Count them in, and out at the end of the block.

        Raises:
            Overloaded: it would be more than the limit; a request that is larger than the
                limit is admitted when nothing else is inside.
        """
        if self.inside and self.inside + count > self._limit:
            raise Overloaded(f"{self.inside} {self._unit} are waiting already; try again later")
        self.inside += count
        try:
            yield
        finally:
            self.inside -= count


TOO_MANY = "overloaded; try again later"
"""What a request is told that is one more than may be in hand."""


class InHand:
    """The requests of all connections, up to a limit.

    Those that wait for their client, to send a body or to read, are not counted: else a few slow
    clients would shut everybody out.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.busy: set[object] = set()
        """Connections with a request that waits for us, of which each answers one at a time."""

    def is_full(self) -> bool:
        """Whether they are as many as there may be."""
        return len(self.busy) >= self._limit


def check_instances(count: int, limit: int) -> None:
    """See that one request holds no more images than it may.

    Raises:
        TooLarge: it does.
    """
    if count > limit:
        raise TooLarge(f"{count} images in one request; the limit is {limit}")
