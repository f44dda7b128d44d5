"""How much work is taken on before callers are told to come back."""

from collections.abc import Iterator
from contextlib import contextmanager

from serving.errors import Overloaded, TooLarge


class Gate:
    """Admits images up to a limit, counted until their work is done."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.inside = 0
        """Images whose work is not done."""

    @contextmanager
    def admit(self, images: int) -> Iterator[None]:
        """Count ``images`` in, and out at the end of the block.

        Raises:
            Overloaded: it would be more than the limit; a request that is larger than the
                limit is admitted when nothing else is inside.
        """
        if self.inside and self.inside + images > self._limit:
            raise Overloaded(f"{self.inside} images are waiting already; try again later")
        self.inside += images
        try:
            yield
        finally:
            self.inside -= images


def check_instances(count: int, limit: int) -> None:
    """See that one request holds no more images than it may.

    Raises:
        TooLarge: it does.
    """
    if count > limit:
        raise TooLarge(f"{count} images in one request; the limit is {limit}")
