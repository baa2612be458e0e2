"""What is looked after in every step, whatever the event was: hold-down, blocks that end, intents, old records."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from leaseha.core import guards, placement, records, writer
from leaseha.core.records import Life
from leaseha.core.session import Phase
from leaseha.core.state import Draft, Role
from leaseha.core.values import NS_PER_S, Delete, Put

KEPT_NS: Final = 3600 * NS_PER_S
"""How long a *dead* or *closed* session record stays: no wait anywhere is as long."""


def hold_down(draft: Draft) -> None:
    """Note since when this node has been the better one, and forget it when it is not."""
    for name, state in draft.leases.items():
        better = state.role is Role.STANDBY and draft.ready and placement.is_better(draft, name)
        if better and state.better_since is None:
            draft.update(name, better_since=draft.at)
        elif not better and state.better_since is not None:
            draft.update(name, better_since=None, asked_at=None)  # what it asked then is outdated


def unblock(draft: Draft) -> None:
    """What kept a lease from being claimed is over: a failure's backoff, or `recover` has raised the epoch."""
    for name, state in draft.leases.items():
        if state.not_before is not None and state.not_before.wait_over(draft.at):
            draft.update(name, not_before=None)
            draft.republish = True
        if state.blocked and draft.ready:
            record = draft.view.claim(name).record
            if record is not None and record.epoch > state.seen_epoch:
                draft.update(name, blocked="")
                draft.republish = True


def answer_intents(draft: Draft) -> None:
    """Say why an intent for this token is not obeyed."""
    for name, state in draft.leases.items():
        if state.role is not Role.HOLDER:
            continue
        asked = guards.unanswered(draft, name)
        if asked is None or asked.kind != records.Kind.SWITCHOVER or guards.switchover_asked(draft, name):
            continue
        _, why = guards.switchover_target(draft, name, asked)
        if guards.in_vain(draft, name):
            why = "the handover came to nothing"
        value = records.encode(replace(asked, answer=why))
        key = records.intent_key(name)
        if key not in draft.node.notes:
            writer.note(draft, Put(key, value, draft.session.id))


def collect(draft: Draft) -> None:
    """Remove the records of sessions that ended long ago and that no claim names: they hang on nothing."""
    if draft.session.phase is not Phase.LIVE or not draft.ready:
        return
    named = {seen.record.session for seen in draft.view.claims.values() if seen.record is not None}
    for session, seen in draft.view.sessions.items():
        over = seen.record is not None and seen.record.life is not Life.LIVE and session not in named
        if over and seen.at.plus(KEPT_NS).wait_over(draft.at):
            key = records.session_key(session)
            draft.set(notes={**draft.node.notes, key: Delete(key)})
