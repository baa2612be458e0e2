"""Many leases under one session: batches, slices, and what each transaction may hold (A3)."""

from __future__ import annotations

from leaseha.core import effects, events, records
from leaseha.core.effects import Commit
from leaseha.core.spec import LeaseSpec
from leaseha.core.state import Role
from leaseha.core.values import NS_PER_MS, NS_PER_S
from tests.core import hands
from tests.core.harness import World, spec

OPERATIONS_MAX = 128
"""etcd's bound on the compares, and on the puts, of one transaction."""


def several(count: int) -> tuple[LeaseSpec, ...]:
    """Leases l00, l01, ... which a should have, and b may."""
    return tuple(LeaseSpec(f"l{i:02}", {"a": 100, "b": 50}, digest="v.x") for i in range(count))


def commits(world: World, name: str, what: str) -> list[Commit]:
    """The transactions of one kind that a node sent."""
    return [e for n, e in world.log if n == name and isinstance(e, Commit) and e.what == what]


def held(world: World, name: str) -> int:
    """How many leases a node serves."""
    return sum(state.role is Role.HOLDER for state in world.nodes[name].leases.values())


def test_a_dead_holders_leases_are_taken_in_batches() -> None:
    """T3 declares it dead and takes the first batch, T4 the others at once, comparing the *dead* record."""
    leases = several(7)
    world = hands.serving(spec("a", *leases, batch_size=3), spec("b", *leases, batch_size=3), seconds=4)

    assert held(world, "a") == 7

    world.kill("a")
    world.run(6.6)

    assert held(world, "b") == 7
    assert len(commits(world, "b", "T3")) == 1
    assert len(commits(world, "b", "T4")) == 2


def test_a_stop_releases_in_batches() -> None:
    """T11 for three at most of those that are off; then the session is closed."""
    leases = several(7)
    world = hands.serving(spec("a", *leases, batch_size=3), seconds=4)
    world.give("a", events.StopAsked(world.now()))
    world.run(1)

    assert world.nodes["a"].stopped
    sizes = [len(c.txn.puts) - 1 for c in commits(world, "a", "T11")]
    assert sum(sizes) == len(leases)
    assert max(sizes) <= 3
    assert all(hands.claim(world, lease.name).hold is records.Hold.FREE for lease in leases)


def test_renewals_compare_a_rotating_slice_of_the_claims() -> None:
    """T2: with more claims than a slice each is compared in its turn, and none runs out of cover."""
    leases = several(8)
    world = hands.serving(spec("a", *leases, slice_size=3), seconds=4)
    hands.keep(world, "a")
    world.run(1.2)
    hands.end(world, "a")
    hands.let(world, "a")
    start = len(commits(world, "a", "T2"))
    world.run(60)
    slices = [
        {c.key for c in commit.txn.compares if c.key.endswith("/claim")}
        for commit in commits(world, "a", "T2")[start:]
    ]

    assert {len(part) for part in slices} == {6}
    assert set().union(*slices[:3]) == {records.claim_key(lease.name) for lease in leases}
    assert held(world, "a") == 8
    assert "H-cover" not in [row for lease in leases for row in world.rows("a", lease.name)]


def test_slices_grow_so_that_every_claim_is_compared_within_its_cover() -> None:
    """A3: the cover of a claim is `ttl_max`; all of them must come round before it ends."""
    leases = several(30)
    timings = {"ttl_ns": 2 * NS_PER_S, "renew_every_ns": 400 * NS_PER_MS, "ttl_max_ns": 3 * NS_PER_S}
    world = hands.serving(spec("a", *leases, slice_size=1, **timings), seconds=12)

    assert held(world, "a") == 30
    assert "H-cover" not in [row for lease in leases for row in world.rows("a", lease.name)]


def test_no_transaction_is_larger_than_etcd_allows() -> None:
    """With the default sizes: 60 leases a batch, two compares each, and the slice of a thousand claims."""
    leases = several(62)
    world = World(spec("a", *leases), spec("b", *leases))
    stores = records.InsyncRecord(frozenset({"store-a", "store-b"}))
    old = records.SessionRecord(records.Life.LIVE, "x", ttl_ns=5 * NS_PER_S)
    world.etcd.put(records.session_key(7), records.encode(old))
    for lease in leases:
        claim = records.ClaimRecord(records.Hold.HELD, node="x", session=7)
        world.etcd.put(records.claim_key(lease.name), records.encode(claim))
        world.etcd.put(records.insync_key(lease.name), records.encode(stores))
    world.start()
    closed = records.SessionRecord(records.Life.CLOSED, "x", by="x")
    world.tell(world.etcd.put(records.session_key(7), records.encode(closed)))
    world.run(1, step_ms=50)

    assert held(world, "a") == 62

    world.kill("a")
    world.run(6.8, step_ms=50)
    sent = [e.txn for _, e in world.log if isinstance(e, effects.Commit)]

    assert held(world, "b") == 62
    assert max(len(txn.compares) for txn in sent) <= OPERATIONS_MAX
    assert max(len(txn.puts) for txn in sent) <= OPERATIONS_MAX
    assert max(len(txn.reads) for txn in sent) <= OPERATIONS_MAX


def test_a_lost_lease_costs_the_others_nothing() -> None:
    """One claim deleted by hand: its lease stops, the session and its other leases go on."""
    leases = several(3)
    world = hands.serving(spec("a", *leases), spec("b", *leases), seconds=3)
    hands.erase(world, records.claim_key("l01"))
    world.run(3)

    assert world.holders("l00") == world.holders("l02") == ["a"]
    assert world.holders("l01") == []
    assert "H-taken" in world.rows("a", "l01")


def test_new_leases_are_written_down_and_admitted_in_batches() -> None:
    """T6 and T13: a cluster that starts with many leases is up within moments."""
    leases = several(40)
    world = World(spec("a", *leases), spec("b", *leases))
    world.start()
    world.run(0.5)

    assert held(world, "a") == 40
    assert len(commits(world, "a", "T6")) <= 2
    assert len(commits(world, "a", "T13")) <= 3


def test_renewals_come_first_where_one_does_not_compare_all_claims() -> None:
    """Whatever else there is to write for so many leases, no cover ends for it."""
    leases = several(9)
    timings = {"ttl_ns": 2 * NS_PER_S, "renew_every_ns": 400 * NS_PER_MS, "ttl_max_ns": 3 * NS_PER_S}
    world = hands.serving(spec("a", *leases, slice_size=2, batch_size=1, **timings), seconds=2)
    began = len(world.log)
    for round_ in range(16):
        for name in ("x", "y"):
            store = f"store-{name}-{round_}"
            record = records.NodeRecord(
                name, 500 + round_, store, priorities={one.name: 10 for one in leases},
                digests={one.name: "v.x" for one in leases},
            )  # fmt: skip
            session = records.SessionRecord(records.Life.LIVE, name, store, "i", 1, 5 * NS_PER_S)
            world.tell(world.etcd.put(records.session_key(500 + round_), records.encode(session)))
            world.tell(world.etcd.put(records.node_key(name), records.encode(record)))
        world.run(0.3)
    sent = [e for _, e in world.log[began:] if isinstance(e, Commit)]
    renewals = [e for e in sent if e.what == "T2"]

    assert len([e for e in sent if e.what == "T13"]) > 40
    assert len(renewals) >= 6
    assert held(world, "a") == 9
    assert "H-cover" not in [row for lease in leases for row in world.rows("a", lease.name)]
