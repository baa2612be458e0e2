"""The holder's side of replication: what is acknowledged is on every store that counts, or nothing is.

One tenure at a time: `begin` when the token is ours, `settled` when nothing differs between the members any more,
`end` when the gate closes. Between, a *minder* thread looks after standbys that no request touches: it says what is
confirmed, introduces those that came back, asks out those that did not, and brings into line what failed halfway.
"""

from __future__ import annotations

import contextlib
import logging
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from leaseha.repository import peer_wire
from leaseha.repository.barrier import Barrier
from leaseha.repository.copies import PeerCopies
from leaseha.repository.everywhere import WAIT_S, Act, Everywhere
from leaseha.repository.gate import Gate, GateClosedError
from leaseha.repository.members import Members, Membership
from leaseha.repository.operations import Operations
from leaseha.repository.paths import Address, Kind
from leaseha.repository.peer_client import PeerError, StalePeerError, object_path
from leaseha.repository.peers import Peer, Peers
from leaseha.repository.replicate import UnconfirmedError
from leaseha.repository.store import Store
from leaseha.repository.tail import Tail
from leaseha.repository.tokens import NOTHING, Mark
from leaseha.repository.turnstile import CrowdedError

log = logging.getLogger(__name__)

LOOK_S: Final = 1.0
ADMIT_S: Final = 2.0
"""How long an admission, or bringing a doubtful object into line, may hold up the others."""
_PATIENCE_S: Final = 3.0
"""How long a member that nobody needs just now may be out of touch: a process restarts in less."""


@dataclass(frozen=True, slots=True)
class Telling:
    """What goes to the agent; from any thread, never waits."""

    wants: Callable[[frozenset[str], str, int], None]
    stale: Callable[[str, Mark], None]


class PeerReplicator:
    """Used by many threads."""

    def __init__(
        self,
        lease: str,
        own: str,
        gate: Gate,
        store: Store,
        tail: Tail,
        telling: Telling,
        tls: Callable[[], ssl.SSLContext] | None = None,
    ) -> None:
        self._gate = gate
        self._store = store
        self.tail = tail
        self._telling = telling
        self.membership = Membership(own, telling.wants)
        self.peers = Peers(lease, own, tls)
        self.barrier = Barrier()
        self.operations = Operations(NOTHING, tail)
        self.settling = threading.Lock()
        """Of whoever settles: one after the other."""
        self._lock = threading.Lock()
        self._uploads: dict[Address, set[PeerCopies]] = {}
        self._mark: Mark | None = None
        self._settled = False
        self._lost_at: dict[str, float] = {}
        """Members that are out of touch, since when."""
        self._look = threading.Event()
        self._ended = False
        self._minder = threading.Thread(target=self._mind, name="minder", daemon=True)
        self._minder.start()

    # ---- a tenure

    def hear(self, members: Members) -> None:
        """The agent's word."""
        self.peers.hear(members.peers)
        self.membership.hear(members)
        self._look.set()

    def begin(self, mark: Mark) -> None:
        """The token is ours, and durable here; nothing is replicated before `settled`."""
        self._settled = False
        self._mark = mark
        self.operations = Operations(mark, self.tail, self.operations)
        self._lost_at.clear()
        self.membership.begin(mark)
        self.peers.begin(mark)

    def settled(self, mark: Mark) -> None:
        """All members have the same. Raises GateClosedError when the tenure has ended meanwhile."""
        if self._mark != mark:
            raise GateClosedError("closed meanwhile")
        self.tail.settle(mark)
        self._settled = True
        self._look.set()

    def end(self) -> None:
        """The gate is closed: what is on its way fails, and stays in the tail."""
        self._settled = False
        self._mark = None
        self.peers.end()

    def close(self) -> None:
        """For the end of the process, and for tests."""
        self.end()
        self._ended = True
        self._look.set()
        self._minder.join(2 * LOOK_S)

    @property
    def mark(self) -> Mark | None:
        """Of this tenure; None while we are no holder."""
        return self._mark

    @property
    def is_settled(self) -> bool:
        """The members are level, and the gate may be open."""
        return self._settled

    # ---- the write path

    def upload(self, address: Address, mark: Mark, length: int | None) -> PeerCopies:
        """Pieces of packs go to every member that is well; everything else is sent when it is complete."""
        self._require_copies()
        if self._mark != mark or not self._settled:
            raise UnconfirmedError("the token has changed meanwhile")
        copies = _Registered(self, address, length)
        targets = self._targets() if address.kind is Kind.DATA else []
        copies.begin(self.everywhere(mark), targets)
        return copies

    def _targets(self) -> list[Peer]:
        found = [self.peers.get(store) for store in sorted(self.membership.required())]
        return [peer for peer in found if peer is not None and peer.usable and peer.alive]

    def delete(self, address: Address, mark: Mark, local: Callable[[], None]) -> None:
        """Alone: no upload is between its confirmation and its publishing. Gone here first, then everywhere."""
        self._require_copies()
        with self.barrier.alone(WAIT_S):
            try:
                self._operation(address, mark, lambda seq: self._deleting(address, seq), local)
            finally:
                # Afterwards: also one that has begun meanwhile may have been confirmed before the delete came there.
                self.void_uploads(address)

    def create(self, address: Address, mark: Mark, local: Callable[[], None]) -> None:
        """Folders only; here last."""
        self._require_copies()
        path = peer_wire.REPOSITORIES.decode() + peer_wire.path_of(address)
        with self.barrier.after_packs(WAIT_S):
            self.everywhere(mark).complete(
                lambda peer: _expect(peer.client.ask("POST", path, peer.stamp()).status)
            )
            local()

    def _operation(
        self,
        address: Address,
        mark: Mark,
        act: Callable[[int], Act],
        before: Callable[[], None] = lambda: None,
        timeout_s: float = WAIT_S,
    ) -> None:
        operations = self.operations
        seq = operations.begin(address)
        try:
            before()
            self.everywhere(mark).complete(act(seq), timeout_s)
        except BaseException:
            operations.doubt(seq)
            raise
        operations.done(seq)

    def _deleting(self, address: Address, seq: int) -> Act:
        self.operations.delete(seq, address)

        def act(peer: Peer) -> None:
            stamp = peer.stamp(seq, self.operations.confirmed())
            _expect(peer.client.ask("DELETE", object_path(address), stamp).status)

        return act

    def putting(
        self,
        address: Address,
        seq: int = 0,
        pace: Callable[[int], None] = lambda _: None,
        *,
        settled: bool = True,
    ) -> Act:
        """Sends what is on our disk. Raises FileNotFoundError when nothing is there.

        `pace` is called with the bytes of each piece before it goes, and may wait a little.
        `settled` False: nothing is confirmed by it, since what came under the token before may still differ.
        """

        def act(peer: Peer) -> None:
            with self._store.open(address) as stored:
                stamp = peer.stamp(seq, self.operations.confirmed() if seq and settled else -1)
                _expect(peer.client.put_file(address, stamp, stored.fd, stored.size, pace).status)
                peer.bytes_sent += stored.size

        return act

    def everywhere(self, mark: Mark) -> Everywhere:
        """For one operation under `mark`, in this tenure."""
        operations = self.operations
        return Everywhere(
            self.membership,
            self.peers,
            mark,
            lambda: operations.last,
            lambda: self.check(mark, operations),
            lambda stale: self.stale(mark, stale),
        )

    def check(self, mark: Mark, operations: Operations) -> None:
        """Raises GateClosedError when this is not the tenure of `operations` any more, or its gate has closed."""
        if operations is not self.operations:
            raise GateClosedError("the gate was closed meanwhile")
        if self._settled:
            self._gate.check(mark)
        elif self._mark != mark:
            raise GateClosedError("closed meanwhile")

    def stale(self, mark: Mark, stale: StalePeerError) -> None:
        """Another node has a higher token: nothing is acknowledged any more. Raises GateClosedError."""
        self._gate.close_under(mark, f"another node has seen a higher token: {stale}")
        self._telling.stale(str(stale), stale.highest)
        raise GateClosedError(str(stale))

    def _require_copies(self) -> None:
        least = self.membership.members.min_copies
        if 1 + len(self.membership.required()) < least:
            raise UnconfirmedError(f"fewer than {least} copies would be made (min_copies)")

    def require_enough(self) -> None:
        """Before an acknowledgement: those that count are as many as are asked for. Raises UnconfirmedError."""
        self._require_copies()

    # ---- uploads on their way

    def register(self, copies: PeerCopies) -> None:
        """From its beginning."""
        with self._lock:
            self._uploads.setdefault(copies.address, set()).add(copies)

    def unregister(self, copies: PeerCopies) -> None:
        """It has ended; nothing when it is not known."""
        with self._lock:
            there = self._uploads.get(copies.address, set())
            there.discard(copies)
            if not there:
                self._uploads.pop(copies.address, None)

    def void_uploads(self, address: Address) -> None:
        """Alone within the barrier: what others have confirmed of this object so far counts no more."""
        with self._lock:
            for copies in self._uploads.get(address, ()):
                copies.void = True

    # ---- admission, for whoever catches up

    def admit(self, store: str, push_last: Callable[[], bool], why: str) -> bool:
        """Alone within the barrier: if `push_last` brought it level, it counts from now on, and T13 is asked for.

        False: not level, or no quiet moment came. Raises PeerError, OSError of `push_last`.
        """
        try:
            with self.barrier.alone(ADMIT_S):
                peer = self.peers.get(store)
                if not self._settled or peer is None or not push_last() or not peer.usable:
                    return False
                self.membership.add(store, why)
                return True
        except CrowdedError:
            return False

    # ---- the minder's thread

    def _mind(self) -> None:
        while not self._ended:
            self._look.wait(LOOK_S)
            self._look.clear()
            mark = self._mark
            if mark is None or not self._settled:
                continue
            with contextlib.suppress(GateClosedError, UnconfirmedError, CrowdedError):
                try:
                    self._gate.check(mark)
                    self._mind_members(mark)
                    self._mind_doubtful(mark)
                except OSError as trouble:
                    log.warning("the minder: %s", trouble)

    def _mind_members(self, mark: Mark) -> None:
        required = self.membership.required()
        for store in required:
            peer = self.peers.get(store)
            if peer is not None and self._well(peer, mark):
                self._lost_at.pop(store, None)
                continue
            lost_s = time.monotonic() - self._lost_at.setdefault(store, time.monotonic())
            if lost_s >= _PATIENCE_S or (peer is not None and not peer.alive):
                self.membership.drop(
                    [store], peer.why or "its node is dead" if peer else "nobody knows where"
                )

    def _well(self, peer: Peer, mark: Mark) -> bool:
        """Told what is confirmed, which is also how it is known to be there."""
        try:
            if not peer.alive or (not peer.usable and not peer.revive(self.operations.last)):
                return False
            stamp = peer.stamp(confirmed=self.operations.confirmed())
            try:
                said = peer.client.ask("GET", peer_wire.STATE, stamp).json.get("bad", [])
                peer.bad = peer_wire.addresses_of(said)
            except StalePeerError:
                raise
            except PeerError as trouble:
                peer.fail(stamp.round, str(trouble))
                return False
        except StalePeerError as stale:
            self.stale(mark, stale)
        return True

    def _mind_doubtful(self, mark: Mark) -> None:
        """What failed halfway becomes what it is here, at every member."""
        for address in self.operations.doubtful():
            with self.barrier.alone(ADMIT_S):
                try:
                    self.align(address, mark)
                finally:
                    self.void_uploads(address)

    def align(self, address: Address, mark: Mark, timeout_s: float = ADMIT_S) -> None:
        """Alone within the barrier, or before the gate is open: our disk is the truth about this object."""
        try:
            with self._store.open(address):
                pass
        except (FileNotFoundError, NotADirectoryError):
            self._operation(address, mark, lambda seq: self._deleting(address, seq), timeout_s=timeout_s)
        else:
            self._operation(address, mark, lambda seq: self.putting(address, seq), timeout_s=timeout_s)

    # ---- a look inside

    def status(self) -> dict[str, Any]:
        """For `status`; JSON."""
        required = self.membership.required()
        members = self.membership.members
        serving = self._mark is not None
        return {
            "members": sorted(members.insync),
            "required": sorted(required),
            "copies": 1 + len(required) if serving else 0,
            "min_copies": members.min_copies,
            "tail": len(self.tail),
            "doubtful": len(self.operations.doubtful()),
            "confirmed": self.operations.confirmed(),
            "peers": [self._peer_status(peer, required) for peer in self.peers.all()],
        }

    def _peer_status(self, peer: Peer, required: frozenset[str]) -> dict[str, Any]:
        in_touch = "member" if peer.usable else "unreachable"
        state = in_touch if peer.store in required else "dropped"
        about = {"store": peer.store, "node": peer.address.node, "state": state, "why": peer.why}
        return {**about, "alive": peer.alive, "sent_bytes": peer.bytes_sent, "bad": len(peer.bad)}


class _Registered(PeerCopies):
    """An upload that deletes find."""

    def __init__(self, replicator: PeerReplicator, address: Address, length: int | None) -> None:
        operations = replicator.operations
        super().__init__(address, operations.begin(address), length, replicator.barrier, operations)
        self._replicator = replicator
        replicator.register(self)

    def confirm(self, fd: int, size: int) -> None:
        """Too few copies, and it stays unseen here too."""
        super().confirm(fd, size)
        self._replicator.require_enough()

    def finish(self) -> None:
        """Also the number of copies is looked at once more."""
        self._replicator.require_enough()
        super().finish()
        self._replicator.unregister(self)

    def abort(self) -> None:
        """As `PeerCopies`."""
        super().abort()
        self._replicator.unregister(self)


def _expect(status: int) -> None:
    if status != 200:
        raise PeerError(f"answered {status}")
