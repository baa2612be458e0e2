"""A client that awaits its answer when the holder's host dies: real agents, a real kernel's connection."""

import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from leaseha.lab.lab import LEASE, REPOSITORY_PORT, Lab
from leaseha.lab.nodes import AgentNode
from tests.e2e.cluster import FIRST, SECOND, holding, standing_by

pytestmark = [pytest.mark.netns, pytest.mark.lab]

KNOWN_S = 1.5
"""Three times as long as until the list of clients is told."""
REQUEST = b"HEAD /r/config HTTP/1.1\r\nHost: lab\r\n\r\n"


@pytest.fixture
def lab() -> Iterator[Lab]:
    settings = {"lease": {LEASE: {"hold_down": "10m", "failback": "off"}}, "session": {"ttl": "2s"}}
    with Lab(nodes=(FIRST, SECOND), settings=settings, replicate=True) as lab:
        yield lab


def repository_pids(node: AgentNode) -> list[int]:
    return [
        pid
        for pid in node.pids()
        if b"leaseha.repository" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    ]


def test_it_hears_of_the_move_at_once(lab: Lab):
    """Its kernel would find out by itself after half a minute, if it were told to look at all."""
    for name in (FIRST, SECOND):
        lab.start_nodes(name)
    lab.measure(period_ms=4, direct_ms=50, arp_ms=50)
    holding(lab, FIRST)
    standing_by(lab, FIRST, SECOND)
    with lab.client.socket() as client:
        client.settimeout(20)
        client.connect((lab.vip, REPOSITORY_PORT))
        client.sendall(REQUEST)
        assert client.recv(1000).startswith(b"HTTP/1.1 404 ")
        time.sleep(KNOWN_S)  # waits for a fact: the standby has the list of clients
        for pid in repository_pids(lab.nodes[FIRST]):
            os.kill(pid, signal.SIGSTOP)  # so that the answer does not come
        client.sendall(REQUEST)
        lab.kill_host(FIRST)
        killed_ns = time.monotonic_ns()

        with pytest.raises(ConnectionResetError):
            client.recv(1000)

        heard_ns = time.monotonic_ns()
    _, taken_ns = lab.prober.wait_for_answer(by=SECOND, after_ns=killed_ns, timeout_s=20)
    assert (heard_ns - taken_ns) / 1e9 < 5, "it waited for something else"
    with lab.client.call(socket.create_connection, (lab.vip, REPOSITORY_PORT), 20) as client:
        client.sendall(REQUEST)
        assert client.recv(1000).startswith(b"HTTP/1.1 404 ")
