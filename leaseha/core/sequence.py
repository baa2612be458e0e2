"""The order of going up and coming down: which effect comes next for a lease, once the last one has ended.

Up: resources (gate still closed), VIP, gate, announcement, so that the first packet finds someone who answers.
Down: gate (draining), resources, VIP: when the VIP is off nothing can be acknowledged any more. Fenced: the VIP first.
"""

from __future__ import annotations

from typing import Final

from leaseha.core import effects
from leaseha.core.effects import Effect
from leaseha.core.state import Draft, LeaseState, lease_spec
from leaseha.core.values import NS_PER_S, Instant

RETRY_NS: Final = 1 * NS_PER_S
"""How long after a failed way down it is tried again."""

UP: Final = ("StartResources", "BindVip", "OpenGate", "Announce")
UP_BARE: Final = ("BindVip", "Announce")
DOWN: Final = ("CloseGate", "StopResources", "UnbindVip")
CUT: Final = ("UnbindVip", "CloseGate", "StopResources")

RAISES: Final = {"StartResources": "resources", "BindVip": "vip", "OpenGate": "gate"}
LOWERS: Final = {"StopResources": "resources", "UnbindVip": "vip", "CloseGate": "gate"}


def go_up(draft: Draft, lease: str, *, only: tuple[str, ...] = ()) -> None:
    """Plan the way up (or the named part of it)."""
    plan = only or (UP if lease_spec(draft.spec, lease).resources else UP_BARE)
    draft.update(lease, plan=plan, expected={}, failed="", retry_at=None)


def go_down(draft: Draft, lease: str, *, drain: bool) -> None:
    """Plan the way down. What may be up decides what is to be done; effects under way are not waited for."""
    state = draft.leases[lease]
    order = DOWN if drain else CUT
    plan = tuple(name for name in order if LOWERS[name] in state.up)
    draft.update(lease, plan=plan, expected={}, failed="", retry_at=None, drain=drain, awaiting=0)


def advance(draft: Draft, lease: str, serve_until: Instant | None) -> None:
    """Ask for the next effect of the plan if nothing is under way."""
    state = draft.leases[lease]
    if state.expected or not state.plan or state.failed:
        return
    name, plan = state.plan[0], state.plan[1:]
    draft.update(lease, plan=plan)
    serial = draft.expect(lease, name)
    up = state.up | {RAISES[name]} if name in RAISES else state.up
    draft.update(lease, up=up, awaiting=serial if name == "Announce" else state.awaiting)
    draft.effects.append(_effect(draft, lease, name, serial, serve_until))


def _effect(draft: Draft, lease: str, name: str, serial: int, until: Instant | None) -> Effect:
    state = draft.leases[lease]
    trace = state.move.trace
    deadline = until if until is not None else draft.at
    match name:
        case "StartResources":
            return effects.StartResources(lease, serial, state.token, state.epoch, deadline, trace)
        case "BindVip":
            return effects.BindVip(lease, serial, deadline, trace)
        case "OpenGate":
            return effects.OpenGate(lease, serial, state.token, state.epoch, deadline, trace)
        case "Announce":
            return effects.Announce(lease, serial, deadline, state.move.reason, trace)
        case "CloseGate":
            drain_ns = lease_spec(draft.spec, lease).drain_ns if state.drain else 0
            return effects.CloseGate(lease, serial, drain_ns, trace, urgent=not state.drain)
        case "StopResources":
            return effects.StopResources(lease, serial, trace, urgent=not state.drain)
        case _:
            return effects.UnbindVip(lease, serial, trace, urgent=not state.drain)


def ended(draft: Draft, lease: str, serial: int, effect: str, ok: bool) -> None:
    """Book the end of an effect; one that is not waited for any more still tells what is off."""
    state = draft.leases[lease]
    expected = {key: name for key, name in state.expected.items() if key != serial}
    awaited = serial in state.expected
    if ok and effect in LOWERS:
        state = draft.update(lease, up=state.up - {LOWERS[effect]})
    if awaited:
        failed = "" if ok else effect
        retry_at = draft.at.plus(RETRY_NS) if not ok else None
        draft.update(lease, expected=expected, failed=failed or state.failed, retry_at=retry_at)
    if effect == "UnbindVip" and ok and awaited:
        draft.update(lease, off_at=draft.at)


def finished(state: LeaseState) -> bool:
    """True when everything that was planned is done."""
    return not state.plan and not state.expected and not state.failed
