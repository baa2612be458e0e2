"""What an unlucky operator meets: one clear line each, the right exit code, and never a traceback."""

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from leaseha.lab import kernel
from leaseha.lab.lab import LEASE, Lab
from leaseha.lab.nodes import AgentNode
from tests.e2e.cluster import (
    FIRST,
    SECOND,
    SOON_S,
    cluster,
    log_of,
    run_cli,
    wait_logged,
    wait_until,
)

pytestmark = [pytest.mark.netns, pytest.mark.lab]

MS_RDONLY = 1
WITHOUT_RIGHTS = """
import ctypes, os, sys
drop = ctypes.CDLL(None).prctl
assert all(drop(24, number, 0, 0, 0) == 0 for number in map(int, sys.argv[1].split(",")))
os.execv(sys.executable, [sys.executable, "-m", "leaseha", *sys.argv[2:]])
"""


@pytest.fixture(scope="module")
def _lab(tmp_path_factory) -> Iterator[Lab]:
    folder = tmp_path_factory.mktemp("unlucky")
    with cluster(folder, nodes=(FIRST, SECOND), extra_hosts=("twin",), start=False, measure=False) as lab:
        yield lab


@pytest.fixture
def lab(_lab: Lab) -> Iterator[Lab]:
    """Agents that do not run, and an etcd that does; ended with the test, however that ends."""
    if not _lab.etcd.members[0].running:
        _lab.etcd.start()
    for name in (FIRST, SECOND):
        _lab.node(name).configure(_lab.config_for(name))
    yield _lab
    for agent in _lab.nodes.values():
        if agent.running:
            assert agent.stop() == 0


def serving(status: dict) -> bool:
    """The lease is held and served by the node whose status this is."""
    return status["leases"][LEASE]["role"] == "HOLDER"


def refused(lab: Lab, code: int = 1, **settings) -> str:
    """The last line of an agent that does not start; the only one of `leaseha:`."""
    after = len(log_of(lab, FIRST)) if lab.nodes[FIRST].log.exists() else 0
    agent = lab.start_node(FIRST, **settings)
    assert agent.wait() == code
    said = log_of(lab, FIRST)[after:]
    lines = [line for line in said.splitlines() if line.startswith("leaseha: ")]
    assert len(lines) == 1, said
    assert said.rstrip().endswith(lines[0])
    return lines[0]


def test_without_etcd_the_agent_says_so_waits_and_serves_as_soon_as_it_is_there(lab: Lab):
    lab.etcd.kill()
    agent = lab.start_node(FIRST)
    line = wait_logged(lab, FIRST, "has given no answer yet, trying on")

    assert "http://10.77.0.21:2379" in line
    assert "Connection refused" in line or "Failed to connect" in line
    assert agent.get("/livez")[0] == 200
    assert agent.get("/readyz") == (503, "the session is not proven\n")
    done = run_cli(lab, FIRST, "status")
    assert done.returncode == 1
    assert "NO HOLDER (unknown: etcd has not answered yet)" in done.stdout
    assert "has no session in etcd" in done.stdout
    assert log_of(lab, FIRST).count("has given no answer") == 1

    lab.etcd.start()
    agent.wait_for("it serves", serving, SOON_S)
    assert "etcd answers again" in log_of(lab, FIRST)


def test_a_state_directory_that_is_full_costs_lines_of_history_and_no_service(lab: Lab):
    folder = lab.directory / "small"
    folder.mkdir()
    mounted = lab.host(FIRST).run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)])
    assert mounted.returncode == 0, mounted.stdout
    # The store keeps its identity, else no holder would have admitted it.
    store = (lab.directory / f"{FIRST}.state/store-id").read_text()
    lab.host(FIRST).call((folder / "store-id").write_text, store)
    lab.host(FIRST).call(fill, folder / "filler")
    after = len(log_of(lab, FIRST))
    agent = lab.start_node(FIRST, state_dir=str(folder))
    agent.wait_for("it serves", serving, SOON_S)

    line = wait_logged(lab, FIRST, "WARNING", "history", "No space left on device", after=after)
    assert "lost so far" in line
    assert agent.stop() == 0
    lab.host(FIRST).call((folder / "store-id").unlink)
    lab.host(FIRST).call(fill, folder / "more")
    assert "No space left on device" in refused(lab, state_dir=str(folder))


def fill(path: Path) -> None:
    """Write until the disk is full."""
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def test_a_wrong_endpoint_is_named_and_a_stop_is_quick_all_the_same(lab: Lab):
    after = len(log_of(lab, FIRST))
    agent = lab.node(FIRST, etcd={"endpoints": ["http://10.77.0.99:2379"]})
    with ThreadPoolExecutor() as beside:
        checking = beside.submit(run_cli, lab, FIRST, "check", "--json")
        agent.start()
        wait_logged(lab, FIRST, "etcd (http://10.77.0.99:2379) has given no answer yet", after=after)
        asked = time.monotonic()

        assert agent.stop() == 0
        assert time.monotonic() - asked < 5
        done = checking.result()
    findings = json.loads(done.stdout)
    assert (done.returncode, findings["ok"]) == (1, False)
    assert any(one["grave"] and "http://10.77.0.99:2379" in one["text"] for one in findings["findings"])


def test_a_port_that_is_in_use_is_named(lab: Lab):
    listener = lab.host(FIRST).socket()
    with listener:
        listener.bind(("127.0.0.1", 9999))
        listener.listen()

        assert "status.listen = 127.0.0.1:9999 cannot be listened on" in refused(
            lab, status={"listen": "127.0.0.1:9999"}
        )


@pytest.mark.parametrize(
    ("numbers", "names"),
    [("12", "CAP_NET_ADMIN"), ("13", "CAP_NET_RAW"), ("12,13", "CAP_NET_ADMIN and CAP_NET_RAW")],
)
def test_an_account_that_may_not_set_addresses_is_told_what_it_lacks(lab: Lab, numbers, names):
    command = [sys.executable, "-c", WITHOUT_RIGHTS, numbers]
    config = str(lab.nodes[FIRST].config)
    done = lab.host(FIRST).run([*command, "run", "--config", config])

    assert done.returncode == 1
    line = f"this account lacks {names}: run the agent as root, or give it both (see deploy/)"
    assert done.stdout.splitlines()[-1] == f"leaseha: {line}"
    assert line in lab.host(FIRST).run([*command, "check", "--config", config]).stdout


@pytest.mark.parametrize("key", ["runtime_dir", "state_dir"])
@pytest.mark.parametrize(
    ("kind", "words"), [("file", "is no directory"), ("read-only", "Read-only file system")]
)
def test_a_directory_that_cannot_be_made_is_named_with_the_key(lab: Lab, tmp_path: Path, key, kind, words):
    place = tmp_path / "x"
    if kind == "file":
        place.write_text("in the way")
    else:
        lab.host(FIRST).call(kernel.mount, "none", str(tmp_path), "tmpfs", MS_RDONLY)

    line = refused(lab, **{key: str(place)})

    assert key in line
    assert str(place) in line
    assert words in line


def test_a_repository_whose_directory_cannot_be_written_is_named_by_check_and_by_the_running_agent(
    lab: Lab, tmp_path: Path
):
    """The agent runs on: the node may be needed for other leases."""
    lab.host(FIRST).call(kernel.mount, "none", str(tmp_path), "tmpfs", MS_RDONLY)
    agent = lab.start_node(FIRST, lease={LEASE: {"repository": {"port": 8000, "path": str(tmp_path)}}})
    text = f"lease.backups.repository.path = {tmp_path}: cannot be written to"

    def says_so(status: dict) -> bool:
        return any(text in row["why"] for row in status["leases"][LEASE]["candidates"])

    agent.wait_for("it says why it is no candidate", says_so, SOON_S)
    done = run_cli(lab, FIRST, "check")
    assert done.returncode == 1
    assert f"error: {text}" in done.stdout


def test_a_second_agent_of_the_same_node_names_the_first_one(lab: Lab):
    agent = lab.start_node(FIRST)
    agent.wait_ready()

    done = run_cli(lab, FIRST, "run")

    assert done.returncode == 1
    assert f"another agent (pid {agent.status()['pid']}) of this cluster and node runs here" in done.stdout
    assert agent.get("/readyz")[0] == 200, "the first one goes on"


def test_a_node_of_the_same_name_elsewhere_is_refused(lab: Lab, tmp_path: Path):
    lab.start_node(FIRST).wait_ready()
    places = {"runtime_dir": str(tmp_path / "run"), "state_dir": str(tmp_path / "state")}
    twin = AgentNode("twin", lab.host("twin"), lab.directory, lab.config_for(FIRST, **places))
    twin.start()
    try:
        assert twin.wait() == 1
        assert twin.tail(1) == f"leaseha: another machine runs as node {FIRST!r}: give each node its own name"
    finally:
        twin.close()
    assert lab.nodes[FIRST].get("/readyz")[0] == 200, "the one that was there first goes on"


def test_without_agent_and_without_etcd_each_command_says_so_in_one_line(lab: Lab):
    lab.etcd.kill()
    lab.nodes[FIRST].configure(lab.config_for(FIRST))

    commands = (("status",), ("status", "--json"), ("history",), ("switchover", "--to", SECOND))
    with ThreadPoolExecutor() as at_once:
        for command, done in zip(
            commands, at_once.map(lambda c: run_cli(lab, FIRST, *c), commands), strict=True
        ):
            assert done.returncode == 1
            assert done.stdout.startswith("leaseha: ")
            assert done.stdout.count("\n") == 1
            assert "http://10.77.0.21:2379" in done.stdout
            assert command[0] != "status" or "no agent runs here, and etcd gives no answer" in done.stdout


def test_an_etcd_that_goes_away_is_said_and_so_is_its_return_and_no_stop_waits_for_it(lab: Lab):
    agent = lab.start_node(FIRST)
    agent.wait_for("it serves", serving, SOON_S)
    after = len(log_of(lab, FIRST))
    lab.etcd.kill()
    wait_logged(lab, FIRST, "http://10.77.0.21:2379", "has given no answer for", after=after)
    wait_logged(lab, FIRST, "no renewal was proven by the deadline: stop serving", after=after)
    assert not bound(lab)
    lab.etcd.start()
    wait_logged(lab, FIRST, "etcd answers again after", after=after)
    agent.wait_for("it serves", serving, SOON_S)

    lab.etcd.kill()
    agent.term()
    wait_until("the VIP is off", lambda: not bound(lab), 5)
    assert agent.wait(15) == 0


def bound(lab: Lab) -> bool:
    """The first node's kernel has the VIP."""
    return any(one.startswith("10.77.0.50/") for one in lab.host(FIRST).addresses())


def test_nodes_that_cannot_help_say_so_from_where_they_stand(lab: Lab, tmp_path: Path):
    """Without an agent, status is read from etcd; a node that no holder ever admitted says why it takes nothing."""
    agent = lab.start_node(FIRST)
    agent.wait_for("it serves", serving, SOON_S)
    done = run_cli(lab, SECOND, "status")
    assert done.returncode == 0
    assert "as written in etcd: no agent runs here" in done.stdout
    assert f"lease {LEASE}: {FIRST}" in done.stdout
    os.kill(agent.pid, signal.SIGINT)
    assert agent.wait() == 0

    after = len(log_of(lab, FIRST))
    lab.start_node(FIRST, state_dir=str(tmp_path))
    words = "nobody holds the lease, and this node does not take it: not in-sync"
    line = wait_logged(lab, FIRST, words, after=after)

    assert f"{FIRST} {LEASE}:" in line
    done = run_cli(lab, FIRST, "status")
    assert (done.returncode, "NO HOLDER" in done.stdout, "not in-sync" in done.stdout) == (1, True, True)


@pytest.mark.parametrize(
    ("text", "words"),
    [("", "there is no such file"), ("cluster = [", "TOML"), ('clutser = "x"', 'clutser = "x": ')],
)
def test_a_missing_or_broken_configuration_is_bad_input(lab: Lab, tmp_path: Path, text, words):
    path = tmp_path / "leaseha.toml"
    if text:
        path.write_text(text)

    done = lab.host(FIRST).run([sys.executable, "-m", "leaseha", "run", "--config", str(path)])

    assert done.returncode == 2, done.stdout
    assert words in done.stdout
    assert "Traceback" not in done.stdout
