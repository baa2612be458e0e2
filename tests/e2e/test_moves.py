"""Every way in which a lease moves, and every cut: one node answers before and after, and never two."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from leaseha.lab.lab import LEASE, Lab
from tests.e2e.cluster import (
    FIRST,
    NODES,
    SECOND,
    THIRD,
    cluster,
    history,
    holding,
    log_of,
    never_two,
    only_one_answers,
    run_cli,
    told,
    wait_logged,
    whole,
)

pytestmark = [pytest.mark.netns, pytest.mark.lab]

VIPS = ("10.77.0.50/24", "fd77::50/64")


@pytest.fixture(scope="module")
def _lab(tmp_path_factory) -> Iterator[Lab]:
    folder = tmp_path_factory.mktemp("moves")
    with cluster(folder, vips=VIPS, separate_etcd_network=True) as lab:
        yield lab


@pytest.fixture
def lab(_lab: Lab) -> Lab:
    """All is well, the preferred node holds, the others stand by."""
    whole(_lab)
    return _lab


def moved(lab: Lab, asked_on: str, count: int = 1) -> list[dict]:
    """The latest moves by the word of etcd."""
    return history(lab, asked_on)[-count:]


def taken(lab: Lab, began_ns: int, by: str) -> None:
    """Another node answers on both VIPs, IPv4 and IPv6, under one claim."""
    for subject in range(len(VIPS)):
        lab.prober.wait_for_answer(by=by, after_ns=began_ns, subject=subject, timeout_s=40)
    holding(lab, by)


def test_the_status_names_holder_token_time_and_every_candidate_with_its_reason(lab: Lab):
    found = told(lab, SECOND, "status")
    lease = found["leases"][LEASE]
    ours = lab.nodes[FIRST].status()["leases"][LEASE]

    assert (lease["holder"], lease["claim"], lease["holder_silent"]) == (FIRST, "held", False)
    assert lease["token"] == ours["token"] > 0
    assert abs(lease["since_ms"] - time.time_ns() // 1_000_000) < 600_000
    assert lease["deadline_left_s"] is None
    assert 0 < ours["deadline_left_s"] <= 1.0
    assert [row["node"] for row in lease["candidates"]] == list(NODES)
    assert [row["priority"] for row in lease["candidates"]] == [100, 90, 80]
    assert [row["holds"] for row in lease["candidates"]] == [True, False, False]
    assert all("healthy, in-sync" in row["why"] for row in lease["candidates"])
    only_one_answers(lab, FIRST)


def test_a_killed_agent_is_replaced_and_gets_its_lease_back_after_the_hold_down(lab: Lab):
    with never_two(lab) as began_ns:
        lab.nodes[FIRST].kill()
        taken(lab, began_ns, SECOND)
        only_one_answers(lab, SECOND)
        lab.start_node(FIRST)
        holding(lab, FIRST)

        failover, failback = moved(lab, THIRD, 2)
        assert (failover["kind"], failover["from_node"], failover["to_node"]) == ("failover", FIRST, SECOND)
        assert failover["reason"] == f"the agent of {FIRST} died, and its guard let go of everything"
        assert (failback["kind"], failback["from_node"], failback["to_node"]) == ("failback", SECOND, FIRST)
        assert failback["token"] > failover["token"]
        only_one_answers(lab, FIRST)


def test_a_hangup_reloads_and_moves_nothing(lab: Lab):
    token, logged = holding(lab, FIRST)["token"], len(log_of(lab, FIRST))
    with never_two(lab):
        for pid in lab.nodes[FIRST].pids():
            os.kill(pid, signal.SIGHUP)
        wait_logged(lab, FIRST, "reloaded in", after=logged)
        only_one_answers(lab, FIRST)

    assert lab.nodes[FIRST].running
    assert holding(lab, FIRST)["token"] == token


def test_an_agent_that_is_stopped_releases_the_lease_and_exits_with_0(lab: Lab):
    with never_two(lab) as began_ns:
        lab.nodes[FIRST].term()
        taken(lab, began_ns, SECOND)
        assert lab.nodes[FIRST].wait() == 0

        (release,) = moved(lab, SECOND)
        assert (release["kind"], release["to_node"]) == ("release", SECOND)
        assert release["reason"] == f"released by {FIRST}: stop"
        assert lab.host(FIRST).addresses() == tuple(a for a in lab.host(FIRST).addresses() if ".50/" not in a)
        only_one_answers(lab, SECOND)


def test_a_switchover_goes_to_the_named_node_and_prints_holder_gap_and_trace(lab: Lab):
    with never_two(lab) as began_ns:
        done = told(lab, SECOND, "switchover", "--to", THIRD)

        assert (done["from_node"], done["holder"]) == (FIRST, THIRD)
        assert done["gap_ms"] >= 0
        # The preferred node may have it back by now: the move is found by its token.
        (move,) = (one for one in history(lab, SECOND) if one["token"] == done["token"])
        assert (move["kind"], move["trace_id"]) == ("switchover", done["trace_id"])
        lab.prober.wait_for_answer(by=THIRD, after_ns=began_ns)


def test_a_switchover_without_a_name_goes_to_the_best_other_candidate(lab: Lab):
    with never_two(lab) as began_ns:
        done = told(lab, FIRST, "switchover")

        assert (done["from_node"], done["holder"]) == (FIRST, SECOND)
        lab.prober.wait_for_answer(by=SECOND, after_ns=began_ns)


def test_a_switchover_to_a_node_that_is_no_candidate_is_refused_with_the_reason(lab: Lab):
    lab.nodes[THIRD].stop()
    token = lab.nodes[FIRST].status()["leases"][LEASE]["token"]

    done = run_cli(lab, SECOND, "switchover", "--to", THIRD, "--timeout", "20")

    assert done.returncode == 1
    assert done.stdout.count("\n") == 1
    assert f"the holder refused: {THIRD} is no candidate" in done.stdout
    assert lab.nodes[FIRST].status()["leases"][LEASE]["token"] == token


def test_a_switchover_to_the_holder_itself_is_refused(lab: Lab):
    done = run_cli(lab, SECOND, "switchover", "--to", FIRST)

    assert (done.returncode, done.stdout) == (1, f"leaseha: {FIRST} holds lease {LEASE} already\n")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--to", "node9"), "--to = node9: not among the nodes"),
        (("nolease",), "there is no such lease"),
        (("--timeout", "0"), "--timeout = 0"),
    ],
)
def test_a_switchover_of_what_does_not_exist_is_bad_input(lab: Lab, arguments, words):
    done = run_cli(lab, SECOND, "switchover", *arguments)

    assert done.returncode == 2
    assert words in done.stdout
    assert done.stdout.count("\n") == 1


def test_a_node_without_carrier_lets_go_at_once(lab: Lab):
    with never_two(lab) as began_ns:
        lab.host(FIRST).cut_carrier("main")
        taken(lab, began_ns, SECOND)

        (release,) = moved(lab, SECOND)
        assert release["kind"] == "release"
        assert "carrier" in release["reason"]
        rows = told(lab, SECOND, "status")["leases"][LEASE]["candidates"]
        (row,) = (row for row in rows if row["node"] == FIRST)
        assert not row["candidate"]
        assert "carrier" in row["why"]
        only_one_answers(lab, SECOND)
        lab.heal()
        holding(lab, FIRST)


def cut_all(lab: Lab, how: str) -> None:
    """The same fault on every cable of the first node; etcd's first, else it may still let go in good order."""
    host = lab.host(FIRST)
    for network in ("etcd", "main"):
        match how:
            case "carrier":
                host.cut_carrier(network)
            case "silent":
                host.cut_silent(network)
            case "in" | "out":
                host.cut_one_way(how, network)


@pytest.mark.parametrize("how", ["carrier", "silent", "in", "out"])
def test_a_node_that_is_cut_off_is_replaced_and_comes_back_when_healed(lab: Lab, how: str):
    after = len(lab.nodes[FIRST].log.read_text())
    with never_two(lab) as began_ns:
        cut_all(lab, how)
        taken(lab, began_ns, SECOND)
        wait_logged(lab, FIRST, "no renewal was proven by the deadline: stop serving", after=after)
        lab.heal()
        holding(lab, FIRST)

        failover, failback = moved(lab, THIRD, 2)
        assert (failover["kind"], failover["to_node"]) == ("failover", SECOND)
        assert (failback["kind"], failback["to_node"]) == ("failback", FIRST)
        only_one_answers(lab, FIRST)


def test_a_host_that_loses_power_is_replaced_and_comes_back_when_it_boots(lab: Lab):
    with never_two(lab) as began_ns:
        lab.kill_host(FIRST)
        taken(lab, began_ns, SECOND)
        lab.boot_host(FIRST)
        lab.start_node(FIRST)
        holding(lab, FIRST)
        only_one_answers(lab, FIRST)


def test_a_node_that_loses_only_etcd_stops_serving_by_its_deadline(lab: Lab):
    after = len(lab.nodes[FIRST].log.read_text())
    with never_two(lab) as began_ns:
        lab.cut_etcd_side(FIRST)
        wait_logged(lab, FIRST, "no renewal was proven by the deadline: stop serving", after=after)
        taken(lab, began_ns, SECOND)
        only_one_answers(lab, SECOND)
        lab.heal()
        holding(lab, FIRST)


def test_no_move_is_left_out_of_the_history_of_etcd_and_of_the_disks(lab: Lab):
    moves = history(lab, FIRST)
    spent = subprocess.run(
        [sys.executable, "-c", "import sys,glob;print(''.join(open(f).read() for f in sys.argv[1:]))"]
        + [str(path) for path in lab.directory.glob("*.state/history.jsonl")],
        capture_output=True,
        text=True,
        check=True,
    ).stdout

    tokens = [move["token"] for move in moves]
    assert tokens == sorted(set(tokens))
    assert [move["to_node"] for move in moves[:-1]] == [move["from_node"] for move in moves[1:]]
    for move in moves:
        assert move["answered"]
        assert str(move["token"]) in spent
