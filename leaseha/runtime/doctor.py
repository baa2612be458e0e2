"""`leaseha check`: what is wrong with this node's configuration and surroundings. Looks, and changes nothing."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from leaseha import connections
from leaseha.adapters import clock, fence, route
from leaseha.adapters.etcd import MemberStatus, diverges, known_bad
from leaseha.config import Config, KeepAway
from leaseha.core import placement
from leaseha.core.records import NodeRecord, decode
from leaseha.core.state import Draft, NodeState
from leaseha.core.values import NS_PER_S
from leaseha.errors import OperationalError, StoreError
from leaseha.runtime import certificates, copying, guarding, leader, rights, stranded, urgency
from leaseha.runtime.datadir import DataDirectory
from leaseha.runtime.fencing import unfenced
from leaseha.runtime.operator import ASK_TIMEOUT_S, etcd_of, looked
from leaseha.runtime.severing import unsevered

EVEN_NOTE = "an even number of members tolerates no more failures than one less"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing found. `grave`: the node cannot do its work so."""

    grave: bool
    text: str


def examine(
    config: Config,
    *,
    offline: bool,
    why_no_fence: Callable[[], str] = fence.available,
    why_unsevered: Callable[[], str] = connections.unsupported,
) -> list[Finding]:
    """Everything found, the grave first. Never raises for what it finds."""
    found = [Finding(grave=False, text=warning) for warning in config.warnings]
    found += _machine(config)
    found += [Finding(grave, text) for grave, text in certificates.examine(config, clock.wall_ms())]
    # An account that lacks rights was told so, and can try nothing.
    if not rights.lacking() and (why := why_no_fence()):
        found.append(Finding(grave=False, text=unfenced(config, why)))
    elif why := why_unsevered():
        found.append(Finding(grave=False, text=unsevered(why)))
    if config.session.ttl_ns < NS_PER_S:
        found += [Finding(grave=False, text=text) for text in _haste(config)]
    if not offline:
        cluster = asyncio.run(_cluster(config))
        found += cluster
        if not any(finding.grave for finding in cluster):
            found += _guard(config)
    return sorted(found, key=lambda finding: not finding.grave)


def _haste(config: Config) -> list[str]:
    """What a ttl below a second lacks on a machine that is busy with other work."""
    ttl = f"session.ttl = {config.session.ttl_ns / 1e9:g}s"
    if not config.node.realtime:
        return [
            f'{ttl}, but node.realtime = "off": a busy machine will make renewals late; take that line out'
        ]
    # Whoever checks need not be the account that will run the agent.
    return [f"{ttl}: {why}: a busy machine will make renewals late" for why in urgency.lacking()]


def _machine(config: Config) -> list[Finding]:
    found = []
    for lease in config.leases:
        interface = lease.interface or config.node.interface
        if interface is None:
            for vip in lease.vips:
                try:
                    route.facing(vip.ip)
                except OperationalError as error:
                    found.append(Finding(grave=True, text=f"lease.{lease.name}.vips = {vip}: {error}"))
        elif interface not in {name for _, name in socket.if_nameindex()}:
            text = f"interface = {interface}: there is no such interface on this machine"
            found.append(Finding(grave=True, text=text))
        else:
            found += _arp(interface)
        if lease.priority.get(config.node.name, 0) == 0:
            text = f"lease.{lease.name}.priority has nothing (or 0) for {config.node.name}: it will never hold it"
            found.append(Finding(grave=False, text=text))
        if lease.repository is not None:
            found += _data(DataDirectory(lease.name, lease.repository.path, config.state_dir))
    if lacking := rights.lacking():
        # Whoever checks need not be the account that will run the agent; root can be no more than it is.
        found.append(Finding(grave=os.geteuid() == 0, text=rights.sentence(lacking)))
    return found


def _arp(interface: str) -> list[Finding]:
    """The VIP has host scope, for which the kernel answers no ARP request with these settings."""
    found = []
    for name in ("all", interface):
        path = Path(f"/proc/sys/net/ipv4/conf/{name}/arp_ignore")
        if path.exists() and path.read_text().strip() in ("3", "8"):
            value = path.read_text().strip()
            text = f"net.ipv4.conf.{name}.arp_ignore = {value}: no VIP is reached so; set 0, 1 or 2"
            found.append(Finding(grave=True, text=text))
    return found


def _data(directory: DataDirectory) -> list[Finding]:
    """The data directory as a running agent would judge it, but nothing is written."""
    try:
        why = directory.trouble()
    except PermissionError as error:
        text = f"{error.filename} cannot be read by this account: the data directory was not compared with it"
        return [Finding(grave=False, text=text)]
    except OSError as error:
        why = f"{directory.path} cannot be looked at: {error.strerror}"
    return [Finding(grave=True, text=why)] if why else []


async def _cluster(config: Config) -> list[Finding]:
    found: list[Finding] = []
    try:
        async with etcd_of(config) as client:
            before = clock.now()
            head, keys = await client.read_all(ASK_TIMEOUT_S)
            took_ms = (clock.now().boot_ns - before.boot_ns) / 1e6
            members = await client.status()
            for member in members:
                found += judge(member)
            found += await leader_findings(
                config, client, members, leader.nodes_of(looked(config, head, keys))
            )
    except OperationalError as error:
        return [Finding(grave=True, text=f"etcd.endpoints: {error}")]
    if took_ms * 1e6 > config.session.ttl_ns / 4:
        text = f"session.ttl = {config.session.ttl_ns / 1e9:g}s: one read of etcd took {took_ms:.0f} ms, over a quarter"
        found.append(Finding(grave=False, text=text))
    if len(config.etcd.endpoints) % 2 == 0:
        found.append(
            Finding(grave=False, text=f"etcd.endpoints: {len(config.etcd.endpoints)} members; {EVEN_NOTE}")
        )
    nodes = [decode(NodeRecord, kv.value) for kv in keys if kv.key.startswith("nodes/")]
    others = [record for record in nodes if record is not None]
    for record in others:
        found += _against(config, record)
    found += _stranded(looked(config, head, keys))
    return found + [Finding(grave=False, text=text) for text in await copying.unreachable(config, others)]


def _stranded(state: NodeState) -> list[Finding]:
    """Leases that nobody may take: what their data is on does not run."""
    draft, found = Draft(state, clock.now()), []
    for lease in state.leases:
        silent = placement.silent(draft, placement.holding_session(draft, lease))
        if (told := stranded.of_lease(draft, lease, silent=silent, judge=False)) is not None:
            text = f"lease.{lease}: nobody may take it: all that was acknowledged is on {stranded.members_text(told)}"
            found.append(Finding(grave=True, text=f"{text}; `leaseha status` says the two ways out"))
    return found


def _guard(config: Config) -> list[Finding]:
    """Whether a guard could free in etcd what its agent died with: it goes another way than the agent."""
    why = guarding.cannot_free(config, ASK_TIMEOUT_S)
    if not why:
        return []
    text = f"a guard could free nothing after a crash, which would then take a ttl: {why}"
    if config.etcd.user is None:
        text += (
            " (etcd's JSON gateway knows no users by certificate: etcd.user and etcd.password_file name one)"
        )
    return [Finding(grave=False, text=text)]


def judge(member: MemberStatus) -> list[Finding]:
    """What one member of etcd says of itself: a release that loses data is refused, an old one is told."""
    at = f"etcd {member.endpoint}"
    if member.why:
        return [Finding(grave=False, text=f"{at}: {member.why}")]
    found = [Finding(grave=True, text=f"{at}: alarm {alarm}") for alarm in member.alarms]
    if (bad := known_bad(member.version)) is not None:
        found.append(Finding(grave=diverges(member.version), text=f"{at} {member.version}: {bad}"))
    return found


async def leader_findings(
    config: Config, client: leader.Etcd, members: tuple[MemberStatus, ...], nodes: leader.Nodes
) -> list[Finding]:
    """What etcd's leader costs a takeover where it is now, and what `etcd.keep_leader_away` lacks."""
    found, keep = [], config.etcd.keep_leader_away
    hosts = await leader.hosts_of(members, await leader.peers_of(client), nodes)
    if text := leader.exposed(members, hosts, nodes):
        cure = (
            "; etcd.keep_leader_away moves it"
            if keep is KeepAway.OFF
            else "; the holder moves it before long"
        )
        found.append(Finding(grave=False, text=text + cure))
    if keep is KeepAway.OWN and (why := await _others(config, client)):
        text = f'etcd.keep_leader_away = true moves nothing: {why}; "always" would'
        found.append(Finding(grave=False, text=text))
    return found


async def _others(config: Config, client: leader.Etcd) -> str:
    """Why etcd's leader is not for leaseha alone to move; empty if it is."""
    try:
        key = await client.foreign_key(f"{config.etcd.prefix}/", ASK_TIMEOUT_S)
    except StoreError as error:  # a user with leaseha's role only may not look
        return f"whether others use this etcd is unknown ({error})"
    return f"others use this etcd (it has the key {key[:80]})" if key else ""


def _against(config: Config, other: NodeRecord) -> list[Finding]:
    """Where this file and what another node published differ."""
    found = []
    if other.ttl_max_ns and other.ttl_max_ns != config.session.ttl_max_ns:
        ours, theirs = config.session.ttl_max_ns / 1e9, other.ttl_max_ns / 1e9
        text = (
            f"session.ttl_max = {ours:g}s, but {theirs:g}s on {other.node}: it must be the same on all nodes"
        )
        found.append(Finding(grave=True, text=text))
    for lease in config.leases:
        digest = (other.digests or {}).get(lease.name, "")
        vips, _, rest = lease.digest().partition(".")
        if digest and digest.partition(".")[0] != vips:
            text = f"lease.{lease.name}.vips differ from those on {other.node}: neither is a candidate for the other"
            found.append(Finding(grave=True, text=text))
        elif digest and digest.partition(".")[2] != rest:
            text = f"lease.{lease.name} is defined otherwise on {other.node}: use the same file on every node"
            found.append(Finding(grave=False, text=text))
    return found
