"""Agents of the lab are configured, signalled and found again; the lab leaves nothing behind."""

import pathlib
import signal
import sys
import threading
import time
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leaseha.errors import LabError
from leaseha.lab.lab import LEASE, Lab
from leaseha.lab.nodes import merged, toml

# Stands in for an agent with a child that outlives it; what the lab does to processes is the same.
STAND_IN = (
    sys.executable,
    "-c",
    (
        "import subprocess, sys, time\n"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], start_new_session=True)\n"
        "print('up', flush=True)\n"
        "time.sleep(600)\n"
    ),
)


def state_of(pid: int) -> str:
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def until(fact, what: str) -> None:
    end = time.monotonic() + 15
    while not fact():
        assert time.monotonic() < end, what
        time.sleep(0.01)  # waits for a fact: the caller's


def stand_in(lab: Lab, name: str = "node1"):
    agent = lab.node(name)
    agent.start(program=STAND_IN)
    until(lambda: "up" in agent.tail() and len(agent.pids()) == 2, "the stand-in and its child run")
    return agent


@pytest.fixture
def lab():
    with Lab(nodes=("node1", "node2"), etcd_members=0) as lab:
        yield lab


@pytest.mark.netns
def test_killing_the_agent_leaves_what_it_started_and_killing_the_tree_does_not(lab):
    agent = stand_in(lab)
    agent.kill()
    assert not agent.running
    (child,) = agent.pids()
    agent.kill_tree()
    until(lambda: state_of(child) in {"", "Z"}, "the child is gone")
    assert agent.wait() == -signal.SIGKILL


@pytest.mark.netns
def test_the_agent_freezes_alone_or_with_all_that_came_of_it(lab):
    agent = stand_in(lab)
    (child,) = set(agent.pids()) - {agent.pid}
    agent.freeze()
    until(lambda: state_of(agent.pid) == "T", "the agent is stopped")
    assert state_of(child) in {"R", "S"}
    agent.freeze(tree=True)
    until(lambda: state_of(child) == "T", "the child is stopped too")
    agent.thaw(tree=True)
    until(lambda: "T" not in {state_of(pid) for pid in agent.pids()}, "all go on")
    assert agent.stop() == -signal.SIGTERM


@pytest.mark.netns
def test_a_dead_host_takes_its_agent_along(lab):
    agent = stand_in(lab)
    lab.kill_host("node1")
    assert not agent.running
    assert agent.pids() == ()
    lab.boot_host("node1")
    stand_in(lab)


@pytest.mark.netns
def test_an_agent_that_ends_is_reported_with_its_log(lab):
    agent = lab.node("node1")
    agent.start(program=(sys.executable, "-c", "print('what went wrong'); exit(3)"))
    with pytest.raises(LabError, match=r"(?s)node1 has ended.*what went wrong"):
        agent.wait_ready()
    assert agent.wait() == 3
    with pytest.raises(LabError, match="not running"):
        agent.term()


@pytest.mark.netns
def test_settings_of_the_lab_and_of_the_node_are_laid_over_each_other():
    with Lab(
        nodes=("a", "b"), etcd_members=0, settings={"session": {"ttl": "2s", "renew_every": "1s"}}
    ) as lab:
        agent = lab.node("b", session={"renew_every": None}, lease={LEASE: {"failback": "off"}})
        read = tomllib.loads(agent.config.read_text())
        assert read["session"] == {"ttl": "2s"}
        assert read["node"] == {"name": "b", "interface": "eth0", "address": "10.77.0.12"}
        lease = {"vips": ["10.77.0.50/24"], "priority": {"a": 100, "b": 90}, "failback": "off"}
        assert read["lease"] == {LEASE: lease}


@pytest.mark.netns
@pytest.mark.lab
def test_a_real_agent_becomes_ready_holds_the_vip_and_stops():
    with Lab(nodes=("node1",), settings={"session": {"ttl": "2s"}}) as lab:
        lab.measure()
        (agent,) = lab.start_nodes()
        assert lab.prober.wait_for_answer(by="node1", timeout_s=30)
        status = agent.wait_for("this node holds", lambda s: s["leases"][LEASE]["holder"] == "node1")
        assert status["node"] == "node1"
        with pytest.raises(LabError, match="is running"):
            agent.start()
        assert agent.stop() == 0
        lab.settle()
        assert lab.monitor.holders(time.monotonic_ns()) == []


def traces_of_the_lab() -> tuple[set[str], set[str], int]:
    processes = {entry.name for entry in pathlib.Path("/proc").iterdir() if entry.name.isdigit()}
    living = {pid for pid in processes if state_of(int(pid)) not in {"", "Z"}}
    names = {entry.name for entry in pathlib.Path("/run/netns").iterdir()}
    return living, names, sum(1 for _ in pathlib.Path("/proc/self/fd").iterdir())


@pytest.mark.netns
@pytest.mark.lab
def test_nothing_is_left_of_a_lab_that_ended_in_an_error():
    before = traces_of_the_lab()
    places = []

    def go_wrong():
        with Lab(nodes=("node1",)) as lab:
            lab.measure()
            stand_in(lab)
            lab.host("node1").popen(["sleep", "600"])
            places.extend([lab.directory, lab.etcd.members[0].data.parent])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        go_wrong()
    assert traces_of_the_lab() == before
    assert not any(place.exists() for place in places)
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("netns-lab")] == []


@pytest.mark.netns
def test_a_directory_that_was_given_is_kept(tmp_path):
    with Lab(nodes=("node1",), etcd_members=0, directory=tmp_path / "kept") as lab:
        lab.node("node1")
    assert (tmp_path / "kept" / "node1.toml").exists()


@pytest.mark.netns
def test_two_labs_can_stand_side_by_side():
    with Lab(nodes=("node1",), etcd_members=0) as one, Lab(nodes=("node1",), etcd_members=0) as other:
        one.host("node1").add_address("10.77.0.50/32")
        assert "10.77.0.50/32" not in other.host("node1").addresses()


def test_laying_over_replaces_values_joins_tables_and_takes_out_what_is_none():
    base = {"a": 1, "t": {"x": 1, "y": 2}}
    assert merged(base, {"t": {"y": 3, "z": {"q": 1}}, "a": None}) == {"t": {"x": 1, "y": 3, "z": {"q": 1}}}
    assert base == {"a": 1, "t": {"x": 1, "y": 2}}


texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=8)
values = st.booleans() | st.integers(-(2**63), 2**63 - 1) | texts | st.lists(texts, max_size=3)
tables = st.recursive(
    st.dictionaries(texts, values, max_size=3),
    lambda inner: st.dictionaries(texts, values | inner, max_size=3),
)


@given(tables)
def test_what_is_written_as_toml_reads_back_the_same(table):
    assert tomllib.loads(toml(table)) == table
