"""Each fault of the lab does what it says: to the frames, in which direction, and to the carrier."""

import socket
import time

import pytest

from leaseha.errors import LabError
from leaseha.lab.host import Host
from leaseha.lab.lab import Lab

pytestmark = pytest.mark.netns

PORT = 9
WITHIN_S = 10.0


def listener(host: Host, family: int = socket.AF_INET) -> socket.socket:
    made = host.socket(family, socket.SOCK_DGRAM)
    made.bind(("::" if family == socket.AF_INET6 else "0.0.0.0", PORT))
    made.settimeout(0.02)
    return made


def hear(source: Host, target: Host, network: str = "main") -> bool:
    """Whether what `source` sends to everybody reaches `target` in one of 20 tries, 20 ms apart."""
    everybody = str(source.port(network).network.ipv4.broadcast_address)
    with listener(target) as ear, source.socket(socket.AF_INET, socket.SOCK_DGRAM) as mouth:
        mouth.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        for number in range(20):
            try:
                mouth.sendto(bytes([number]), (everybody, PORT))
            except OSError:
                return False  # no carrier, so no way out
            try:
                ear.recv(16)
                return True
            except TimeoutError:
                continue
    return False


def talk(source: Host, target: Host, address: str, family: int = socket.AF_INET) -> None:
    """An honest exchange with address resolution; fails after 10 s."""
    with listener(target, family) as ear, source.socket(family, socket.SOCK_DGRAM) as mouth:
        mouth.settimeout(0.02)
        end = time.monotonic() + WITHIN_S
        while time.monotonic() < end:
            try:
                mouth.sendto(b"?", (address, PORT))
                data, sender = ear.recvfrom(16)
                ear.sendto(b"!", sender)
                assert data == b"?"
                assert mouth.recv(16) == b"!"
            except (TimeoutError, OSError):
                continue
            return
    pytest.fail(f"{target.name} does not answer {source.name} at {address}")


def test_hosts_talk_over_both_networks_and_both_families(bare):
    node1, node2, client = bare.host("node1"), bare.host("node2"), bare.client
    talk(node1, node2, node2.ipv4)
    talk(client, node1, node1.ipv6, socket.AF_INET6)
    talk(node1, node2, node2.port("etcd").ipv4)
    talk(client, bare.host("gateway"), "10.77.0.1")


def test_a_pulled_cable_loses_the_carrier_and_every_frame_of_that_host_alone(bare):
    node1, node2, client = bare.host("node1"), bare.host("node2"), bare.client
    node1.cut_carrier()
    assert not node1.carrier()
    assert node2.carrier()
    assert not hear(node1, client)
    assert not hear(client, node1)
    assert hear(client, node2)
    node1.heal()
    assert node1.carrier()
    talk(client, node1, node1.ipv4)


def test_a_silent_cut_keeps_the_carrier_and_loses_every_frame(bare):
    node1, client = bare.host("node1"), bare.client
    node1.cut_silent()
    assert node1.carrier()
    assert not hear(node1, client)
    assert not hear(client, node1)
    node1.heal()
    talk(client, node1, node1.ipv4)


@pytest.mark.parametrize(("direction", "out", "back"), [("out", False, True), ("in", True, False)])
def test_a_one_way_cut_loses_one_direction(bare, direction, out, back):
    node1, client = bare.host("node1"), bare.client
    node1.cut_one_way(direction)
    assert node1.carrier()
    assert hear(node1, client) is out
    assert hear(client, node1) is back
    node1.heal()
    assert hear(node1, client)
    assert hear(client, node1)


def test_faults_add_up_and_one_heal_takes_them_all_back(bare):
    node1, node2, client = bare.host("node1"), bare.host("node2"), bare.client
    node1.cut_from(node2)
    node1.cut_one_way("in")
    node1.cut_carrier()
    node1.heal()
    assert hear(node2, node1)
    assert hear(client, node1)


def test_two_hosts_can_be_deaf_to_each_other_in_one_direction(bare):
    node1, node2, node3 = (bare.host(name) for name in bare.node_names)
    node1.cut_from(node2)
    node1.cut_from(node3)
    assert not hear(node2, node1)
    assert not hear(node3, node1)
    assert hear(node1, node2)
    assert hear(bare.client, node1)
    node2.heal()
    assert hear(node2, node1)
    assert not hear(node3, node1)


def test_a_partition_separates_its_groups_and_no_one_else(bare):
    node1, node2, node3, client = *(bare.host(name) for name in bare.node_names), bare.client
    bare.partition(["node1"], ["node2", "node3"])
    assert not hear(node1, node2)
    assert not hear(node3, node1)
    assert not hear(node1, node3, "etcd")
    assert hear(node2, node3)
    assert hear(client, node1)
    assert hear(node2, client)
    bare.heal()
    assert hear(node1, node2)


def test_the_etcd_side_can_be_cut_alone(bare):
    node1, node2 = bare.host("node1"), bare.host("node2")
    bare.cut_etcd_side("node1")
    assert node1.carrier("eth1")
    assert not hear(node1, node2, "etcd")
    assert not hear(node2, node1, "etcd")
    assert hear(node1, node2)
    assert hear(node2, node1)


def test_without_a_network_of_its_own_etcd_cannot_be_cut_alone():
    with Lab(nodes=("a",), etcd_members=0) as lab, pytest.raises(LabError, match="separate_etcd_network"):
        lab.cut_etcd_side("a")


def test_a_dead_host_takes_its_processes_and_addresses_along_and_boots_without_them(bare):
    node1 = bare.host("node1")
    node1.add_address("10.77.0.50/32")
    with node1.popen(["sleep", "600"]) as child:
        bare.kill_host("node1")
        assert child.wait(10) == -9
    with pytest.raises(LabError, match="powered off"):
        node1.run(["true"])
    bare.boot_host("node1")
    assert node1.addresses() == ("10.77.0.11/24", "fd77::11/64", "fe80::b/64")
    talk(bare.client, node1, node1.ipv4)


def test_a_host_has_its_own_name_interfaces_and_sys(bare):
    code = "import os, socket; print(socket.gethostname(), sorted(os.listdir('/sys/class/net')))"
    done = bare.host("node2").run(["python3", "-c", code])
    assert done.stdout == "node2 ['eth0', 'eth1', 'lo']\n"


def test_a_host_that_is_not_there_is_named_with_those_that_are(bare):
    with pytest.raises(LabError, match="no host nobody: there are node1"):
        bare.host("nobody")
