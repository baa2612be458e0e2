"""Both nodes were lost: the last in-sync one goes on by itself, and another one only by an operator's word."""

import json
import os
from pathlib import Path

import pytest

from leaseha.lab.lab import LEASE, Lab
from tests.e2e.cluster import FIRST, SECOND, run_cli, wait_logged, wait_until
from tests.e2e.test_copies import level, objects, of_lease, pack, pair, put, serves, stores, written_set

pytestmark = [pytest.mark.netns, pytest.mark.lab]

RECOVER = ("recover", LEASE, "--accept-loss")


def stands_alone(lab: Lab, back: str, member: str) -> None:
    """Only a node that has not everything is back: it does not take the lease, and says why."""
    lab.boot_host(back)
    lab.start_node(back)
    lab.nodes[back].wait_for("it is stranded", lambda s: s["leases"][LEASE]["stranded"], 60)
    told = run_cli(lab, back, "status")
    assert told.returncode == 1
    assert f"NOBODY MAY TAKE IT. All that was acknowledged is on: {member} (" in told.stdout
    assert f"leaseha recover {LEASE} --accept-loss --node {back}" in told.stdout
    assert of_lease(lab, back)["role"] == "STANDBY"


def test_the_last_member_goes_on_by_itself_and_another_only_when_the_loss_is_accepted(tmp_path: Path):
    with pair(tmp_path / "lab", ttl_max="3s") as lab:
        refused = run_cli(lab, SECOND, *RECOVER, "--yes")
        assert refused.returncode == 1, refused.stdout
        assert f"{FIRST} holds lease {LEASE} and gives signs of life" in refused.stdout

        # The standby dies; what comes then is on the first alone, which dies too. Only the standby returns.
        before = stores(lab, FIRST)
        lab.kill_host(SECOND)
        status, lost = put(lab, os.urandom(1000))
        assert status == 200
        assert written_set(lab) == {before[FIRST]}
        lab.kill_host(FIRST)
        stands_alone(lab, SECOND, FIRST)
        gone = f"all that was acknowledged is on {FIRST} (not running)"  # once etcd has forgotten its session
        wait_until("check says so", lambda: gone in run_cli(lab, SECOND, "check").stdout)

        # The first is gone for good, says someone who means it.
        assert run_cli(lab, SECOND, "recover", LEASE, "--yes").returncode == 2
        done = run_cli(lab, SECOND, *RECOVER, "--yes", "--json", timeout_s=120)
        assert done.returncode == 0, done.stdout
        assert json.loads(done.stdout[done.stdout.index("{") :])["holder"] == SECOND
        assert written_set(lab) == {before[SECOND]}
        wait_logged(lab, SECOND, "taken with a loss that was accepted")
        moves = json.loads(run_cli(lab, SECOND, "history", "--json").stdout)
        assert f"{SECOND} goes on without {FIRST}" in moves[-1]["reason"]
        status, fresh = put(lab, os.urandom(1000))
        assert status == 200

        # Now the second is the last member. What was one before is none, until that is back and has filled it.
        lab.kill_host(SECOND)
        stands_alone(lab, FIRST, SECOND)
        lab.boot_host(SECOND)
        lab.start_node(SECOND)
        serves(lab, SECOND)
        wait_until("the old member is level", lambda: written_set(lab) == set(before.values()))
        level(lab, SECOND)
        assert objects(lab, FIRST) == objects(lab, SECOND)
        assert pack(lab, FIRST, fresh).exists()
        assert not pack(lab, FIRST, lost).exists()
        assert list((lab.data(FIRST) / ".leaseha" / "quarantine").rglob(lost))
