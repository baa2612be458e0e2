"""The guard on real processes, real addresses and a real etcd: what it does, and what it leaves alone."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from leaseha import scheduling
from leaseha.adapters import clock
from leaseha.adapters.etcd import EtcdClient
from leaseha.adapters.rtnl import Address, AddressSocket
from leaseha.adapters.vip import VipBinder, cluster_tag
from leaseha.core import records
from leaseha.core.records import ClaimRecord, Hold, Life, SessionRecord
from leaseha.core.values import NS_PER_S
from leaseha.runtime.guarding import MARK
from tests.adapters.etcd_members import Members, needs_etcd
from tests.runtime.guarded import CLUSTER
from tests.runtime.standing import PREFIX, SOON_S, found, standing, until

pytestmark = [pytest.mark.lab, needs_etcd]

VIP = "10.99.0.50"
LO = "lo"


class Body:
    """A guarded process, and the other end of its standard input and output."""

    def __init__(self, folder: Path) -> None:
        self.told: dict[str, Any] = {}
        self.log = folder / "guarded.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.runtime.guarded", str(folder)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    def say(self, **word: Any) -> dict[str, Any]:
        """Its answer to one word."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(word) + "\n")
        self.process.stdin.flush()
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def body(tmp_path: Path, members: Members) -> Iterator[Body]:
    """It is guarded, its VIP would be on the loopback interface, and it has lease `l`."""
    one = Body(tmp_path)
    told = {
        "do": "configure",
        "prefix": PREFIX,
        "leases": ["l"],
        "etcd": {"endpoints": members.endpoints},
        "vips": {VIP: LO},
        "tag": cluster_tag(CLUSTER),
        "urgent": True,
        "grace_ns": 250_000_000,
        "release_ns": 5 * NS_PER_S,
        "log": {"node": "node1", "cluster": CLUSTER, "form": "human"},
    }
    one.told = told
    one.say(configure=told)
    yield one
    guard = one.say(disarm="")["guard"] if one.process.poll() is None else 0
    one.close()
    if guard:
        until("the guard has ended", lambda: not Path(f"/proc/{guard}").exists() or zombie(guard))


@pytest.fixture
async def binder() -> AsyncIterator[VipBinder]:
    """Of this process: the guard finds an address by what it wears, not by who put it there."""
    made = VipBinder(LO, CLUSTER, warn=print)
    yield made
    await made.unbind("l", [ip_address(VIP)])
    made.close()


def bound() -> bool:
    with AddressSocket() as kernel:
        return any(str(one.ip) == VIP for one in kernel.addresses())


def zombie(pid: int) -> bool:
    """Ended, whoever may still look at its exit code."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


async def up(body: Body, binder: VipBinder, etcd: EtcdClient, ms: int = 60_000) -> tuple[int, int]:
    """The lease is held, its VIP bound, and the guard knows: (session, pid of the guard)."""
    session, token = await standing(etcd, "l")
    body.say(session=session)
    guard = body.say(arm="l", token=token, ms=ms)["guard"]
    await binder.bind("l", [ip_address(VIP)], clock.now().plus(60 * NS_PER_S))
    return session, guard


async def freed(etcd: EtcdClient, session: int) -> bool:
    keys = await found(etcd)
    own = records.decode(SessionRecord, keys[records.session_key(session)].value)
    claim = records.decode(ClaimRecord, keys[records.claim_key("l")].value)
    assert own is not None
    assert claim is not None
    assert (own.life is Life.CLOSED) == (claim.hold is Hold.FREE)
    return claim.hold is Hold.FREE


async def wait_freed(etcd: EtcdClient, session: int) -> None:
    async with asyncio.timeout(SOON_S):
        while not await freed(etcd, session):
            await asyncio.sleep(0.01)  # waits for a fact: the claim is free


@pytest.mark.netns
async def test_when_the_agent_is_killed_everything_goes_and_then_the_claim_is_freed(body, binder, etcd):
    session, guard = await up(body, binder, etcd)
    body.say(spawn=1)
    mine = f"{MARK}=".encode()
    leavers = [pid for pid in pids() if carries(pid, mine)]
    body.signal(signal.SIGKILL)
    await wait_freed(etcd, session)

    assert not bound()
    assert len(leavers) >= 1
    assert [pid for pid in leavers if not zombie(pid)] == []
    until("the guard has ended", lambda: zombie(guard))
    assert (
        "WARNING node1: guard: the agent of node1 died; everything is off, and freed: l"
        in body.log.read_text()
    )


def pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def carries(pid: int, mark: bytes) -> bool:
    try:
        return mark in Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False


@pytest.mark.netns
async def test_an_agent_that_hangs_past_its_deadline_is_killed_before_anything_is_freed(body, binder, etcd):
    session, _ = await up(body, binder, etcd, ms=300)
    body.signal(signal.SIGSTOP)
    await wait_freed(etcd, session)

    assert body.process.wait(SOON_S) == -signal.SIGKILL
    assert not bound()
    assert "hung, " in body.log.read_text()
    assert "ms past its deadline: killing it" in body.log.read_text()


@pytest.mark.netns
async def test_a_freeze_that_ends_before_the_deadline_costs_nothing(body, binder, etcd):
    session, guard = await up(body, binder, etcd, ms=2000)
    body.signal(signal.SIGSTOP)
    until("it is frozen", lambda: Path(f"/proc/{body.process.pid}/stat").read_text().split()[2] == "T")
    body.signal(signal.SIGCONT)
    body.say(arm="l", token=1, ms=60_000)

    assert body.say(disarm="")["guard"] == guard
    assert bound()
    assert not await freed(etcd, session)


@pytest.mark.netns
async def test_what_is_extended_or_disarmed_is_not_late(body, binder, etcd):
    session, guard = await up(body, binder, etcd, ms=100)
    for _ in range(40):
        body.say(arm="l", token=1, ms=100)
        await asyncio.sleep(0.02)  # waits for a fact: several deadlines and graces have gone by
    body.say(arm="l", token=1, ms=100)
    body.say(disarm="l")
    await asyncio.sleep(0.6)  # waits for a fact: the last deadline and its grace have gone by

    assert body.say(disarm="")["guard"] == guard
    assert body.process.poll() is None
    assert not await freed(etcd, session)


@pytest.mark.netns
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
async def test_a_signal_for_the_whole_group_does_not_stop_it(body, binder, etcd, number):
    session, guard = await up(body, binder, etcd)
    os.kill(guard, number)
    body.signal(signal.SIGKILL)
    os.kill(guard, number)
    await wait_freed(etcd, session)


@pytest.mark.netns
async def test_after_a_bye_it_ends_and_touches_nothing(body, binder, etcd):
    session, guard = await up(body, binder, etcd)
    body.say(bye=1)
    until("the guard has ended", lambda: zombie(guard))
    body.signal(signal.SIGKILL)
    body.process.wait(SOON_S)

    assert bound()
    assert not await freed(etcd, session)


@pytest.mark.netns
async def test_an_address_that_it_cannot_take_off_keeps_it_from_freeing_anything(body, etcd):
    """B13: it was put up by someone else, with a network's mask; nobody may answer beside it."""
    session, token = await standing(etcd, "l")
    body.say(session=session)
    guard = body.say(arm="l", token=token, ms=60_000)["guard"]
    foreign = Address(ip_address(VIP), 24, 1)
    with AddressSocket() as kernel:
        kernel.replace([foreign])
        body.signal(signal.SIGKILL)
        until("the guard has ended", lambda: zombie(guard))
        kernel.delete([foreign])

    assert not await freed(etcd, session)
    assert f"so nothing is freed, others wait out the ttl: {VIP} is still on lo" in body.log.read_text()


@pytest.mark.netns
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
async def test_a_guard_that_died_or_hangs_is_replaced_by_one_that_knows_everything(
    body, binder, etcd, number
):
    session, guard = await up(body, binder, etcd)
    os.kill(guard, number)
    other = until(
        "another guard", lambda: {0, guard}.isdisjoint({now := body.say(disarm="")["guard"]}) and now
    )
    assert zombie(guard)
    body.signal(signal.SIGKILL)
    await wait_freed(etcd, session)

    assert not bound()
    assert f"lost the guard (pid {guard})" in body.log.read_text()
    until("the guard has ended", lambda: zombie(other))


@pytest.mark.netns
async def test_it_is_as_urgent_as_its_agent_may_be_and_ordinary_where_that_is_not_wanted(body):
    if why := scheduling.why_not_realtime():
        pytest.skip(f"{why}: run as root")
    pid = body.say(disarm="")["guard"]

    until("the guard is real-time, all of it", lambda: set(map(scheduling.is_realtime, tasks(pid))) == {True})
    body.say(configure=body.told | {"urgent": False})
    until("the guard is ordinary", lambda: set(map(scheduling.is_realtime, tasks(pid))) == {False})


def tasks(pid: int) -> list[int]:
    return [int(one.name) for one in Path(f"/proc/{pid}/task").iterdir()]


async def test_another_agent_of_this_node_begins_when_the_guard_has_ended(body, binder, etcd, tmp_path):
    session, guard = await up(body, binder, etcd)
    os.kill(guard, signal.SIGSTOP)
    body.signal(signal.SIGKILL)
    body.process.wait(SOON_S)
    other = Body(tmp_path)
    try:
        assert not await freed(etcd, session)
        os.kill(guard, signal.SIGCONT)
        other.say(disarm="")
        assert zombie(guard)
        assert await freed(etcd, session)
    finally:
        other.close()


async def test_it_is_small_and_stands_on_the_standard_library_alone(body):
    pid = body.say(disarm="")["guard"]
    until("it may be looked at", lambda: "guard (" not in body.say(disarm="")["layer"])
    rss = next(
        line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS")
    )

    assert int(rss.split()[1]) < 15 * 1024  # with its memory locked, too, where that is permitted
    program = "import sys; sys.path.insert(0, sys.argv[1]); import leaseha.runtime.guard; print(*sys.modules)"
    command = [sys.executable, "-I", "-S", "-E", "-c", program, str(Path(__file__).parents[2])]
    loaded = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    ours = {name for name in loaded if name.partition(".")[0] == "leaseha"}
    parts = {f"leaseha.runtime.guard{part}" for part in ("", "_etcd", "_kernel", "_tree")} | {
        "leaseha.connections",
        "leaseha.scheduling",
    }
    assert ours == {"leaseha", "leaseha.runtime", *parts}
    assert {name.partition(".")[0] for name in loaded} <= {"leaseha", "__main__", *sys.stdlib_module_names}
