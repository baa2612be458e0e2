"""What this node has seen of each key, and when: the ground that waits are counted on.

Two facts are kept beside each record: `at`, when this process received it (a wait starts there), and `watched`,
whether it saw the record become so on an unbroken watch. *Free*, *dead*, *closed* and absence are believed at
once only when watched: a first look may be at a restored snapshot.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar

from leaseha.core import records
from leaseha.core.events import Change
from leaseha.core.records import (
    ClaimRecord,
    HistoryRecord,
    InsyncRecord,
    IntentRecord,
    Life,
    NodeRecord,
    SessionRecord,
)
from leaseha.core.values import NS_PER_MS, Instant, KeyValue, changed

TOKEN_DIGITS: Final = 20
"""How `records.history_key` writes a token."""
R = TypeVar("R")
C = TypeVar("C")


@dataclass(frozen=True, slots=True)
class Seen(Generic[R]):
    """The last known state of one key."""

    record: R | None
    """None: absent (`mod == 0`), or not readable."""
    mod: int
    at: Instant
    """When this state was first received; for an absent key, the first sight of its absence."""
    known_at: int
    """The newest revision at which the key is known to have been so."""
    watched: bool = False
    attached: int = 0
    """The etcd lease that the key hangs on; 0: none."""
    create: int = 0
    """The revision at which the key, or what stood there last, came to be; 0: not known."""
    last: R | None = None
    """For an absent key whose deletion was watched: what stood there."""


@dataclass(frozen=True, slots=True)
class Past:
    """One entry of a lease's history."""

    record: HistoryRecord
    at: Instant
    """When it happened, in this machine's clocks, as well as the writer's wall clock tells."""


@dataclass(frozen=True, slots=True)
class View:
    """Everything seen under the cluster's prefix."""

    since: Instant
    """Keys that were never seen are known to be absent since then."""
    revision: int
    wall_ms: int
    wall_at: Instant
    """The instant that `wall_ms` (unix time, ms) belongs to."""
    sessions: Mapping[int, Seen[SessionRecord]] = field(default_factory=dict)
    claims: Mapping[str, Seen[ClaimRecord]] = field(default_factory=dict)
    insyncs: Mapping[str, Seen[InsyncRecord]] = field(default_factory=dict)
    intents: Mapping[str, Seen[IntentRecord]] = field(default_factory=dict)
    nodes: Mapping[str, Seen[NodeRecord]] = field(default_factory=dict)
    history: Mapping[str, Mapping[int, Past]] = field(default_factory=dict)

    def _absent(self) -> Seen[Any]:
        return Seen(None, 0, self.since, 0)

    def session(self, session: int) -> Seen[SessionRecord]:
        """The session's record as seen; absent if it never was."""
        return self.sessions.get(session) or self._absent()

    def claim(self, lease: str) -> Seen[ClaimRecord]:
        """The lease's claim as seen; absent if it never was."""
        return self.claims.get(lease) or self._absent()

    def insync(self, lease: str) -> Seen[InsyncRecord]:
        """The lease's in-sync set as seen; absent if it never was."""
        return self.insyncs.get(lease) or self._absent()

    def intent(self, lease: str) -> Seen[IntentRecord]:
        """The lease's intent as seen; absent if it never was."""
        return self.intents.get(lease) or self._absent()

    def past(self, lease: str) -> Mapping[int, Past]:
        """The lease's history by token."""
        return self.history.get(lease, {})

    def wall_ms_at(self, at: Instant) -> int:
        """Unix time in ms at an instant, from the last event that told both."""
        return self.wall_ms + (at.boot_ns - self.wall_at.boot_ns) // NS_PER_MS

    def live_sessions(self) -> Iterable[tuple[int, SessionRecord]]:
        """Every session whose record says *live*, silent or not."""
        for session, seen in self.sessions.items():
            if seen.record is not None and seen.record.life is Life.LIVE:
                yield session, seen.record


class _Editor:
    """A view under change: copies a table when it is first written to."""

    def __init__(self, view: View) -> None:
        self.view = view
        self._tables: dict[str, dict[Any, Any]] = {}

    def table(self, name: str) -> dict[Any, Any]:
        if name not in self._tables:
            self._tables[name] = dict(getattr(self.view, name))
        return self._tables[name]

    def put(self, change: Change, at: Instant, watched: bool) -> None:
        kind, name, key = place(change.now.key)
        if kind is HistoryRecord:
            self._history(change, name, int(key[1]))
        elif kind is not None:
            table = self.table(name)
            if change.now.mod or key in table:  # absent, and never seen: `since` says it already
                table[key] = _newer(kind, table.get(key), change, at, watched)

    def _history(self, change: Change, lease: str, token: int) -> None:
        """History is read, not decided on by revision: an entry is there or not."""
        past = dict(self.table("history").get(lease, {}))
        record = records.decode(HistoryRecord, change.now.value) if change.now.mod else None
        if record is None:
            past.pop(token, None)
        else:
            age_ns = max(0, self.view.wall_ms - record.at_ms) * NS_PER_MS
            known = past.get(token)  # wall clocks may be set; what was placed in time once stays there
            past[token] = Past(record, known.at if known is not None else self.view.wall_at.plus(-age_ns))
        self.table("history")[lease] = past

    def done(self, **changes: Any) -> View:
        fields: dict[str, Any] = {**self._tables, **changes}
        return changed(self.view, **fields)


_KINDS: dict[str, tuple[Any, str]] = {
    "claim": (ClaimRecord, "claims"),
    "insync": (InsyncRecord, "insyncs"),
    "intent": (IntentRecord, "intents"),
}


def place(key: str) -> tuple[Any, str, Any]:
    """Which record stands at a key: its kind, its table in the view, its key there. (None, "", "") for a foreign key.

    For history the second is the lease and the third a pair (lease, token).
    """
    top, _, rest = key.partition("/")
    if top == "nodes" and rest:
        return NodeRecord, "nodes", rest
    if top == "sessions" and _is_hex(rest):
        return SessionRecord, "sessions", int(rest, 16)
    lease, _, what = rest.partition("/")
    if top == "leases" and what in _KINDS:
        kind, name = _KINDS[what]
        return kind, name, lease
    head, _, token = what.partition("/")
    if (
        top == "leases"
        and head == "history"
        and len(token) == TOKEN_DIGITS
        and token.isascii()
        and token.isdigit()
    ):
        return HistoryRecord, lease, (lease, token)
    return None, "", ""


def _is_hex(text: str) -> bool:
    return len(text) == 16 and all(c in "0123456789abcdef" for c in text)


def _newer(kind: Any, seen: Seen[Any] | None, change: Change, at: Instant, watched: bool) -> Seen[Any]:
    """The state of one key after a change or a read; an older one than what is known changes nothing.

    The same state again keeps the moment of its first receipt, but a watch may prove how it came about.
    """
    now = change.now
    if seen is not None and (change.revision < seen.known_at or now.mod == seen.mod):
        if now.mod != seen.mod:
            return seen
        last = seen.last if now.mod or change.before is None else records.decode(kind, change.before.value)
        known_at = max(seen.known_at, change.revision)
        return changed(seen, known_at=known_at, watched=seen.watched or watched, last=last)
    before = records.decode(kind, change.before.value) if change.before and not now.mod and watched else None
    record = records.decode(kind, now.value) if now.mod else None
    create = now.create if now.mod or change.before is None else change.before.create
    return Seen(record, now.mod, at, change.revision, watched, now.lease, create, before)


def first_look(at: Instant, wall_ms: int, revision: int, keys: Iterable[KeyValue]) -> View:
    """The view after the first snapshot, or after a break in history that leaves nothing to build on."""
    return with_snapshot(View(at, revision, wall_ms, at), at, wall_ms, revision, keys, broken=True)


def with_snapshot(
    view: View, at: Instant, wall_ms: int, revision: int, keys: Iterable[KeyValue], *, broken: bool
) -> View:
    """The view after reading all keys at `revision`. `broken`: the watch missed something before it.

    A record that is still at the same revision is the same record, so its receipt stands.
    """
    editor = _Editor(changed(view, wall_ms=wall_ms, wall_at=at))
    present = set()
    for kv in keys:
        present.add(kv.key)
        editor.put(Change(revision, kv, None), at, watched=False)
    for name in ("sessions", "claims", "insyncs", "intents", "nodes"):
        table = editor.table(name)
        for key, seen in list(table.items()):
            if (seen.mod and seen.known_at < revision and key_of(name, key) not in present) or (
                broken and not seen.mod and seen.known_at < revision
            ):
                table[key] = Seen(None, 0, at, revision)
    sessions = editor.table("sessions")
    for seen in editor.table("claims").values():
        if seen.record is not None and seen.record.session and seen.record.session not in sessions:
            # Never seen here: it may have come and gone while the watch lagged, and its node not know yet.
            sessions[seen.record.session] = Seen(None, 0, at, revision)
    since = at if broken else view.since
    return editor.done(revision=max(view.revision, revision), since=since)


def key_of(table: str, key: Any) -> str:
    """The etcd key of an entry of one of the view's tables."""
    match table:
        case "sessions":
            return records.session_key(key)
        case "nodes":
            return records.node_key(key)
        case "claims":
            return records.claim_key(key)
        case "insyncs":
            return records.insync_key(key)
        case _:
            return records.intent_key(key)


def with_changes(view: View, at: Instant, wall_ms: int, changes: Iterable[Change]) -> View:
    """The view after changes on an unbroken watch."""
    editor = _Editor(changed(view, wall_ms=wall_ms, wall_at=at))
    revision = view.revision
    for change in changes:
        revision = max(revision, change.revision)
        editor.put(change, at, watched=True)
    return editor.done(revision=revision)


def with_reads(view: View, at: Instant, revision: int, reads: Iterable[KeyValue]) -> View:
    """The view after a failure branch read these keys at `revision`."""
    editor = _Editor(view)
    for kv in reads:
        editor.put(Change(revision, kv, None), at, watched=False)
    return editor.done()


def with_own(view: View, at: Instant, revision: int, puts: Iterable[KeyValue]) -> View:
    """The view after an own transaction was committed at `revision`: what one wrote oneself is seen to become so."""
    editor = _Editor(view)
    for kv in puts:
        editor.put(Change(revision, kv, None), at, watched=True)
    return editor.done()
