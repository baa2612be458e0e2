"""What a node answers on its peer port: to the holder, to an older one, and to what was sent before."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from leaseha.repository import peer_wire
from leaseha.repository.adoption import Adoption
from leaseha.repository.paths import Address, Kind
from leaseha.repository.peer_app import Identity, PeerApp
from leaseha.repository.peer_client import PeerClient, PeerError, StalePeerError, StrangerError
from leaseha.repository.peer_manifest import ManifestRoutes
from leaseha.repository.peer_wire import Stamp
from leaseha.repository.server import Limits, Server
from leaseha.repository.store import OURS, DirectoryStore
from leaseha.repository.tail import Tail
from leaseha.repository.tokens import Mark, TokenLedger
from tests.repository.served import HOST, free_port, until

BODY = os.urandom(300_000)
PACK = Address(("r",), Kind.DATA, hashlib.sha256(BODY).hexdigest())


class Standby:
    """One peer port, and the client of a holder."""

    def __init__(self, root: Path, store: str = "b") -> None:
        self.root = root
        self.ledger = TokenLedger(root / OURS / "token")
        self.store = DirectoryStore(root)
        self.tail = Tail()
        self.taken: list[Mark] = []
        app = PeerApp(
            Identity("l", store, "p1", "d1"),
            self.ledger,
            self.store,
            Adoption(self.ledger),
            self.tail,
            adopted=self.taken.append,
        )
        ManifestRoutes(self.store).join(app)
        self.server = Server(app.handle, Limits())
        port = free_port()
        self.server.listen([HOST], port)
        self.client = PeerClient(HOST, port)

    def stamp(self, token: int = 7, round_: int = 1, **more: int) -> Stamp:
        return Stamp("l", Mark(0, token), "a", "b", round_, **more)

    def introduce(self, token: int = 7, round_: int = 1, floor: int = 0) -> dict:
        return self.client.ask("POST", peer_wire.TOKEN, self.stamp(token, round_, floor=floor)).json

    def put(self, stamp: Stamp, body: bytes = BODY, address: Address = PACK) -> None:
        sending = self.client.put(address, stamp, len(body))
        sending.write(memoryview(body))
        assert sending.finish().status == 200

    def has(self, address: Address = PACK) -> bool:
        try:
            with self.store.open(address):
                return True
        except FileNotFoundError:
            return False


@pytest.fixture
def standby(tmp_path: Path) -> Iterator[Standby]:
    made = Standby(tmp_path)
    yield made
    made.client.close()
    made.server.end()


def test_a_token_is_durable_before_it_is_answered(standby: Standby):
    answer = standby.introduce(7)

    assert (answer["store"], answer["data"], answer["highest"]) == ("b", "d1", "0-7")
    assert TokenLedger(standby.root / OURS / "token").highest() == Mark(0, 7)
    assert standby.taken == [Mark(0, 7)]


def test_an_older_token_is_refused_with_the_highest_that_is_known(standby: Standby):
    standby.introduce(7)
    standby.introduce(9, round_=2)

    for ask in (lambda: standby.introduce(7), lambda: standby.put(standby.stamp(7))):
        with pytest.raises(StalePeerError) as stale:
            ask()
        assert stale.value.highest == Mark(0, 9)
    assert not standby.has()


def test_what_was_begun_under_an_older_token_is_not_published_after_a_newer_one_was_taken(standby: Standby):
    standby.introduce(7)
    sending = standby.client.put(PACK, standby.stamp(7), len(BODY))
    sending.write(memoryview(BODY)[:-1])
    until(lambda: any((standby.root / OURS / "tmp").iterdir()), "it is being taken")
    standby.introduce(9)
    sending.write(memoryview(BODY)[-1:])

    with pytest.raises(StalePeerError):
        sending.finish()
    assert not standby.has()
    assert not list((standby.root / OURS / "tmp").iterdir())


def test_what_was_sent_before_a_new_introduction_of_the_same_holder_changes_nothing(standby: Standby):
    standby.introduce(7, round_=1)
    sending = standby.client.put(PACK, standby.stamp(7, 1), len(BODY))
    sending.write(memoryview(BODY)[:-1])
    until(lambda: any((standby.root / OURS / "tmp").iterdir()), "it is being taken")
    standby.introduce(7, round_=2)
    sending.write(memoryview(BODY)[-1:])

    with pytest.raises(StrangerError):
        sending.finish()
    with pytest.raises(StrangerError):
        standby.client.ask("DELETE", "/v1/objects/r/config", standby.stamp(7, 1))
    with pytest.raises(StrangerError):
        standby.introduce(7, round_=1)
    assert not standby.has()


def test_whoever_has_not_introduced_himself_to_this_process_is_told_so(standby: Standby):
    standby.ledger.store(Mark(0, 7))  # a process before this one was told

    with pytest.raises(StrangerError):
        standby.put(standby.stamp(7))


@pytest.mark.parametrize(("lease", "store"), [("l", "c"), ("other", "b")])
def test_another_lease_or_store_is_not_spoken_for(standby: Standby, lease: str, store: str):
    with pytest.raises(PeerError, match="421"):
        standby.client.ask("POST", peer_wire.TOKEN, Stamp(lease, Mark(0, 7), "a", store, 1))


def test_bytes_are_hashed_here_too(standby: Standby):
    standby.introduce()

    with pytest.raises(PeerError, match="400"):
        standby.put(standby.stamp(), b"something else")
    assert not standby.has()


def test_a_body_of_unknown_length_is_taken_in_chunks(standby: Standby):
    standby.introduce()
    sending = standby.client.put(PACK, standby.stamp(), None)
    for at in range(0, len(BODY), 70_000):
        sending.write(memoryview(BODY)[at : at + 70_000])

    assert sending.finish().status == 200
    assert standby.has()


def test_an_object_can_be_asked_for_fetched_and_removed(standby: Standby):
    standby.introduce()
    standby.put(standby.stamp())
    path = "/v1/objects" + peer_wire.path_of(PACK)

    head = standby.client.ask("HEAD", path, standby.stamp())
    assert (head.status, head.length, head.content) == (200, len(BODY), b"")
    assert standby.client.ask("GET", path, standby.stamp()).content == BODY
    assert standby.client.ask("DELETE", path, standby.stamp()).status == 200
    assert standby.client.ask("HEAD", path, standby.stamp()).status == 404


def test_a_config_is_what_the_holder_says(standby: Standby):
    standby.introduce()
    config = Address(("r",), Kind.CONFIG)
    standby.put(standby.stamp(), b"never acknowledged", config)
    standby.put(standby.stamp(), b"the truth", config)

    assert standby.client.ask("GET", "/v1/objects/r/config", standby.stamp()).content == b"the truth"


def test_the_tail_is_unknown_until_everything_that_may_have_been_sent_is_confirmed(standby: Standby):
    assert standby.introduce(7, round_=1, floor=5)["tail"] is None
    standby.put(standby.stamp(7, 1, seq=6, confirmed=4))
    assert standby.introduce(7, round_=2)["tail"] is None
    standby.client.ask("GET", peer_wire.STATE, standby.stamp(7, 2, confirmed=5))

    assert standby.introduce(8)["tail"] == [peer_wire.path_of(PACK)]


def test_what_is_confirmed_leaves_the_tail(standby: Standby):
    standby.introduce()
    standby.put(standby.stamp(seq=1, confirmed=0))
    standby.client.ask("GET", peer_wire.STATE, standby.stamp(confirmed=1))

    assert standby.introduce(8)["tail"] == []


@pytest.mark.parametrize(
    "path", ["/v1/objects/r/data/", "/v1/objects/r/", "/v1/objects/r/data/xyz", "/v1/no"]
)
def test_what_is_no_object_is_not_found(standby: Standby, path: str):
    standby.introduce()

    assert standby.client.ask("DELETE", path, standby.stamp()).status == 404


def test_a_connection_is_used_again(standby: Standby):
    standby.introduce()
    for _ in range(5):
        standby.client.ask("GET", peer_wire.STATE, standby.stamp())

    assert standby.server.counts()[0] == 1
