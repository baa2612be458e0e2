"""The conditions of the transition table, one a row; each looks and changes nothing."""

from __future__ import annotations

from typing import Final

from leaseha.core import placement, records, sequence, session, taking
from leaseha.core.records import IntentRecord, Kind
from leaseha.core.session import Phase
from leaseha.core.state import Draft, Way
from leaseha.core.values import NS_PER_S, Instant, earliest

PUT_OFF_NS: Final = 600 * NS_PER_S
"""How long running uploads put a failback off at most."""
VAIN_MAX: Final = 2
"""How often a way down that failed is tried again before the holder serves again."""


def serve_until(draft: Draft, lease: str) -> Instant | None:
    """Until when this node may serve the lease; None: not at all."""
    state = draft.leases[lease]
    if not state.mine or state.cover is None:
        return None
    until = session.deadline_of(draft.session, draft.spec.drift_ppm)
    return earliest(until, state.cover) if until is not None else None


def mine(draft: Draft, lease: str) -> bool:
    """The claim is proven ours."""
    return draft.leases[lease].mine


def stop_asked(draft: Draft, lease: str) -> bool:
    """The node was asked to stop."""
    return draft.node.stopping


def stopping(draft: Draft, lease: str) -> bool:
    """The node was asked to stop, and whoever takes over was told, so that it is warm; or could not be in time."""
    return letting_go(draft)


def letting_go(draft: Draft) -> bool:
    """The same, for all leases."""
    by = draft.node.stop_told_by
    if by is None:
        return False
    if not draft.node.active or draft.session.phase is not Phase.LIVE or by.wait_over(draft.at):
        return True
    told = records.node_key(draft.spec.node) not in draft.node.notes and not draft.republish
    return told and _others_awake(draft)


def _others_awake(draft: Draft) -> bool:
    """Every living node has renewed since it was told: its next write, which takes over, has none to wait for."""
    own = draft.view.nodes.get(draft.spec.node)
    told_at = own.mod if own is not None else 0
    others = (seen.record for node, seen in draft.view.nodes.items() if node != draft.spec.node)
    sessions = (record.session for record in others if record is not None)
    return all(draft.view.session(one).mod > told_at or placement.silent(draft, one) for one in sessions)


def handed_to_me(draft: Draft, lease: str) -> bool:
    """The claim names this very session: handed over, or still ours after a fence."""
    if draft.session.phase is not Phase.LIVE or draft.session.id == 0 or not draft.ready:
        return False
    return placement.holding_session(draft, lease) == draft.session.id


def _may(draft: Draft, lease: str, way: Way) -> bool:
    return taking.due(draft, lease, way)


def may_write_absent(draft: Draft, lease: str) -> bool:
    """T6."""
    return _may(draft, lease, Way.T6)


def may_take_free(draft: Draft, lease: str) -> bool:
    """T5."""
    return _may(draft, lease, Way.T5)


def may_take_ended(draft: Draft, lease: str) -> bool:
    """T4."""
    return _may(draft, lease, Way.T4)


def may_take_silent(draft: Draft, lease: str) -> bool:
    """T3."""
    return _may(draft, lease, Way.T3)


def may_take_gone(draft: Draft, lease: str) -> bool:
    """T8."""
    return _may(draft, lease, Way.T8)


def may_take_lost(draft: Draft, lease: str) -> bool:
    """T7."""
    return _may(draft, lease, Way.T7)


def in_flight(draft: Draft, lease: str) -> bool:
    """A write that takes or lets go of this lease may still be applied."""
    return session.covered(draft.session.pending, lease)


def absence_noted(draft: Draft, lease: str) -> bool:
    """The claim key is there now."""
    state = draft.leases[lease]
    return state.way is Way.T6 and not in_flight(draft, lease) and draft.view.claim(lease).mod != 0


def claim_over(draft: Draft, lease: str) -> bool:
    """Nothing is on its way any more, and what was to be sent would not be right now."""
    if in_flight(draft, lease):
        return False
    if draft.session.phase is not Phase.LIVE or draft.node.stopping:
        return True
    state = draft.leases[lease]
    if state.way is Way.T10:
        return not handed_to_me(draft, lease)
    return not _may(draft, lease, state.way)


def lost_taken(draft: Draft, lease: str) -> bool:
    """Someone else's claim stands where ours did."""
    return draft.leases[lease].lost == "taken"


def lost_session(draft: Draft, lease: str) -> bool:
    """The session that the claim names is not ours any more."""
    return draft.leases[lease].lost == "session"


def lost_rewound(draft: Draft, lease: str) -> bool:
    """etcd does not remember what it had confirmed."""
    return draft.leases[lease].lost == "rewound"


def past_deadline(draft: Draft, lease: str) -> bool:
    """Either clock has reached the session's deadline."""
    until = session.deadline_of(draft.session, draft.spec.drift_ppm)
    return until is None or until.deadline_passed(draft.at)


def past_cover(draft: Draft, lease: str) -> bool:
    """Either clock has reached the lease's own deadline."""
    cover = draft.leases[lease].cover
    return cover is None or cover.deadline_passed(draft.at)


def step_failed(draft: Draft, lease: str) -> bool:
    """An effect on the way up failed."""
    return bool(draft.leases[lease].failed)


def all_up(draft: Draft, lease: str) -> bool:
    """Every step of the way up is done."""
    return sequence.finished(draft.leases[lease])


def unanswered(draft: Draft, lease: str) -> IntentRecord | None:
    """An intent that is meant for the token held here and was not answered. A stale one is not obeyed."""
    record = draft.view.intent(lease).record
    if record is None or record.answer or record.token != draft.leases[lease].token:
        return None
    return record


def intent(draft: Draft, lease: str) -> IntentRecord | None:
    """An unanswered intent that was not tried in vain already: the service must not go down for it again and again."""
    return unanswered(draft, lease) if not in_vain(draft, lease) else None


def in_vain(draft: Draft, lease: str) -> bool:
    """This very intent was obeyed before, and the claim is here still."""
    return draft.leases[lease].tried == draft.view.intent(lease).mod


def switchover_target(draft: Draft, lease: str, asked: IntentRecord) -> tuple[int, str]:
    """The session to switch over to, or 0 and why not."""
    if not asked.target:
        best = placement.best_other(draft, lease)
        return (best.session, "") if best is not None else (0, "there is no other candidate")
    if asked.target == draft.spec.node:
        return 0, f"{asked.target} holds it already"
    named = placement.named(draft, lease, asked.target)
    why = "no such node is running" if named is None else named.why_not()
    return (
        (named.session, "")
        if named is not None and not why
        else (0, f"{asked.target} is no candidate: {why}")
    )


def switchover_asked(draft: Draft, lease: str) -> bool:
    """A valid switchover intent for this token, with a target that may take."""
    asked = intent(draft, lease)
    if asked is None or asked.kind != Kind.SWITCHOVER:
        return False
    return _shown_alive(draft, lease, switchover_target(draft, lease, asked)[0])


def _shown_alive(draft: Draft, lease: str, target: int) -> bool:
    """The target has renewed since it was asked for: nobody goes down for a node that died a moment ago."""
    return target != 0 and draft.view.session(target).mod >= draft.view.intent(lease).mod


def failback_asked(draft: Draft, lease: str) -> bool:
    """A candidate with a higher priority asks for this token's lease, within the flap budget."""
    asked = intent(draft, lease)
    if asked is None or asked.kind != Kind.FAILBACK or not placement.failback_wanted(draft, lease):
        return False
    if stuck(draft, lease):
        return False
    named = placement.named(draft, lease, asked.target)
    if _outdated(draft, lease, asked.target) or put_off(draft, lease):
        return False
    if named is None or named.why_not() or placement.budget_free_at(draft, lease) is not None:
        return False
    if not _shown_alive(draft, lease, named.session):
        return False
    return named.priority > placement.effective(draft, lease)


def put_off(draft: Draft, lease: str) -> bool:
    """Backups are streaming: a failback waits for a pause between them, at most `PUT_OFF_NS`."""
    state = draft.leases[lease]
    since = state.wanted_back
    return state.busy and (since is None or not since.plus(PUT_OFF_NS).wait_over(draft.at))


def _outdated(draft: Draft, lease: str, target: str) -> bool:
    """The target told something new of itself since it asked: it may have been ill, and must stay well anew."""
    told = draft.view.nodes.get(target)
    return told is not None and told.mod > draft.view.intent(lease).mod


def better_off_elsewhere(draft: Draft, lease: str) -> bool:
    """Ineligible, and there is another candidate. Without one the holder stays: a rebooting router must not end it."""
    state = draft.leases[lease]
    if not (state.ineligible or state.retired) or stuck(draft, lease):
        return False
    return bool(state.retired) or placement.best_other(draft, lease) is not None


def broken(draft: Draft, lease: str) -> bool:
    """A resource failed."""
    return bool(draft.leases[lease].trouble)


def broken_and_replaceable(draft: Draft, lease: str) -> bool:
    """A resource failed, and there is another candidate."""
    return broken(draft, lease) and not stuck(draft, lease) and placement.best_other(draft, lease) is not None


def vip_missing(draft: Draft, lease: str) -> bool:
    """The VIP is not on the interface."""
    return bool(draft.leases[lease].drifted)


def let_go(draft: Draft, lease: str) -> bool:
    """T9 or T11 is known to be committed."""
    state = draft.leases[lease]
    return not state.mine and not state.lost


def may_serve_again(draft: Draft, lease: str) -> bool:
    """The handover is off, and a renewal sent after it, comparing this claim, is committed: T9 is dead for ever."""
    state = draft.leases[lease]
    if state.way is not Way.NONE or in_flight(draft, lease) or not sequence.finished(state):
        return False
    return state.covered_by > state.barrier


def stuck(draft: Draft, lease: str) -> bool:
    """Letting go of it came to nothing a moment ago: the VIP stayed on."""
    until = draft.leases[lease].stuck_until
    return until is not None and not until.wait_over(draft.at)


def can_not_let_go(draft: Draft, lease: str) -> bool:
    """The way down fails again and again, so that nothing was written: nobody serves, and nobody else may."""
    state = draft.leases[lease]
    return bool(state.failed) and state.vain >= VAIN_MAX and not draft.node.stopping


def all_off(draft: Draft, lease: str) -> bool:
    """Nothing of the lease is, or may be, up here."""
    state = draft.leases[lease]
    return not state.up and sequence.finished(state)
