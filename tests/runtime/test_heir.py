"""The new program's side of a reload: what it takes up, what it leaves, and what it says in the end."""

import asyncio
import json
import os
import socket
from dataclasses import replace
from ipaddress import ip_address

import pytest

from leaseha.adapters import clock
from leaseha.config import node_spec, parse
from leaseha.core import machine
from leaseha.core.deadline import Written
from leaseha.core.session import Phase
from leaseha.core.state import Role
from leaseha.core.values import NS_PER_S
from leaseha.runtime.handover import RepositoryTold, Told
from leaseha.runtime.heir import Heir
from leaseha.runtime.pump import Pump
from leaseha.runtime.reply import Reply
from tests.runtime.test_reload import LEASE, TEXT, TOLD

CONFIG = parse(TEXT, hostname="node1")


def told(**changes: object) -> Told:
    """Fresh: the last renewal was a moment ago."""
    at = clock.now()
    carried = replace(LEASE, cover=at.plus(60 * NS_PER_S))
    core = replace(TOLD.core, proven=Written(at, 10 * NS_PER_S), leases=(carried,))
    found = replace(TOLD, core=core, vips={"backups": ["192.0.2.50"]}, repositories=(), reply_fd=-1)
    return replace(found, **changes)  # type: ignore[arg-type]


def spec(config=CONFIG):
    return node_spec(config, store="s", incarnation="next")


def test_an_ordinary_start_takes_up_nothing():
    heir = Heir(CONFIG, None)
    assert heir.vips() == {}
    assert heir.state(spec()) == machine.initial(spec())


def test_what_is_held_stays_open_until_the_earlier_of_renewal_and_cover():
    found = told()
    (until,) = Heir(CONFIG, found).vips().values()
    assert found.core.proven is not None
    assert until.left_ns(found.core.proven.sent_at) < 10 * NS_PER_S
    short = replace(found.core.leases[0], cover=clock.now().plus(NS_PER_S))
    core = replace(found.core, leases=(short,))
    assert Heir(CONFIG, replace(found, core=core)).vips() == {ip_address("192.0.2.50"): short.cover}


def test_what_is_held_does_not_wait_for_repositories_that_are_yet_to_be_started():
    known = replace(TOLD.repositories[0], lease="stood-by-for")
    found = Heir(CONFIG, told(repositories=(known,))).unready(["backups", "stood-by-for", "new"])
    assert found == {"backups": "", "stood-by-for": "", "new": "its repository is yet to be started"}
    assert Heir(CONFIG, None).unready(["new"])["new"]


def test_a_vip_that_is_new_is_to_be_bound():
    config = parse(TEXT.replace('"192.0.2.50/24"', '"192.0.2.50/24", "192.0.2.51/24"'), hostname="node1")
    state = Heir(config, told()).state(spec(config)).leases["backups"]
    assert (state.role, state.mine) == (Role.HOLDER, True)
    assert state.drifted == "new in the configuration: 192.0.2.51"


async def test_a_repository_that_is_not_configured_any_more_is_ended():
    pid = os.spawnlp(os.P_NOWAIT, "sleep", "sleep", "60")
    read, write = os.pipe()
    os.close(write)
    old = RepositoryTold("gone", read, pid, 1, "/srv", 8000, True, "1.0")
    found = told(repositories=(old,), core=replace(TOLD.core, leases=()), vips={})
    await Heir(CONFIG, found).adopt({}, {})
    with pytest.raises(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(read)


async def answered(state_of, **changes: object) -> dict:
    """What whoever asked hears."""
    ours, theirs = socket.socketpair()
    theirs.settimeout(5)
    found = told(reply_fd=os.dup(ours.fileno()), **changes)
    ours.close()
    heir = Heir(CONFIG, found)
    state = state_of(heir.state(spec()))
    pump = Pump(state, lambda effect: None, lambda error: None)
    async with asyncio.timeout(5):
        await heir.prove(pump, CONFIG.session.ttl_ns)
    with theirs:
        return json.loads(theirs.recv(4096).partition(b"\r\n\r\n")[2])


def renewed(state):
    """As after a renewal that compared every claim."""
    leases = {name: replace(lease, covered_by=99) for name, lease in state.leases.items()}
    return replace(state, leases=leases, session=replace(state.session, mod=31))


async def test_it_answers_when_everything_is_proven_with_what_it_holds():
    answer = await answered(renewed)
    assert answer["ok"]
    assert answer["holds"] == {"backups": 7}
    assert answer["node"] == "node1"
    assert answer["version_before"] == "1.0"


async def test_a_lease_that_was_lost_meanwhile_is_named():
    def taken(state):
        state = renewed(state)
        leases = {name: replace(lease, mine=False, role=Role.FENCED) for name, lease in state.leases.items()}
        return replace(state, leases=leases)

    answer = await answered(taken)
    assert (answer["ok"], answer["exit"]) == (False, 1)
    assert "lost meanwhile: backups" in answer["error"]


async def test_without_a_session_it_answers_when_there_is_one():
    core = replace(TOLD.core, session=0, proven=None, leases=())
    answer = await answered(
        lambda state: replace(state, session=replace(state.session, phase=Phase.LIVE)), core=core, vips={}
    )
    assert answer["holds"] == {}


def test_nobody_waits_for_the_answer_to_a_signal():
    Reply().done({})
