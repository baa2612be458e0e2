"""Who is connected to the holder, known on the standbys too: so that a new holder can tell them that it is there.

The holder sends the list to every member when it has changed, at most each half second. It is kept in memory only,
and used once: after a takeover, when the gate is open, the new holder sends tickle ACKs (`tickle`), twice, and none
when it is not the live holder any more. Nothing that is promised depends on any of it.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from leaseha.repository.gate import Gate, GateClosedError
from leaseha.repository.peer_app import PeerRefusedError, Visit
from leaseha.repository.peer_client import PeerError
from leaseha.repository.peers import Peer
from leaseha.repository.tickle import Flow, send_tickles
from leaseha.repository.tokens import NOTHING, Mark

log = logging.getLogger(__name__)

CLIENTS: Final = b"/v1/clients"
TELL_S: Final = 0.5
"""Between two looks at whether the list has changed."""
AFTER_S: Final = (0.2, 1.0)
"""When tickle ACKs are sent, from the opening of the gate on; the addresses are announced right after it."""
MOST: Final = 4096
_BODY_MAX: Final = 512 * 1024
_ANSWER_S: Final = 1.0


class ClientBook:
    """What the holder has told. Used by many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._mark = NOTHING
        self._flows: tuple[Flow, ...] = ()

    def route(self, visit: Visit) -> None:
        """`POST /v1/clients`: the whole list anew."""
        if visit.exchange.request.method != "POST":
            raise PeerRefusedError(405, "a list of clients is posted")
        flows = _read(_body(visit))
        with self._lock:
            if visit.stamp.mark >= self._mark:
                self._mark, self._flows = visit.stamp.mark, flows
        visit.answer()

    def known(self) -> tuple[Flow, ...]:
        """As last told."""
        with self._lock:
            return self._flows

    def take(self) -> tuple[Flow, ...]:
        """As last told, and forgotten with this."""
        with self._lock:
            flows, self._flows = self._flows, ()
            return flows


def _body(visit: Visit) -> bytes:
    received = bytearray()
    view = memoryview(bytearray(64 * 1024))
    while count := visit.exchange.body.read_into(view):
        received += view[:count]
        if len(received) > _BODY_MAX:
            raise PeerRefusedError(413, "too many clients")
    return bytes(received)


def _read(body: bytes) -> tuple[Flow, ...]:
    try:
        rows = json.loads(body)["clients"]
        flows = [Flow(str(a), int(b), str(c), int(d)) for a, b, c, d in rows]
    except (ValueError, TypeError, KeyError) as wrong:
        raise PeerRefusedError(400, "not a list of clients") from wrong
    return tuple(one for one in flows if one.sound)[:MOST]


class ClientTeller:
    """The holder's side: tells the others who is connected, as long as the gate is open under one token."""

    def __init__(
        self,
        gate: Gate,
        book: ClientBook,
        connected: Callable[[], Iterable[Flow]],
        peers: Callable[[], Sequence[Peer]],
    ) -> None:
        """`connected`: the server's connections just now; `peers`: the other nodes' stores."""
        self._gate = gate
        self._book = book
        self._connected = connected
        self._peers = peers

    def opened(self, mark: Mark, vips: Sequence[str]) -> None:
        """The gate has been opened under `mark`, for these addresses. Two threads, which end with that."""
        mine = tuple(one for one in self._book.take() if one.vip in vips)
        for work, name in (
            (lambda: self._tickle(mine, mark), "tickle"),
            (lambda: self._tell(mark), "teller"),
        ):
            threading.Thread(target=self._while_open, args=(work,), name=name, daemon=True).start()

    def _while_open(self, work: Callable[[], None]) -> None:
        try:
            work()
        except GateClosedError:
            return

    def _tickle(self, flows: tuple[Flow, ...], mark: Mark) -> None:
        begun = time.monotonic()
        for after_s in AFTER_S if flows else ():
            threading.Event().wait(begun + after_s - time.monotonic())
            try:
                sent = send_tickles(flows, lambda: self._gate.check(mark))
            except OSError as trouble:
                log.warning("no tickle ACKs, clients will notice the move by themselves: %s", trouble)
                return
            log.info("tickle ACKs to %d of %d connections of the holder before", sent, len(flows))

    def _tell(self, mark: Mark) -> None:
        pause = threading.Event()
        told: dict[str, tuple[int, tuple[Flow, ...]]] = {}
        while True:
            self._gate.check(mark)
            now = tuple(sorted(self._connected()))[:MOST]
            body = json.dumps({"clients": [[a.client, a.client_port, a.vip, a.port] for a in now]}).encode()
            for peer in self._peers():
                if peer.usable and peer.alive and told.get(peer.store) != (peer.round, now):
                    known = (peer.round, now)
                    try:
                        peer.client.ask("POST", CLIENTS, peer.stamp(), body, answer_s=_ANSWER_S)
                    except PeerError as trouble:
                        log.debug("%s does not hear who is connected: %s", peer.address.node, trouble)
                        continue
                    told[peer.store] = known
            pause.wait(TELL_S)
