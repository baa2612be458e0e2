"""Planted bugs: what the simulator must find, or it proves nothing.

Each replaces a small function of a core module for the time of a run, or rewrites what a node sends and is
told. Nothing of them is in production code. `hunt` runs them.
"""

# ruff: noqa: ARG001, ARG005, SLF001 - what stands in for a function takes its arguments, and reaches inside
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

from chaos.sim import guard
from chaos.sim.bug import Bug, Patch
from chaos.sim.copies_bugs import COPIES_BUGS
from chaos.sim.fence_bugs import FENCE_BUGS
from chaos.sim.guard import Guard
from chaos.sim.node import Node
from chaos.sim.options import Options
from chaos.sim.service import Service
from leaseha.core import (
    deadline,
    facts,
    guards,
    placement,
    records,
    session,
    taking,
    transactions,
    view,
    writer,
)
from leaseha.core.deadline import Written
from leaseha.core.records import ClaimRecord, Hold, InsyncRecord, SessionRecord
from leaseha.core.session import Found, OwnWrite, Session
from leaseha.core.state import Draft, Way
from leaseha.core.transactions import Absent, Own
from leaseha.core.values import NS_PER_MS, NS_PER_S, Instant, Put, Txn

# Deadlines and waits


def _from_response() -> list[Patch]:
    good = session.committed

    def committed(own: Session, write: OwnWrite, mod: int, at: Instant, *rest: int) -> Session:
        after = good(own, write, mod, at, *rest)
        return replace(after, proven=Written(at, write.ttl_ns))

    return [(session, "committed", committed)]


def _no_margin() -> list[Patch]:
    good = deadline.waited_ns
    return [(deadline, "waited_ns", lambda ttl_ns, drift_ppm, margin_ns: good(ttl_ns, drift_ppm, 0))]


def _waits_twice() -> list[Patch]:
    good = deadline.waited_ns
    return [
        (deadline, "waited_ns", lambda ttl_ns, drift_ppm, margin_ns: good(2 * ttl_ns, drift_ppm, margin_ns))
    ]


def _no_drift() -> list[Patch]:
    return [
        (deadline, "waited_ns", lambda ttl_ns, drift_ppm, margin_ns: ttl_ns + margin_ns),
        (deadline, "held_ns", lambda ttl_ns, drift_ppm: ttl_ns),
    ]


def _late_kernel(options: Options) -> None:
    options.margin_ns = 50 * NS_PER_MS


def _drifting(options: Options) -> None:
    options.drift_ppm, options.margin_ns = 100_000, 5_000_000


def _raised_too_soon() -> list[Patch]:
    def of_session(proven: Written, pending: Any, drift_ppm: int) -> Instant:
        ttl_ns = max(proven.ttl_ns, *(write.ttl_ns for write in pending), 0)
        return deadline.of_write(Written(proven.sent_at, ttl_ns), drift_ppm)

    return [(deadline, "of_session", of_session)]


def _lowered_too_late() -> list[Patch]:
    def of_session(proven: Written, pending: Any, drift_ppm: int) -> Instant:
        return deadline.of_write(proven, drift_ppm)

    return [(deadline, "of_session", of_session)]


def _gone_at_once() -> list[Patch]:
    return [(taking, "gone_at", lambda draft, old, claim_mod: draft.view.session(old).at)]


def _put_back_believed() -> list[Patch]:
    return [(taking, "put_back", lambda session, claim_mod: False)]


def _put_back(options: Options) -> None:
    options.copies, options.late_through_cut = 1.0, 1.0
    options.late_max_ns, options.ttl_max_ns = 8 * options.ttl_ns, 3 * options.ttl_ns
    options.nodes, options.margin_ns = 2, 5 * NS_PER_MS
    options.faults = {"ttl": 6, "orphan": 3, "cut": 1, "heal": 1, "restart": 0.5, "kill": 0.3}


def _wait_goes_on() -> list[Patch]:
    good_newer, good_snapshot = view._newer, view.with_snapshot

    def _newer(kind: Any, seen: Any, change: Any, at: Instant, watched: bool) -> Any:
        after = good_newer(kind, seen, change, at, watched)
        if kind is SessionRecord and after.mod == 0 and seen is not None and seen.mod:
            return replace(after, at=seen.at, last=seen.record)
        return after

    def with_snapshot(old: view.View, *rest: Any, **named: Any) -> view.View:
        after = good_snapshot(old, *rest, **named)
        sessions = dict(after.sessions)
        for key, seen in sessions.items():
            before = old.sessions.get(key)
            if seen.mod == 0 and before is not None and before.mod:
                sessions[key] = replace(seen, at=before.at, last=before.record)
        return replace(after, sessions=sessions)

    return [(view, "_newer", _newer), (view, "with_snapshot", with_snapshot)]


def _absent_taken() -> list[Patch]:
    good = taking._way

    def _way(draft: Draft, lease: str) -> taking.Taking | None:
        found = good(draft, lease)
        if found is not None and found.way is Way.T6 and not placement.is_new(draft, lease):
            return replace(found, at=taking.after_ttl_max(draft, found.at))
        return found

    def t6(own: Own, items: Sequence[Absent]) -> Txn:
        compares, puts = [], []
        for item in items:
            key = records.claim_key(item.lease)
            compares.append(transactions._absent(key))
            claim = ClaimRecord(Hold.HELD, node=own.record.node, session=own.session, epoch=item.epoch)
            puts.append(Put(key, records.encode(claim)))
            if item.new:
                puts.append(
                    Put(records.insync_key(item.lease), records.encode(InsyncRecord(frozenset({item.store}))))
                )
        return transactions._txn(own, compares, puts)

    return [(taking, "_way", _way), (transactions, "t6_write_absent_down", t6)]


def _snatching(options: Options) -> None:
    options.snatch, options.nodes, options.failback = 0.5, 4, False
    options.ttl_max_ns = options.ttl_ns
    options.faults = {"cut_watch": 5, "drop_claim": 3, "heal": 2}


def _no_cover() -> list[Patch]:
    return [
        (writer, "slice_rounds", lambda draft: 1 << 40),
        (deadline, "of_cover", lambda sent_at, ttl_max_ns, drift_ppm: sent_at.plus(3600 * NS_PER_S)),
    ]


def _many_slices(options: Options) -> None:
    options.leases, options.nodes, options.slice_size, options.failback = 6, 2, 1, False
    options.ttl_max_ns, options.renew_every_ns = options.ttl_ns, options.ttl_ns // 3
    options.margin_ns, options.lost_replies = 5 * NS_PER_MS, 0.3
    options.faults = {"drop_claim": 4, "cut_watch": 4, "heal": 1}


# Transactions


def _session_not_compared() -> list[Patch]:
    good = transactions.t3_take_silent

    def t3(own: Own, old: int, *rest: Any) -> Txn:
        txn, key = good(own, old, *rest), records.session_key(old)
        return replace(txn, compares=tuple(c for c in txn.compares if c.key != key))

    return [(transactions, "t3_take_silent", t3)]


def _without_own(function: str, what: str) -> list[Patch]:
    """The transaction goes without OWN, neither compared nor put; the rest is consistent with it."""
    good, good_committed = getattr(transactions, function), session.committed

    def bare(own: Own, *rest: Any) -> Txn:
        txn: Txn = good(own, *rest)
        key = own.key()
        compares = tuple(c for c in txn.compares if c.key != key)
        return replace(txn, compares=compares, puts=tuple(p for p in txn.puts if p.key != key))

    def committed(own: Session, write: OwnWrite, mod: int, at: Instant, *rest: int) -> Session:
        if write.what != what:
            return good_committed(own, write, mod, at, *rest)
        return session.without(own, write.request)

    return [(transactions, function, bare), (session, "committed", committed)]


def _late(kind: str, **faults: float) -> Callable[[Options], None]:
    def steer(options: Options) -> None:
        options.late_kinds, options.late_kind = (kind,), 0.8
        options.late_max_ns = 4 * options.ttl_ns
        options.faults = dict(faults)

    return steer


def _broken_late(options: Options) -> None:
    _late("T11", hard_release=6)(options)
    options.hard_breaks = True


def _late_add(options: Options) -> None:
    _late("T13", copies=14, kill=1.5, restart=3, cut=1, heal=2)(options)
    options.nodes = 3


def _absent_incarnation() -> list[Patch]:
    def look(own: Session, incarnation: str, kv: Any) -> tuple[Found, OwnWrite | None]:
        record = records.decode(SessionRecord, kv.value) if kv.mod else None
        return _good_look(own, record.incarnation if record is not None else incarnation, kv)

    return [(session, "look", look)]


_good_look = session.look


def _ids_again(options: Options) -> None:
    options.reuse_sessions = True
    options.faults = {"reborn": 3}


def _created() -> list[Patch]:
    good = Service.extend

    def extend(self: Service, lease: str, token: int, until: Instant) -> None:
        kv = self._world.etcd.keys.get(records.claim_key(lease))
        good(self, lease, kv.create if kv is not None else token, until)

    return [(Service, "extend", extend)]


def _unknown_is_failed() -> list[Patch]:
    return [(session, "unknown", session.without)]


def _free_while_on() -> list[Patch]:
    return [(guards, "all_off", lambda draft, lease: True)]


def _other_session() -> list[Patch]:
    good, good_done = transactions.t14_reestablish, facts._lease_committed

    def t14(*given: Any) -> Txn:
        txn = good(*given)
        return replace(txn, puts=tuple(p for p in txn.puts if not p.key.endswith("/claim")))

    def done(draft: Draft, write: OwnWrite, name: str, revision: int) -> None:
        if write.what == "T14":
            draft.update(name, under=draft.session.id)
        else:
            good_done(draft, write, name, revision)

    return [(transactions, "t14_reestablish", t14), (facts, "_lease_committed", done)]


def _mine_by_name() -> list[Patch]:
    good = placement.holding_session

    def holding_session(draft: Draft, lease: str) -> int:
        record = draft.view.claim(lease).record
        if record is not None and record.hold is Hold.HELD and record.node == draft.spec.node:
            return draft.session.id
        return good(draft, lease)

    return [(placement, "holding_session", holding_session)]


# What is believed and obeyed


def _rewound_believed() -> list[Patch]:
    def look(own: Session, incarnation: str, kv: Any) -> tuple[Found, OwnWrite | None]:
        found, write = _good_look(own, incarnation, kv)
        return (Found.SAME, None) if found is Found.OLDER else (found, write)

    return [(facts, "rewound", lambda head, floor: False), (session, "look", look)]


def _any_intent() -> list[Patch]:
    def intent(draft: Draft, lease: str) -> records.IntentRecord | None:
        record = draft.view.intent(lease).record
        return record if record is not None and not record.answer else None

    return [(guards, "intent", intent)]


def _no_hold_down() -> list[Patch]:
    return [(placement, "hold_down_end", lambda draft, lease, since: since)]


def _watch_ends() -> list[Patch]:
    def reread(self: Node) -> None:
        self.watch_broken = True

    return [(Node, "reread", reread)]


def _compacting(options: Options) -> None:
    options.faults = {"compact": 8, "cut_watch": 3, "heal": 3}
    options.ttl_max_ns = 3 * options.ttl_ns


def _guard_before_off() -> list[Patch]:
    good = Guard._take_down

    def _take_down(self: Guard) -> None:
        if self.may_free([]):
            self._soon(self._read)
        self._world.after(300 * NS_PER_MS, lambda: good(self))

    return [(Guard, "_take_down", _take_down)]


def _guard_by_channel() -> list[Patch]:
    return [(guard, "silent", lambda node: Guard(node).clean_up())]


def _guard_in_doubt() -> list[Patch]:
    return [(Guard, "may_free", lambda self, unknown: self._session != 0)]


def _stubborn(options: Options) -> None:
    options.failing_effects = 0.3


def _guard_uncompared() -> list[Patch]:
    good = transactions.t12_close

    def t12_close(session: int, mod: int, record: SessionRecord, items: Any = ()) -> Txn:
        txn = good(session, mod, record, items)
        return replace(txn, compares=())

    return [(transactions, "t12_close", t12_close)]


def _late_closing(options: Options) -> None:
    options.late_kinds, options.late_kind = ("T12",), 0.7
    options.late_max_ns = 6 * options.ttl_ns
    options.faults = {"crash": 4, "restart": 5, "switchover": 1}


def _with(**faults: float) -> Callable[[Options], None]:
    return lambda options: options.faults.update(faults)


def _seldom_answered(options: Options) -> None:
    options.lost_replies = 0.25
    options.faults = {"ttl": 5, "cut_replies": 1, "heal": 2}


BUGS: Final[tuple[Bug, ...]] = (
    Bug("response", "deadline counted from the response", "network", _from_response),
    Bug("waits-twice", "the standby waits two ttls", "takeover", _waits_twice),
    Bug("margin", "the standby's wait without the margin", "tight", _no_margin, _late_kernel),
    Bug("drift", "clocks that drift, and no allowance for it", "network", _no_drift, _drifting),
    Bug("session-compare", "T3 without comparing the session's revision", "network", _session_not_compared),
    Bug(
        "late-t9", "T9 without the own record", "copies",
        lambda: _without_own("t9_hand_over", "T9"), _late("T9", switchover=4, health=3, kill=0.5, restart=2),
    ),
    Bug(
        "late-t11", "T11 without the own record", "copies",
        lambda: _without_own("t11_release", "T11"), _broken_late,
    ),
    Bug(
        "late-t13", "T13 without the own record", "insync",
        lambda: _without_own("t13_change_insync", "T13"), _late_add,
    ),
    Bug("incarnation", "a nonce without the incarnation", "restore", _absent_incarnation, _ids_again),
    Bug("gone-no-wait", "a session that vanished is replaced without the wait", "hands", _gone_at_once),
    Bug(
        "gone-no-restart", "the wait is not restarted at the first sight of absence", "hands",
        _wait_goes_on, _with(orphan=3),
    ),
    Bug(
        "put-back", "a record that a late T1 put back is believed", "hands",
        _put_back_believed, _put_back,
    ),
    Bug("absent-taken", "an absent claim taken without *lost*", "slices", _absent_taken, _snatching),
    Bug("cover", "no cover deadline, and slices that do not come round", "slices", _no_cover, _many_slices),
    Bug("create-token", "the token is the claim's create_revision", "crash", _created),
    Bug("unknown-failed", "*unknown* is treated as failed", "copies", _unknown_is_failed, _seldom_answered),
    Bug("ttl-raised", "a longer ttl is used before it is proven", "copies", _raised_too_soon, _seldom_answered),
    Bug("ttl-lowered", "a shorter ttl is used only once proven", "copies", _lowered_too_late, _seldom_answered),
    Bug("free-while-on", "*free* written while the address is on", "crash", _free_while_on, _with(stop=2)),
    Bug(
        "other-session", "T14 keeps claims that it does not rewrite", "hands",
        _other_session, _with(drop_session=3, revoke=2),
    ),
    Bug("mine-by-name", "a claim is one's own by the node's name", "crash", _mine_by_name),
    Bug("rewound", "a restored etcd is believed", "restore", _rewound_believed),
    Bug("stale-intent", "an intent for an older token is obeyed", "mixed", _any_intent, _with(stale_intent=3)),
    Bug("hold-down", "failback without the hold-down", "crash", _no_hold_down),
    Bug("guard-early", "the guard writes *free* before the address is off", "guard", _guard_before_off, _with(crash=3)),
    Bug(
        "guard-channel", "the guard takes a closed channel for the agent's end", "guard",
        _guard_by_channel, _with(hush=4),
    ),
    Bug("guard-doubt", "the guard frees what it could not take off", "guard", _guard_in_doubt, _stubborn),
    Bug("guard-late", "T12 without its compares, applied late", "guard", _guard_uncompared, _late_closing),
    Bug("watch-compacted", "the watch is not resumed after a compaction", "hands", _watch_ends, _compacting),
    *FENCE_BUGS,
    *COPIES_BUGS,
)  # fmt: skip
BY_NAME: Final = {bug.name: bug for bug in BUGS}
