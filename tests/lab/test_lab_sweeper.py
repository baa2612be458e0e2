"""The sweeper follows many VIPs that are moved by hand, and sees when two hosts answer for one."""

import socket
import time
from collections.abc import Iterator
from ipaddress import IPv4Address

import pytest

from leaseha.errors import LabError
from leaseha.lab.frames import arp_request
from leaseha.lab.lab import Lab
from leaseha.lab.sweeping import Sweep, start_sweep

pytestmark = pytest.mark.netns

VIPS = tuple(f"10.77.0.{number}" for number in range(50, 70))


@pytest.fixture
def sweep(bare: Lab) -> Iterator[Sweep]:
    hosts = [bare.host(name) for name in bare.node_names]
    with start_sweep(bare.client, VIPS, hosts, bare.directory / "sweeper.log", direct_ms=100.0) as made:
        yield made.wait_ready()
    for host in hosts:
        for vip in VIPS:
            if f"{vip}/32" in host.addresses():
                host.remove_address(f"{vip}/32")


def announce(lab: Lab, name: str) -> None:
    """As a kernel with arp_notify would: the client hears who has the VIPs now."""
    host = lab.host(name)
    mac = bytes.fromhex(host.mac.replace(":", ""))
    sender = host.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    sender.bind(("eth0", 0))
    for vip in VIPS:
        sender.send(arp_request(mac, IPv4Address(vip), IPv4Address(vip)))
    sender.close()


def test_every_vip_is_seen_moving_and_by_whom(bare: Lab, sweep: Sweep):
    for vip in VIPS:
        bare.host("node1").add_address(f"{vip}/32")
    began_ns = time.monotonic_ns()
    first = sweep.wait_all(range(len(VIPS)), began_ns, 10.0)
    assert {who for _, who in first.values()} == {"node1"}

    moved_ns = time.monotonic_ns()
    for vip in VIPS:
        bare.host("node1").remove_address(f"{vip}/32")
        bare.host("node2").add_address(f"{vip}/32")
    announce(bare, "node2")
    second = sweep.wait_all(range(len(VIPS)), moved_ns, 10.0, other_than="node1")

    assert {who for _, who in second.values()} == {"node2"}
    assert sweep.two_answering(hole_ms=300.0) == {}


def test_two_hosts_that_answer_for_one_vip_are_seen_and_a_vip_of_nobody_is_missed(bare: Lab, sweep: Sweep):
    for name in ("node1", "node2"):
        bare.host(name).add_address(f"{VIPS[0]}/32")
    began_ns = time.monotonic_ns()
    sweep.wait_all([0], began_ns, 10.0)
    with pytest.raises(LabError, match="1 of 2 VIPs do not answer"):
        sweep.wait_all([0, 1], began_ns, 1.0)

    assert set(sweep.two_answering(hole_ms=600.0)) == {0}
