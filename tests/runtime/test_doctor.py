"""What `check` makes of etcd's members: some releases are refused."""

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


def test_a_member_that_does_not_answer_and_one_that_complains_are_named():
    assert told(why="no answer in time") == [(False, "etcd http://192.0.2.1:2379: no answer in time")]
    assert told(alarms=("NOSPACE",)) == [(True, "etcd http://192.0.2.1:2379: alarm NOSPACE")]
