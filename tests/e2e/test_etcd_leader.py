"""etcd's leader on the holder's host: told by status and check, and moved away where that is wanted."""

import pytest

from leaseha.lab.etcd import EtcdMember
from leaseha.lab.lab import LEASE, Lab
from tests.e2e.cluster import FIRST, SECOND, SOON_S, cluster, holding, never_two, run_cli, told, wait_logged

pytestmark = [pytest.mark.netns, pytest.mark.lab]

WITNESS = "witness"
SETTINGS = {
    "session": {"ttl": "2s"},
    "etcd": {"keep_leader_away": True},
    "lease": {LEASE: {"failback": "off"}},
}


def member_on(lab: Lab, host: str) -> EtcdMember:
    return next(member for member in lab.etcd.members if member.host.name == host)


def test_a_holder_moves_etcds_leader_off_its_host_and_its_death_then_costs_no_election(tmp_path):
    options = {
        "nodes": (FIRST, SECOND),
        "etcd_on": (FIRST, SECOND, WITNESS),
        "etcd_folder": tmp_path / "etcd",
    }
    with cluster(tmp_path / "lab", settings=SETTINGS, **options) as lab:
        assert list((tmp_path / "etcd").iterdir()), "etcd's data are on the disk"
        lab.etcd.move_leader(member_on(lab, FIRST))
        warned = run_cli(lab, SECOND, "check").stdout
        assert f"is on the host of {FIRST}, which holds {LEASE}: its death costs an election" in warned

        wait_logged(lab, FIRST, "etcd's leadership moved from", timeout_s=SOON_S)
        assert lab.etcd.wait_leader() is not member_on(lab, FIRST)
        assert "off the holder's host" in told(lab, FIRST, "status")["etcd_leader"]["note"]
        rows = {row["endpoint"]: row["node"] for row in told(lab, FIRST, "status")["etcd"]}
        assert rows == dict(zip(lab.etcd.endpoints, (FIRST, SECOND, None), strict=True))

        leader = lab.etcd.wait_leader()
        with never_two(lab):
            lab.kill_host(FIRST)
            holding(lab, SECOND)
        assert lab.etcd.wait_leader() is leader
