"""Whose confirmation a repository's process is told to need, and what it says goes on to the core."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from leaseha.config import Config, CopiesConfig, load
from leaseha.core import events, records
from leaseha.core.spec import LeaseSpec
from leaseha.core.state import Draft
from leaseha.repository.control import Notice
from leaseha.repository.members import Members, PeerAddress
from leaseha.runtime import copying
from leaseha.runtime.copies import Copies
from leaseha.runtime.datadir import DataDirectory
from leaseha.runtime.members import MembersTeller, members_of
from tests.core import hands
from tests.core.harness import World, spec

PRIORITIES = {"a": 100, "b": 50}
COPIED = LeaseSpec("l", PRIORITIES, digest="v.x", data=True, replicated=True, peer_port=8001)


def pair() -> World:
    """Node a holds; both tell where they take copies in."""
    world = hands.serving(*(spec(n, COPIED, address=f"10.0.0.{at}") for at, n in enumerate("ab", 1)))
    world.run(1.1)
    return world


def told(world: World, name: str = "a") -> Members:
    return members_of(world.nodes[name], "l", world.now(), 1)


def wants(world: World, *stores: str, number: int = 1) -> None:
    token = world.state("a").token
    world.give("a", events.CopiesReported(world.now(), "l", frozenset(stores), token, number))


def test_a_process_is_told_its_store_the_set_and_where_the_others_are():
    world = pair()

    assert told(world) == Members(
        "store-a", frozenset({"store-a"}), (PeerAddress("store-b", "b", "10.0.0.2", 8001, alive=True),)
    )


def test_a_store_that_is_asked_in_or_out_counts_until_that_is_known():
    world = pair()
    hands.keep(world, "a", "T13")
    wants(world, "store-a", "store-b", number=7)

    assert told(world).insync == {"store-a", "store-b"}
    assert told(world).wants == 7

    hands.end(world, "a")
    wants(world, "store-a", number=8)

    assert told(world).insync == {"store-a", "store-b"}
    assert told(world).wants == 8

    hands.end(world, "a")
    hands.let(world, "a")

    assert told(world).insync == {"store-a"}


def test_a_node_that_gives_no_sign_of_life_is_told_to_be_dead():
    world = pair()
    world.kill("b")
    world.run(9)

    assert [peer.alive for peer in told(world).peers] == [False]


@pytest.mark.parametrize(
    "changes",
    [{"address": ""}, {"stores": None}, {"stores": {"l": "store-a"}}, {"peer_ports": {}}],
    ids=["no address", "no store", "our own store", "no port"],
)
def test_a_node_that_cannot_be_sent_copies_is_not_named(changes: dict[str, Any]):
    world = pair()
    key = records.node_key("b")
    record = records.decode(records.NodeRecord, world.etcd.keys[key].value)
    assert record is not None
    world.kill("b")
    world.tell(world.etcd.put(key, records.encode(replace(record, **changes))))

    assert told(world).peers == ()


def test_only_what_is_new_is_told_and_a_new_process_is_told_all_of_it():
    world, said = pair(), []
    teller = MembersTeller("l", 1, said.append, world.now)
    teller.again()
    assert said == []

    teller.look(world.nodes["a"])
    teller.look(world.nodes["a"])
    assert said == [told(world)]

    teller.again()
    assert said == [told(world)] * 2


def copies(given: list[Any], **changes: Any) -> Copies:
    config = replace(CopiesConfig(), **changes)
    return Copies("l", config, "10.0.0.1", given.append)


def heard(given: list[Any]) -> list[Any]:
    """Without their instants."""
    return [
        (one.store,) if isinstance(one, events.StoreFound) else (one.stores, one.token, one.number)
        for one in given
    ]


def test_the_core_hears_nothing_before_it_has_started_and_then_all_of_it():
    given: list[Any] = []
    one = copies(given)
    one.found("disk")
    one.heard(Notice("wants", "b has all", frozenset({"disk", "b"}), 3, token=5))
    assert given == []

    one.begin()
    assert heard(given) == [("disk",), (frozenset({"disk", "b"}), 5, 3)]

    one.found("disk")
    one.found("other disk")
    assert heard(given)[2:] == [("other disk",)]


def test_what_a_process_said_goes_from_one_program_to_the_next():
    before, given = copies([]), []
    before.found("disk")
    before.heard(Notice("wants", "b has all", frozenset({"disk", "b"}), 3, token=5))
    after = copies(given)
    after.found("disk")

    assert after.adopt(before.told())

    after.begin()
    assert heard(given) == [("disk",), (frozenset({"disk", "b"}), 5, 3)]


@pytest.mark.parametrize(
    ("changes", "disk"),
    [
        ({"peer_port": 8002}, "disk"),
        ({"ca": Path("/ca"), "cert": Path("/c"), "key": Path("/k")}, "disk"),
        ({}, "new"),
    ],
    ids=["port", "tls", "disk"],
)
def test_a_process_that_listens_elsewhere_or_is_another_store_is_not_gone_on_with(
    changes: dict[str, Any], disk: str
):
    before, after = copies([]), copies([], **changes)
    before.found("disk")
    after.found(disk)

    assert not after.adopt(before.told())


def test_a_directory_that_is_copied_to_another_node_is_another_store(tmp_path: Path):
    """A13: what is in it may be old, and both would be taken for the member."""
    data = tmp_path / "data"
    data.mkdir()
    directory = DataDirectory("l", data, tmp_path / "state", replicated=True)
    assert directory.store("a") == ""
    assert directory.claim() == ""
    again = DataDirectory("l", data, tmp_path / "state of b", replicated=True)
    assert again.claim() == ""

    assert directory.store("a") == again.store("a") != again.store("b")


def test_status_says_so_loudly_when_there_is_one_copy():
    world = pair()
    found = Draft(world.nodes["a"], world.now())
    one = copying.of_lease(found, "l", {})
    assert one is not None

    lines = copying.as_text(one, ["a"])

    assert lines[0] == "copies 1: a"
    assert lines[1] == "ONE COPY: what is acknowledged is on a alone; not in-sync: b"


def test_status_says_how_far_a_node_has_caught_up():
    peer = {
        "node": "b",
        "state": "catching-up",
        "sent_bytes": 1 << 20,
        "total_bytes": 4 << 20,
        "rate": 1 << 19,
        "eta_s": 6,
    }
    lines = copying.as_text(
        {"copies": 1, "min_copies": 1, "warning": "", "peers": [peer, {"node": "c", "state": "member"}]},
        ["a"],
    )

    assert lines == [
        "copies 1, at least 1 needed: a",
        "copy on b: catching-up, 25% of 4 MiB, 0.5 MiB/s, 6 s left",
    ]


def test_status_says_what_is_spoilt():
    upkeep = {"scrub": {"bad": 2}, "mending": {"lost": 1}, "compare": {"configs": 1, "lacking": 3}}
    peer = {"node": "b", "state": "member", "bad": 4}
    told = {"copies": 2, "min_copies": 1, "warning": "", "peers": [peer], "upkeep": upkeep}

    assert copying.as_text(told, ["a", "b"])[1:] == [
        "SPOILT: 4 objects on b",
        "SPOILT: 2 objects on this disk, of 1 no member has a good copy",
        "a repository's config differs between nodes: see the log",
        "members lacked 3 acknowledged objects since this process started: see the log",
    ]


async def test_check_names_the_nodes_that_take_no_copies_in(config_with_copies: Config):
    """Whoever answers is not named."""
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    nodes = [
        records.NodeRecord("node2", 1, "s", address="127.0.0.1", peer_ports={"backups": port}),
        records.NodeRecord("node3", 1, "s", address="127.0.0.1", peer_ports={"backups": 1}),
        records.NodeRecord("node4", 1, "s", address="127.0.0.1"),
        records.NodeRecord("node1", 1, "s"),
    ]
    async with server:
        found = await copying.unreachable(config_with_copies, nodes)

    assert [line.split(": ")[1] for line in found] == [
        "copies cannot be sent to node3",
        "copies cannot be sent to node4",
    ]


@pytest.fixture
def config_with_copies(tmp_path: Path) -> Config:
    path = tmp_path / "leaseha.toml"
    path.write_text(
        """
        cluster = "test"
        [node]
        name = "node1"
        [etcd]
        endpoints = ["http://127.0.0.1:2379"]
        [lease.backups]
        vips = ["192.0.2.50/24"]
        priority = { node1 = 100, node2 = 50 }
        [lease.backups.repository]
        path = "/srv/backups"
        replicate = true
        """
    )
    return load(path, environ={})
