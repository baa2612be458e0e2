"""What is looked after in every step, whatever the event was: hold-down, blocks that end, intents, old records."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from leaseha.core import guards, placement, records
from leaseha.core.effects import Warned
from leaseha.core.records import Kind, Life
from leaseha.core.session import Phase
from leaseha.core.state import Draft, Role
from leaseha.core.values import NS_PER_S, Delete, KeyValue

KEPT_NS: Final = 3600 * NS_PER_S
"""How long a *dead* or *closed* session record stays: no wait anywhere is as long."""


def hold_down(draft: Draft, name: str) -> None:
    """Note since when this node has been the better one, and forget it when it is not."""
    state = draft.leases[name]
    better = state.role is Role.STANDBY and draft.ready and placement.is_better(draft, name)
    if better and state.better_since is None:
        draft.update(name, better_since=draft.at)
    elif not better and state.better_since is not None:
        draft.update(name, better_since=None, asked_at=None)  # what it asked then is outdated


def unblock(draft: Draft, name: str) -> None:
    """What kept a lease from being claimed is over: a failure's backoff, or `recover` has raised the epoch."""
    state = draft.leases[name]
    if state.not_before is not None and state.not_before.wait_over(draft.at):
        draft.update(name, not_before=None)
        draft.republish = True
    if state.blocked and draft.ready:
        record = draft.view.claim(name).record
        if record is not None and record.epoch > state.seen_epoch:
            draft.update(name, blocked="")
            draft.republish = True


def collect(draft: Draft) -> None:
    """Remove the records of sessions that ended long ago and that no claim names: they hang on nothing."""
    if draft.session.phase is not Phase.LIVE or not draft.ready:
        return
    ended = [
        session
        for session, seen in draft.view.sessions.items()
        if seen.record is not None
        and seen.record.life is not Life.LIVE
        and seen.at.plus(KEPT_NS).wait_over(draft.at)
    ]
    if not ended:
        return
    named = {seen.record.session for seen in draft.view.claims.values() if seen.record is not None}
    for session in ended:
        if session not in named:
            key = records.session_key(session)
            draft.set(notes={**draft.node.notes, key: Delete(key)})


def forget_moved(draft: Draft, reads: Iterable[KeyValue]) -> None:
    """Claims that a refused write found to stand otherwise, where nothing else was seen yet (after a handover)."""
    mods = {kv.key: kv.mod for kv in reads}
    ours = [(name, state.token) for name, state in draft.leases.items() if state.mine]
    for name in [name for name, token in ours if mods.get(records.claim_key(name), token) != token]:
        draft.update(name, mine=False, cover=None, lost="taken")


def tell_of_twin(draft: Draft) -> None:
    """Two processes that share a name and a store take turns in one node record: say so, once for each."""
    if not draft.ready:
        return
    found = placement.twin(draft)
    if found is not None and found.renewed and found.session != draft.node.twin:
        draft.set(twin=found.session)
        text = f"another process runs as node {draft.spec.node!r}: give each node its own name and state_dir"
        draft.effects.append(Warned("", "node name in use", text))


def put_failback_off(draft: Draft, name: str) -> None:
    """Since when a failback of a held lease has been asked for: while backups stream it is put off, in bounds."""
    state = draft.leases[name]
    asked = guards.unanswered(draft, name) if state.role is Role.HOLDER else None
    wanted = asked is not None and asked.kind == Kind.FAILBACK
    if wanted and state.wanted_back is None:
        draft.update(name, wanted_back=draft.at)
    elif state.role is not Role.HOLDER and state.wanted_back is not None:
        draft.update(name, wanted_back=None)
