"""What a repository process has when copies are kept: a peer port, a replicator, and settling before a gate opens.

It answers other nodes from its start to its end, whether its node holds the lease or not.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import ssl
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from leaseha.repository.catchup import CatchUp
from leaseha.repository.clients import CLIENTS, ClientBook, ClientTeller
from leaseha.repository.durable import fsync_folder
from leaseha.repository.gate import Gate, Word
from leaseha.repository.members import read_members
from leaseha.repository.peer_app import Identity, PeerApp
from leaseha.repository.peer_client import StalePeerError
from leaseha.repository.peer_manifest import ManifestRoutes
from leaseha.repository.peer_wire import mark_text
from leaseha.repository.replicator import PeerReplicator, Telling
from leaseha.repository.server import Limits, Server
from leaseha.repository.settle import NotSettledError, Settling
from leaseha.repository.store import OURS, DirectoryStore
from leaseha.repository.tail import Tail
from leaseha.repository.tickle import Flow
from leaseha.repository.tls import Renewed, TlsFiles, client_context
from leaseha.repository.tokens import Mark, TokenLedger

log = logging.getLogger(__name__)

LIMITS: Final = Limits(connections=256, workers=96, idle_s=300.0)


@dataclass(frozen=True, slots=True)
class PeerOptions:
    """From the command line."""

    lease: str
    store: str
    host: str
    port: int
    tls: TlsFiles | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one settling: `why` "" when the gate may open."""

    number: int
    """Of the agent's request."""
    word: Word
    why: str = ""
    stale: Mark | None = None


class Peering:
    """Used by the process's main thread; what it calls back comes from any."""

    def __init__(
        self,
        options: PeerOptions,
        gate: Gate,
        ledger: TokenLedger,
        store: DirectoryStore,
        tell: Callable[[dict[str, Any]], None],
        poke: Callable[[], None],
        fault: Callable[[str], None],
    ) -> None:
        """Listens at once. `tell` takes a message to the agent, `poke` wakes the main thread. Raises OSError."""
        self._gate = gate
        self._store = store
        self._tell = tell
        self._poke = poke
        self._outcomes: queue.SimpleQueue[Outcome] = queue.SimpleQueue()
        self._settling: Settling | None = None
        self._tail = Tail()
        tls = options.tls
        contexts: Callable[[], ssl.SSLContext] | None = (lambda: client_context(tls)) if tls else None
        telling = Telling(self._tell_wants, self._tell_stale)
        self.replicator = PeerReplicator(
            options.lease, options.store, gate, store, self._tail, telling, contexts
        )
        self.clients = ClientBook()
        identity = Identity(options.lease, options.store, os.urandom(8).hex(), data_id(store.root))
        self.app = PeerApp(
            identity,
            ledger,
            store,
            gate.adoption,
            self._tail,
            routes={CLIENTS: self.clients.route},
            adopted=self._adopted,
            disk_fault=fault,
            may_speak=self.replicator.peers.may_speak if tls else None,
        )
        ManifestRoutes(store).join(self.app)
        self.catch_up = CatchUp(self.replicator, store)
        self._server = Server(self.app.handle, LIMITS, tls=Renewed(tls) if tls else None)
        self._server.listen([options.host], options.port)
        log.info("peer port %s port %d, store %s", options.host, options.port, options.store)

    # ---- the agent's words

    def hear(self, message: dict[str, Any]) -> None:
        """`members`."""
        self.replicator.hear(read_members(message))

    def settle(self, number: int, word: Word) -> None:
        """Begin; the outcome comes by `outcome`, after a poke. A settling before it is cancelled."""
        self.cancel()
        settling = Settling(self.replicator, self._gate, self._store, word.mark)
        self._settling = settling
        before = threading.Thread(
            target=self._run, args=(settling, number, word), name="settling", daemon=True
        )
        before.start()

    def _run(self, settling: Settling, number: int, word: Word) -> None:
        try:
            settling.run()
            outcome = Outcome(number, word)
        except NotSettledError as trouble:
            outcome = Outcome(number, word, str(trouble))
        except StalePeerError as stale:
            outcome = Outcome(number, word, f"another node has seen a higher token: {stale}", stale.highest)
        self._outcomes.put(outcome)
        self._poke()

    def outcome(self) -> Outcome | None:
        """Of a settling that has ended; None: nothing new."""
        try:
            return self._outcomes.get_nowait()
        except queue.Empty:
            return None

    def opened(self, mark: Mark, vips: Sequence[str], connected: Callable[[], Iterable[Flow]]) -> None:
        """The gate is open: the holder's clients before us hear of it, and the others of ours (`connected`)."""
        teller = ClientTeller(self._gate, self.clients, connected, self.replicator.peers.all)
        teller.opened(mark, vips)

    def cancel(self) -> None:
        """The gate is closed, or about to be settled anew: nothing is replicated any more."""
        if self._settling is not None:
            self._settling.cancel()
            self._settling = None
        self.replicator.end()

    def end(self) -> None:
        """For the end of the process, and for tests."""
        self.cancel()
        self.catch_up.end()
        self.replicator.close()
        self._server.end()

    def status(self) -> dict[str, Any]:
        """For `status`."""
        told, level = self.replicator.status(), self.catch_up.progress()
        for peer in told["peers"]:
            if progress := level.get(peer["store"]):
                peer |= {"state": "catching-up", **progress}
        return {**told, "clients": len(self.clients.known())}

    # ---- from other threads

    def _adopted(self, mark: Mark) -> None:
        word = self._gate.word
        if word is not None and word.mark < mark:
            self._gate.close_under(word.mark, f"another node holds token {mark.token}")

    def _tell_wants(self, stores: frozenset[str], why: str, number: int) -> None:
        membership = self.replicator.membership
        dropping = membership.members.insync - stores  # fewer copies are worth a warning, more are not
        level = logging.WARNING if dropping else logging.INFO
        log.log(level, "in-sync set wanted: %s (%s)", ", ".join(sorted(stores)), why)
        tenure = membership.tenure
        told = {
            "stores": sorted(stores),
            "why": why,
            "number": number,
            "token": tenure.token if tenure else 0,
        }
        self._tell({"say": "wants", **told})

    def _tell_stale(self, why: str, highest: Mark) -> None:
        log.warning("stale: %s (highest %s)", why, mark_text(highest))
        self._tell({"say": "stale", "why": why, "highest": highest.token})


def read_options(lease: str, store: str, listen: str, tls: str) -> PeerOptions | None:
    """None: no copies are kept. Raises ValueError."""
    if not listen:
        return None
    host, _, port = listen.rpartition(":")
    if not store or not lease:
        raise ValueError("--peer-listen needs --lease and --store")
    return PeerOptions(
        lease, store, host.strip("[]"), int(port), TlsFiles(**json.loads(tls)) if tls else None
    )


def data_id(root: Path) -> str:
    """Made up once for each directory, and kept in it. Raises OSError."""
    path = root / OURS / "data-id"
    with contextlib.suppress(FileNotFoundError):
        if known := path.read_text("ascii").strip():
            return known
    # Whole or not at all: an empty one, of a power failure, would be the same as any other empty one.
    made = os.urandom(16).hex()
    fresh = path.with_suffix(".new")
    with fresh.open("w", encoding="ascii") as file:
        file.write(made + "\n")
        file.flush()
        os.fsync(file.fileno())
    fresh.rename(path)
    fsync_folder(path.parent)
    return made
