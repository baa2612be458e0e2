"""The transition table: role × guard → role, action, reason. Log line, span, diagram and docs are printed from it.

A row is looked at after every event, in the order of the table, while a lease is in the row's role: what counts
is what is known now, not which event told it. `on` names the events that make a row fire, for the reader.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from leaseha.core import actions, guards
from leaseha.core.state import Draft, Role

Guard = Callable[[Draft, str], bool]
Action = Callable[[Draft, str], str]


@dataclass(frozen=True, slots=True)
class Row:
    """One transition. `reason` is the sentence that the log prints; the action returns what to add to it."""

    id: str
    role: Role
    to: Role
    on: str
    when: Guard
    do: Action
    reason: str


def _losing(role: Role) -> tuple[Row, ...]:
    """The ways in which a lease is lost; the same from each role in which something may be up."""
    to, tag = Role.FENCED, role.value[0]
    return (
        Row(f"{tag}-taken", role, to, "claim changed, renewal refused", guards.lost_taken, actions.fence,
            "the claim names another now: stop serving"),
        Row(f"{tag}-session", role, to, "own session record dead, closed or replaced", guards.lost_session,
            actions.fence, "own session was ended by another: stop serving"),
        Row(f"{tag}-rewound", role, to, "etcd answered from an older state", guards.lost_rewound, actions.fence,
            "etcd went back in time: stop serving and begin anew"),
        Row(f"{tag}-deadline", role, to, "tick", guards.past_deadline, actions.fence,
            "no renewal was proven by the deadline: stop serving"),
        Row(f"{tag}-cover", role, to, "tick", guards.past_cover, actions.fence,
            "no renewal compared this claim in time: stop serving"),
    )  # fmt: skip


ROWS: Final[tuple[Row, ...]] = (
    Row("S-stop", Role.STANDBY, Role.STOPPED, "stop asked", guards.stop_asked, actions.rest,
        "asked to stop, and nothing is held"),
    Row("S-accept", Role.STANDBY, Role.CLAIMING, "claim names this session", guards.handed_to_me, actions.accept,
        "the claim names this node: accept it with a renewal that compares it"),
    Row("S-absent", Role.STANDBY, Role.CLAIMING, "claim key absent", guards.may_write_absent, actions.claim,
        "no claim is written: write down that it is absent"),
    Row("S-free", Role.STANDBY, Role.CLAIMING, "claim free", guards.may_take_free, actions.claim,
        "the lease is free and this node is first among the candidates"),
    Row("S-ended", Role.STANDBY, Role.CLAIMING, "holder's session dead or closed", guards.may_take_ended,
        actions.claim, "the holder's session ended in writing: take its lease"),
    Row("S-silent", Role.STANDBY, Role.CLAIMING, "tick", guards.may_take_silent, actions.claim,
        "holder silent for its ttl and margin: declare it dead and take the lease"),
    Row("S-gone", Role.STANDBY, Role.CLAIMING, "tick", guards.may_take_gone, actions.claim,
        "the holder's session record is gone and the wait from its first absence is over: take the lease"),
    Row("S-lost", Role.STANDBY, Role.CLAIMING, "tick", guards.may_take_lost, actions.claim,
        "the claim was lost and ttl_max has passed since: take the lease"),
    Row("C-won", Role.CLAIMING, Role.PREPARING, "own transaction committed", guards.mine, actions.prepare,
        "the claim is proven: bring the service up"),
    Row("C-noted", Role.CLAIMING, Role.STANDBY, "own transaction committed", guards.absence_noted, actions.rest,
        "the absent claim is written down"),
    Row("C-over", Role.CLAIMING, Role.STANDBY, "own transaction refused, facts changed", guards.claim_over,
        actions.rest, "another was first, or the facts changed: stand by"),
    *_losing(Role.PREPARING),
    Row("P-stop", Role.PREPARING, Role.YIELDING, "stop asked", guards.stopping, actions.release,
        "asked to stop: let go"),
    Row("P-failed", Role.PREPARING, Role.YIELDING, "effect failed", guards.step_failed, actions.give_up,
        "the service could not be brought up here: let go"),
    Row("P-up", Role.PREPARING, Role.HOLDER, "effect done", guards.all_up, actions.serve,
        "the VIP is bound and announced: serving"),
    *_losing(Role.HOLDER),
    Row("H-stop", Role.HOLDER, Role.YIELDING, "stop asked", guards.stopping, actions.release,
        "asked to stop: let go"),
    Row("H-switchover", Role.HOLDER, Role.YIELDING, "intent", guards.switchover_asked, actions.hand_over,
        "switchover asked for: hand over"),
    Row("H-failback", Role.HOLDER, Role.YIELDING, "intent", guards.failback_asked, actions.hand_over,
        "a better node asks for the lease back after its hold-down: hand over"),
    Row("H-ineligible", Role.HOLDER, Role.YIELDING, "health changed, candidate appeared", guards.better_off_elsewhere,
        actions.release, "this node should not hold the lease and another can: let go"),
    Row("H-broken", Role.HOLDER, Role.YIELDING, "resource failed", guards.broken_and_replaceable, actions.give_up,
        "the resource failed and another node can serve: let go"),
    Row("H-restart", Role.HOLDER, Role.PREPARING, "resource failed", guards.broken, actions.bring_up_again,
        "the resource failed and no other node can serve: start it again here"),
    Row("H-drift", Role.HOLDER, Role.PREPARING, "VIP missing", guards.vip_missing, actions.bind_again,
        "someone removed the VIP: bind it again"),
    Row("Y-gone", Role.YIELDING, Role.STANDBY, "own transaction committed, claim changed", guards.let_go,
        actions.rest, "the lease is handed over or free"),
    *_losing(Role.YIELDING),
    Row("Y-resume", Role.YIELDING, Role.PREPARING, "own transaction refused or unknown, then renewed",
        guards.may_serve_again, actions.prepare_again, "the target can not take the lease: serve again"),
    Row("Y-stuck", Role.YIELDING, Role.PREPARING, "tick", guards.can_not_let_go, actions.prepare_stuck,
        "the service could not be taken down here, so nothing was handed over: serve again"),
    Row("F-off", Role.FENCED, Role.STANDBY, "effect done", guards.all_off, actions.rest,
        "everything is off: stand by"),
)  # fmt: skip

BY_ROLE: Final = {role: tuple(row for row in ROWS if row.role is role) for role in Role}
