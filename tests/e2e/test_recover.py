"""Both nodes were lost: the last in-sync one goes on by itself, and another one only by an operator's word."""

import json
import os
from pathlib import Path

import pytest

from leaseha.lab.lab import LEASE
from tests.e2e.cluster import FIRST, SECOND, SOON_S, run_cli, wait_logged, wait_until
from tests.e2e.test_copies import level, objects, of_lease, pack, pair, put, serves, stores, written_set

pytestmark = [pytest.mark.netns, pytest.mark.lab]

RECOVER = ("recover", LEASE, "--accept-loss")


def test_the_last_member_goes_on_by_itself_and_another_only_when_the_loss_is_accepted(tmp_path: Path):
    with pair(tmp_path / "lab", ttl_max="3s") as lab:
        refused = run_cli(lab, SECOND, *RECOVER, "--yes")
        assert refused.returncode == 1, refused.stdout
        assert f"{FIRST} holds lease {LEASE} and gives signs of life" in refused.stdout

        # The second dies, then, alone with the only copy, the first; the second returns first.
        lab.kill_host(SECOND)
        status, late = put(lab, os.urandom(1000))
        assert status == 200
        before = stores(lab, FIRST)
        wait_until("one copy", lambda: written_set(lab) == {before[FIRST]})
        lab.kill_host(FIRST)
        lab.boot_host(SECOND)
        lab.start_node(SECOND)
        wait_logged(lab, SECOND, "nobody holds the lease", "not in-sync", timeout_s=60)
        told = run_cli(lab, SECOND, "status")
        assert told.returncode == 1
        assert f"NOBODY MAY TAKE IT. All that was acknowledged is on: {FIRST} (" in told.stdout
        assert f"leaseha recover {LEASE} --accept-loss --node {SECOND}" in told.stdout
        assert f"all that was acknowledged is on {FIRST} (" in run_cli(lab, SECOND, "check").stdout
        assert of_lease(lab, SECOND)["role"] == "STANDBY"
        assert run_cli(lab, SECOND, "recover", LEASE, "--yes").returncode == 2
        assert run_cli(lab, SECOND, *RECOVER).returncode == 2  # nobody to ask

        # With the member back nothing is lost.
        lab.boot_host(FIRST)
        lab.start_node(FIRST)
        serves(lab, FIRST)
        level(lab, FIRST)
        assert pack(lab, SECOND, late).exists()

        # The same again, but the first one is gone for good.
        lab.kill_host(SECOND)
        status, lost = put(lab, os.urandom(1000))
        assert status == 200
        wait_until("one copy", lambda: written_set(lab) == {before[FIRST]})
        lab.kill_host(FIRST)
        lab.boot_host(SECOND)
        lab.start_node(SECOND)
        lab.nodes[SECOND].wait_for("it looks", lambda s: s["leases"][LEASE]["claim"] is not None, SOON_S)
        done = run_cli(lab, SECOND, *RECOVER, "--yes", "--json", timeout_s=120)
        assert done.returncode == 0, done.stdout
        result = json.loads(done.stdout[done.stdout.index("{") :])
        assert result["holder"] == SECOND
        assert written_set(lab) == {before[SECOND]}
        wait_logged(lab, SECOND, "taken with a loss that was accepted")
        moves = json.loads(run_cli(lab, SECOND, "history", "--json").stdout)
        assert f"{SECOND} goes on without {FIRST}" in moves[-1]["reason"]

        # The old member comes back: it is levelled, and what only it has is put aside there.
        status, fresh = put(lab, os.urandom(1000))
        assert status == 200
        lab.boot_host(FIRST)
        lab.start_node(FIRST)
        level(lab, SECOND)
        assert objects(lab, FIRST) == objects(lab, SECOND)
        assert pack(lab, FIRST, fresh).exists()
        assert not pack(lab, FIRST, lost).exists()
        assert list((lab.data(FIRST) / ".leaseha" / "quarantine").rglob(lost))
