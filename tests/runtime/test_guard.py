"""The guard on real processes, real addresses and a real etcd: what it does, and what it leaves alone."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from leaseha.adapters import clock
from leaseha.adapters.etcd import EtcdClient
from leaseha.adapters.rtnl import Address, AddressSocket
from leaseha.adapters.vip import VipBinder, cluster_tag
from leaseha.core import records, trace, transactions
from leaseha.core.records import ClaimRecord, Hold, Life, SessionRecord
from leaseha.core.transactions import Letting
from leaseha.core.values import NS_PER_S, Committed, KeyValue, Put, Txn
from leaseha.runtime import guard_etcd
from leaseha.runtime.guard_etcd import Closing, Gateway
from leaseha.runtime.guard_kernel import Settled, Unknown
from leaseha.runtime.guarding import MARK
from tests.adapters.certificates import Authority, needs_openssl
from tests.adapters.etcd_members import Members, needs_etcd
from tests.runtime.guarded import CLUSTER

pytestmark = [pytest.mark.lab, needs_etcd]

PREFIX = "/leaseha/guarded/"
VIP = "10.99.0.50"
LO = "lo"
LIVE = SessionRecord(Life.LIVE, "node1", "store-1", "inc", 7, 2 * NS_PER_S, 20_000_000)
SOON_S = 20.0
WHY = "the agent of node1 died, and its guard let go of everything"


def until(what: str, fact: Callable[[], Any], timeout_s: float = SOON_S) -> Any:
    """The first true value of a fact."""
    end = time.monotonic() + timeout_s
    while not (found := fact()):
        assert time.monotonic() < end, f"did not come: {what}"
        time.sleep(0.005)  # waits for a fact: the one that is asked for
    return found


# --- T12 --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def members(tmp_path_factory) -> Iterator[Members]:
    with Members(tmp_path_factory.mktemp("guard-etcd")) as made:
        yield made


@pytest.fixture
async def etcd(members: Members) -> AsyncIterator[EtcdClient]:
    """A client of the agent's own kind, with nothing under the prefix."""
    client = EtcdClient(members.endpoints, PREFIX)
    await client.wait_ready(SOON_S)
    yield client
    await client.close()


async def standing(etcd: EtcdClient, *leases: str, record: SessionRecord = LIVE) -> tuple[int, int]:
    """A session that holds these leases, as an agent would have written it: (session, revision)."""
    session = await etcd.grant(60)
    claim = ClaimRecord(Hold.HELD, "node1", session, "first", "first holder", epoch=3)
    puts = [Put(records.session_key(session), records.encode(record), session)]
    puts += [Put(records.claim_key(lease), records.encode(claim)) for lease in leases]
    revision = 0
    for at in range(0, len(puts), 100):
        outcome = await etcd.commit(Txn((), tuple(puts[at : at + 100]), ()), 0, 5 * NS_PER_S)
        assert isinstance(outcome, Committed)
        revision = outcome.head.revision
    return session, revision


async def found(etcd: EtcdClient) -> dict[str, KeyValue]:
    return {kv.key: kv for kv in (await etcd.read_all())[1]}


def closing(endpoints: list[str], session: int, *leases: str, **more: str) -> Closing:
    return Closing(Gateway({"endpoints": endpoints, **more}), PREFIX, session, leases)


def write(one: Closing, traces: dict[str, str] | None = None, timeout_s: float = 5.0) -> list[str]:
    at = time.monotonic_ns()
    return one.write(traces or {}, WHY, at, at + int(timeout_s * NS_PER_S))


async def test_what_it_writes_is_what_the_core_would_write_as_t12(etcd: EtcdClient, members: Members):
    session, revision = await standing(etcd, "a", "b")
    traces = {name: trace.of_move(CLUSTER, name, revision, session) for name in ("a", "b")}

    assert write(closing(members.endpoints, session, "a", "b"), traces) == ["a", "b"]

    keys = await found(etcd)
    freed = [records.decode(ClaimRecord, keys[records.claim_key(name)].value) for name in ("a", "b")]
    assert all(claim is not None and 0 <= claim.down_ms < 5000 for claim in freed)
    letting = [
        Letting(
            name,
            revision,
            0,
            ClaimRecord(
                Hold.FREE,
                kind="failover",
                reason=WHY,
                traceparent=traces[name],
                previous=revision,
                from_node="node1",
                epoch=3,
                down_ms=claim.down_ms if claim is not None else -1,
            ),
        )
        for name, claim in zip(("a", "b"), freed, strict=True)
    ]
    wanted = transactions.t12_close(session, revision, LIVE, letting)
    assert [keys[put.key].value for put in wanted.puts] == [put.value for put in wanted.puts if put]
    assert keys[records.session_key(session)].lease == 0, "a closed record hangs on nothing"
    assert len({keys[put.key].mod for put in wanted.puts}) == 1, "in one transaction"


@pytest.mark.parametrize(
    "record",
    [
        LIVE,
        SessionRecord(Life.LIVE, "node1"),
        SessionRecord(Life.LIVE, "nöde", "s", "i", 1, 2, 3, "x"),
    ],
)
def test_a_closed_record_is_encoded_as_the_core_does_it(record: SessionRecord):
    told = json.loads(records.encode(record))
    txn = transactions.t12_close(7, 1, record)

    assert guard_etcd.closed_session(told) == next(put.value for put in txn.puts if isinstance(put, Put))


@pytest.mark.parametrize(("epoch", "trace_of", "down_ms"), [(1, "", -1), (4, "00-1-2-01", 12)])
def test_a_freed_claim_is_encoded_as_the_core_does_it(epoch: int, trace_of: str, down_ms: int):
    held = json.loads(records.encode(ClaimRecord(Hold.HELD, "node1", 7, epoch=epoch)))
    wanted = ClaimRecord(
        Hold.FREE,
        "",
        0,
        "failover",
        "why",
        trace_of,
        previous=9,
        from_node="node1",
        epoch=epoch,
        down_ms=down_ms,
    )

    assert guard_etcd.free_claim(held, 9, "node1", "why", trace_of, down_ms) == records.encode(wanted)


async def test_a_claim_that_the_agent_took_without_hearing_of_it_is_freed_too_and_those_of_others_are_not(
    etcd: EtcdClient, members: Members
):
    await standing(etcd, "other")
    session, _ = await standing(etcd, "mine")
    before = (await found(etcd))[records.claim_key("other")]

    assert write(closing(members.endpoints, session, "other", "mine", "absent")) == ["mine"]
    assert (await found(etcd))[records.claim_key("other")] == before


async def test_a_hundred_and_thirty_leases_are_freed_in_batches(etcd: EtcdClient, members: Members):
    names = [f"many{number}" for number in range(130)]
    session, _ = await standing(etcd, *names)

    assert sorted(write(closing(members.endpoints, session, *names))) == sorted(names)
    keys = await found(etcd)
    holds = {records.decode(ClaimRecord, keys[records.claim_key(name)].value).hold for name in names}  # type: ignore[union-attr]
    assert holds == {Hold.FREE}


@pytest.mark.parametrize("life", [Life.DEAD, None])
async def test_a_session_that_others_ended_is_left_as_it_is(
    etcd: EtcdClient, members: Members, life: Life | None
):
    record = SessionRecord(life, "node1") if life else LIVE
    session, _ = await standing(etcd, "ended", record=record)
    if life is None:
        await etcd.revoke(session)
    before = await found(etcd)

    with pytest.raises(Settled):
        write(closing(members.endpoints, session, "ended"))
    assert await found(etcd) == before


async def test_a_late_write_of_the_dead_agent_makes_it_read_again(etcd: EtcdClient, members: Members):
    """A11: the compare of its first attempt fails; what was written in between is closed with the rest."""
    session, _ = await standing(etcd, "late")

    class Late(Gateway):
        """Between the read and the write something that was on its way arrives."""

        arrived = False

        def call(self, path: str, body: dict[str, Any], timeout_s: float) -> dict[str, Any]:
            if "compare" in body and not self.arrived:
                self.arrived = True
                key = guard_etcd.b64(PREFIX + records.session_key(session))
                value = guard_etcd.b64(records.encode(LIVE))
                super().call("/v3/kv/put", {"key": key, "value": value, "lease": str(session)}, timeout_s)
            return super().call(path, body, timeout_s)

    late = Late({"endpoints": members.endpoints})
    assert write(Closing(late, PREFIX, session, ["late"])) == ["late"]
    assert late.arrived


async def test_every_endpoint_is_tried(etcd: EtcdClient, members: Members):
    session, _ = await standing(etcd, "tried")

    assert write(closing(["http://127.0.0.1:1", *members.endpoints], session, "tried")) == ["tried"]
    with pytest.raises(Unknown, match="Connection refused"):
        write(closing(["http://127.0.0.1:1"], session, "tried"), timeout_s=0.5)


@needs_openssl
async def test_it_speaks_tls_with_a_certificate_of_its_own(tmp_path: Path):
    authority = Authority(tmp_path / "pki")
    (cert, key), (own_cert, own_key) = authority.issue("member"), authority.issue("node")
    options = (
        f"--cert-file={cert}",
        f"--key-file={key}",
        f"--trusted-ca-file={authority.ca}",
        "--client-cert-auth",
    )
    with Members(tmp_path, options=options) as secured:
        files = {"ca": str(authority.ca), "cert": str(own_cert), "key": str(own_key)}
        one = closing(secured.endpoints, 7, "a", **files)
        own, claims = until("the gateway answers", lambda: answered(one))

        assert (own, claims) == (None, {})


def answered(one: Closing) -> tuple[Any, Any] | None:
    try:
        return one.read(2.0)
    except Unknown:
        return None


async def test_with_users_it_needs_a_password_and_says_so(tmp_path: Path):
    (tmp_path / "password").write_text("secret\n")
    with Members(tmp_path) as guarded:
        gateway = Gateway({"endpoints": guarded.endpoints})
        until("the gateway answers", lambda: answered(Closing(gateway, PREFIX, 7, ["a"])))
        for name in ("root", "agent"):
            gateway.call("/v3/auth/user/add", {"name": name, "password": "secret"}, 5)
        gateway.call("/v3/auth/user/grant", {"user": "root", "role": "root"}, 5)
        gateway.call("/v3/auth/role/add", {"name": "agent"}, 5)
        end = PREFIX[:-1] + chr(ord(PREFIX[-1]) + 1)
        permission = {
            "permType": "READWRITE",
            "key": guard_etcd.b64(PREFIX),
            "range_end": guard_etcd.b64(end),
        }
        gateway.call("/v3/auth/role/grant", {"name": "agent", "perm": permission}, 5)
        gateway.call("/v3/auth/user/grant", {"user": "agent", "role": "agent"}, 5)
        gateway.call("/v3/auth/enable", {}, 5)

        with pytest.raises(Unknown, match="user name is empty"):
            Closing(gateway, PREFIX, 7, ["a"]).read(2.0)
        user = {"user": "agent", "password_file": str(tmp_path / "password")}
        assert closing(guarded.endpoints, 7, "a", **user).read(2.0) == (None, {})


# --- the process ------------------------------------------------------------------------------------------------


class Body:
    """A guarded process, and the other end of its standard input and output."""

    def __init__(self, folder: Path) -> None:
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
        "grace_ns": 250_000_000,
        "release_ns": 5 * NS_PER_S,
        "log": {"node": "node1", "cluster": CLUSTER, "form": "human"},
    }
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

    assert int(rss.split()[1]) < 15 * 1024
    program = "import sys; sys.path.insert(0, sys.argv[1]); import leaseha.runtime.guard; print(*sys.modules)"
    command = [sys.executable, "-I", "-S", "-E", "-c", program, str(Path(__file__).parents[2])]
    loaded = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    ours = {name for name in loaded if name.partition(".")[0] == "leaseha"}
    parts = {f"leaseha.runtime.guard{part}" for part in ("", "_etcd", "_kernel")}
    assert ours == {"leaseha", "leaseha.runtime", *parts}
    assert {name.partition(".")[0] for name in loaded} <= {"leaseha", "__main__", *sys.stdlib_module_names}
