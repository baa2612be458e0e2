"""Planted bugs of the replication: acknowledgements that a store which could take over does not have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from chaos.sim.bug import Bug
from chaos.sim.copies import Copies
from chaos.sim.options import Options
from leaseha.core import insync, transactions
from leaseha.core.state import NodeState
from leaseha.core.transactions import Recovering
from leaseha.core.values import Txn

_accept_loss = transactions.accept_loss


def _changing(options: Options) -> None:
    options.nodes, options.slow = 3, 0.2
    options.faults = {"copies": 14, "kill": 1, "restart": 2, "cut": 1, "heal": 2}


def _told_only(self: Copies, lease: str) -> frozenset[str]:
    return self._leases[lease].union - {self._own()}


def _as_asked(self: Copies, lease: str) -> frozenset[str]:
    tenure = self._leases[lease]
    return (tenure.asked[max(tenure.asked)] if tenure.asked else tenure.union) - {self._own()}


def _unsettled(
    self: Copies, lease: str, token: int, wanted: Callable[[], bool], settled: Callable[[bool], None]
) -> None:
    tenure = self._leases[lease]
    tenure.token, tenure.asked, tenure.union, tenure.streams = token, {}, frozenset(), frozenset()
    settled(wanted())


def _as_seen(state: NodeState, lease: str) -> frozenset[str]:
    record = state.view.insync(lease).record if state.view is not None else None
    return record.stores if record is not None else frozenset()


def _losing(options: Options) -> None:
    options.nodes, options.slow, options.renew_every_ns = 2, 0.0, options.ttl_ns // 5
    options.faults = {"copies": 8, "kill": 1, "freeze": 3, "cut": 2, "heal": 3, "restart": 2, "accept": 12}


def _set_compared(item: Recovering) -> Txn:
    good = _accept_loss(item)
    return Txn(good.compares[1:2], good.puts, good.reads)


COPIES_BUGS: Final = (
    Bug(
        "accept-blind", "`recover` compares the set alone", "wiped",
        lambda: [(transactions, "accept_loss", _set_compared)], _losing,
    ),
    Bug(
        "late-union", "a store that is asked in counts only once the agent says so", "insync",
        lambda: [(Copies, "required", _told_only)], _changing,
    ),
    Bug(
        "ack-too-soon", "a store that is asked out of the set is not waited for", "insync",
        lambda: [(Copies, "required", _as_asked)], _changing,
    ),
    Bug(
        "gate-too-soon", "the gate opens before every member has answered", "insync",
        lambda: [(Copies, "settle", _unsettled)], _changing,
    ),
    Bug(
        "no-union", "the agent tells the set that it saw, without a change that is under way", "insync",
        lambda: [(insync, "must_have", _as_seen)], _changing,
    ),
)  # fmt: skip
