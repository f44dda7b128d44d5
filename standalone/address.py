"""Where the parts of the service listen on this machine."""

import socket
import sys
from contextlib import ExitStack
from typing import NamedTuple

LOOPBACK = "127.0.0.1"


class Address(NamedTuple):
    """Where the service is reached from outside: the transformer's HTTP and gRPC ports."""

    host: str
    http_port: int
    grpc_port: int

    @property
    def from_here(self) -> str:
        """The host under which this machine reaches it."""
        return LOOPBACK if self.host == "0.0.0.0" else self.host  # noqa: S104


def check_free(address: Address, api_port: int) -> None:
    """See that nothing listens on the ports yet.

    Raises:
        OSError: something does.
    """
    ports = (
        ("--port", address.host, address.http_port),
        ("--grpc_port", address.host, address.grpc_port),
        ("--api_port", LOOPBACK, api_port),
    )
    with ExitStack() as probes:
        for flag, host, port in ports:
            probe = probes.enter_context(socket.socket())
            # As the servers do: connections of an earlier run that linger are no obstacle.
            if sys.platform != "win32":
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                raise OSError(
                    f"cannot listen on {host}:{port} ({error.strerror}); "
                    f"choose another port with {flag}"
                ) from None


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nothing listens on, all different."""
    with ExitStack() as probes:
        sockets = [probes.enter_context(socket.socket()) for _ in range(count)]
        for probe in sockets:
            probe.bind((LOOPBACK, 0))
        return [probe.getsockname()[1] for probe in sockets]
