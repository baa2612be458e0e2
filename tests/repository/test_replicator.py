"""Interleavings that processes show too seldom: one replicator and one standby in the test's own process."""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from leaseha.core.values import NS_PER_S
from leaseha.repository.gate import Gate, GateClosedError, Word, now
from leaseha.repository.members import Members, PeerAddress
from leaseha.repository.replicator import PeerReplicator, Telling
from leaseha.repository.settle import Settling
from leaseha.repository.store import OURS, DirectoryStore
from leaseha.repository.tail import Tail
from leaseha.repository.tokens import Mark, TokenLedger
from tests.repository.served import HOST, until
from tests.repository.test_peer_app import BODY, PACK, Standby

SEVEN = Mark(0, 7)


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
    holder.gate.close("the deadline passed")
    holder.replicator.end()
    holder.open()
    assert not holder.standby.has()

    with sealed() as fd, copies.barrier(), pytest.raises(GateClosedError):
        copies.confirm(fd, len(BODY))
    with pytest.raises(GateClosedError), admitted.changing():
        raise AssertionError("not reached")
    copies.abort()
    assert list((holder.store.root / OURS / "tmp").iterdir()) == []
