"""What a reload hands over, what it refuses, and a program that is not replaced after all."""

import json
import os
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from leaseha import __version__
from leaseha.adapters import clock
from leaseha.config import Config, node_spec, parse
from leaseha.core import events, machine
from leaseha.core import handover as core_handover
from leaseha.core.deadline import Written
from leaseha.core.handover import Carried, Handover
from leaseha.core.spec import LeaseSpec, NodeSpec
from leaseha.core.values import NS_PER_S, Head, Instant
from leaseha.errors import LeasehaError, OperationalError, UsageError
from leaseha.runtime import handover, trial
from leaseha.runtime.guarding import Inherited
from leaseha.runtime.handover import GuardTold, RepositoryTold, Told
from leaseha.runtime.pump import Pump
from leaseha.runtime.reload import Reload, Tried, check
from leaseha.runtime.reply import Reply, kept

TEXT = """
cluster = "backup"
runtime_dir = "/nonexistent/run"
[node]
name = "node1"
[etcd]
endpoints = ["http://127.0.0.1:1"]
[lease.backups]
vips = ["192.0.2.50/24"]
priority = { node1 = 100 }
interface = "lo"
"""
LEASE = Carried(
    "backups",
    True,
    Instant(1, 2),
    7,
    1,
    Instant(9, 9),
    ("vip",),
    "first holder",
    "00-a-b-01",
    "",
    0,
    1,
    "",
    None,
)
TOLD = Told(
    version="1.0",
    text=TEXT,
    frozen_at=Instant(3, 4),
    upgrade=True,
    core=Handover(12, 30, 8, Written(Instant(5, 6), NS_PER_S), Head(1, 2, 3), None, (LEASE,)),
    vips={"backups": ["192.0.2.50"]},
    lock_fd=3,
    guard=GuardTold(4, 99, "mark", ""),
    repositories=(RepositoryTold("backups", 5, 98, 17, "/srv", 8000, True, "1.0"),),
    reply_fd=6,
)


@pytest.fixture
def config() -> Config:
    return parse(TEXT, hostname="node1")


def tried(config: Config, **changes: object) -> Tried:
    found = Tried(__version__, TEXT, trial.constants(config), trial.places(config), "", "", NS_PER_S)
    return replace(found, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "told",
    [
        TOLD,
        replace(TOLD, guard=None, repositories=(), reply_fd=-1),
        replace(TOLD, core=replace(TOLD.core, session=0, proven=None, claims_from=Instant(8, 8))),
        replace(
            TOLD, core=replace(TOLD.core, leases=(replace(LEASE, cover=None, not_before=Instant(1, 1)),))
        ),
    ],
)
def test_what_is_handed_over_arrives_as_it_was(told: Told):
    assert handover.decode(handover.encode(told)) == told


def test_a_field_of_another_version_is_passed_over_and_another_format_is_refused():
    found = json.loads(handover.encode(TOLD))
    found["later"] = found["core"]["later"] = found["core"]["leases"][0]["later"] = 1
    assert handover.decode(json.dumps(found).encode()) == TOLD
    found["format"] = 2
    with pytest.raises(OperationalError, match="format 2, this version knows 1"):
        handover.decode(json.dumps(found).encode())
    with pytest.raises(OperationalError, match="cannot be read"):
        handover.decode(b"{}")


def test_every_descriptor_that_is_needed_is_named():
    assert TOLD.fds() == (3, 4, 5, 6)
    assert replace(TOLD, guard=None, repositories=(), reply_fd=-1).fds() == (3,)


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        (
            {"version": "9.9"},
            OperationalError,
            "leaseha 9.9 is installed, .* `leaseha reload --exec` upgrades",
        ),
        (
            {"took_ns": 60 * NS_PER_S},
            OperationalError,
            "took 60000 ms to load, and session.ttl_max leaves it",
        ),
        (
            {"etcd": "no answer"},
            OperationalError,
            "etcd does not answer under the new configuration: no answer",
        ),
    ],
)
def test_a_program_that_could_not_go_on_is_refused(config: Config, changes, kind: type[LeasehaError], words):
    with pytest.raises(kind, match=words):
        check(tried(config, **changes), config, upgrade=False, held=True, fenced=True)


def test_what_holds_nothing_may_be_slow_and_without_etcd_and_an_upgrade_may_be_of_another_version(
    config: Config,
):
    check(
        tried(config, took_ns=60 * NS_PER_S, etcd="gone", fence="none"),
        config,
        upgrade=False,
        held=False,
        fenced=False,
    )
    check(tried(config, version="9.9"), config, upgrade=True, held=True, fenced=True)


def test_another_etcd_is_refused_since_all_that_is_held_would_be_dropped_for_it(config: Config):
    found = tried(config, cluster_id=8)
    for known in (0, 8):
        check(found, config, upgrade=False, held=True, fenced=True, cluster_id=known)
    with pytest.raises(UsageError, match="another etcd"):
        check(found, config, upgrade=False, held=False, fenced=True, cluster_id=7)


def test_a_lease_that_comes_meanwhile_and_has_no_place_is_not_taken_along(config: Config):
    """It was stood by for when all others were let go, and is on another interface in the new configuration."""
    spec = node_spec(config, store="s", incarnation="i")
    pump = Pump(machine.initial(spec), lambda effect: None, lambda error: None)
    parts = SimpleNamespace(vips=(ip_address("192.0.2.50"),), binder=SimpleNamespace(interface="lo"))
    services, fencing = {"backups": SimpleNamespace(parts=parts)}, SimpleNamespace(stands=True)
    process: Any = SimpleNamespace(config=config, pump=pump, fencing=fencing, services=services)
    elsewhere = tried(config, leases={"backups": {"interface": "eth9", "vips": ["192.0.2.50"]}})
    reload = Reload(process)
    reload.judge_again(elsewhere, upgrade=False)

    pump.state = core_handover.adopted(spec, TOLD.core, clock.now())
    reload.judge_again(tried(config), upgrade=False)
    with pytest.raises(OperationalError, match="backups came here meanwhile"):
        reload.judge_again(elsewhere, upgrade=False)
    with pytest.raises(OperationalError, match="etcd does not answer"):
        reload.judge_again(replace(elsewhere, etcd="gone"), upgrade=False)


def test_what_cannot_change_in_a_living_process_is_named_with_what_would_be_right(config: Config):
    other = parse(TEXT.replace('"node1"', '"node2"').replace('"/nonexistent/run"', '"/other"'), hostname="x")
    with pytest.raises(UsageError) as refused:
        check(tried(config, constants=trial.constants(other)), config, upgrade=True, held=True, fenced=True)
    lines = str(refused.value).splitlines()
    assert [line.partition(":")[0] for line in lines] == [
        "node.name = node2",
        "runtime_dir = /other",
        "state_dir = /var/lib/leaseha/backup-node2",
    ]
    assert all("restart it" in line for line in lines)


def try_out(path: Path) -> subprocess.CompletedProcess[str]:
    command, environment = handover.program("leaseha.runtime.trial", "--config", str(path))
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_the_trial_tells_what_it_has_read_and_whether_etcd_answers(tmp_path: Path, config: Config):
    path = tmp_path / "node.toml"
    path.write_text(TEXT)
    done = try_out(path)
    assert done.returncode == 0, done.stderr
    first, second = map(json.loads, done.stdout.splitlines())
    assert first["version"] == __version__
    assert first["text"] == TEXT
    assert first["constants"] == trial.constants(config)
    assert first["leases"] == {"backups": {"interface": "lo", "vips": ["192.0.2.50"]}}
    assert second["etcd"]
    assert second["cluster_id"] == 0
    assert isinstance(second["fence"], str)


def test_the_trial_of_a_wrong_configuration_ends_with_2_and_names_the_fault(tmp_path: Path):
    path = tmp_path / "node.toml"
    path.write_text(TEXT.replace("endpoints", "endpoint"))
    done = try_out(path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "etcd.endpoint" in done.stderr
    assert "Traceback" not in done.stderr


UNREPLACED = """
import os, signal, sys
from pathlib import Path
from leaseha.errors import OperationalError
from leaseha.runtime import handover
from tests.runtime.test_reload import TOLD
from dataclasses import replace
fd = os.open("/dev/null", os.O_RDONLY)
sys.executable = "/nonexistent/python"
told = replace(TOLD, lock_fd=fd, guard=None, repositories=(), reply_fd=-1)
signal.signal(signal.SIGHUP, lambda *_: print("usual"))
before = len(os.listdir("/proc/self/fd"))
for number in (0, signal.SIGHUP):
    try:
        with handover.Heard() as heard:
            os.kill(os.getpid(), number)
            handover.replace_program(told, Path("x"), heard)
    except (OSError, OperationalError) as error:
        print(error, os.get_inheritable(fd), len(os.listdir("/proc/self/fd")) - before)
os.kill(os.getpid(), signal.SIGHUP)
print(signal.pthread_sigmask(signal.SIG_BLOCK, []))
"""


def test_a_process_that_is_not_replaced_or_has_caught_a_signal_is_as_it_was():
    done = subprocess.run([sys.executable, "-c", UNREPLACED], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == [
        "[Errno 2] No such file or directory: '/nonexistent/python' False 0",
        "a signal came meanwhile False 0",
        "usual",
        "set()",
    ], done.stderr


REPLACED = """
import os, signal, sys
from leaseha.runtime import handover
if os.environ.get("AGAIN"):
    print(signal.SIGTERM in signal.pthread_sigmask(signal.SIG_BLOCK, []))
    told = handover.received()
    print(told.version, handover.received(), handover.VARIABLE in os.environ)
    more = sorted(int(name) for name in os.listdir("/proc/self/fd") if int(name) > 2)
    print(os.read(told.lock_fd, 5), told.lock_fd in more, len(more))
    handover.hear_signals()
    print(signal.SIGTERM in signal.pthread_sigmask(signal.SIG_BLOCK, []))
else:
    from pathlib import Path
    from dataclasses import replace
    from tests.runtime.test_reload import TOLD
    os.environ["AGAIN"] = "1"
    sys.executable = sys.argv[1]
    leak = os.dup(2)
    os.set_inheritable(leak, True)
    read, write = os.pipe()
    os.write(write, b"kept")
    os.dup2(read, 9)
    told = replace(TOLD, lock_fd=9, guard=None, repositories=(), reply_fd=-1)
    handover.replace_program(told, Path("x"), handover.Heard())
"""


def test_the_next_program_of_a_process_finds_what_was_handed_over_and_nothing_else(tmp_path: Path):
    script, stub = tmp_path / "both.py", tmp_path / "python"
    script.write_text(REPLACED)
    # What execve is given ends in `-m leaseha run ...`: this runs the script again instead.
    stub.write_text(f"#!/bin/sh\nexec {sys.executable} {script}\n")
    stub.chmod(0o755)
    here = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": here}
    done = subprocess.run(
        [sys.executable, str(script), str(stub)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout.splitlines() == ["True", "1.0 None False", "b'kept' True 2", "False"], done.stderr


def test_a_pump_that_is_frozen_steps_nothing_and_loses_nothing():
    lease = LeaseSpec("l", {"a": 1})
    pump = Pump(
        machine.initial(NodeSpec("c", "a", "s", "i", (lease,))), lambda effect: None, lambda error: None
    )
    pump.freeze()
    pump.give(events.Started(clock.now()))
    before = pump.state
    pump.give(events.StopAsked(clock.now()))
    assert pump.state is before
    pump.thaw()
    assert pump.state.stopping
    assert pump.state.read_at is not None
    pump.thaw()


def test_a_child_from_before_is_waited_for_and_signalled_by_its_number():
    child = subprocess.Popen(["sleep", "60"])
    inherited = Inherited(child.pid)
    assert inherited.poll() is None
    inherited.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert inherited.poll() == -signal.SIGKILL
    assert inherited.poll() == -signal.SIGKILL
    inherited.send_signal(signal.SIGKILL)
    assert Inherited(child.pid).poll() == 0, "no child of ours: gone"


def test_an_answer_is_given_once_on_a_connection_that_others_have_closed():
    ours, theirs = socket.socketpair()
    reply = kept(ours)
    ours.close()
    reply.refuse("no", 2)
    reply.done({})
    Reply().failed("nobody listens")
    said = theirs.recv(4096)
    assert said.startswith(b"HTTP/1.1 409 ")
    assert json.loads(said.partition(b"\r\n\r\n")[2]) == {"ok": False, "exit": 2, "error": "no"}
    assert theirs.recv(4096) == b""
    theirs.close()
