"""The routes of restic's REST protocol, versions 1 and 2: parse, ask the gate, call the store, answer.

No file is touched here. The order of an upload is what the repository promises: enter the gate; take the
body, hashing, writing and teeing it; compare the hash; fsync; wait for the copies; look at deadline and token;
rename; fsync the directory; look at deadline and token again; 200.
"""

from __future__ import annotations

import errno
import json
import logging
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from leaseha.repository import metrics, paths
from leaseha.repository.aside import Aside
from leaseha.repository.door import Door, Guest
from leaseha.repository.exchange import BadBodyError, ClientGoneError, Exchange
from leaseha.repository.gate import Gate, GateClosedError, Pass
from leaseha.repository.http import parse_range
from leaseha.repository.paths import Address, Kind
from leaseha.repository.quota import Quota
from leaseha.repository.refused import RefusedError
from leaseha.repository.replicate import Copies, Replicator, UnconfirmedError
from leaseha.repository.store import ConflictError, Entry, Store, Upload, WrongHashError
from leaseha.repository.turnstile import CrowdedError
from leaseha.repository.usage import Usage

log = logging.getLogger(__name__)
access: Final = logging.getLogger("leaseha.repository.access")

V1: Final = "application/vnd.x.restic.rest.v1"
V2: Final = "application/vnd.x.restic.rest.v2"
HEALTH: Final = b"/health"
METRICS: Final = b"/metrics"
_PIECE: Final = 256 * 1024
_MAX_CONFIG: Final = 64 * 1024
_MAX_OBJECT: Final = 4 * 1024 * 1024 * 1024
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_BROKEN: Final = frozenset(
    {errno.EIO, errno.EROFS, errno.EUCLEAN if hasattr(errno, "EUCLEAN") else errno.EIO}
)
_PLAIN: Final = ("Content-Type", "text/plain; charset=utf-8")
_BINARY: Final = ("Content-Type", "application/octet-stream")


@dataclass(slots=True)
class Counters:
    """What was done since the process started. Guarded by the lock of `App`."""

    requests: int = 0
    unready: int = 0
    """Answered 503 since the gate was closed."""
    uploads: int = 0
    """Acknowledged with 200."""
    deletes: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    faults: int = 0
    """Times that the disk refused."""


class App:
    """Answers one exchange; used by many threads."""

    def __init__(
        self,
        gate: Gate,
        store: Store,
        replicator: Replicator,
        *,
        depth: int = paths.DEPTH,
        door: Door | None = None,
        usage: Usage | None = None,
        kept: Sequence[Aside] = (),
        disk_fault: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`disk_fault` hears of I/O errors and failed fsyncs: the node should then let others serve."""
        self._gate = gate
        self._store = store
        self._replicator = replicator
        self._depth = depth
        self._door = door or Door()
        self._usage = usage
        self._kept = kept
        self.upkeep: Callable[[], Mapping[str, Any]] = dict
        """What scrub and compare say, for the metrics."""
        self._disk_fault = disk_fault
        self._lock = threading.Lock()
        self._buffers = threading.local()
        self.counters = Counters()

    def handle(self, exchange: Exchange) -> None:
        """Exactly one answer, or ClientGoneError or BadBodyError when none is possible. One log line."""
        begun = time.monotonic()
        try:
            self._guarded(exchange)
        except (ClientGoneError, BadBodyError) as gone:
            exchange.note = str(gone)
            raise
        finally:
            self._account(exchange, time.monotonic() - begun)

    def _guarded(self, exchange: Exchange) -> None:
        try:
            admitted = self._gate.enter()
            exchange.allowed = admitted.check
            self._route(exchange, admitted)
        except GateClosedError as closed:
            # Never 404, 403 or 401 here: clients take those for the truth about the repository.
            exchange.allowed = lambda: None
            _refuse(exchange, 503, str(closed), ("Retry-After", "1"))
        except (UnconfirmedError, CrowdedError) as unconfirmed:
            self._refuse_admitted(exchange, 503, str(unconfirmed), ("Retry-After", "1"))
        except RefusedError as refused:
            exchange.patient = refused.status != 401
            self._refuse_admitted(exchange, refused.status, str(refused), *refused.fields)
        except OSError as trouble:
            self._refuse_admitted(exchange, *self._disk_trouble(exchange, trouble))
        except (ClientGoneError, BadBodyError):
            raise
        except Exception as unexpected:  # noqa: BLE001 - the border: a defect must not take the process along
            where = traceback.extract_tb(unexpected.__traceback__)[-1]
            log.error(  # noqa: TRY400 - where it happened is enough; tracebacks are not for operators
                "defect: %s: %s (%s:%s)", type(unexpected).__name__, unexpected, where.filename, where.lineno
            )
            exchange.keep_alive = False
            self._refuse_admitted(exchange, 500, "internal error")

    def _refuse_admitted(self, exchange: Exchange, status: int, why: str, *fields: tuple[str, str]) -> None:
        """An error is an answer too: not given by a server whose gate has closed meanwhile."""
        if exchange.status:
            raise ClientGoneError(f"after the answer: {why}")
        try:
            _refuse(exchange, status, why, *fields)
        except GateClosedError as closed:
            exchange.allowed = lambda: None
            _refuse(exchange, 503, str(closed), ("Retry-After", "1"))

    def _disk_trouble(self, exchange: Exchange, trouble: OSError) -> tuple[int, str]:
        what = f"{errno.errorcode.get(trouble.errno or 0, 'error')}: {trouble.strerror or trouble}"
        log.error("disk: %s, for %s %r", what, exchange.request.method, exchange.request.target[:120])
        with self._lock:
            self.counters.faults += 1
        if trouble.errno in _FULL:
            return 507, "no space left"
        if trouble.errno in _BROKEN:
            self._disk_fault(what)
        return 500, "the disk refused"

    # ---- routes

    def _route(self, exchange: Exchange, admitted: Pass) -> None:
        if exchange.request.target == HEALTH:
            self._health(exchange, admitted)
            return
        guest = self._door.admit(exchange)
        if exchange.request.target == METRICS and self._usage is not None and self._door.options.metrics:
            self._tell_metrics(exchange, guest, self._usage)
            return
        address = paths.parse(exchange.request.target, self._depth)
        if address is None:
            raise RefusedError(404, "nothing can be here")
        self._door.may_enter(guest, address)
        method = exchange.request.method
        if address.kind is None:
            self._repository(exchange, admitted, address)
        elif address.kind is not Kind.CONFIG and not address.name:
            if method != "GET":
                raise RefusedError(405, "a folder can be listed, nothing else")
            self._list(exchange, admitted, address)
        elif method == "POST":
            self._upload(exchange, admitted, address, guest)
        elif method == "DELETE":
            self._delete(exchange, admitted, address, guest)
        else:
            self._read(exchange, admitted, address)

    def _health(self, exchange: Exchange, admitted: Pass) -> None:
        """For whoever balances or monitors, without a password: it says no more than that this is served here."""
        if exchange.request.method not in {"GET", "HEAD"}:
            raise RefusedError(405, "health can be asked for, nothing else")
        admitted.check_directory()
        exchange.answer(200, b"serving\n", _PLAIN)

    def _tell_metrics(self, exchange: Exchange, guest: Guest, usage: Usage) -> None:
        if exchange.request.method != "GET":
            raise RefusedError(405, "metrics can be read, nothing else")
        self._door.may_monitor(guest)
        with self._lock:
            counters = asdict(self.counters)
        body = metrics.text(usage, counters, self._door.options.quota_bytes, self._kept, self.upkeep())
        exchange.answer(200, body, ("Content-Type", metrics.TYPE))

    def _repository(self, exchange: Exchange, admitted: Pass, address: Address) -> None:
        if exchange.request.method != "POST":
            raise RefusedError(405, "a repository as a whole can be created, nothing else")
        if not address.create:
            raise RefusedError(400, "only ?create=true is known here")
        admitted.check_directory()
        self._replicator.create(address, admitted.mark, lambda: self._create_here(address, admitted))
        admitted.check_directory()
        exchange.answer(200)

    def _create_here(self, address: Address, admitted: Pass) -> None:
        with admitted.changing():
            self._store.create(address.repo)

    def _list(self, exchange: Exchange, admitted: Pass, address: Address) -> None:
        # The header is compared whole, as every known client sends it and rest-server does.
        with_sizes = exchange.request.fields.get(b"accept") == V2.encode()
        entries = list(self._store.entries(address))
        if not entries:
            admitted.check_directory()  # nothing there, or no directory any more?
        exchange.answer(
            200, _listing(entries, with_sizes=with_sizes), ("Content-Type", V2 if with_sizes else V1)
        )

    def _read(self, exchange: Exchange, admitted: Pass, address: Address) -> None:
        try:
            stored = self._store.open(address)
        except (FileNotFoundError, NotADirectoryError) as missing:
            admitted.check_directory()
            raise RefusedError(404, "no such object") from missing
        with stored:
            ranged = exchange.request.fields.get(b"range")
            if exchange.request.method == "HEAD":
                exchange.answer_head(200, stored.size, _BINARY, ("Accept-Ranges", "bytes"))
            elif ranged is None or (stored.size == 0 and parse_range(ranged, 0)):
                exchange.answer_file(200, stored.fd, 0, stored.size, _BINARY, ("Accept-Ranges", "bytes"))
            elif piece := parse_range(ranged, stored.size):
                offset, count = piece
                where = f"bytes {offset}-{offset + count - 1}/{stored.size}"
                exchange.answer_file(206, stored.fd, offset, count, _BINARY, ("Content-Range", where))
            else:
                exchange.answer(
                    416, b"not within the object\n", _PLAIN, ("Content-Range", f"bytes */{stored.size}")
                )
        if self._usage is not None and exchange.status in {200, 206} and exchange.request.method == "GET":
            self._usage.note("read", address, exchange.sent)

    def _upload(self, exchange: Exchange, admitted: Pass, address: Address, guest: Guest) -> None:
        most = _MAX_CONFIG if address.kind is Kind.CONFIG else _MAX_OBJECT
        if exchange.request.length > most:
            raise RefusedError(413, "too large for an object")
        admitted.check_directory()
        length = None if exchange.request.chunked else exchange.request.length
        was = self._size_of(address)
        quota = Quota(self._usage, self._door.options, guest, address)
        with quota.taking(length, there=was is not None):
            exchange.ready_for_body()
            self._receive(exchange, admitted, address, most, quota)
        if self._usage is not None:
            self._usage.written(address, exchange.body.received, was=was)
            self._usage.note("write", address, exchange.body.received)
        admitted.check_directory()
        exchange.answer(200)
        with self._lock:
            self.counters.uploads += 1

    def _receive(self, exchange: Exchange, admitted: Pass, address: Address, most: int, quota: Quota) -> None:
        """The body, to where all that counts has it."""
        length = None if exchange.request.chunked else exchange.request.length
        upload = self._store.begin(address, admitted.mark, length)
        try:
            copies = self._replicator.upload(address, admitted.mark, length)
            try:
                self._take_body(exchange, most, quota.write, upload.write, copies.write)
                publish(upload, copies, admitted)
            except BaseException:
                copies.abort()
                raise
        finally:
            upload.abort()

    def _size_of(self, address: Address) -> int | None:
        """Bytes of an object; None: it is not here."""
        try:
            with self._store.open(address) as stored:
                return stored.size
        except (FileNotFoundError, NotADirectoryError):
            return None

    def _take_body(self, exchange: Exchange, most: int, *sinks: Callable[[memoryview], None]) -> None:
        view: memoryview | None = getattr(self._buffers, "view", None)
        if view is None:
            view = self._buffers.view = memoryview(bytearray(_PIECE))
        while count := exchange.body.read_into(view):
            if exchange.body.received > most:
                raise RefusedError(413, "too large for an object")
            for sink in sinks:
                sink(view[:count])

    def _delete(self, exchange: Exchange, admitted: Pass, address: Address, guest: Guest) -> None:
        guest.may_delete(address)
        admitted.check_directory()
        was = self._size_of(address)
        self._replicator.delete(address, admitted.mark, lambda: self._delete_here(address, admitted))
        if self._usage is not None and was is not None:
            self._usage.removed(address, was)
            self._usage.note("delete", address, was)
        admitted.check_directory()
        exchange.answer(200)
        with self._lock:
            self.counters.deletes += 1

    def _delete_here(self, address: Address, admitted: Pass) -> None:
        with admitted.changing():
            self._store.delete(address)

    def _account(self, exchange: Exchange, took_s: float) -> None:
        with self._lock:
            count = self.counters
            count.requests += 1
            count.bytes_in += exchange.body.received
            count.bytes_out += exchange.sent
            count.unready += exchange.status == 503
        # Restores and checks read thousands of pieces a second: their lines are for whoever asks for them.
        plain_read = exchange.request.method in {"GET", "HEAD"} and exchange.status in {200, 206}
        level = logging.DEBUG if plain_read else logging.INFO
        if access.isEnabledFor(level):
            access.log(
                level,
                '%s %s "%s %s" %s in=%d out=%d %.1fms%s',
                exchange.connection.peer,
                exchange.user or "-",
                exchange.request.method,
                exchange.request.target[:200].decode("ascii", "backslashreplace"),
                exchange.status or "no answer",
                exchange.body.received,
                exchange.sent,
                took_s * 1e3,
                f" ({exchange.note})" if exchange.note else "",
            )


def publish(upload: Upload, copies: Copies, admitted: Pass) -> None:
    """Here last: what can be seen here is everywhere that counts.

    Raises RefusedError (400 for a wrong hash, 403 for another config), GateClosedError, UnconfirmedError, OSError.
    """
    try:
        upload.verify()
        sealed, size = upload.seal()
        with copies.barrier():
            upload.clash()
            copies.confirm(sealed, size)
            with admitted.changing():
                upload.publish()
            copies.finish()
    except WrongHashError as wrong:
        raise RefusedError(400, str(wrong)) from wrong
    except ConflictError as conflict:
        raise RefusedError(403, str(conflict)) from conflict


def _refuse(exchange: Exchange, status: int, why: str, *fields: tuple[str, str]) -> None:
    exchange.note = why
    exchange.answer(status, f"{why}\n".encode(), _PLAIN, *fields)


def _listing(entries: list[Entry], *, with_sizes: bool) -> bytes:
    """JSON; an empty list is `[]`, never `null`."""
    if with_sizes:
        return json.dumps(
            [{"name": one.name, "size": one.size} for one in entries], separators=(",", ":")
        ).encode()
    return json.dumps([one.name for one in entries], separators=(",", ":")).encode()
