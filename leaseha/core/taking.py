"""How and from when this node may take a lease that it does not hold (design 4.2, T3 to T8, and 4.3, waits)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from leaseha.core import deadline, placement
from leaseha.core.records import Hold, Life
from leaseha.core.session import Phase
from leaseha.core.spec import RANK_STEP_NS
from leaseha.core.state import Draft, Way
from leaseha.core.values import Instant
from leaseha.core.view import Seen


@dataclass(frozen=True, slots=True)
class Taking:
    """The transaction that would take the lease, and the end of the wait before it."""

    way: Way
    at: Instant
    old: int = 0
    """The session that the claim names; 0: none."""


def due(draft: Draft, lease: str, way: Way) -> bool:
    """True if this is the way to take the lease, and its wait is over. The cheap questions come first."""
    if draft.session.phase is not Phase.LIVE or not draft.ready or draft.node.stopping:
        return False
    found = _way(draft, lease)
    if found is None or found.way is not way or not found.at.wait_over(draft.at):
        return False
    found = possible(draft, lease)
    return found is not None and found.at.wait_over(draft.at)


def possible(draft: Draft, lease: str) -> Taking | None:
    """The way to take the lease as things stand, or None: not a candidate, or nothing to take.

    Rank k waits k x 50 ms more, so that candidates do not race. A node whose own commits were interrupted
    gives the holder one renewal's time before it takes from silence: etcd was away, perhaps for both (G8).
    """
    if draft.session.phase is not Phase.LIVE or not draft.ready or draft.node.stopping:
        return None
    found = _way(draft, lease)
    if found is None:
        return None
    rank = placement.rank(draft, lease, without=found.old)
    if rank is None:
        return None
    at = found.at.plus(rank * RANK_STEP_NS)
    if found.way in (Way.T3, Way.T8):
        at = _later(at, steady_at(draft))
    if draft.node.claims_from is not None:
        at = _later(at, draft.node.claims_from)
    return Taking(found.way, at, found.old)


def _way(draft: Draft, lease: str) -> Taking | None:
    seen = draft.view.claim(lease)
    if seen.mod == 0:
        return Taking(Way.T6, seen.at)
    record = seen.record
    if record is None:
        return None
    if record.hold is Hold.FREE:
        return Taking(Way.T5, believed_at(draft, seen))
    if record.hold is Hold.LOST:
        return Taking(Way.T7, after_ttl_max(draft, seen.at))
    if record.session == draft.session.id:
        return None
    return _from_session(draft, record.session, seen.mod)


def put_back(session: Seen[Any], claim_mod: int) -> bool:
    """The record came to be after the claim that names its session: deleted by hand, and put back by a late T1.

    It tells the ttl of the start then, and not the one that the holder may count on.
    """
    return session.create > claim_mod


def _from_session(draft: Draft, old: int, claim_mod: int) -> Taking:
    """From a holder whose session is silent, gone, or ended in writing."""
    seen = draft.view.session(old)
    if seen.mod == 0:
        return Taking(Way.T8, gone_at(draft, old, claim_mod), old)
    record = seen.record
    if record is not None and record.life is Life.LIVE and put_back(seen, claim_mod):
        return Taking(Way.T3, after_ttl_max(draft, seen.at), old)
    if record is not None and record.life is Life.LIVE:
        at = deadline.of_wait(seen.at, record.ttl_ns, draft.spec.drift_ppm, record.margin_ns)
        return Taking(Way.T3, at, old)
    if record is None:  # not readable, and so not known to be ended
        return Taking(Way.T4, after_ttl_max(draft, seen.at), old)
    return Taking(Way.T4, believed_at(draft, seen), old)


def gone_at(draft: Draft, old: int, claim_mod: int) -> Instant:
    """A record that vanished: the wait starts anew at the first sight of its absence.

    Its ttl is that of what stood there if the deletion came on an unbroken watch, else `ttl_max`.
    """
    seen = draft.view.session(old)
    if old not in draft.view.sessions:
        return after_ttl_max(draft, draft.at)  # nothing has looked for it yet: the next read of all keys will
    if seen.last is None or put_back(seen, claim_mod):
        return after_ttl_max(draft, seen.at)
    return deadline.of_wait(seen.at, seen.last.ttl_ns, draft.spec.drift_ppm, seen.last.margin_ns)


def believed_at(draft: Draft, seen: Seen[Any]) -> Instant:
    """*Free*, *dead* and *closed* count at once only if this process saw them become so."""
    return seen.at if seen.watched else after_ttl_max(draft, seen.at)


def after_ttl_max(draft: Draft, since: Instant) -> Instant:
    """The longest wait: for whoever may hold on what we have not seen."""
    margins = [seen.record.margin_ns for seen in draft.view.sessions.values() if seen.record is not None]
    margin_ns = max([draft.spec.margin_ns, *margins])
    return deadline.of_wait(since, draft.spec.ttl_max_ns, draft.spec.drift_ppm, margin_ns)


def steady_at(draft: Draft) -> Instant:
    """From when on silence of others is not our own: one renewal period after commits came regularly again."""
    since = draft.session.steady_since
    return (
        since.plus(draft.spec.renew_every_ns)
        if since is not None
        else draft.at.plus(draft.spec.renew_every_ns)
    )


def _later(one: Instant, other: Instant) -> Instant:
    return Instant(max(one.boot_ns, other.boot_ns), max(one.raw_ns, other.raw_ns))
