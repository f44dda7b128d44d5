"""The server of HTTP/2, as far as gRPC needs it.

grpcio's takes six times as long for an empty call (docs/decisions/grpc.md).
"""

import asyncio
import socket
from collections.abc import Callable
from ssl import SSLContext

from serving.connection import GOODBYE, Connection
from serving.frames import HIGHEST, Head
from serving.listener import BACKLOG, HANDSHAKE, Listener
from serving.stream import Stream, Streams


class Server:
    """Listens for connections, and ends them."""

    def __init__(
        self,
        make: Callable[[Streams, int, Head], Stream],
        *,
        largest: int,
        ssl: SSLContext | None = None,
    ) -> None:
        """Let ``make`` make a stream of each head, for bodies of up to ``largest`` bytes."""
        self.make = make
        self.window = min(largest, HIGHEST)
        self._ssl = ssl
        self._connections: set[Connection] = set()
        self._is_empty = asyncio.Event()

    async def start(self, listening: socket.socket) -> None:
        """Serve until ``stop``."""
        self._listener = Listener(listening)
        self._server = await asyncio.get_running_loop().create_server(
            self._connection,
            sock=listening,
            backlog=BACKLOG,
            ssl=self._ssl,
            ssl_handshake_timeout=HANDSHAKE if self._ssl else None,
            ssl_shutdown_timeout=GOODBYE if self._ssl else None,
        )

    async def stop(self, grace: float) -> None:
        """Take no more calls; those in hand have ``grace`` seconds to end."""
        self._listener.is_closed = True
        self._server.close()
        for connection in self._connections:
            connection.retire(grace)
        if self._connections:
            await self._is_empty.wait()

    def add(self, connection: Connection) -> None:
        """A connection is made; accept others that wait."""
        self._connections.add(connection)
        if self._listener.is_closed:
            connection.retire(GOODBYE)
        self._listener.take(self._connection, self._ssl)

    def discard(self, connection: Connection) -> None:
        """A connection is lost."""
        self._connections.discard(connection)
        if self._listener.is_closed and not self._connections:
            self._is_empty.set()

    def _connection(self) -> Connection:
        return Connection(self)
