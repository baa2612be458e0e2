"""`leaseha reload` on real nodes: the program is replaced, and no client notices."""

import contextlib
import hashlib
import http.client
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from leaseha.lab.lab import LEASE, Lab
from leaseha.lab.recording import Kind
from tests.e2e.cluster import (
    FIRST,
    SECOND,
    cluster,
    holding,
    log_of,
    never_two,
    run_cli,
    standing_by,
    wait_logged,
    wait_until,
    whole,
)

pytestmark = [pytest.mark.netns, pytest.mark.lab]

NAMES = (FIRST, SECOND)
PORT = 8000
OTHER = "other"
SITE = """
import json, os, signal, sys
folder = os.environ.get("RELOAD_TEST")
if folder and "leaseha.runtime.guard" not in str(sys.orig_argv):
    sys.executable = folder + "/python"
    if "leaseha.runtime.trial" in sys.orig_argv and open(folder + "/mode").read() == "missing":
        os.rename(sys.executable, sys.executable + ".away")
if folder and "LEASEHA_HANDOVER" in os.environ:
    with open(folder + "/mode") as file:
        mode = file.read().strip()
    if mode == "crash":
        os._exit(7)
    if mode == "guard":
        with os.fdopen(os.dup(int(os.environ["LEASEHA_HANDOVER"]))) as file:
            file.seek(0)
            os.kill(json.load(file)["guard"]["pid"], signal.SIGKILL)
"""
"""What happens to a program that was handed something, before any of its own code runs; the trial is handed nothing."""


@pytest.fixture(scope="module")
def _lab(tmp_path_factory) -> Iterator[Lab]:
    folder = tmp_path_factory.mktemp("reload")
    (folder / "data").mkdir()
    (folder / "sitecustomize.py").write_text(SITE)
    interpreter(folder).write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    interpreter(folder).chmod(0o755)
    lease = {
        "hold_down": "1s",
        "flap_budget": 60,
        "repository": {"port": PORT, "path": str(folder / "data")},
    }
    settings = {"session": {"ttl": "2s", "ttl_max": "12s"}, "lease": {LEASE: lease}}
    with cluster(folder, nodes=NAMES, settings=settings, start=False, measure=False) as lab:
        lab.measure(period_ms=1.0, direct_ms=8.0, arp_ms=8.0, service_port=PORT)
        yield lab


@pytest.fixture
def lab(_lab: Lab) -> Lab:
    """All is well, the preferred node holds, the other stands by; both run with the first settings."""
    happens(_lab, "")
    environment = {"RELOAD_TEST": str(_lab.directory), "PYTHONPATH": str(_lab.directory)}
    for name in NAMES:
        agent = _lab.node(name)
        settings = _lab.config_for(name)
        if agent.settings != settings:
            agent.stop()
            agent.configure(settings)
        if not agent.running:
            agent.start(environment)
            agent.wait_ready()
    whole(_lab)
    return _lab


def interpreter(folder: Path) -> Path:
    """That agents here are replaced with."""
    return folder / "python"


def happens(lab: Lab, mode: str) -> None:
    """To the next program that takes over."""
    (lab.directory / "mode").write_text(mode)


def settle(lab: Lab, name: str, **changes: Any) -> None:
    """Write a node's configuration; a running agent does not see it yet."""
    lab.nodes[name].configure(lab.config_for(name, **changes))


def token(lab: Lab, name: str = FIRST, lease: str = LEASE) -> int:
    return lab.nodes[name].status()["leases"][lease]["token"]


def lost(lab: Lab, began_ns: int, ended_ns: int) -> list[int]:
    """The instants of the prober's questions that were never answered, in ms since the beginning."""
    records = [one for one in lab.prober.records() if one.subject == 0]
    answered = {one.number for one in records if one.kind is Kind.ANSWER}
    asked = [one for one in records if one.kind is Kind.SENT and began_ns < one.t_ns < ended_ns]
    assert len(asked) > 500
    return [(one.t_ns - began_ns) // 1_000_000 for one in asked if one.number not in answered]


def reload(lab: Lab, name: str, *options: str) -> dict[str, Any]:
    """Reload; it must succeed."""
    done = run_cli(lab, name, "reload", *options, "--json")
    assert done.returncode == 0, done.stdout + lab.nodes[name].tail(30)
    return json.loads(done.stdout)


@pytest.mark.parametrize("options", [(), ("--exec",)], ids=["reload", "exec"])
def test_a_reload_loses_no_answer_and_keeps_the_token(lab: Lab, options, capsys):
    before, pid, served = token(lab), lab.nodes[FIRST].pid, repositories(lab)
    renewals = lab.nodes[FIRST].status()["session"]
    with never_two(lab) as began_ns:
        found = reload(lab, FIRST, *options)
        holding(lab, FIRST)
        ended_ns = lab.settle()
        vain = lost(lab, began_ns, lab.settle())
        silence_ms = lab.service.longest_gap_ms(began_ns, ended_ns)
    usual_ms = lab.service.longest_gap_ms(2 * began_ns - ended_ns, began_ns)
    with capsys.disabled():
        print(f" {found['took_ms']} ms, service {silence_ms:.0f} ms after {usual_ms:.0f} ms", end="")

    assert vain == []
    assert token(lab) == before == found["holds"][LEASE]
    assert lab.nodes[FIRST].pid == pid
    status = lab.nodes[FIRST].status()
    assert status["session"]["id"] == renewals["id"]
    assert "guard" in status["fence_layers"]
    assert repositories(lab) == served, "the listener is that of the process that was there before"


def test_an_upload_goes_on_while_the_program_is_replaced(lab: Lab):
    def upload() -> int:
        body = os.urandom(256 * 1024)
        connection = http.client.HTTPConnection(lab.vip, PORT, timeout=10)
        connection.request("POST", "/kept/?create=true")
        assert connection.getresponse().read() == b""
        connection.putrequest("POST", f"/kept/data/{hashlib.sha256(body).hexdigest()}")
        connection.putheader("Content-Length", str(len(body)))
        connection.endheaders()
        for at in range(0, len(body), 4096):
            connection.send(body[at : at + 4096])
            if at == 0:
                under_way.set()
            elif not over.is_set():
                time.sleep(0.05)  # waits for a fact: the reload, during which this must go on
        return connection.getresponse().status

    under_way, over, answers = threading.Event(), threading.Event(), []
    client = threading.Thread(target=lambda: answers.append(lab.client.call(upload)))
    client.start()
    assert under_way.wait(10)
    reload(lab, FIRST, "--exec")
    over.set()
    client.join(30)

    assert answers == [200]


def test_a_configuration_that_is_wrong_changes_nothing(lab: Lab):
    before, after = token(lab), len(log_of(lab, FIRST))
    lab.nodes[FIRST].config.write_text("cluster = 7\n")
    started = lab.nodes[FIRST].pid
    os.kill(started, signal.SIGHUP)
    wait_logged(lab, FIRST, "not reloaded, and nothing is changed", "cluster = 7", after=after)
    settle(lab, FIRST, session={"ttl_max": "30s"})
    done = run_cli(lab, FIRST, "reload")
    assert done.returncode == 2, done.stdout
    assert "session.ttl_max = 30s: this agent runs with 12s" in done.stdout
    assert "restart it" in done.stdout

    assert token(lab) == before
    assert lab.nodes[FIRST].pid == started
    lab.nodes[FIRST].configure(lab.config_for(FIRST))


def test_a_new_configuration_is_in_force_and_a_lease_that_is_new_or_gone_comes_and_goes(lab: Lab):
    before = token(lab)
    (lab.directory / OTHER).mkdir()
    repository = {"port": PORT, "path": str(lab.directory / OTHER)}
    more = {OTHER: {"vips": ["10.77.0.51/24"], "priority": {FIRST: 100}, "repository": repository}}
    settle(lab, FIRST, lease=more, session={"ttl": "3s"})
    os.kill(lab.nodes[FIRST].pid, signal.SIGHUP)
    lab.nodes[FIRST].wait_for(
        "it holds both", lambda s: OTHER in s["leases"] and s["leases"][OTHER]["role"] == "HOLDER"
    )
    assert "10.77.0.51" in lab.host(FIRST).run(["ip", "addr", "show"]).stdout

    after = len(log_of(lab, FIRST))
    settle(lab, FIRST)
    with never_two(lab) as began_ns:
        found = reload(lab, FIRST)
        assert lost(lab, began_ns, lab.settle()) == []
    wait_logged(lab, FIRST, OTHER, "the lease is handed over or free", after=after)
    assert found["holds"] == {LEASE: before}
    assert "10.77.0.51" not in lab.host(FIRST).run(["ip", "addr", "show"]).stdout


def test_a_program_that_cannot_be_replaced_goes_on(lab: Lab):
    """Its interpreter is gone when the trial is over."""
    before, pid, guard = token(lab), lab.nodes[FIRST].pid, lab.nodes[FIRST].status()["fence_layers"]
    happens(lab, "missing")
    with never_two(lab) as began_ns:
        done = run_cli(lab, FIRST, "reload")
        interpreter(lab.directory).with_suffix(".away").rename(interpreter(lab.directory))
        assert (done.returncode, "No such file" in done.stdout) == (1, True), done.stdout
        holding(lab, FIRST)
        assert lost(lab, began_ns, lab.settle()) == []
    status = lab.nodes[FIRST].status()
    assert (token(lab), lab.nodes[FIRST].pid, status["fence_layers"]) == (before, pid, guard)


def test_a_new_program_that_does_not_start_is_a_crash_and_a_standby_that_was_replaced_takes_over(lab: Lab):
    assert reload(lab, SECOND, "--exec")["holds"] == {}
    standing_by(lab, FIRST, SECOND)
    happens(lab, "crash")
    with never_two(lab) as began_ns:
        done = run_cli(lab, FIRST, "reload", "--exec")
        assert done.returncode == 1
        assert "ended before it said how the reload went" in done.stdout
        lab.prober.wait_for_answer(by=SECOND, after_ns=began_ns)
        holding(lab, SECOND)
        assert lab.nodes[FIRST].wait() == 7
    assert (
        "its guard let go of everything"
        in json.loads(run_cli(lab, SECOND, "history", "--json").stdout)[-1]["reason"]
    )


def test_a_guard_that_dies_meanwhile_is_replaced(lab: Lab):
    happens(lab, "guard")
    before, after = token(lab), len(log_of(lab, FIRST))
    with never_two(lab) as began_ns:
        reload(lab, FIRST, "--exec")
        wait_logged(lab, FIRST, "another guard", "knows everything", after=after)
        assert lost(lab, began_ns, lab.settle()) == []
    assert token(lab) == before
    with never_two(lab) as began_ns:
        lab.nodes[FIRST].kill()
        lab.prober.wait_for_answer(by=SECOND, after_ns=began_ns)
        holding(lab, SECOND)


def test_a_stop_that_comes_meanwhile_is_a_stop(lab: Lab):
    after = len(log_of(lab, FIRST))
    asking = threading.Thread(target=run_cli, args=(lab, FIRST, "reload"))
    asking.start()
    wait_logged(lab, FIRST, "reload asked for", after=after)
    wait_until(
        "the program is being replaced",
        lambda: b"leaseha.runtime.trial" not in b"".join(commands(lab).values()),
    )
    lab.nodes[FIRST].term()
    assert lab.nodes[FIRST].wait() == 0
    asking.join()
    holding(lab, SECOND)


def repositories(lab: Lab) -> list[int]:
    """The repository's process of the preferred node."""
    return [pid for pid, command in commands(lab).items() if b"leaseha.repository" in command]


def commands(lab: Lab) -> dict[int, bytes]:
    """Of all processes of the preferred node."""
    found = {}
    for pid in lab.nodes[FIRST].pids():
        with contextlib.suppress(OSError):  # it ended meanwhile
            found[pid] = Path(f"/proc/{pid}/cmdline").read_bytes()
    return found
