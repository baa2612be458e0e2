"""Connections of an address are found among others and ended, and no frame of that passes a closed fence."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from ipaddress import ip_address

import pytest

from leaseha import connections
from tests.adapters.wire import HERE, Wire, laid

V4, V6, OTHER = "10.9.0.100", "fd09::100", "10.9.0.1"

pytestmark = pytest.mark.netns


@pytest.fixture
def wire() -> Iterator[Wire]:
    with laid() as made:
        for ip, length in ((V4, 32), (V6, 128)):
            made.address("add", ip, length, HERE, **({"flags": 2} if ":" in ip else {}))
        yield made


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as made:
        yield made


def packed(*ips: str) -> list[bytes]:
    return [ip_address(ip).packed for ip in ips]


def connected(wire: Wire, stack: ExitStack, ip: str, *, listen_on: str = "") -> tuple[socket.socket, ...]:
    """A server's listener here, its end of a connection, and the client's end there."""
    place = listen_on or ip
    kind = socket.AF_INET6 if ":" in place else socket.AF_INET
    listener = stack.enter_context(socket.socket(kind))
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((place, 0))
    listener.listen()
    port = listener.getsockname()[1]
    client = stack.enter_context(wire.there(lambda: socket.create_connection((ip, port), 5)))
    listener.settimeout(5)
    server = stack.enter_context(listener.accept()[0])
    server.settimeout(5)
    return listener, server, client


def ended(vips: list[bytes]) -> int:
    with connections.open_diag() as kernel:
        return connections.end(kernel, connections.found(kernel, vips))


def test_this_kernel_can(wire):
    assert connections.unsupported() == ""


@pytest.mark.parametrize(
    ("ip", "listen_on"), [(V4, ""), (V6, ""), (V4, "::")], ids=["IPv4", "IPv6", "IPv4 of a server for both"]
)
def test_a_connection_to_the_address_is_dead_at_once_and_others_and_listeners_live(
    wire, stack, ip, listen_on
):
    listener, server, _ = connected(wire, stack, ip, listen_on=listen_on)
    _, other, far = connected(wire, stack, OTHER)

    assert ended(packed(V4, V6)) == 1

    with pytest.raises(ConnectionAbortedError):
        server.recv(1)
    far.send(b"?")
    assert other.recv(1) == b"?"
    port = listener.getsockname()[1]
    stack.enter_context(wire.there(lambda: socket.create_connection((ip, port), 5)))
    stack.enter_context(listener.accept()[0])


def test_one_among_thousands_of_addresses_is_found(wire, stack):
    """More than one question can hold."""
    many = [f"10.{100 + at // 250}.0.{at % 250 + 1}" for at in range(1200)]
    _, server, _ = connected(wire, stack, V4)

    assert ended(packed(*many)) == 0
    assert ended(packed(*many, V4, V6)) == 1
    with pytest.raises(ConnectionAbortedError):
        server.recv(1)


def test_many_are_ended_together_and_what_is_gone_already_counts_not(wire, stack):
    pairs = [connected(wire, stack, V4) for _ in range(150)]
    with connections.open_diag() as kernel:
        seen = connections.found(kernel, packed(V4))
        assert len(seen) == 150
        assert connections.end(kernel, seen[:5]) == 5
        assert connections.end(kernel, seen) == 145
    for _, server, _ in pairs:
        with pytest.raises(ConnectionAbortedError):
            server.recv(1)
