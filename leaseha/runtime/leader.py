"""Where etcd's leader is, and its moving off the holder's host (`etcd.keep_leader_away`).

If the host of a holder dies with etcd's leader on it, the takeover waits for etcd's election as well: 1 to 3 s at its
default timings, whatever the ttl is. All here happens beside the renewals, and none of it is needed for a takeover.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

from leaseha.adapters.etcd import MemberStatus, Peer
from leaseha.config import EtcdConfig, KeepAway
from leaseha.core.records import Hold
from leaseha.core.state import NodeState
from leaseha.core.values import NS_PER_S, Instant
from leaseha.errors import StoreDenied, StoreError

STABLE_S: Final = 10
"""For so long the same node has held and the same member has led, before the leadership is moved."""
AFTER_MOVE_S: Final = 60
AFTER_FAILURE_S: Final = 300
MOVE_TIMEOUT_S: Final = 5.0
"""etcd gives a transfer one election timeout."""
PEERS_EVERY_S: Final = 60
RESOLVE_S: Final = 1.0
REASONS_MAX: Final = 20
COST: Final = "its death costs an election of etcd too, 1 to 3 s at etcd's default timings"

_log = logging.getLogger("leaseha.leader")


class Etcd(Protocol):
    """What is asked of etcd's client."""

    async def status(self) -> tuple[MemberStatus, ...]:
        """Each member that an endpoint names; never raises."""
        ...

    async def peers(self, timeout_s: float = ...) -> tuple[Peer, ...]:
        """All members. Raises `StoreError`."""
        ...

    async def foreign_key(self, root: str, timeout_s: float = ...) -> str:
        """A key that is not below `root`, or nothing. Raises `StoreError`."""
        ...

    async def move_leader(self, member_id: int, timeout_s: float = ...) -> None:
        """Returns when that member leads. Raises `StoreError`."""
        ...


@dataclass(frozen=True, slots=True)
class Nodes:
    """The nodes of the cluster, by what one of them has seen in etcd."""

    here: str
    addresses: Mapping[str, str]
    """Node to IP address, of those that published one."""
    holding: Mapping[str, tuple[str, ...]]
    """Node to the leases whose claims name it."""
    tokens: tuple[int, ...] = ()
    """Of all claims: the same while no lease changes hands."""


def nodes_of(state: NodeState) -> Nodes:
    """As this node's state has them; nothing before its first look at etcd."""
    view = state.view
    if view is None:
        return Nodes(state.spec.node, {}, {})
    addresses = {
        name: seen.record.address
        for name, seen in view.nodes.items()
        if seen.record is not None and seen.record.address
    }
    claims = {lease.name: view.claim(lease.name) for lease in state.spec.leases}
    holding: dict[str, tuple[str, ...]] = {}
    for lease, seen in claims.items():
        if seen.record is not None and seen.record.hold is Hold.HELD:
            holding[seen.record.node] = (*holding.get(seen.record.node, ()), lease)
    return Nodes(state.spec.node, addresses, holding, tuple(seen.mod for seen in claims.values()))


async def hosts_of(members: Sequence[MemberStatus], peers: Iterable[Peer], nodes: Nodes) -> dict[str, str]:
    """Endpoint to the node on whose host that member runs; empty if it is none's. Names are resolved, briefly."""
    node_at = {address: name for name, address in nodes.addresses.items()}
    told = {peer.member_id: peer.urls for peer in peers}
    found = {}
    for member in members:
        places = [
            nodes.here if ip.is_loopback else node_at.get(str(ip), "") for ip in await _ips(member.endpoint)
        ]
        for url in told.get(member.member_id, ()) if member.member_id else ():
            # A member that says it listens on loopback means its own host, which need not be this one.
            places += [node_at.get(str(ip), "") for ip in await _ips(url) if not ip.is_loopback]
        found[member.endpoint] = next(filter(None, places), "")
    return found


async def _ips(url: str) -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    host = urlsplit(url if "//" in url else f"//{url}").hostname or ""
    try:
        return [ipaddress.ip_address(host)]
    except ValueError:
        pass
    try:
        async with asyncio.timeout(RESOLVE_S):
            rows = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, TimeoutError, UnicodeError):
        return []
    return [ipaddress.ip_address(str(row[4][0]).partition("%")[0]) for row in rows]


async def peers_of(client: Etcd, timeout_s: float = 1.0) -> tuple[Peer, ...]:
    """What etcd lists; nothing where it does not say (an etcd with users may not)."""
    try:
        return await client.peers(timeout_s)
    except StoreError as error:
        _log.debug("etcd does not list its members: %s", error)
        return ()


def rows(members: Sequence[MemberStatus], hosts: Mapping[str, str]) -> list[dict[str, Any]]:
    """etcd's members as `status` shows them."""
    return [
        {
            "endpoint": member.endpoint,
            "version": member.version or None,
            "leader": member.is_leader,
            "node": hosts.get(member.endpoint) or None,
            "trouble": member.why or ", ".join(member.alarms) or None,
        }
        for member in members
    ]


def told(
    members: Sequence[MemberStatus], hosts: Mapping[str, str], nodes: Nodes, note: str = ""
) -> dict[str, Any]:
    """etcd's leader as `status` shows it; `endpoint` null if none of those that answer leads."""
    leader = leader_of(members)
    node = hosts.get(leader.endpoint, "") if leader is not None else ""
    return {
        "endpoint": leader.endpoint if leader is not None else None,
        "node": node or None,
        "holds": list(nodes.holding.get(node, ())),
        "note": note,
    }


def leader_of(members: Sequence[MemberStatus]) -> MemberStatus | None:
    """Who leads: the highest term is right, where a member that was cut off still thinks it does."""
    leading = [member for member in members if member.is_leader]
    return max(leading, key=lambda member: member.raft_term, default=None)


def exposed(members: Sequence[MemberStatus], hosts: Mapping[str, str], nodes: Nodes) -> str:
    """A sentence if etcd's leader is on the host of a holder; a single member has no election, so nothing then."""
    leader = leader_of(members)
    node = hosts.get(leader.endpoint, "") if leader is not None else ""
    leases = nodes.holding.get(node, ())
    if leader is None or not leases or len(members) < 2:
        return ""
    return (
        f"etcd's leader {leader.endpoint} is on the host of {node}, which holds {', '.join(leases)}: {COST}"
    )


def best_target(
    members: Sequence[MemberStatus], hosts: Mapping[str, str], peers: Iterable[Peer], nodes: Nodes
) -> MemberStatus | None:
    """Who shall lead: it votes, is healthy, follows the leader, is on no holder's host; most of the log wins."""
    leader, learners = leader_of(members), {peer.member_id for peer in peers if peer.learner}
    if leader is None:
        return None
    fit = [
        member
        for member in members
        if not member.why
        and not member.alarms
        and member.member_id not in learners | {leader.member_id}
        and member.leader_id == leader.member_id
        and member.raft_term == leader.raft_term
        and not nodes.holding.get(hosts.get(member.endpoint, ""))
    ]
    return max(fit, key=lambda member: member.raft_index, default=None)


class LeaderKeeper:
    """Looks each time it is told to; moves the leadership seldom. One a process, called by one task."""

    def __init__(self, config: EtcdConfig, clock: Callable[[], Instant]) -> None:
        self.rows: list[dict[str, Any]] = []
        """etcd's members as `status` shows them; empty before the first look."""
        self.told: dict[str, Any] | None = None
        """etcd's leader as `status` shows it."""
        self._keep_away = config.keep_leader_away
        self._root = f"{config.prefix}/"
        self._clock = clock
        self._note = ""
        self._same: tuple[object, ...] = ()
        self._since: Instant | None = None
        self._not_before = clock()
        self._peers: tuple[Peer, ...] = ()
        self._peers_until = clock()
        self._warned: set[str] = set()

    async def look(self, client: Etcd, nodes: Nodes) -> None:
        """Ask etcd, and move its leader if all is as it must be. Never raises for what etcd says."""
        members = await client.status()
        peers = await self._known(client, members)
        hosts = await hosts_of(members, peers, nodes)
        if self._keep_away is not KeepAway.OFF:
            await self._keep(client, _Seen(members, peers, hosts, nodes))
        self.rows, self.told = rows(members, hosts), told(members, hosts, nodes, self._note)

    async def _known(self, client: Etcd, members: Sequence[MemberStatus]) -> tuple[Peer, ...]:
        """The members that etcd lists: seldom asked for, they seldom change."""
        now = self._clock()
        strange = {m.member_id for m in members if m.member_id} - {peer.member_id for peer in self._peers}
        if self._peers_until.left_ns(now) <= 0 or (strange and self._peers):
            self._peers = await peers_of(client)
            self._peers_until = now.plus(PEERS_EVERY_S * NS_PER_S)
        return self._peers

    async def _keep(self, client: Etcd, seen: _Seen) -> None:
        leader, nodes, now = leader_of(seen.members), seen.nodes, self._clock()
        same = (leader and (leader.member_id, leader.raft_term), nodes.tokens)
        if same != self._same or self._since is None:
            self._same, self._since = same, now
        resting = self._not_before.left_ns(now) > 0
        if leader is None or seen.hosts.get(leader.endpoint) != nodes.here or nodes.here not in nodes.holding:
            self._note = self._note if resting else ""
            return
        if resting or self._since.plus(STABLE_S * NS_PER_S).left_ns(now) > 0:
            return
        target = best_target(seen.members, seen.hosts, seen.peers, nodes)
        if target is None:
            self._refrain(
                "etcd's leader stays here: no healthy, voting member is on a host that holds nothing"
            )
        elif not await self._others_mind(client):
            await self._move(client, leader, target)

    async def _others_mind(self, client: Etcd) -> bool:
        """Whether the etcd has keys of someone else, who was not asked; unknown counts as yes."""
        if self._keep_away is KeepAway.ALWAYS:
            return False
        unless = 'unless etcd.keep_leader_away = "always"'
        try:
            key = await client.foreign_key(self._root)
        except StoreError as error:
            self._refrain(
                f"etcd's leader stays here, {unless}: whether others use this etcd is unknown ({error})"
            )
            return True
        if key:
            self._refrain(
                f"etcd's leader stays here, {unless}: others use this etcd (it has the key {key[:80]})"
            )
        return bool(key)

    async def _move(self, client: Etcd, leader: MemberStatus, target: MemberStatus) -> None:
        try:
            await client.move_leader(target.member_id, MOVE_TIMEOUT_S)
        except StoreDenied as error:
            self._refrain(f"etcd's leader stays here: etcd may want the role root for moving it ({error})")
        except StoreError as error:
            self._refrain(str(error))
        else:
            self._note = f"moved from {leader.endpoint} to {target.endpoint}, off the holder's host"
            self._not_before = self._clock().plus(AFTER_MOVE_S * NS_PER_S)
            _log.info("etcd's leadership %s", self._note)

    def _refrain(self, why: str) -> None:
        """Not now, and not for some minutes; each reason is told once."""
        self._note = why
        self._not_before = self._clock().plus(AFTER_FAILURE_S * NS_PER_S)
        if why not in self._warned and len(self._warned) < REASONS_MAX:
            self._warned.add(why)
            _log.warning("%s", why)


@dataclass(frozen=True, slots=True)
class _Seen:
    """One look."""

    members: Sequence[MemberStatus]
    peers: Sequence[Peer]
    hosts: Mapping[str, str]
    nodes: Nodes
