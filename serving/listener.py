"""Connections that wait to be taken."""

import asyncio
import socket
from collections.abc import Callable
from ssl import SSLContext
from typing import Any


class Listener:
    """Takes connections as they bring each other.

    uvloop takes one in a turn of the loop, and under load a turn is long: who connects then waits
    for seconds, a health probe for instance. As each that is taken here brings the next two,
    thousands are taken in a dozen turns.
    """

    def __init__(self, listening: socket.socket) -> None:
        """Take those of ``listening``, which does not block."""
        self._socket = listening
        self.is_closed = False
        """Whether the program stops: what is connected from now on is not answered."""
        self._taking: set[asyncio.Task[Any]] = set()  # the loop itself would forget them

    def take(self, make: Callable[[], asyncio.Protocol], ssl: SSLContext | None) -> None:
        """Take the next two, if so many wait, each for a protocol that ``make`` makes."""
        loop = asyncio.get_running_loop()
        for _ in range(2):
            try:
                connection, _ = self._socket.accept()
            except OSError:  # none waits, or no file may be opened for it
                return
            task = loop.create_task(loop.connect_accepted_socket(make, connection, ssl=ssl))
            self._taking.add(task)
            task.add_done_callback(self._taken)

    def _taken(self, task: asyncio.Task[Any]) -> None:
        self._taking.discard(task)
        if not task.cancelled():
            task.exception()  # is the client's matter, such as one that has hung up
