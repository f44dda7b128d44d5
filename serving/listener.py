"""Listening on a port, and accepting many connections quickly."""

import asyncio
import logging
import socket
import sys
from collections.abc import Callable
from ssl import SSLContext
from typing import Any

from serving.timeout import Timeout

log = logging.getLogger(__name__)

HANDSHAKE = 10
"""Seconds that a client has for that of TLS."""
BACKLOG = 2048
"""Connections that may wait in the kernel to be accepted."""
SHORT_BACKLOG = 64
"""The same while clients hang up before: in a longer one, all would have when their turn comes."""
SHORT = 2
"""Seconds without such a client until more may wait again."""


def listen(host: str, port: int, flag: str) -> socket.socket:
    """A socket that listens on ``host`` and ``port``; "::" is for IPv4 too.

    Ends the program if there can be none, and names the ``flag`` that chooses another port.
    """
    is_ipv6 = ":" in host
    listening = socket.socket(socket.AF_INET6 if is_ipv6 else socket.AF_INET)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if is_ipv6:
        listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    try:
        listening.bind((host, port))
        listening.listen()
    except OSError as error:
        sys.exit(unavailable(host, port, flag, error))
    log.info("listening on %s:%d (%s)", host, listening.getsockname()[1], flag)
    return listening


def unavailable(host: str, port: int, flag: str, error: OSError) -> str:
    """What to say if ``host`` and ``port`` cannot be listened on."""
    return f"cannot listen on {host}:{port} ({error.strerror}); choose another port with {flag}"


class Listener:
    """Accepts two further connections for each that is made.

    uvloop accepts one in each turn of the event loop, and under load a turn is long: a new
    connection, such as a health probe's, would wait for seconds. With two more for each, thousands
    are accepted in a dozen turns.
    """

    def __init__(self, listening: socket.socket) -> None:
        """Accept connections from ``listening``, without ever blocking there."""
        listening.setblocking(False)
        self._socket = listening
        self.is_closed = False
        """Whether the program is stopping: new connections are closed at once."""
        self._short = Timeout(asyncio.get_running_loop(), SHORT, self._lengthen)
        self._taking: set[asyncio.Task[Any]] = set()  # the loop holds only weak references

    def shorten(self) -> None:
        """A client has hung up before its connection was accepted: let few wait for a while.

        The kernel drops the others, which costs nothing; their clients try again after a second.
        """
        if self.is_closed:
            return
        if not self._short.has_begun():
            self._socket.listen(SHORT_BACKLOG)
        self._short.begin()

    def take(self, make: Callable[[], asyncio.Protocol], ssl: SSLContext | None) -> None:
        """Accept up to two waiting connections, each with a protocol from ``make``."""
        loop = asyncio.get_running_loop()
        for _ in range(2):
            try:
                connection, _ = self._socket.accept()
            except OSError:  # none is waiting, or too many files are open
                return
            task = loop.create_task(
                loop.connect_accepted_socket(
                    make, connection, ssl=ssl, ssl_handshake_timeout=HANDSHAKE if ssl else None
                )
            )
            self._taking.add(task)
            task.add_done_callback(self._taken)

    def _lengthen(self) -> None:
        if not self.is_closed:
            self._socket.listen(BACKLOG)

    def _taken(self, task: asyncio.Task[Any]) -> None:
        self._taking.discard(task)
        if not task.cancelled():
            task.exception()  # not logged: the client's fault, which may have hung up
