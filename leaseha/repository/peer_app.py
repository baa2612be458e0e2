"""What a node answers to the holder of a lease, on its peer port: take this object, remove that one, who are you.

A standby trusts nobody's hash: it takes the body into a temporary of its own, hashes, fsyncs, renames, fsyncs the
directory, and only then answers 200. A request under an older token than the directory has seen is answered 409,
and a token, once taken, is not overtaken by anything older (`adoption`).

Paths are those of the public protocol below `/v1/objects` and `/v1/repositories`. Further routes (manifest,
quarantine) are given as `routes`.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from leaseha.repository import peer_wire
from leaseha.repository.adoption import Adoption, NotIntroducedError
from leaseha.repository.exchange import BadBodyError, ClientGoneError, Exchange
from leaseha.repository.paths import Address, Kind
from leaseha.repository.peer_wire import Stamp, StampError, mark_text
from leaseha.repository.store import Store, WrongHashError
from leaseha.repository.tail import Tail
from leaseha.repository.tokens import Mark, TokenLedger, TokenTooOldError
from leaseha.repository.turnstile import CrowdedError

log = logging.getLogger(__name__)

_PIECE: Final = 256 * 1024
_MAX_CONFIG: Final = 64 * 1024
_MAX_OBJECT: Final = 4 * 1024 * 1024 * 1024
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_JSON: Final = ("Content-Type", "application/json")
_BINARY: Final = ("Content-Type", "application/octet-stream")


class PeerRefusedError(Exception):
    """The answer is this status, with this sentence."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


@dataclass(frozen=True, slots=True)
class Identity:
    """Who answers: lease, store, and the number that this very process made up when it started."""

    lease: str
    store: str
    process: str
    data: str
    """Of the data directory: kept in it, so that an emptied one is not taken for the old one."""


@dataclass(frozen=True, slots=True)
class Visit:
    """One request of a node that has introduced itself. `check` again, inside `changing`, before any change."""

    exchange: Exchange
    stamp: Stamp
    rest: bytes
    """The path after the route's prefix, with the query."""
    adoption: Adoption
    tail: Tail

    def note(self, address: Address) -> None:
        """This is about to change, inside `changing`: it is in the tail, unless it repeats what is settled."""
        if self.stamp.seq:
            self.tail.note(self.stamp.mark, self.stamp.seq, address)

    def check(self) -> None:
        """Raises TokenTooOldError, NotIntroducedError."""
        self.adoption.check(self.stamp.mark, self.stamp.round)

    @contextlib.contextmanager
    def changing(self) -> Iterator[None]:
        """Around every change of the directory, however small. Raises as `check`, and CrowdedError."""
        with self.adoption.changing():
            self.check()
            yield

    def answer(self, content: Mapping[str, Any] | None = None, status: int = 200) -> None:
        """JSON."""
        self.exchange.answer(status, json.dumps(dict(content or {})).encode(), _JSON)


Route = Callable[[Visit], None]


class PeerApp:
    """Answers one exchange of another node; used by many threads."""

    def __init__(
        self,
        identity: Identity,
        ledger: TokenLedger,
        store: Store,
        adoption: Adoption,
        tail: Tail,
        *,
        routes: Mapping[bytes, Route] | None = None,
        adopted: Callable[[Mark], None] = lambda _: None,
        disk_fault: Callable[[str], None] = lambda _: None,
        may_speak: Callable[[frozenset[str], str], bool] | None = None,
    ) -> None:
        """`routes`: by prefix of the path. `adopted` hears of each token taken; `disk_fault` of I/O errors.

        `may_speak`: whether a certificate with these names is that of this store's node; None: no certificates.
        """
        self._identity = identity
        self._ledger = ledger
        self._store = store
        self._adoption = adoption
        self._tail = tail
        self._adopted = adopted
        self._disk_fault = disk_fault
        self._may_speak = may_speak
        self._buffers = threading.local()
        self.bad: Callable[[], Sequence[Address]] = tuple
        """What is spoilt on this disk; the holder hears of it each second."""
        self._routes: dict[bytes, Route] = {
            peer_wire.OBJECTS: self._object,
            peer_wire.REPOSITORIES: self._repository,
            peer_wire.STATE: self._state,
            **(routes or {}),
        }

    def add_route(self, prefix: bytes, route: Route) -> None:
        """Before the first request: `prefix` as in `/v1/manifest`, which must not be one of another's."""
        self._routes[prefix] = route

    def handle(self, exchange: Exchange) -> None:
        """Exactly one answer, or ClientGoneError or BadBodyError when none is possible."""
        try:
            self._guarded(exchange)
        except (ClientGoneError, BadBodyError):
            raise
        except PeerRefusedError as refused:
            _refuse(exchange, refused.status, {"why": str(refused)})
        except TokenTooOldError as old:
            _refuse(exchange, 409, {"why": str(old), "highest": mark_text(old.highest)})
        except NotIntroducedError as stranger:
            _refuse(exchange, 428, {"why": str(stranger)})
        except CrowdedError as crowded:
            _refuse(exchange, 503, {"why": str(crowded)})
        except OSError as trouble:
            self._disk_trouble(exchange, trouble)
        except Exception as unexpected:  # noqa: BLE001 - the border: a defect must not take the process along
            where = traceback.extract_tb(unexpected.__traceback__)[-1]
            log.error(  # noqa: TRY400 - where it happened is enough; tracebacks are not for operators
                "defect: %s: %s (%s:%s)", type(unexpected).__name__, unexpected, where.filename, where.lineno
            )
            exchange.keep_alive = False
            _refuse(exchange, 500, {"why": "internal error"})

    def _guarded(self, exchange: Exchange) -> None:
        target = exchange.request.target
        try:
            stamp = peer_wire.read_stamp(exchange.request.fields)
        except StampError as wrong:
            raise PeerRefusedError(400, str(wrong)) from wrong
        if stamp.lease != self._identity.lease or stamp.target != self._identity.store:
            raise PeerRefusedError(421, f"this is store {self._identity.store} of {self._identity.lease}")
        if self._may_speak and not self._may_speak(exchange.connection.certificate(), stamp.source):
            raise PeerRefusedError(403, "the certificate is not that of the node of this store")
        if target == peer_wire.TOKEN:
            self._introduction(exchange, stamp)
            return
        for prefix, route in self._routes.items():
            if target.startswith(prefix) and target[len(prefix) : len(prefix) + 1] in {b"", b"/", b"?"}:
                visit = Visit(exchange, stamp, target[len(prefix) :], self._adoption, self._tail)
                visit.check()
                if stamp.confirmed >= 0:
                    self._tail.confirm(stamp.mark, stamp.confirmed)
                route(visit)
                return
        raise PeerRefusedError(404, "no such route")

    def _disk_trouble(self, exchange: Exchange, trouble: OSError) -> None:
        what = f"{errno.errorcode.get(trouble.errno or 0, 'error')}: {trouble.strerror or trouble}"
        log.error("disk: %s, for a copy of %r", what, exchange.request.target[:120])
        if trouble.errno in _FULL:
            _refuse(exchange, 507, {"why": "no space left"})
            return
        self._disk_fault(what)
        _refuse(exchange, 500, {"why": f"the disk refused: {what}"})

    # ---- routes

    def _introduction(self, exchange: Exchange, stamp: Stamp) -> None:
        if exchange.request.method != "POST":
            raise PeerRefusedError(405, "a token is posted")
        self._adoption.adopt(stamp.mark, stamp.round)
        self._adopted(stamp.mark)
        addresses = self._tail.addresses()
        self._tail.introduce(stamp.mark, stamp.floor)
        content = {
            **self._about(),
            "tail": None if addresses is None else [peer_wire.path_of(one) for one in addresses],
        }
        exchange.answer(200, json.dumps(content).encode(), _JSON)

    def _about(self) -> dict[str, Any]:
        who = self._identity
        highest = mark_text(self._ledger.highest())
        return {"store": who.store, "data": who.data, "process": who.process, "highest": highest}

    def _state(self, visit: Visit) -> None:
        addresses = self._tail.addresses()
        bad = [peer_wire.path_of(one) for one in self.bad()]
        visit.answer({**self._about(), "tail": None if addresses is None else len(addresses), "bad": bad})

    def _repository(self, visit: Visit) -> None:
        address = peer_wire.address_of(visit.rest)
        if address is None or address.kind is not None:
            raise PeerRefusedError(404, "no repository")
        if visit.exchange.request.method != "POST":
            raise PeerRefusedError(405, "a repository is created, nothing else")
        with visit.changing():
            self._store.create(address.repo)
        visit.answer()

    def _object(self, visit: Visit) -> None:
        address = peer_wire.address_of(visit.rest)
        if address is None or address.kind is None or (address.kind is not Kind.CONFIG and not address.name):
            raise PeerRefusedError(404, "no object")
        match visit.exchange.request.method:
            case "POST":
                self._take(visit, address)
            case "DELETE":
                self._delete(visit, address)
            case _:
                self._give(visit, address)

    def _take(self, visit: Visit, address: Address) -> None:
        request = visit.exchange.request
        most = _MAX_CONFIG if address.kind is Kind.CONFIG else _MAX_OBJECT
        if request.length > most:
            raise PeerRefusedError(413, "too large for an object")
        upload = self._store.begin(address, visit.stamp.mark, None if request.chunked else request.length)
        view: memoryview | None = getattr(self._buffers, "view", None)
        if view is None:
            view = self._buffers.view = memoryview(bytearray(_PIECE))
        try:
            while count := visit.exchange.body.read_into(view):
                if visit.exchange.body.received > most:
                    raise PeerRefusedError(413, "too large for an object")
                upload.write(view[:count])
            upload.verify()
            upload.seal()
            with visit.changing():
                visit.note(address)
                # The holder has seen to it that no other config counts: what is here never did.
                upload.publish(replace=True)
        except WrongHashError as wrong:
            raise PeerRefusedError(400, str(wrong)) from wrong
        finally:
            upload.abort()
        visit.answer()

    def _delete(self, visit: Visit, address: Address) -> None:
        with visit.changing():
            visit.note(address)
            self._store.delete(address)
        visit.answer()

    def _give(self, visit: Visit, address: Address) -> None:
        try:
            stored = self._store.open(address)
        except (FileNotFoundError, NotADirectoryError):
            raise PeerRefusedError(404, "not here") from None
        with stored:
            if visit.exchange.request.method == "HEAD":
                visit.exchange.answer_head(200, stored.size, _BINARY)
            else:
                visit.exchange.answer_file(200, stored.fd, 0, stored.size, _BINARY)


def _refuse(exchange: Exchange, status: int, content: dict[str, Any]) -> None:
    if exchange.status:
        raise ClientGoneError(f"after the answer: {content['why']}")
    exchange.note = content["why"]
    log.info("peer %s refused %d: %s", exchange.connection.peer, status, content["why"])
    exchange.answer(status, json.dumps(content).encode(), _JSON)
