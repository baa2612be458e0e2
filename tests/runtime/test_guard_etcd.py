"""T12 against a real etcd, by its JSON gateway: what the guard writes is what the core would write."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from leaseha.adapters.etcd import EtcdClient
from leaseha.core import records, trace, transactions
from leaseha.core.records import ClaimRecord, HistoryRecord, Hold, Life, SessionRecord
from leaseha.core.transactions import Letting
from leaseha.core.values import NS_PER_S, Put, Txn
from leaseha.runtime import guard_etcd
from leaseha.runtime.guard_etcd import Closing, Gateway
from leaseha.runtime.guard_kernel import Settled, Unknown
from tests.adapters.certificates import Authority, needs_openssl
from tests.adapters.etcd_members import Members, needs_etcd
from tests.runtime.guarded import CLUSTER
from tests.runtime.standing import LIVE, PREFIX, found, standing, until

pytestmark = [pytest.mark.lab, needs_etcd]

WHY = "the agent of node1 died, and its guard let go of everything"


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


async def test_a_failback_that_its_target_never_wrote_down_is_counted_all_the_same(etcd, members):
    """G8: else a target that crashes again and again would make the flap budget forget each of its failbacks."""
    session = await etcd.grant(60)
    traced = trace.of_move(CLUSTER, "back", 5, 6)
    claims = [
        ClaimRecord(Hold.HELD, "node1", session, "failback", "better", traced, 5, "node2"),
        ClaimRecord(Hold.HELD, "node1", session, "failback", "better", "", 0, "node2"),
    ]
    puts = [Put(records.session_key(session), records.encode(LIVE), session)]
    puts += [Put(records.claim_key(f"back{at}"), records.encode(claim)) for at, claim in enumerate(claims)]
    outcome = await etcd.commit(Txn((), tuple(puts), ()), 0, 5 * NS_PER_S)
    token = outcome.head.revision
    written = Put(records.history_key("back1", token), "as it was")
    await etcd.commit(Txn((), (written,), ()), 0, 5 * NS_PER_S)

    assert write(closing(members.endpoints, session, "back0", "back1")) == ["back0", "back1"]
    keys = await found(etcd)
    line = records.decode(HistoryRecord, keys[records.history_key("back0", token)].value)
    assert line is not None
    expected = HistoryRecord(
        token, "failback", "better", "node2", "node1", line.at_ms, trace_id=trace.trace_id(traced)
    )
    assert keys[records.history_key("back0", token)].value == records.encode(expected)
    assert keys[written.key].value == "as it was"


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
