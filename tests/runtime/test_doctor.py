"""What `check` makes of etcd's members: some releases are refused."""

import asyncio

import pytest

from leaseha.adapters.etcd import MemberStatus
from leaseha.config import load
from leaseha.errors import StoreDenied
from leaseha.runtime.doctor import judge, leader_findings
from leaseha.runtime.leader import Nodes


def told(**facts) -> list[tuple[bool, str]]:
    """Grave or not, and the sentence."""
    facts = {"endpoint": "http://192.0.2.1:2379", "version": "3.5.16"} | facts
    return [(finding.grave, finding.text) for finding in judge(MemberStatus(**facts))]


@pytest.mark.parametrize("version", ["3.5.0", "3.5.1", "3.5.2"])
def test_an_etcd_whose_members_may_come_to_differ_is_refused(version):
    ((grave, text),) = told(version=version)

    assert grave
    assert "use 3.5.3 or later" in text


@pytest.mark.parametrize("version", ["3.4.31", "3.5.3", "3.5.16", "3.6.0"])
def test_nothing_is_said_of_a_good_release(version):
    assert told(version=version) == []


def test_an_old_release_is_a_warning():
    ((grave, text),) = told(version="3.3.27")

    assert not grave
    assert "older than 3.4" in text


def test_a_member_that_does_not_answer_and_one_that_complains_are_named():
    assert told(why="no answer in time") == [(False, "etcd http://192.0.2.1:2379: no answer in time")]
    assert told(alarms=("NOSPACE",)) == [(True, "etcd http://192.0.2.1:2379: alarm NOSPACE")]


class Denying:
    """An etcd whose user may see nothing but leaseha's keys."""

    async def peers(self, timeout_s=1.0):
        raise StoreDenied("permission denied")

    async def foreign_key(self, root, timeout_s=1.0):
        raise StoreDenied("permission denied")


def test_a_user_that_may_not_look_for_keys_of_others_is_a_warning_and_no_trouble_with_etcd(tmp_path):
    path = tmp_path / "leaseha.toml"
    path.write_text(
        """
cluster = "c"
etcd.endpoints = ["http://127.0.0.1:2379"]
etcd.keep_leader_away = true
lease.l.vips = ["10.0.0.50/24"]
lease.l.priority = { n1 = 100 }
node.name = "n1"
node.interface = "lo"
""",
        encoding="utf-8",
    )
    (found,) = asyncio.run(leader_findings(load(path, environ={}), Denying(), (), Nodes("n1", {}, {})))

    assert not found.grave
    assert "whether others use this etcd is unknown (permission denied)" in found.text
