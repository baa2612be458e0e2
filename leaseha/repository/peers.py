"""The other nodes' stores, as the holder sees them: introduced and trusted, or not.

A store that failed once is not spoken to again before it has been introduced anew, with a higher round: after that
nothing that was sent before, and may still lie in its buffers, changes anything there.
"""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from leaseha.repository import peer_wire
from leaseha.repository.members import PeerAddress
from leaseha.repository.paths import Address
from leaseha.repository.peer_client import PeerClient, PeerError, StalePeerError
from leaseha.repository.peer_wire import Stamp
from leaseha.repository.tokens import Mark

INTRODUCE_S: Final = 1.0
_AGAIN_S: Final = 1.0
"""After an introduction that failed, how long the next request takes that for an answer."""


@dataclass(frozen=True, slots=True)
class Introduction:
    """What a store said when it took the token. `tail` None: unknown."""

    data: str
    process: str
    tail: frozenset[Address] | None


class Peer:
    """One store under one token. Used by many threads."""

    def __init__(
        self, lease: str, own: str, mark: Mark, address: PeerAddress, tls: ssl.SSLContext | None
    ) -> None:
        self.address = address
        self.alive = address.alive
        self.mark = mark
        self._lease = lease
        self._own = own
        self.client = PeerClient(
            address.host, address.port, tls=tls, name=address.node, gone=lambda: not self.alive
        )
        self._lock = threading.Lock()
        self.round = 0
        self.usable = False
        """Introduced, and has not failed since."""
        self.why = "not introduced yet"
        self.data = ""
        self.bytes_sent = 0
        self.bad: tuple[Address, ...] = ()
        """What it has found spoilt on its own disk, as it said last."""
        self._failed_at = 0.0
        self.retired = False
        """Of a tenure, or of an address, that has ended: never to be introduced again."""
        self.told = -1
        """The last `confirmed` that was sent to it."""

    @property
    def store(self) -> str:
        """Its uuid."""
        return self.address.store

    def stamp(self, seq: int = 0, confirmed: int = -1, floor: int = 0) -> Stamp:
        """For the next request."""
        return Stamp(self._lease, self.mark, self._own, self.store, self.round, seq, confirmed, floor)

    def introduce(self, floor: int) -> Introduction:
        """Our token is durable there when this returns, and earlier rounds are refused.

        Raises PeerError (StalePeerError), also when the directory there is not the one of this tenure any more.
        """
        with self._lock:
            return self._introduce(floor)

    def _introduce(self, floor: int) -> Introduction:
        self._check_retired()
        self.client.close()
        self.round = max(time.monotonic_ns(), self.round + 1)
        try:
            stamp = self.stamp(floor=floor)
            answer = self.client.ask("POST", peer_wire.TOKEN, stamp, answer_s=INTRODUCE_S).json
            told = _introduction(answer)
            if self.data and told.data != self.data:
                raise PeerError("its data directory has been replaced")
            self._check_retired()
        except PeerError as trouble:
            self._failed_at = time.monotonic()
            self.usable = False
            self.why = str(trouble)
            raise
        self.data = told.data
        self.usable = True
        self.why = ""
        return told

    def _check_retired(self) -> None:
        if self.retired:
            raise PeerError("the token, or its address, has changed meanwhile")

    def in_force(self, round_: int) -> bool:
        """What it confirmed in that round is still there: nothing was put aside or compared since."""
        return not self.retired and round_ == self.round

    def revive(self, floor: int) -> bool:
        """Make it usable again, if it can be at once. Raises StalePeerError."""
        with self._lock:
            if self.usable:
                return True
            if not self.alive or time.monotonic() - self._failed_at < _AGAIN_S:
                return False
            try:
                self._introduce(floor)
            except StalePeerError:
                raise
            except PeerError:
                return False
            return True

    def fail(self, round_: int, why: str) -> None:
        """A request of that round failed; nothing if it has been introduced anew since."""
        if round_ == self.round:
            self.usable = False
            self.why = why

    def trust_again(self) -> None:
        """It is about to be caught up with: whatever directory it has now."""
        with self._lock:
            self.data = ""
            self._failed_at = 0.0

    def close(self) -> None:
        """No longer needed; whoever still has it changes nothing by it any more."""
        self.retired = True
        self.usable = False
        self.client.close()


def _introduction(answer: dict[str, object]) -> Introduction:
    tail = answer.get("tail")
    addresses: frozenset[Address] | None = None
    if isinstance(tail, list):
        read = [peer_wire.address_of(str(one)) for one in tail]
        if None not in read:
            addresses = frozenset(one for one in read if one is not None)
    return Introduction(str(answer.get("data", "")), str(answer.get("process", "")), addresses)


def _matches(name: str, node: str) -> bool:
    """As clients compare: also a certificate for every name of a domain."""
    return name == node or (name.startswith("*.") and "." in node and name[2:] == node.partition(".")[2])


class Peers:
    """All of them, under one token at a time. Used by many threads."""

    def __init__(self, lease: str, own: str, tls: Callable[[], ssl.SSLContext] | None) -> None:
        self._lease = lease
        self._own = own
        self._tls = tls
        self._lock = threading.Lock()
        self._addresses: dict[str, PeerAddress] = {}
        self._peers: dict[str, Peer] = {}
        self._data: dict[str, str] = {}
        """Directories seen in this tenure, of stores that the agent names no more, or elsewhere."""
        self._mark: Mark | None = None

    def hear(self, addresses: Iterable[PeerAddress]) -> None:
        """The agent's list."""
        with self._lock:
            self._addresses = {one.store: one for one in addresses if one.store != self._own}
            self._update()

    def begin(self, mark: Mark) -> None:
        """Forget what was known under another token."""
        with self._lock:
            self._mark = mark
            self._forget()
            self._update()

    def end(self) -> None:
        """We speak to nobody."""
        with self._lock:
            self._mark = None
            self._forget()

    def _forget(self) -> None:
        for peer in self._peers.values():
            peer.close()
        self._peers = {}
        self._data = {}

    def _update(self) -> None:
        if self._mark is None:
            return
        for store in [one for one in self._peers if one not in self._addresses]:
            self._retire(self._peers.pop(store))
        for store, address in self._addresses.items():
            known = self._peers.get(store)
            if known and (known.address.host, known.address.port) == (address.host, address.port):
                known.alive = address.alive
                continue
            if known:
                self._retire(known)
            context = self._tls() if self._tls else None
            self._peers[store] = Peer(self._lease, self._own, self._mark, address, context)
            self._peers[store].data = self._data.get(store, "")

    def _retire(self, peer: Peer) -> None:
        self._data[peer.store] = peer.data
        peer.close()

    def may_speak(self, names: frozenset[str], store: str) -> bool:
        """Whether a certificate with these names is that of the node of `store`.

        Of a store that the agent has not named yet: of any node that it has. Before its first word: of anybody.
        """
        with self._lock:
            known = self._addresses.get(store)
            nodes = {one.node for one in self._addresses.values()}
        wanted = nodes if known is None else {known.node}
        return not nodes or any(_matches(name.lower(), node.lower()) for name in names for node in wanted)

    def get(self, store: str) -> Peer | None:
        """None: the agent has not said where it is."""
        return self._peers.get(store)

    def all(self) -> list[Peer]:
        """Those that the agent has named."""
        with self._lock:
            return list(self._peers.values())
