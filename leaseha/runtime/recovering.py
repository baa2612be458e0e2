"""An operator accepts a loss: a lease that none of its in-sync stores can serve goes on with another node's (G2).

Nothing else writes an in-sync set without holding the lease. It is done only after watching, for as long as a
holder may be quiet, that nobody holds the lease and no member can take it; and in one transaction that compares all
that was seen. Whoever takes over waits as after any other holder, and says in log, trace and history whose word it was.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import Final

from leaseha import __version__
from leaseha.adapters import clock
from leaseha.adapters.etcd import EtcdClient
from leaseha.config import Config, node_spec
from leaseha.core import insync, machine, placement, records, transactions
from leaseha.core import view as views
from leaseha.core.placement import Candidate
from leaseha.core.records import ClaimRecord, HistoryRecord, Hold, InsyncRecord, Kind
from leaseha.core.state import Draft
from leaseha.core.transactions import Recovering
from leaseha.core.values import Committed, Head, KeyValue, Unknown
from leaseha.errors import OperationalError, RecoverRefused, UsageError
from leaseha.repository.tokens import Mark, TokenLedger
from leaseha.runtime import show, stranded
from leaseha.runtime.operator import ASK_TIMEOUT_S, UNSURE

LOOK_S: Final = 0.25
Keys = tuple[KeyValue, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """What would be written, and the sentences that say what it costs."""

    lease: str
    node: str
    item: Recovering
    cost: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Recovered:
    """Who went on with the lease."""

    lease: str
    holder: str
    token: int
    accepted: str


class Watching:
    """What is seen of etcd by repeated reads: who gives a sign of life, and who has been silent for long enough."""

    def __init__(self, config: Config, lease: str, head: Head, keys: Keys) -> None:
        spec = node_spec(config, store="", incarnation="", version=__version__)
        self._state = machine.initial(replace(spec, node=""))  # no node itself: all of them are others
        self._lease = lease
        self._view = views.first_look(clock.now(), clock.wall_ms(), head.revision, keys)

    def again(self, head: Head, keys: Keys) -> None:
        """Everything was read once more."""
        at = clock.now()
        self._view = views.with_snapshot(self._view, at, clock.wall_ms(), head.revision, keys, broken=False)

    def draft(self) -> Draft:
        """For the core's questions, as of now."""
        return Draft(replace(self._state, view=self._view), clock.now())

    def undecided(self) -> bool:
        """Someone neither gave a sign of life since the first look nor has been silent for long enough."""
        draft = self.draft()
        nodes = [seen.record.session for seen in draft.view.nodes.values() if seen.record is not None]
        sessions = {*nodes, placement.holding_session(draft, self._lease)} - {0}
        return any(not placement.silent(draft, one) and not self._renewed(draft, one) for one in sessions)

    def _renewed(self, draft: Draft, session: int) -> bool:
        return draft.view.session(session).at != draft.view.since

    def most_s(self) -> float:
        """How long all that may take."""
        spec = self._state.spec
        return (2 * spec.ttl_max_ns + spec.margin_ns) / 1e9 + ASK_TIMEOUT_S


async def look(client: EtcdClient, config: Config, lease: str, node: str, by: str) -> Plan:
    """Watch, and say what could be done; changes nothing. Bounded.

    Raises `UsageError` for a node that the lease does not have, `RecoverRefused` where nothing is to be recovered
    so, `StoreError`.
    """
    if node not in config.lease(lease).priority:
        known = ", ".join(sorted(config.lease(lease).priority))
        raise UsageError(f"--node = {node}: not among the nodes of lease {lease} ({known})")
    watching = Watching(config, lease, *await client.read_all(ASK_TIMEOUT_S))
    until_ns = clock.now().boot_ns + int(watching.most_s() * 1e9)
    while watching.undecided():
        if clock.now().boot_ns > until_ns:
            raise RecoverRefused(f"{lease}: who lives and who does not cannot be told: see `leaseha status`")
        await asyncio.sleep(LOOK_S)
        watching.again(*await client.read_all(ASK_TIMEOUT_S))
    return plan(watching.draft(), lease, node, by, _seen_by(config, lease, node))


def plan(draft: Draft, lease: str, node: str, by: str, mark: Mark | None) -> Plan:
    """By what was seen. `mark`: the highest that the node's disk has seen, if it can be known here.

    Raises `RecoverRefused`.
    """
    claim, admitted = draft.view.claim(lease), draft.view.insync(lease)
    nodes = placement.others(draft, lease)
    _refuse_held(draft, lease, nodes)
    chosen = next((one for one in nodes if one.node == node), None)
    why = chosen.why_not(ignore_insync=True) if chosen is not None else "no agent runs there"
    if chosen is None or why or not chosen.store:
        raise RecoverRefused(
            f"{node} could not take lease {lease} anyway: {why or 'it has no data directory'}"
        )
    stores = admitted.record.stores if admitted.record is not None else frozenset()
    known = insync.nodes_of(draft, lease, stores)
    lost = ", ".join(known.get(store, f"store {store}") for store in sorted(stores - {chosen.store}))
    accepted = f"loss accepted by {by}: {node} goes on without {lost or 'the set that was there'}"
    held, epoch = claim.record, mark.epoch if mark is not None else 1
    if held is None or held.hold is not Hold.FREE:
        from_node = (held.node if held.hold is Hold.HELD else held.from_node) if held is not None else ""
        epoch = held.epoch if held is not None else epoch
        previous = claim.mod if held is not None and held.hold is Hold.HELD else 0
        written = ClaimRecord(
            Hold.LOST,
            by,
            kind=Kind.FAILOVER,
            reason=accepted,
            previous=previous,
            from_node=from_node,
            epoch=epoch,
        )
    else:
        written = held
    record = InsyncRecord(
        frozenset({chosen.store}), {chosen.store: node}, draft.view.wall_ms_at(draft.at), accepted
    )
    session = placement.holding_session(draft, lease)
    mods = [(name, seen.mod) for name, seen in sorted(draft.view.nodes.items())]
    mods += [(name, 0) for name in sorted({*_able(draft, lease)} - {*draft.view.nodes})]
    item = Recovering(
        lease, claim.mod, admitted.mod, written, record, session, draft.view.session(session).mod, mods
    )
    return Plan(lease, node, item, tuple(_cost(draft, lease, chosen, mark)))


def _able(draft: Draft, lease: str) -> list[str]:
    return list(draft.spec.lease_by_name[lease].priorities)


def _refuse_held(draft: Draft, lease: str, nodes: list[Candidate]) -> None:
    """A lease that is served, or may be served without a loss, is nothing to recover."""
    claim, holding = draft.view.claim(lease), placement.holding_session(draft, lease)
    if claim.mod and claim.record is None:
        raise RecoverRefused(f"the claim of lease {lease} cannot be read: is it of a later version?")
    if claim.record is not None and holding and not placement.silent(draft, holding):
        raise RecoverRefused(
            f"{claim.record.node} holds lease {lease} and gives signs of life: nothing is lost"
        )
    if placement.is_new(draft, lease):
        raise RecoverRefused(f"nobody has ever held lease {lease}: the first node that runs takes it")
    able = next((one.node for one in nodes if not one.why_not()), "")
    if able:
        raise RecoverRefused(
            f"{able} is in-sync and runs: it takes lease {lease} by itself, and nothing is lost"
        )


def _cost(draft: Draft, lease: str, chosen: Candidate, mark: Mark | None) -> list[str]:
    told = stranded.of_lease(draft, lease, silent=True, judge=False)
    since = told["since_ms"] if told is not None else None
    lines = [
        f"all that was acknowledged is on: {stranded.members_text(told or {'members': []})}"
        + (f"; so since {show.when(since)}" if since else "")
    ]
    past = draft.view.past(lease)
    claim = draft.view.claim(lease)
    last = claim.mod if placement.holding_session(draft, lease) else max(past, default=0)
    if last:
        lines.append(f"the last holder's token: {last}{_told(past[last].record) if last in past else ''}")
    if mark is None:
        lines.append(
            f"what the disk of {chosen.node} has seen of it can be told there only: ask on that node"
        )
    elif mark.token >= last:
        lines.append(
            f"the disk of {chosen.node} has seen token {mark.token}: "
            "it lacks what was acknowledged after it left the set"
        )
    else:
        unseen = [past[token].record for token in sorted(past) if token > mark.token]
        lines.append(
            f"the disk of {chosen.node} has seen token {mark.token} last, and nothing of these holders:"
        )
        lines += [f"  token {one.token}{_told(one)}" for one in unseen[-5:]]
    lines.append(
        f"{chosen.node} goes on without what it lacks of that. Backups that are lost so are lost for good"
    )
    lines.append(
        "other nodes that come back later are levelled with it; what only they have is put aside there"
    )
    return lines


def _told(record: HistoryRecord) -> str:
    return f" ({record.to_node}, since {show.when(record.at_ms)})"


def _seen_by(config: Config, lease: str, node: str) -> Mark | None:
    """The highest mark that this machine's directory has seen; None: it is another node's, or there is none."""
    repository = config.lease(lease).repository
    if repository is None or node != config.node.name:
        return None
    folder = repository.path / ".leaseha" / "token"
    try:
        return TokenLedger(folder).highest() if folder.is_dir() else Mark(1, 0)
    except OSError as error:
        raise RecoverRefused(f"{folder} cannot be read: {error.strerror}") from error


async def write(client: EtcdClient, planned: Plan) -> int:
    """Once; the revision at which it was written. Raises `RecoverRefused`, `OperationalError`."""
    outcome = await client.commit(transactions.accept_loss(planned.item), 0, int(ASK_TIMEOUT_S * 1e9))
    match outcome:
        case Committed(head):
            return head.revision
        case Unknown():
            raise OperationalError(UNSURE)
    raise RecoverRefused(
        f"lease {planned.lease}: something changed while you were asked (a node came back?): nothing was written"
    )


async def await_holder(client: EtcdClient, planned: Plan, revision: int, timeout_s: float) -> Recovered:
    """Until the lease is served again. Raises `OperationalError` when it is not within the time."""
    key, node = records.claim_key(planned.lease), planned.node
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                _, keys = await client.read_all(ASK_TIMEOUT_S)
                found = {kv.key: kv for kv in keys}
                kv = found.get(key)
                line = found.get(records.history_key(planned.lease, kv.mod)) if kv is not None else None
                entry = records.decode(HistoryRecord, line.value) if line is not None else None
                if kv is not None and kv.mod > revision and entry is not None and entry.answered:
                    return Recovered(planned.lease, entry.to_node, kv.mod, planned.item.insync.accepted)
                await asyncio.sleep(LOOK_S)
    except TimeoutError:
        raise OperationalError(
            f"the loss is accepted, but {node} does not serve lease {planned.lease} after {timeout_s:g} s: "
            "`leaseha status` says why"
        ) from None
