"""What `status` says of a lease, made from real cores."""

from typing import Any

from leaseha.core import records
from leaseha.runtime import show
from leaseha.runtime.report import Surroundings, document
from tests.core import hands
from tests.core.harness import World


def lease(world: World, node: str = "a") -> dict[str, Any]:
    """The lease `l` as the agent of a node tells it."""
    around = Surroundings("1.0", 1, "agent")
    return document(world.nodes[node], world.now(), around)["leases"]["l"]


def lose_session(world: World) -> None:
    """The record of the holder's session is deleted by hand, and it goes on under a new one (T14)."""
    token = world.state("a").token
    hands.erase(world, hands.record_key(world, "a"))
    world.run(1.5)
    assert world.holders() == ["a"]
    assert world.state("a").token > token


def admit_only(world: World, *stores: str) -> None:
    """Someone puts this in-sync set by hand; the holder is cut off before, so that it does not put its own."""
    world.kill("a")
    world.tell(
        world.etcd.put(records.insync_key("l"), records.encode(records.InsyncRecord(frozenset(stores))))
    )


def test_a_holder_that_goes_on_under_another_session_has_held_since_it_came_to_it() -> None:
    world = hands.serving()
    world.run(1.5)
    since_ms = lease(world)["since_ms"]
    assert since_ms

    for _ in range(2):  # the claim names only the token before it: from the second on that has no line either
        lose_session(world)
        for node in ("a", "b"):
            told = lease(world, node)
            assert (told["holder"], told["since_ms"]) == ("a", since_ms)


def test_a_stay_without_a_line_is_not_given_that_of_another_holder() -> None:
    """The holder before it wrote the newest line there is: since when the new one holds is then unknown."""
    world = hands.serving()
    world.run(1.5)
    lose_session(world)
    for key in [key for key in world.etcd.keys if key.startswith("leases/l/history/")]:
        line = records.decode(records.HistoryRecord, world.etcd.keys[key].value)
        foreign = records.HistoryRecord(
            line.token, line.kind, line.reason, "", "b", line.at_ms, line.trace_id, answered=True
        )
        world.tell(world.etcd.put(key, records.encode(foreign)))

    assert lease(world)["since_ms"] is None


def test_a_lease_that_no_node_may_take_says_so_once_with_why_for_each() -> None:
    world = hands.serving()
    world.run(1.5)
    admit_only(world, "store-gone")
    world.run(20)

    told = lease(world, "b")

    assert told["holder_silent"]
    assert told["note"] == "no node may take it: a: silent; b: not in-sync"


def test_a_lease_that_is_served_has_no_such_note() -> None:
    world = hands.serving()
    world.run(1.5)

    assert lease(world, "b")["note"] == ""


def test_a_lease_that_no_member_can_take_says_who_they_are_and_the_two_ways_out() -> None:
    world = hands.serving()
    world.run(1.5)
    world.kill("a")
    record = records.InsyncRecord(frozenset({"store-a"}), {"store-a": "a"}, at_ms=5000)
    world.tell(world.etcd.put(records.insync_key("l"), records.encode(record)))
    assert lease(world, "b")["stranded"] is None  # it is not silent yet
    world.run(9)

    told = lease(world, "b")

    assert told["stranded"] == {
        "members": [{"node": "a", "store": "store-a", "why": "silent"}],
        "since_ms": 5000,
        "could": ["b"],
        "accepted": "",
    }
    assert told["in_sync"] == ["a"]
    text = show.status(document(world.nodes["b"], world.now(), Surroundings("1.0", 1, "agent"))).splitlines()
    at = next(number for number, line in enumerate(text) if line.startswith("lease l:"))
    assert text[at + 1].endswith("is on: a (silent); so since 1970-01-01 00:00:05.000Z")
    assert "bring back a, with its data" in text[at + 2]
    assert "leaseha recover l --accept-loss --node b:" in text[at + 3]


def test_a_member_that_runs_with_another_disk_is_told_apart() -> None:
    world = hands.serving()
    world.run(1.5)
    world.kill("a")
    record = records.InsyncRecord(frozenset({"lost", "other"}), {"lost": "b"})
    world.tell(world.etcd.put(records.insync_key("l"), records.encode(record)))
    world.run(9)

    told = lease(world, "b")

    assert [(one["node"], one["why"]) for one in told["stranded"]["members"]] == [
        (None, "not running"),
        ("b", "runs with another disk"),
    ]
    assert told["in_sync"] == ["b (store lost)", "store other"]
