"""What `check` makes of etcd's members: some releases are refused, and where the leader sits is told."""

import pytest

from leaseha.adapters.etcd import MemberStatus
from leaseha.runtime.doctor import judge


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


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]"])
def test_a_leader_on_this_machine_is_told(host):
    said = told(endpoint=f"http://{host}:2379", member_id=5, leader_id=5)

    if host == "[::1]" and not said:
        pytest.skip("this machine has no IPv6")
    ((grave, text),) = said
    assert not grave
    assert text.startswith(f"etcd http://{host}:2379 leads, and is on this machine")


@pytest.mark.parametrize("facts", [{"leader_id": 6}, {"endpoint": "http://192.0.2.1:2379", "leader_id": 5}])
def test_a_follower_here_and_a_leader_elsewhere_are_not(facts):
    assert told(**({"endpoint": "http://127.0.0.1:2379", "member_id": 5} | facts)) == []


def test_a_member_that_does_not_answer_and_one_that_complains_are_named():
    assert told(why="no answer in time") == [(False, "etcd http://192.0.2.1:2379: no answer in time")]
    assert told(alarms=("NOSPACE",)) == [(True, "etcd http://192.0.2.1:2379: alarm NOSPACE")]
