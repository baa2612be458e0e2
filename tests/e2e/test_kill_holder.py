"""The script for real deployments: refuses what is not meant, kills the holder, and tells what followed."""

import json
import os
import re
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from leaseha.lab.lab import LEASE, Lab
from tests.e2e.cluster import FAST, FIRST, NODES, SECOND, THIRD, cluster, history, holding, never_two, whole

SCRIPT = Path(__file__).resolve().parents[2] / "chaos/scripts/kill_holder"
PORT = 8000
SSH = """#!/bin/sh
echo "$@" >> "$SSH_LOG"
while [ "$1" = -o ]; do shift 2; done
shift
eval "$@"
"""


def script(*arguments: str, typed: str = "", **environment: str) -> subprocess.CompletedProcess:
    """Run where this test runs; both outputs kept apart."""
    return subprocess.run(
        ["python3", "-I", str(SCRIPT), *arguments],
        input=typed,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, **environment},
    )


def refused(done: subprocess.CompletedProcess) -> str:
    """The reason; nothing but a refusal is accepted."""
    assert done.returncode == 2, (done.returncode, done.stdout, done.stderr)
    assert done.stderr.startswith("kill_holder: refused: "), done.stderr
    return done.stderr.removeprefix("kill_holder: refused: ").strip()


# Against real nodes


@pytest.fixture(scope="module")
def _lab(tmp_path_factory) -> Iterator[Lab]:
    folder = tmp_path_factory.mktemp("kill-holder")
    data = folder / "data"
    data.mkdir()
    lease = FAST["lease"][LEASE] | {"failback": "off", "repository": {"port": PORT, "path": str(data)}}
    with cluster(folder, settings={**FAST, "lease": {LEASE: lease}}) as lab:
        yield lab


@pytest.fixture
def lab(_lab: Lab) -> Lab:
    """Everyone is up, and whoever holds it is the only one who does."""
    for name, agent in _lab.nodes.items():
        if not agent.running:
            _lab.start_node(name)
    holder = _lab.nodes[THIRD].wait_for("a holder", lambda s: s["leases"][LEASE]["holder"])["leases"][LEASE][
        "holder"
    ]
    whole(_lab, holder)
    return _lab


def on_client(lab: Lab, *arguments: str, environment: str = "") -> subprocess.CompletedProcess:
    """Run on the lab's client, which has the network that the VIP is in."""
    command = ["sh", "-c", f'{environment} exec python3 -I "$0" "$@" 2>&1', str(SCRIPT), *arguments]
    return lab.client.run(command, timeout_s=90)


def sockets(lab: Lab, form: str = "{}") -> list[str]:
    return [
        word
        for name in NODES
        for word in ("--status", form.format(lab.nodes[name].runtime_dir / "status.sock", name))
    ]


def told_of_the_move(lab: Lab, done: subprocess.CompletedProcess, old: str) -> None:
    """What it printed is what the cluster's history says."""
    assert done.returncode == 0, done.stdout
    assert f"{old} killed" in done.stdout
    new = re.search(r"new holder: (\w+) \(token (\d+); the agent of \w+ died, and its guard", done.stdout)
    assert new, done.stdout
    assert new[1] != old
    move = history(lab, new[1])[-1]
    assert (move["to_node"], str(move["token"])) == (new[1], new[2])
    assert f"trace: {move['trace_id']}" in done.stdout
    gap = re.search(r"gap seen from here: (\d+) ms \(tcp 10.77.0.50 port 8000\)", done.stdout)
    assert gap
    assert 0 < int(gap[1]) < 20_000


@pytest.mark.netns
@pytest.mark.lab
def test_it_kills_the_holder_and_tells_new_holder_gap_and_trace(lab: Lab):
    old = lab.nodes[FIRST].status()["leases"][LEASE]["holder"]
    with never_two(lab):
        done = on_client(lab, *sockets(lab), "--yes", "--cluster-name", "lab")

        told_of_the_move(lab, done, old)
        assert lab.nodes[old].wait() == -signal.SIGKILL
        holding(lab, next(name for name in NODES if f"new holder: {name}" in done.stdout))


@pytest.mark.netns
@pytest.mark.lab
def test_it_asks_and_kills_over_ssh(lab: Lab, tmp_path: Path):
    program, log = tmp_path / "ssh", tmp_path / "ssh.log"
    program.write_text(SSH)
    program.chmod(0o755)
    view = lab.nodes[FIRST].status()["leases"][LEASE]
    old, pid = view["holder"], lab.nodes[view["holder"]].pid
    environment = f'PATH="{tmp_path}:$PATH" SSH_LOG="{log}"'

    done = on_client(
        lab, *sockets(lab, "ssh://root@{1}{0}"), "--yes", "--cluster-name", "lab", environment=environment
    )

    told_of_the_move(lab, done, old)
    (kills,) = [line for line in log.read_text().splitlines() if "kill -9" in line]
    assert kills.startswith(f"-o BatchMode=yes -o ConnectTimeout=3 root@{old} sh -c ")
    assert kills.endswith(f" sh {pid} kill -9 {pid}")


@pytest.mark.netns
@pytest.mark.lab
@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ((), "Say --yes"),
        (("--cluster-name", "lab"), "Say --yes"),
        (("--yes", "--cluster-name", "backup"), "the cluster's name is not 'backup'"),
        (("--yes", "--cluster-name", ""), "the cluster's name is not ''"),
        (("--yes",), "the cluster's name is not ''"),
        (("--lease", "other"), "there is none of that name, only backups"),
        (
            ("--yes", "--cluster-name", "lab", "--port", "1"),
            "tcp 10.77.0.50 port 1 does not answer from here",
        ),
    ],
)
def test_it_kills_nobody_unless_it_is_meant(lab: Lab, arguments: tuple[str, ...], why: str):
    before = {name: agent.pid for name, agent in lab.nodes.items()}

    done = on_client(lab, *sockets(lab), *arguments)

    assert done.returncode == 2, done.stdout
    assert "refused: " in done.stdout
    assert why in done.stdout
    assert {name: agent.pid for name, agent in lab.nodes.items()} == before


@pytest.mark.netns
@pytest.mark.lab
def test_it_needs_the_holders_own_status_and_that_of_another(lab: Lab):
    holder = lab.nodes[FIRST].status()["leases"][LEASE]["holder"]
    here = {name: str(lab.nodes[name].runtime_dir / "status.sock") for name in NODES}
    other = next(name for name in NODES if name != holder)

    assert f"{holder} holds lease {LEASE}; its own" in on_client(lab, "--status", here[other]).stdout
    assert f"only {holder} answers" in on_client(lab, "--status", here[holder]).stdout


# Against answers that real nodes give seldom


def view(holder: str | None = FIRST, **more: object) -> dict:
    """A lease of the status document, as far as the script looks at it."""
    rows = [
        {"node": FIRST, "candidate": True, "holds": holder == FIRST, "why": "healthy"},
        {"node": SECOND, "candidate": True, "holds": holder == SECOND, "why": "healthy"},
    ]
    return {
        "holder": holder,
        "holder_silent": False,
        "token": 7,
        "vips": ["127.0.0.1/8"],
        "candidates": rows,
        "reason": "first holder",
        **more,
    }


class Answering:
    """Gives these documents on a unix socket each, once and again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.listeners: list[socket.socket] = []

    def add(self, node: str, leases: dict, **more: object) -> str:
        path = self.folder / f"{node}-{len(self.listeners)}.sock"
        body = {"format": 1, "cluster": "lab", "node": node, "pid": os.getpid(), "leases": leases, **more}
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        listener.listen()
        self.listeners.append(listener)
        answer = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n" + json.dumps(body).encode()
        threading.Thread(target=self._serve, args=(listener, answer), daemon=True).start()
        return str(path)

    @staticmethod
    def _serve(listener: socket.socket, answer: bytes) -> None:
        while True:
            try:
                one, _ = listener.accept()
            except OSError:
                return
            with one:
                one.recv(4096)
                one.sendall(answer)

    def close(self) -> None:
        for listener in self.listeners:
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()


@pytest.fixture
def answering(tmp_path: Path) -> Iterator[Answering]:
    one = Answering(tmp_path)
    yield one
    one.close()


@pytest.mark.parametrize(
    ("lease", "why"),
    [
        (view(None, claim="free"), "has no holder that gives a sign of life"),
        (view(holder_silent=True), "has no holder that gives a sign of life"),
        (
            view(candidates=[{"node": FIRST, "candidate": True, "holds": True, "why": ""}]),
            "nobody could take over",
        ),
        (
            view(candidates=[{"node": SECOND, "candidate": False, "holds": False, "why": "not in-sync"}]),
            f"nobody could take over from {FIRST} ({SECOND}: not in-sync)",
        ),
    ],
)
def test_it_refuses_where_a_kill_would_end_the_service(answering: Answering, lease: dict, why: str):
    assert why in refused(script("--status", answering.add(SECOND, {LEASE: lease})))


def test_it_refuses_nodes_of_different_clusters(answering: Answering):
    one, other = answering.add(FIRST, {LEASE: view()}), answering.add(SECOND, {LEASE: view()}, cluster="b")

    assert "several clusters: b, lab" in refused(script("--status", one, "--status", other))


def test_it_refuses_while_the_nodes_do_not_agree_on_the_holder(answering: Answering):
    one, other = answering.add(FIRST, {LEASE: view()}), answering.add(SECOND, {LEASE: view(SECOND)})

    assert "do not agree who holds it" in refused(script("--status", one, "--status", other))


def test_it_asks_which_lease_where_there_are_several(answering: Answering):
    where = answering.add(FIRST, {"a": view(), "b": view()})

    assert refused(script("--status", where)) == "say which lease: --lease a | b"


def test_it_kills_no_local_process_that_is_not_leaseha(answering: Answering):
    with subprocess.Popen(["sleep", "60"]) as stranger:
        paths = [answering.add(name, {LEASE: view()}, pid=stranger.pid) for name in (FIRST, SECOND)]
        done = script("--status", paths[0], "--status", paths[1], "--yes", "--cluster-name", "lab")
        alive = stranger.poll() is None
        stranger.kill()

    assert f"process {stranger.pid} of this machine is no leaseha" in refused(done)
    assert alive


def fake_ssh(folder: Path) -> dict[str, str]:
    """The environment in which every host is this machine."""
    program = folder / "ssh"
    program.write_text(SSH)
    program.chmod(0o755)
    return {"PATH": f"{folder}:{os.environ['PATH']}", "SSH_LOG": str(folder / "ssh.log")}


@pytest.mark.parametrize("gone", [False, True])
def test_it_kills_no_process_over_ssh_that_is_not_leaseha(answering: Answering, tmp_path: Path, gone: bool):
    """The holder's pid by its status need not be one of the host that ssh reaches."""
    with subprocess.Popen(["sleep", "60"]) as stranger, socket.create_server(("127.0.0.1", 0)) as service:
        if gone:
            stranger.kill()
            stranger.wait()
        where = [answering.add(name, {LEASE: view()}, pid=stranger.pid) for name in (FIRST, SECOND)]
        words = [word for path in where for word in ("--status", path)]
        port = str(service.getsockname()[1])
        to = ("--ssh", f"{FIRST}=root@node1", "--port", port, "--yes", "--cluster-name", "lab")
        done = script(*words, *to, **fake_ssh(tmp_path))
        alive = stranger.poll() is None
        stranger.kill()

    assert f"process {stranger.pid} of root@node1 is no leaseha, or not to be seen there" in refused(done)
    assert alive is not gone
    assert "sh -c" in (tmp_path / "ssh.log").read_text()


@pytest.mark.parametrize("pid", [1, 0, -1, "7", None])
def test_it_believes_no_pid_that_would_kill_more_than_one(answering: Answering, pid: object):
    where = answering.add(FIRST, {LEASE: view()}, pid=pid)

    assert f"says that its pid is {pid!r}" in refused(script("--status", where))


def test_it_names_what_did_not_answer(tmp_path: Path):
    where = str(tmp_path / "none.sock")

    assert refused(script("--status", where)).startswith(f"no agent answers: {where}: ")


@pytest.mark.parametrize("where", ["run/status.sock", "https://node1/", "ssh://node1", "ftp://x/y"])
def test_it_says_how_an_endpoint_is_written(where: str):
    assert refused(script("--status", where)).startswith(f"--status {where}: write ")
