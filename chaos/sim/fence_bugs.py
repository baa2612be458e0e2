"""Planted bugs of the fence, of announcements, of letting go and of reloads."""

# ruff: noqa: ARG005 - what stands in for a function takes its arguments, and reaches inside
from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from chaos.sim.bug import Bug, Patch
from chaos.sim.clock import PPM
from chaos.sim.fence import Fence
from chaos.sim.frames import Announcer
from chaos.sim.guard import Guard
from chaos.sim.kernel import RANKS, Kernel
from chaos.sim.options import Options
from chaos.sim.service import Service
from leaseha.core import transactions
from leaseha.core.transactions import Own
from leaseha.core.values import NS_PER_MS, Instant, Txn


def _fenced(**knobs: Any) -> Callable[[Options], None]:
    """All nodes have a fence, and a margin that is worth one."""

    def steer(options: Options) -> None:
        options.unfenced, options.lifetime_margin_ns = frozenset(), 0
        options.margin_ns = 20 * NS_PER_MS
        for knob, value in knobs.items():
            setattr(options, knob, value)

    return steer


def _unfenced(**faults: float) -> Callable[[Options], None]:
    def steer(options: Options) -> None:
        options.unfenced, options.lifetime_margin_ns, options.slewed = frozenset("abcd"), 0, False
        options.faults.update(faults)

    return steer


def _one_reading() -> list[Patch]:
    known: dict[int, Instant] = {}

    def read(self: Fence, rank: str) -> Instant:
        if rank == RANKS[0]:
            known[id(self)] = self.node.now()
        return known[id(self)]

    return [(Fence, "read", read)]


def _one_set() -> list[Patch]:
    return [(Kernel, "wanted", RANKS[:1]), (Fence, "ranks", lambda self: RANKS[:1])]


def _checked_before() -> list[Patch]:
    return [*_one_set(), (Fence, "check", lambda self, due: None)]


def _added_only() -> list[Patch]:
    good = Kernel.put_one

    def put_one(self: Kernel, rank: str, lease: str, timeout_ns: int) -> None:
        if not self.living(rank, lease):
            good(self, rank, lease, timeout_ns)

    return [(Kernel, "put_one", put_one)]


def _rate_ignored() -> list[Patch]:
    return [(Fence, "rate", lambda self, now: PPM)]


def _frame_unchecked() -> list[Patch]:
    return [(Announcer, "may_send", lambda self, lease: lease in self._node.told)]


def _no_egress() -> list[Patch]:
    return [(Kernel, "egress", False)]


def _told_too_early() -> list[Patch]:
    good = Service.unbind

    def unbind(self: Service, lease: str) -> None:
        self._node.awake(20 * NS_PER_MS, lambda: good(self, lease))

    return [(Service, "unbind", unbind)]


def _claims_not_compared() -> list[Patch]:
    good = transactions.t2_renew

    def t2(own: Own, *rest: Any) -> Txn:
        txn = good(own, *rest)
        return replace(txn, compares=tuple(c for c in txn.compares if not c.key.endswith("/claim")))

    return [(transactions, "t2_renew", t2)]


def _unwatched(options: Options) -> None:
    options.leases, options.nodes, options.slice_size, options.failback = 2, 3, 50, False
    options.ttl_max_ns, options.lost_replies = options.ttl_ns, 0.1
    options.faults = {"drop_claim": 4, "cut_watch": 4, "heal": 1}


def _guard_closes_only() -> list[Patch]:
    return [(Guard, "unbind", lambda self, lease: True)]


def _armed_by_start() -> list[Patch]:
    good = Service.adopt

    def adopt(self: Service, deadlines: dict[str, Instant]) -> None:
        ttl_ns = self._node.state.spec.ttl_ns
        good(self, dict.fromkeys(deadlines, self._node.now().plus(ttl_ns)))

    return [(Service, "adopt", adopt)]


def _reloading(**faults: float) -> Callable[[Options], None]:
    return _fenced(faults={"reload": 5, "cut": 1, "heal": 2, **faults})


FENCE_BUGS: Final[tuple[Bug, ...]] = (
    Bug(
        "fence-one-reading", "both sets armed from one reading of the clock: stale after a freeze", "freeze",
        _one_reading, _fenced(freeze_arming=0.03),
    ),
    Bug("fence-one-set", "one set instead of two", "freeze", _one_set, _fenced(freeze_arming=0.05)),
    Bug(
        "fence-check-before", "one set, and the clock looked at before arming and not after", "freeze",
        _checked_before, _fenced(freeze_arming=0.03),
    ),
    Bug(
        "fence-add", "an element added anew without its deletion, which changes nothing", "mixed",
        _added_only, _fenced(),
    ),
    Bug(
        "fence-slewed", "timers that are slowed by NTP not allowed for", "freeze", _rate_ignored,
        _fenced(slewed=True, drift_ppm=1000),
    ),
    Bug(
        "frame-unchecked", "frames repeated without a look at the clock, and no fence", "freeze", _frame_unchecked,
        _unfenced(freeze=4, switchover=3),
    ),
    Bug(
        "frame-egress", "no fence for the node's own frames, frozen between clock and frame", "freeze", _no_egress,
        _fenced(freeze_frames=0.3),
    ),
    Bug(
        "early-off", "an address told to be off before it is", "crash", _told_too_early,
        _fenced(faults={"stop": 2, "restart": 2}),
    ),
    Bug(
        "claim-moved", "a renewal counted although the claim moved: T2 without its claims", "slices",
        _claims_not_compared, _unwatched,
    ),
    Bug(
        "guard-closes", "the guard frees behind a closed fence, with the address on", "guard",
        _guard_closes_only, _fenced(),
    ),
    Bug(
        "reload-armed", "a program that was reloaded counts from its own start", "network", _armed_by_start,
        _reloading(),
    ),
)  # fmt: skip
