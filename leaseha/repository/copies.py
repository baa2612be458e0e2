"""One upload on its way to the other stores: teed piece by piece while it arrives, or sent whole afterwards.

Packs are teed. Everything else is small, and must not be anywhere before the packs that came before it are
everywhere, so it is sent from the sealed file. So is whatever a store missed: it failed, or joined meanwhile.
"""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager
from dataclasses import dataclass

from leaseha.repository.barrier import Barrier
from leaseha.repository.everywhere import WAIT_S, Everywhere
from leaseha.repository.operations import Operations
from leaseha.repository.paths import Address, Kind
from leaseha.repository.peer_client import PeerError, Sending
from leaseha.repository.peers import Peer
from leaseha.repository.replicate import UnconfirmedError

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Tee:
    """One request that the pieces go to."""

    peer: Peer
    round: int
    sending: Sending
    complete: bool = False
    """All bytes were sent, so the other store may publish it."""


class PeerCopies:
    """One upload. Used by one thread, but for `void`."""

    def __init__(
        self, address: Address, seq: int, length: int | None, barrier: Barrier, operations: Operations
    ) -> None:
        self.address = address
        self.seq = seq
        self.void = False
        """The object was deleted since this upload began: what others confirmed counts no more. Set by whoever is
        alone within the barrier, read by who is inside of it."""
        self._length = length
        self._sent = 0
        self._barrier = barrier
        self._operations = operations
        self._tees: list[_Tee] = []
        self._everywhere: Everywhere | None = None
        self._in_doubt = False
        self._fd_size = (-1, 0)

    def begin(self, everywhere: Everywhere, targets: list[Peer]) -> None:
        """Open a request to each of the targets that will take the pieces. Never raises."""
        self._everywhere = everywhere
        for peer in targets:
            stamp = peer.stamp(self.seq, self._operations.confirmed())
            try:
                sending = peer.client.put(self.address, stamp, self._length)
            except PeerError as trouble:
                peer.fail(stamp.round, str(trouble))
            else:
                self._tees.append(_Tee(peer, stamp.round, sending, complete=self._length == 0))

    def write(self, piece: memoryview) -> None:
        """A store that stalls costs its deadline once, and is left out from then on."""
        self._sent += len(piece)
        for tee in self._tees:
            if tee.sending.ended:
                continue
            if not tee.peer.alive or not tee.peer.usable or tee.peer.round != tee.round:
                tee.sending.abort()
                continue
            try:
                tee.complete = self._sent == self._length
                tee.sending.write(piece)
            except PeerError as trouble:
                tee.peer.fail(tee.round, str(trouble))

    def barrier(self) -> AbstractContextManager[None]:
        """A config is alone: whether there is another one already is asked first."""
        match self.address.kind:
            case Kind.DATA:
                return self._barrier.pack(WAIT_S)
            case Kind.CONFIG:
                return self._barrier.alone(WAIT_S)
            case _:
                return self._barrier.after_packs(WAIT_S)

    def confirm(self, fd: int, size: int) -> None:
        """Within the barrier. Raises UnconfirmedError, and what the gate raises."""
        everywhere = self._everywhere
        if everywhere is None:
            raise UnconfirmedError("the upload has not begun")
        self._fd_size = (fd, size)
        self._in_doubt = True
        for tee in self._tees:
            # A store that left and came back since may have put aside what it had confirmed.
            if self._finish(tee) and not self.void and tee.peer.in_force(tee.round):
                everywhere.done.add(tee.peer.store)
        everywhere.complete(self._send_whole)

    def finish(self) -> None:
        """Who has come to count since `confirm` gets it too."""
        if self._everywhere is not None:
            self._everywhere.complete(self._send_whole)
        self._operations.done(self.seq)

    def abort(self) -> None:
        """A store that has all of it may publish it: then it stays in doubt, until it was brought into line."""
        for tee in self._tees:
            if tee.complete and not tee.sending.ended:
                self._in_doubt |= self._finish(tee)
            elif tee.complete and tee.sending.ended:
                self._in_doubt = True
            else:
                tee.sending.abort()
        if self._in_doubt:
            self._operations.doubt(self.seq)
        else:
            self._operations.undone(self.seq)

    def _finish(self, tee: _Tee) -> bool:
        """Its answer; False: it has not got it, or nobody knows."""
        if tee.sending.ended:
            return False
        tee.complete = True
        try:
            answer = tee.sending.finish()
        except PeerError as trouble:
            if not _refused_bytes(trouble):
                tee.peer.fail(tee.round, str(trouble))
                self._in_doubt = True
                log.warning("%s: %s", tee.peer.address.node, trouble)
            return False
        if answer.status == 404:
            return False
        tee.peer.bytes_sent += self._sent
        return True

    def _send_whole(self, peer: Peer) -> None:
        fd, size = self._fd_size
        stamp = peer.stamp(self.seq, self._operations.confirmed())
        answer = peer.client.put_file(self.address, stamp, fd, size)
        if answer.status == 404:
            raise PeerError("it does not know objects")
        peer.bytes_sent += size


def _refused_bytes(trouble: PeerError) -> bool:
    """It has hashed what came, and it was not what the name promises: a client's fault, nothing was published."""
    return str(trouble).startswith("400")
