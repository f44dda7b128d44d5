"""Ports for programs that start in a moment: nobody else may take one until then."""

import socket
from argparse import ArgumentTypeError
from itertools import cycle

import pytest

from standalone import address
from standalone.address import LOOPBACK, PORTS, Address, free_ports, ipv4


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_host_is_an_address(host: str) -> None:
    assert ipv4(host) == "127.0.0.1"


def test_a_host_that_is_not_found_is_named() -> None:
    with pytest.raises(ArgumentTypeError, match="nowhere.invalid: "):
        ipv4("nowhere.invalid")


@pytest.mark.parametrize(
    ("host", "from_here"),
    [
        ("0.0.0.0", LOOPBACK),  # noqa: S104
        ("192.0.2.7", "192.0.2.7"),
    ],
)
def test_this_machine_reaches_what_listens_everywhere_on_loopback(
    host: str, from_here: str
) -> None:
    assert Address(host, 8080, 8081).from_here == from_here


def test_free_ports_are_all_different() -> None:
    ports = free_ports(50)
    assert len(set(ports)) == 50
    assert set(ports) <= set(PORTS)


def test_free_ports_are_not_found_again_at_once() -> None:
    """Programs take a while until they listen on them."""
    ports = [port for _ in range(200) for port in free_ports(3)]
    assert len(set(ports)) == 600


def test_a_port_on_which_somebody_listens_is_not_free(monkeypatch: pytest.MonkeyPatch) -> None:
    (port,) = free_ports(1)
    monkeypatch.setattr(address, "PORTS", range(port, port + 1))
    monkeypatch.setattr(address, "_ports", cycle([port]))
    assert free_ports(1) == [port]
    with (
        socket.create_server((LOOPBACK, port)),
        pytest.raises(OSError, match=f"no 1 ports free from {port} to {port}"),
    ):
        free_ports(1)
