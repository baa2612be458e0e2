"""What an unlucky operator meets: one clear line each, the right exit code, and never a traceback."""

import json
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from leaseha.lab import kernel
from leaseha.lab.lab import LEASE, Lab
from leaseha.lab.nodes import AgentNode
from tests.e2e.cluster import FIRST, SECOND, SOON_S, cluster, log_of, run_cli, standing_by, wait_logged

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


def test_an_etcd_that_goes_away_is_said_and_so_is_its_return(lab: Lab):
    agent = lab.start_node(FIRST)
    agent.wait_for("it serves", serving, SOON_S)
    after = len(log_of(lab, FIRST))
    lab.etcd.kill()
    wait_logged(lab, FIRST, "http://10.77.0.21:2379", "has given no answer for", after=after)
    wait_logged(lab, FIRST, "no renewal was proven by the deadline: stop serving", after=after)
    assert "10.77.0.50" not in " ".join(lab.host(FIRST).addresses())
    lab.etcd.start()
    wait_logged(lab, FIRST, "etcd answers again after", after=after)
    agent.wait_for("it serves", serving, SOON_S)


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


def test_a_repository_whose_directory_cannot_be_used_keeps_the_agent_from_starting(lab: Lab, tmp_path: Path):
    lab.host(FIRST).call(kernel.mount, "none", str(tmp_path), "tmpfs", MS_RDONLY)
    path = str(tmp_path / "data")

    line = refused(lab, lease={LEASE: {"repository": {"port": 8000, "path": path}}})

    assert "repository of lease backups" in line
    assert path in line
    assert "Read-only file system" in line
    done = run_cli(lab, FIRST, "check")
    assert done.returncode == 1
    assert f"error: lease.backups.repository.path = {path}" in done.stdout


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


def test_without_agent_the_status_is_read_from_etcd_and_says_so(lab: Lab):
    # A node that no holder has ever admitted may not take over: the first one admits the second.
    lab.start_node(FIRST).wait_for("it serves", serving, SOON_S)
    lab.start_node(SECOND).wait_ready()
    standing_by(lab, FIRST, SECOND)
    assert lab.nodes[FIRST].stop() == 0
    lab.nodes[SECOND].wait_for("it serves", serving, SOON_S)

    done = run_cli(lab, FIRST, "status")

    assert done.returncode == 0
    assert "as written in etcd: no agent runs here" in done.stdout
    assert f"lease {LEASE}: {SECOND}" in done.stdout


def test_a_missing_or_broken_configuration_is_bad_input(lab: Lab, tmp_path: Path):
    for text, words in (
        (None, "there is no such file"),
        ("cluster = [", "TOML"),
        ('clutser = "x"', "cluster"),
    ):
        path = tmp_path / "leaseha.toml"
        path.unlink(missing_ok=True)
        if text is not None:
            path.write_text(text)
        for verb in ("run", "check", "status"):
            done = lab.host(FIRST).run([sys.executable, "-m", "leaseha", verb, "--config", str(path)])

            assert done.returncode == 2, done.stdout
            assert words in done.stdout
            assert "Traceback" not in done.stdout
