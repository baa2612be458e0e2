"""A client that only waits for its answer hears of a move by a tickle ACK, and a client that lives is not harmed."""

import socket
import time

import pytest

from leaseha.lab.host import Host
from leaseha.lab.lab import Lab
from leaseha.repository.tickle import Flow, send_tickles

pytestmark = [pytest.mark.netns, pytest.mark.lab]

VIPS = ("10.77.0.50/24", "fd77::50/64")
PORT = 8000


def bare(vip: str) -> str:
    return vip.partition("/")[0]


def family(vip: str) -> int:
    return socket.AF_INET6 if ":" in vip else socket.AF_INET


def serving(host: Host, vip: str) -> socket.socket:
    """A listener on the VIP, which is put up there."""
    host.add_address(vip)
    listener = host.socket(family(vip))
    listener.settimeout(20)
    listener.bind((bare(vip), PORT))
    listener.listen()
    return listener


def waiting_client(host: Host, vip: str) -> tuple[socket.socket, Flow]:
    """All is sent, the answer is awaited."""
    client = host.socket(family(vip))
    client.settimeout(20)
    client.connect((bare(vip), PORT))
    client.sendall(b"a request")
    return client, Flow(*client.getsockname()[:2], bare(vip), PORT)


def hears(client: socket.socket, within_s: float) -> bool:
    client.settimeout(within_s)
    try:
        client.recv(1)
    except TimeoutError:
        return False
    except ConnectionResetError:
        return True
    raise AssertionError("it was answered")


@pytest.fixture(scope="module")
def lab():
    with Lab(nodes=("node1", "node2"), etcd_members=0) as lab:
        yield lab


def test_a_tickle_to_a_connection_that_lives_changes_nothing(lab: Lab):
    vip = "10.77.0.60/24"
    with serving(lab.host("node1"), vip) as listener:
        client, flow = waiting_client(lab.client, vip)
        with client, listener.accept()[0] as served:
            assert served.recv(100) == b"a request"
            for host in ("node1", "node2"):
                assert lab.host(host).call(send_tickles, [flow] * 3, lambda: None) == 3
            served.sendall(b"its answer")
            assert client.recv(100) == b"its answer"
            client.sendall(b"one more")
            assert served.recv(100) == b"one more"


def test_a_client_that_only_waits_hears_of_the_move(lab: Lab):
    """The first node is off, no packet told of it; the second one has the addresses."""
    first, second = lab.host("node1"), lab.host("node2")
    clients, served = [], []
    for vip in VIPS:
        with serving(first, vip) as listener:
            clients.append(waiting_client(lab.client, vip))
            served.append(listener.accept()[0])
            assert served[-1].recv(100) == b"a request"
    lab.kill_host("node1")
    for vip in VIPS:
        second.add_address(vip)
        lab.client.space.route(
            *("neigh", "replace"), dst=bare(vip), lladdr=second.mac, ifindex=lab.client.index()
        )
    assert not any(hears(client, 0.3) for client, _ in clients), "or there would be nothing to show"

    begun = time.monotonic()
    sent = second.call(send_tickles, [flow for _, flow in clients], lambda: None)

    assert sent == len(VIPS)
    for client, flow in clients:
        assert hears(client, 10), f"{flow} still waits"
    assert time.monotonic() - begun < 5
    for sock in (*served, *(client for client, _ in clients)):
        sock.close()
