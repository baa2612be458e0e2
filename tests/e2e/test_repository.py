"""Backups through the VIP: real restic, a holder that dies in the middle, a repository that dies alone."""

import contextlib
import filecmp
import hashlib
import http.client
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from leaseha.lab.backup import Backup, chosen_client
from leaseha.lab.lab import LEASE, Lab
from tests.e2e.cluster import (
    FIRST,
    SECOND,
    SOON_S,
    cluster,
    history,
    holding,
    log_of,
    never_two,
    wait_logged,
    wait_until,
    whole,
)

pytestmark = [pytest.mark.netns, pytest.mark.lab]

PORT = 8000
MIB = 1 << 20
NAMES = (FIRST, SECOND)


@pytest.fixture(scope="module")
def _lab(tmp_path_factory) -> Iterator[Lab]:
    folder = tmp_path_factory.mktemp("repository")
    data = folder / "data"
    data.mkdir()
    lease = {
        "hold_down": "1s",
        "flap_budget": 60,
        "drain_timeout": "2s",
        "repository": {"port": PORT, "path": str(data)},
    }
    with cluster(folder, nodes=NAMES, settings={"session": {"ttl": "1s"}, "lease": {LEASE: lease}}) as lab:
        yield lab


@pytest.fixture
def lab(_lab: Lab) -> Lab:
    """The preferred node holds, the other stands by; both see one data directory."""
    whole(_lab)
    return _lab


def ask(lab: Lab, method: str, path: str, body: bytes | None = None, host: str = "") -> int:
    """The HTTP status that a client gets. Raises OSError."""

    def exchange() -> int:
        connection = http.client.HTTPConnection(host or lab.vip, PORT, timeout=3)
        try:
            connection.request(method, path, body)
            return connection.getresponse().status
        finally:
            connection.close()

    return lab.client.call(exchange)


def command_of(pid: int) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def repository_pid(lab: Lab, name: str) -> int:
    """The repository's process on a node, beside the agent's and its guard's."""
    (found,) = [pid for pid in lab.nodes[name].pids() if b"leaseha.repository" in command_of(pid)]
    return found


def serving(lab: Lab) -> bool:
    """A client gets an answer from the repository."""
    try:
        return ask(lab, "GET", "/none/config") == 404
    except OSError:
        return False


def test_restic_does_all_its_work_through_the_vip(lab: Lab, restic: str, tmp_path: Path):
    source, again = tmp_path / "source", tmp_path / "again"
    source.mkdir()
    for number in range(40):
        (source / f"file-{number}").write_bytes(os.urandom(64 << 10))
    environment = {**os.environ, "RESTIC_PASSWORD": "only for this test"}
    base = [restic, "-r", f"rest:http://{lab.vip}:{PORT}/cycle/", "--cache-dir", str(tmp_path / "cache")]

    # From inside of the folder: its parents' owners cannot be restored in a user namespace.
    inside = ["sh", "-c", 'cd "$1" && shift && exec "$@"', "sh", str(source)]

    def run(*arguments: str) -> str:
        done = lab.client.run([*inside, *base, *arguments], timeout_s=60, env=environment)
        assert done.returncode == 0, f"restic {arguments}: {done.stdout}"
        return done.stdout

    run("init")
    run("backup", ".")
    (source / "file-0").write_bytes(os.urandom(64 << 10))
    run("backup", ".")
    assert "2 snapshots" in run("snapshots")
    assert "no errors were found" in run("check", "--read-data")
    run("forget", "--keep-last", "1", "--prune")
    assert "1 snapshots" in run("snapshots")
    assert "no errors were found" in run("check", "--read-data")
    run("restore", "latest", "--target", str(again))

    names = [path.name for path in source.iterdir()]
    equal, differ, missing = filecmp.cmpfiles(source, again, names, shallow=False)
    assert (len(equal), differ, missing) == (len(names), [], [])


def test_a_backup_goes_on_over_the_death_of_the_holder(lab: Lab, restic: str, tmp_path: Path):
    size = 60 * MIB
    backup = Backup(chosen_client(), lab.client, tmp_path, lab.vip, PORT)
    backup.make_files(size)
    backup.prepare()
    with never_two(lab) as began_ns:
        backup.start(20 * 1024)
        backup.wait_stored(lab.directory / "data", size // 2, 60)
        lab.nodes[FIRST].kill()
        lab.prober.wait_for_answer(by=SECOND, after_ns=began_ns, timeout_s=SOON_S)
        code, output = backup.wait(90)

        assert code == 0, output
        assert backup.restore_and_compare(60) == ""
        assert history(lab, SECOND)[-1]["kind"] == "failover"


def test_a_failback_waits_for_a_pause_between_uploads(lab: Lab):
    """The better node has been back for long: the backup that runs is not cut for it, and the lease goes home after."""
    assert ask(lab, "POST", "/busy/?create=true") == 200
    lab.nodes[FIRST].kill()
    holding(lab, SECOND)
    began_s, uploads = time.monotonic(), 0
    while time.monotonic() < began_s + 9:
        body = os.urandom(64 * 1024)
        assert ask(lab, "POST", f"/busy/data/{hashlib.sha256(body).hexdigest()}", body) == 200
        uploads += 1
        if uploads == 1:
            began_s = time.monotonic()
            lab.start_node(FIRST)
    told = lab.nodes[SECOND].status()["leases"][LEASE]

    assert told["role"] == "HOLDER"
    assert lab.nodes[FIRST].status()["leases"][LEASE]["role"] == "STANDBY"

    holding(lab, FIRST)

    assert history(lab, FIRST)[-1]["kind"] == "failback"


def test_the_repository_is_reachable_on_the_vip_and_nowhere_else(lab: Lab):
    assert serving(lab)
    for name in NAMES:
        with pytest.raises(ConnectionRefusedError):
            ask(lab, "GET", "/none/config", host=lab.host(name).ipv4)


def test_a_repository_that_dies_is_started_again_where_there_is_no_other_node(lab: Lab):
    lab.nodes[SECOND].stop()
    after, old = len(log_of(lab, FIRST)), repository_pid(lab, FIRST)
    token = lab.nodes[FIRST].status()["leases"][LEASE]["token"]

    os.kill(old, signal.SIGKILL)
    wait_logged(lab, FIRST, "no other node can serve: start it again here", after=after)
    wait_until("the repository answers again", lambda: serving(lab))

    assert repository_pid(lab, FIRST) != old
    assert lab.nodes[FIRST].status()["leases"][LEASE]["token"] == token


def test_a_repository_that_was_frozen_past_its_deadline_serves_again(lab: Lab):
    """It closes its gate by itself when it wakes, and its holder must not stay without one."""
    lab.nodes[SECOND].stop()
    after, pid = len(log_of(lab, FIRST)), repository_pid(lab, FIRST)

    os.kill(pid, signal.SIGSTOP)
    time.sleep(1.5)  # waits for a fact: the deadline, ttl 1 s, passes in a process that cannot say so
    os.kill(pid, signal.SIGCONT)
    wait_logged(lab, FIRST, "repository stopped serving", "no fresh word by the deadline", after=after)
    wait_until("the repository answers again", lambda: serving(lab))


def test_a_repository_ends_with_its_agent_however_that_ends(lab: Lab):
    pid = repository_pid(lab, FIRST)
    lab.nodes[FIRST].kill()
    wait_until("the repository is gone", lambda: not Path(f"/proc/{pid}").exists(), 5)
    wait_until("and all the rest, the guard last", lambda: not lab.nodes[FIRST].pids(), 5)


def test_a_full_disk_refuses_the_upload_keeps_the_rest_and_moves_nothing(lab: Lab):
    """The client is told (507) and the log names it; what is stored can still be read."""
    full = lab.directory / "full"
    full.mkdir(exist_ok=True)
    mounted = lab.host(FIRST).run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(full)])
    assert mounted.returncode == 0, mounted.stdout
    lab.nodes[FIRST].stop()
    served = lab.directory / f"{FIRST}.state/stores/{LEASE}"
    served.unlink()  # another directory is meant from now on
    lab.start_node(FIRST, lease={LEASE: {"repository": {"path": str(full)}}})
    try:
        holding(lab, FIRST)
        token, after = lab.nodes[FIRST].status()["leases"][LEASE]["token"], len(log_of(lab, FIRST))
        small, large = os.urandom(MIB), os.urandom(4 * MIB)
        place = "/full/data/" + hashlib.sha256(small).hexdigest()
        assert ask(lab, "POST", "/full/?create=true") == 200
        assert ask(lab, "POST", place, small) == 200

        assert ask(lab, "POST", "/full/data/" + hashlib.sha256(large).hexdigest(), large) == 507

        wait_logged(lab, FIRST, "No space left on device", after=after)
        assert ask(lab, "GET", place) == 200
        assert ask(lab, "POST", place.replace("data", "index"), small) == 200, (
            "the failed upload left nothing behind"
        )
        assert lab.nodes[FIRST].status()["leases"][LEASE]["token"] == token
    finally:
        lab.nodes[FIRST].stop()
        served.unlink(missing_ok=True)
        lab.nodes[FIRST].configure(lab.config_for(FIRST))


def test_a_repository_that_dies_moves_with_its_lease_where_there_is_another_node(lab: Lab):
    after = len(log_of(lab, FIRST))
    with never_two(lab):
        os.kill(repository_pid(lab, FIRST), signal.SIGKILL)
        line = wait_logged(lab, FIRST, "repository ended", "signal 9", after=after)
        assert f"{FIRST} {LEASE}:" in line
        holding(lab, SECOND)
        assert serving(lab)

    move = history(lab, SECOND)[-1]
    assert (move["kind"], move["to_node"]) == ("release", SECOND)
    assert "the repository process ended (signal 9)" in move["reason"]
