"""Where the parts of the service listen on this machine."""

import socket
import sys
from argparse import ArgumentTypeError
from contextlib import ExitStack, suppress
from itertools import chain, cycle, islice
from secrets import randbelow
from typing import NamedTuple

from serving.listener import unavailable

LOOPBACK = "127.0.0.1"
PORTS = range(20_000, 32_000)
"""Where to look for free ports. One picked by the system could go to an outgoing connection before
a program listens on it; by default, systems give those connections ports above this range."""
_first = randbelow(len(PORTS))
_ports = cycle(chain(PORTS[_first:], PORTS[:_first]))


class Address(NamedTuple):
    """Where the service is reached from outside: the transformer's HTTP and gRPC ports."""

    host: str
    http_port: int
    grpc_port: int

    @property
    def from_here(self) -> str:
        """The host by which this machine reaches it."""
        return LOOPBACK if self.host == "0.0.0.0" else self.host  # noqa: S104


def ipv4(host: str) -> str:
    """The IPv4 address of ``host``, as Envoy looks up no names; raises ArgumentTypeError."""
    try:
        return socket.gethostbyname(host)
    except OSError as error:
        raise ArgumentTypeError(f"{host}: {error}") from error


def check_free(*ports: tuple[str, str, int]) -> None:
    """Check that ports are free, each given as the flag that chooses it, its host and its number.

    Raises:
        OSError: one is in use or out of range, or two are the same.
    """
    if len({port for *_, port in ports}) < len(ports):
        flags = [flag for flag, *_ in ports]
        raise OSError(f"{', '.join(flags[:-1])} and {flags[-1]} must differ")
    with ExitStack() as probes:
        for flag, host, port in ports:
            if not 0 < port < 65_536:
                raise OSError(f"{flag}={port}: expected a port, 1 to 65535")
            probe = probes.enter_context(socket.socket())
            # As the servers do, so that lingering connections of an earlier run do not matter.
            if sys.platform != "win32":
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                raise OSError(unavailable(host, port, flag, error)) from None


def free_ports(count: int) -> list[int]:
    """``count`` different ports on loopback that nothing listens on.

    They follow those found before, on which programs may be about to listen.

    Raises:
        OSError: there are not that many.
    """
    found: list[int] = []
    with ExitStack() as probes:
        for port in islice(_ports, len(PORTS)):
            probe = probes.enter_context(socket.socket())
            with suppress(OSError):
                probe.bind((LOOPBACK, port))
                found.append(port)
            if len(found) == count:
                return found
    raise OSError(f"{LOOPBACK} has no {count} ports free from {PORTS[0]} to {PORTS[-1]}")
