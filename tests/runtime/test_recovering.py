"""When a loss may be accepted, and what is said before it is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from chaos.sim.etcd import FakeEtcd
from leaseha import cli
from leaseha.adapters import clock
from leaseha.config import Config, parse
from leaseha.core import records
from leaseha.core.records import (
    ClaimRecord,
    HistoryRecord,
    Hold,
    InsyncRecord,
    Life,
    NodeRecord,
    Record,
    SessionRecord,
)
from leaseha.core.values import Delete, Outcome, Put, Txn, Unknown
from leaseha.errors import OperationalError, RecoverRefused, UsageError
from leaseha.repository.tokens import Mark, TokenLedger
from leaseha.runtime import recovering
from leaseha.runtime.operator import UNSURE

L, BY = "backups", "ops on node2"
A, B = 1001, 1002
"""The sessions of node1 and node2."""
TEXT = """
cluster = "backup"
[node]
name = "node2"
interface = "lo"
[etcd]
endpoints = ["http://10.0.0.1:2379", "http://10.0.0.2:2379", "http://10.0.0.3:2379"]
[lease.backups]
vips = ["192.0.2.50/24"]
priority = {{ node1 = 100, node2 = 50 }}
[lease.backups.repository]
path = "{path}"
port = 8000
replicate = true
[session]
ttl_max = "3s"
ttl = "1s"
"""
QUIET = SessionRecord(Life.LIVE, "node1", "s", "i", 1, ttl_ns=200_000_000, margin_ns=1_000_000)


class Client:
    """An etcd in memory; at each read those that live have renewed."""

    def __init__(self, config: Config, *living: int) -> None:
        self.etcd = FakeEtcd()
        self.living = living
        self.tell = True
        self._digest = config.lease(L).digest()
        for node, session in (("node1", A), ("node2", B)):
            self.put(records.session_key(session), replace(QUIET, node=node))
            self.node(node, session)
        self.put(records.insync_key(L), InsyncRecord(frozenset({"of-node1"}), {"of-node1": "node1"}, 1000))
        self.hold(A)

    def node(self, node: str, session: int, **changes: Any) -> None:
        record = NodeRecord(
            node, session, "s", priorities={L: 50}, digests={L: self._digest}, stores={L: f"of-{node}"}
        )
        self.put(records.node_key(node), replace(record, **changes))

    def hold(self, session: int) -> int:
        self.put(records.claim_key(L), ClaimRecord(Hold.HELD, "node1", session, epoch=3))
        return self.etcd.revision

    def put(self, key: str, record: Record) -> None:
        self.etcd.write((Put(key, records.encode(record)),))

    def die(self, node: str, session: int) -> None:
        self.etcd.write((Delete(records.session_key(session)), Delete(records.node_key(node))))

    async def read_all(self, timeout_s: float):
        found = self.etcd.read_all()
        for number, session in enumerate(self.living):
            name = f"node{1 if session == A else 2}"
            self.put(
                records.session_key(session),
                replace(QUIET, node=name, sequence=self.etcd.revision + number),
            )
        return found

    async def commit(self, txn: Txn, attempt: int, timeout_ns: int) -> Outcome:
        outcome = self.etcd.txn(txn)
        return outcome if self.tell else Unknown("no answer")

    def record(self, kind: Any, key: str) -> Any:
        return records.decode(kind, self.etcd.keys[key].value)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return parse(TEXT.format(path=tmp_path), environ={})


async def look(client: Client, config: Config, node: str = "node2") -> recovering.Plan:
    return await recovering.look(client, config, L, node, BY)


async def test_a_holder_that_gives_a_sign_of_life_loses_nothing(config: Config):
    with pytest.raises(RecoverRefused, match="node1 holds lease backups and gives signs of life"):
        await look(Client(config, A, B), config)


async def test_a_silent_holder_is_watched_for_as_long_as_its_ttl_and_then_given_up(config: Config):
    client = Client(config, B)
    began = clock.now().boot_ns
    plan = await look(client, config)
    assert clock.now().boot_ns - began >= 200_000_000

    revision = await recovering.write(client, plan)

    claim = client.record(ClaimRecord, records.claim_key(L))
    written = client.record(InsyncRecord, records.insync_key(L))
    assert (claim.hold, claim.epoch, claim.from_node) == (Hold.LOST, 3, "node1")
    assert (written.stores, written.nodes) == ({"of-node2"}, {"of-node2": "node2"})
    assert written.accepted == f"loss accepted by {BY}: node2 goes on without node1"
    assert (
        client.etcd.keys[records.claim_key(L)].mod == client.etcd.keys[records.insync_key(L)].mod == revision
    )


async def test_a_holder_that_renews_while_the_operator_thinks_makes_it_void(config: Config):
    client = Client(config, B)
    plan = await look(client, config)
    client.put(records.session_key(A), replace(QUIET, sequence=9))

    with pytest.raises(RecoverRefused, match="nothing was written"):
        await recovering.write(client, plan)


async def test_a_write_without_an_answer_is_called_unknown(config: Config):
    client = Client(config, B)
    plan = await look(client, config)
    client.tell = False

    with pytest.raises(OperationalError, match=UNSURE):
        await recovering.write(client, plan)


async def test_a_member_that_runs_takes_the_lease_by_itself(config: Config):
    client = Client(config, A, B)
    client.put(records.claim_key(L), ClaimRecord(Hold.FREE, "node1", from_node="node1"))

    with pytest.raises(RecoverRefused, match="node1 is in-sync and runs"):
        await look(client, config)


async def test_a_free_claim_stays_free(config: Config):
    client = Client(config, B)
    free = ClaimRecord(Hold.FREE, "node1", from_node="node1", epoch=2)
    client.put(records.claim_key(L), free)
    client.die("node1", A)

    await recovering.write(client, await look(client, config))

    assert client.record(ClaimRecord, records.claim_key(L)) == free


async def test_a_claim_that_is_gone_is_written_down_as_lost_with_the_epoch_of_the_disk(
    config: Config, tmp_path: Path
):
    client = Client(config, B)
    client.die("node1", A)
    client.etcd.write((Delete(records.claim_key(L)),))
    TokenLedger(tmp_path / ".leaseha" / "token").store(Mark(4, 7))

    await recovering.write(client, await look(client, config))

    claim = client.record(ClaimRecord, records.claim_key(L))
    assert (claim.hold, claim.epoch) == (Hold.LOST, 4)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"stores": None}, "it has no data directory"),
        ({"ineligible": {L: "its disk fails"}}, "its disk fails"),
        ({"priorities": {L: 0}}, "priority 0"),
    ],
)
async def test_a_node_that_could_not_take_it_anyway_is_refused(config: Config, changes: Any, why: str):
    client = Client(config, B)
    client.node("node2", B, **changes)

    with pytest.raises(RecoverRefused, match=why):
        await look(client, config)


async def test_a_node_that_does_not_run_is_refused(config: Config):
    client = Client(config, B)
    client.die("node2", B)

    with pytest.raises(RecoverRefused, match="no agent runs there"):
        await look(client, config)


async def test_a_node_that_is_silent_is_refused(config: Config):
    with pytest.raises(RecoverRefused, match="node2 could not take lease backups anyway: silent"):
        await look(Client(config), config)


async def test_a_node_that_the_lease_does_not_have_is_bad_input(config: Config):
    with pytest.raises(UsageError, match="--node = node9: not among the nodes"):
        await look(Client(config, B), config, "node9")


async def test_a_new_lease_and_one_that_cannot_be_read_are_nothing_to_recover(config: Config):
    client = Client(config, B)
    client.etcd.write((Delete(records.claim_key(L)), Delete(records.insync_key(L))))
    with pytest.raises(RecoverRefused, match="nobody has ever held"):
        await look(client, config)

    client.etcd.write((Put(records.claim_key(L), "?"),))
    with pytest.raises(RecoverRefused, match="cannot be read"):
        await look(client, config)


async def test_it_is_said_which_holders_the_disk_has_never_heard_of(config: Config, tmp_path: Path):
    client = Client(config, B)
    TokenLedger(tmp_path / ".leaseha" / "token").store(Mark(1, 2))
    token = client.etcd.keys[records.claim_key(L)].mod
    line = HistoryRecord(token, "failover", "", "node2", "node1", 5000, "", answered=True)
    client.put(records.history_key(L, token), line)

    told = "\n".join((await look(client, config)).cost)

    assert "acknowledged is on: node1 (silent); so since 1970-01-01 00:00:01" in told
    assert f"has seen token 2 last, and nothing of these holders:\n  token {token} (node1, since" in told

    TokenLedger(tmp_path / ".leaseha" / "token").store(Mark(3, token))
    told = "\n".join((await look(client, config)).cost)
    assert f"has seen token {token}: it lacks what was acknowledged after it left the set" in told


async def test_what_another_nodes_disk_has_seen_is_not_guessed(config: Config):
    client = Client(config, A)
    client.put(records.claim_key(L), ClaimRecord(Hold.FREE))
    client.put(records.insync_key(L), InsyncRecord(frozenset({"of-node3"})))

    plan = await look(client, config, "node1")

    assert "can be told there only" in "\n".join(plan.cost)
    assert "store of-node3 (not running)" in plan.cost[0]


async def test_it_is_over_when_the_service_answers(config: Config):
    client = Client(config, B)
    plan = await look(client, config)
    revision = await recovering.write(client, plan)
    with pytest.raises(OperationalError, match="the loss is accepted, but node2 does not serve"):
        await recovering.await_holder(client, plan, revision, 0.1)
    token = client.hold(B)
    line = HistoryRecord(token, "failover", "", "node1", "node2", 0, "", answered=True)
    client.put(records.history_key(L, token), line)

    done = await recovering.await_holder(client, plan, revision, 5)

    assert (done.holder, done.token) == ("node2", token)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ((), "--accept-loss is missing"),
        (("--accept-loss", "--timeout", "0"), "must be more than 0"),
        (("--accept-loss",), "here is nobody to ask"),
    ],
)
def test_nothing_is_asked_of_etcd_before_the_command_is_meant(
    tmp_path: Path, capsys: Any, more: Any, says: str
):
    path = tmp_path / "leaseha.toml"
    path.write_text(TEXT.format(path=tmp_path))

    assert cli.main(["recover", L, "--config", str(path), *more]) == 2

    assert says in capsys.readouterr().err
