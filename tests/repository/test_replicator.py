"""Interleavings that processes show too seldom: one replicator and one standby in the test's own process."""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from leaseha.core.values import NS_PER_S
from leaseha.repository.gate import Gate, GateClosedError, Word, now
from leaseha.repository.members import Members, PeerAddress
from leaseha.repository.paths import Address, Kind
from leaseha.repository.peer_client import PeerError, object_path
from leaseha.repository.peering import data_id
from leaseha.repository.peers import Peer, Peers
from leaseha.repository.replicator import PeerReplicator, Telling
from leaseha.repository.settle import Settling
from leaseha.repository.store import OURS, DirectoryStore
from leaseha.repository.tail import Tail
from leaseha.repository.tokens import Mark, TokenLedger
from tests.repository.served import HOST, until
from tests.repository.test_peer_app import BODY, PACK, Standby

SEVEN, EIGHT = Mark(0, 7), Mark(0, 8)
OTHER = Address(("r",), Kind.LOCKS, "0" * 64)


class Holder:
    """A holder whose gate is open, with one member."""

    def __init__(self, root: Path, standby: Standby) -> None:
        root.mkdir()
        self.standby = standby
        self.store = DirectoryStore(root)
        self.gate = Gate(TokenLedger(root / OURS / "token"))
        telling = Telling(lambda stores, why, number: None, lambda why, highest: None)
        self.tail = Tail()
        self.tail.settle()
        self.replicator = PeerReplicator("l", "a", self.gate, self.store, self.tail, telling)
        peer = PeerAddress("b", "b", HOST, standby.client.port)
        self.replicator.hear(Members("a", frozenset({"a", "b"}), (peer,)))

    def reopen(self) -> None:
        """Closed, and open again under the same token."""
        self.gate.close("the deadline passed")
        self.replicator.end()
        self.open()

    def open(self) -> None:
        Settling(self.replicator, self.gate, self.store, SEVEN).run()
        self.gate.open(Word(SEVEN, now().plus(300 * NS_PER_S)))


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[Holder]:
    (tmp_path / "b").mkdir()
    standby = Standby(tmp_path / "b")
    standby.tail.settle()
    made = Holder(tmp_path / "a", standby)
    made.open()
    yield made
    made.replicator.close()
    standby.client.close()
    standby.server.end()


@contextlib.contextmanager
def sealed() -> Iterator[int]:
    with tempfile.TemporaryFile() as file:
        file.write(BODY)
        file.flush()
        yield file.fileno()


def test_an_upload_that_another_store_confirmed_while_a_delete_was_on_its_way_is_sent_once_more(
    holder: Holder,
):
    """It begins after the delete has begun, and is there before the delete comes there."""
    replicator, uploads = holder.replicator, []

    def here() -> None:
        copies = replicator.upload(PACK, SEVEN, len(BODY))
        copies.write(memoryview(BODY))
        until(holder.standby.has, "the standby has it")
        uploads.append(copies)

    replicator.delete(PACK, SEVEN, here)
    assert not holder.standby.has()
    (copies,) = uploads
    with sealed() as fd, copies.barrier():
        copies.confirm(fd, len(BODY))
        copies.finish()

    assert holder.standby.has()


def test_an_upload_does_not_outlive_the_opening_of_the_gate_that_it_came_in_by(holder: Holder):
    """The same token opens it again meanwhile, and the members have settled without this upload."""
    admitted = holder.gate.enter()
    copies = holder.replicator.upload(PACK, SEVEN, len(BODY))
    copies.write(memoryview(BODY))
    until(holder.standby.has, "the standby has it")
    holder.reopen()
    assert not holder.standby.has()

    with sealed() as fd, copies.barrier(), pytest.raises(GateClosedError):
        copies.confirm(fd, len(BODY))
    with pytest.raises(GateClosedError), admitted.changing():
        raise AssertionError("not reached")
    copies.abort()
    assert list((holder.store.root / OURS / "tmp").iterdir()) == []


def test_what_a_store_confirmed_before_it_left_and_came_back_is_sent_once_more(holder: Holder):
    """The bytes were there, were put aside by a catch-up, and it counts again before the upload goes on."""
    peer = holder.replicator.peers.get("b")
    assert peer is not None
    copies = holder.replicator.upload(PACK, SEVEN, len(BODY))
    copies.write(memoryview(BODY))
    until(holder.standby.has, "the standby has it")
    peer.fail(peer.round, "something else stalled")
    peer.introduce(holder.replicator.operations.last)
    peer.client.ask("DELETE", object_path(PACK), peer.stamp())

    with sealed() as fd, copies.barrier():
        copies.confirm(fd, len(BODY))
        assert holder.standby.has()
        copies.finish()


@pytest.fixture
def third(holder: Holder, tmp_path: Path) -> Iterator[Standby]:
    """One more member, "c"."""
    (tmp_path / "c").mkdir()
    made = Standby(tmp_path / "c", "c")
    made.tail.settle()
    peers = tuple(
        PeerAddress(one, one, HOST, at.client.port) for one, at in (("b", holder.standby), ("c", made))
    )
    holder.replicator.hear(Members("a", frozenset({"a", "b", "c"}), peers))
    yield made
    holder.replicator.end()
    made.client.close()
    made.server.end()


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.usefixtures("third")
def test_an_operation_changes_nothing_once_its_tenure_has_ended_though_the_token_is_the_same(
    holder: Holder, *, fails: bool
):
    """A store stalls in the middle of a delete; meanwhile all settled anew, and the object came back."""
    asked = []

    def act(peer: Peer) -> None:
        asked.append(peer.store)
        holder.reopen()
        if fails:
            raise PeerError("it stalled")

    with pytest.raises(GateClosedError):
        holder.replicator.everywhere(SEVEN).complete(act)
    assert asked == ["b"]


def test_what_a_settling_has_changed_is_in_the_tail_of_the_other_until_it_is_confirmed(holder: Holder):
    """Should this holder die before its gate opens, the next one learns of it: a third may not have come to it."""
    holder.standby.introduce(7, 1 << 62)
    holder.standby.put(holder.standby.stamp(7, 1 << 62))
    holder.replicator.end()
    holder.gate.close("the deadline passed")
    holder.tail.note(SEVEN, 900, PACK)

    Settling(holder.replicator, holder.gate, holder.store, EIGHT).run()

    assert not holder.standby.has()
    assert holder.standby.tail.addresses() == {PACK}


def test_a_settling_that_is_overtaken_at_its_end_leaves_what_the_next_holder_did_in_the_tail():
    tail = Tail()
    tail.settle()
    tail.note(SEVEN, 1, PACK)
    tail.note(EIGHT, 1, OTHER)
    tail.settle(SEVEN)

    assert tail.addresses() == {OTHER}


def test_an_unknown_tail_stays_unknown_when_a_lower_token_settles():
    tail = Tail()
    tail.introduce(EIGHT, 2)
    tail.settle(SEVEN)

    assert tail.addresses() is None


@pytest.mark.parametrize(
    ("names", "store", "may"),
    [
        ({"N1.example.org"}, "b", True),
        ({"*.example.org"}, "b", True),
        ({"example.org", "*.org"}, "b", False),
        ({"n2"}, "b", False),
        ({"n2"}, "unheard-of", True),
        ({"stranger", "*.n2"}, "unheard-of", False),
        (set(), "b", False),
    ],
)
def test_a_certificate_speaks_for_the_node_that_it_names(names: set[str], store: str, *, may: bool):
    peers = Peers("l", "a", None)
    assert peers.may_speak(frozenset(names), store)  # nothing is known yet
    peers.hear((PeerAddress("b", "n1.example.org", HOST, 1), PeerAddress("c", "n2", HOST, 2)))

    assert peers.may_speak(frozenset(names), store) is may


def test_an_identity_that_a_power_failure_left_empty_is_made_anew(tmp_path: Path):
    (tmp_path / OURS).mkdir()
    (tmp_path / OURS / "data-id").touch()
    made = data_id(tmp_path)

    assert made
    assert data_id(tmp_path) == made
