"""Rules between keys: timings that cannot work, names that collide, and what is allowed yet worth a warning."""

from __future__ import annotations

import re
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from leaseha.config.copies import check_copies
from leaseha.config.doors import check_door
from leaseha.config.durations import format_duration
from leaseha.config.faults import Faults, join, quoted
from leaseha.config.model import (
    Carrier,
    CheckConfig,
    Config,
    IPAddress,
    LeaseConfig,
    Ping,
    SessionConfig,
    Tcp,
)
from leaseha.core.deadline import held_ns
from leaseha.core.values import NS_PER_MS, NS_PER_S

PPM: Final = 1_000_000
ANSWER_NS: Final = 50 * NS_PER_MS
"""What the answer to a renewal may take, at least: one etcd commit with one slow fsync."""
LIFETIME_MARGIN_NS: Final = 1500 * NS_PER_MS
"""Lateness of address lifetimes: the kernel's 1.3 s, and 0.2 s by which one may reach past the deadline."""
SHORT_TTL_MARGIN_NS: Final = 2300 * NS_PER_MS
"""The same for a ttl below 1 s: no lifetime is shorter than 1 s, so it may reach 1 s past the deadline."""
ELECTION_NS: Final = 3 * NS_PER_S
"""etcd at its default timings has a new leader by then, nearly always."""
CLAIMS_MAX: Final = 127
"""Claims that one renewal compares at most: etcd takes 128 compares, one is the node's own record."""
SOCKET_ROOM: Final = 107 - len("/status.sock")
"""Bytes that a unix socket's path may have, less the longest name of ours."""


def default_margin_ns(ttl_ns: int) -> int:
    """The margin that contains the lateness of address lifetimes alone, for sessions of this ttl."""
    return LIFETIME_MARGIN_NS if ttl_ns >= NS_PER_S else SHORT_TTL_MARGIN_NS


def check_rules(config: Config, faults: Faults) -> None:
    """Notes each fault and each warning of a configuration whose single values are right."""
    _timings(config.session, faults)
    _renewals(config, faults)
    _etcd(config, faults)
    _places(config, faults)
    _addresses(config, faults)
    for lease in config.leases:
        _lease(config, lease, faults)
        check_door(lease, faults)
    check_copies(config, faults)


def _timings(session: SessionConfig, faults: Faults) -> None:
    # 1. Between two proofs a renewal may fail once: two must be sent, and the second answered, within the deadline.
    ttl, renew, top = "session.ttl", "session.renew_every", "session.ttl_max"
    served_ns = session.ttl_ns * (PPM - session.drift_ppm) // PPM
    most_ns = (served_ns - ANSWER_NS) // 2
    if session.renew_every_ns > most_ns:
        least_ns = (2 * session.renew_every_ns + ANSWER_NS) * PPM // (PPM - session.drift_ppm) + 1
        faults.add(
            renew,
            quoted(format_duration(session.renew_every_ns)),
            "one renewal may be lost, the next must still be in time: 2 × renew_every + 50ms must fit into "
            f"ttl × (1 − drift) = {_floor_ms(served_ns)}; write at most {_floor_ms(most_ns)}, "
            f"or raise session.ttl to at least {_ceil_ms(least_ns)}",
            needs=(ttl, "session.drift"),
        )
    # 2. Who has not seen the holder's record waits ttl_max: no live session may be good for longer.
    if session.ttl_max_ns < session.ttl_ns:
        faults.add(
            top,
            quoted(format_duration(session.ttl_max_ns)),
            f"is below session.ttl, so a node that saw nothing would take the lease from a live holder; write at "
            f"least {format_duration(session.ttl_ns)}, and the same on all nodes",
            needs=(ttl,),
        )
    # 3. etcd may remove a record at 2 x ttl_max; the standbys' wait on it must be over by then.
    wait_ns = -(-session.ttl_ns * (PPM + session.drift_ppm) // PPM) + session.margin_ns
    if wait_ns > 2 * session.ttl_max_ns:
        room_ns = 2 * session.ttl_max_ns - (wait_ns - session.margin_ns)
        faults.add(
            "session.margin",
            quoted(format_duration(session.margin_ns)),
            f"the standbys' wait, ttl × (1 + drift) + margin, must end before etcd drops the record at 2 × ttl_max "
            f"= {format_duration(2 * session.ttl_max_ns)}; write at most {_floor_ms(room_ns)}, or raise "
            f"session.ttl_max to at least {_ceil_ms(-(-wait_ns // 2))}",
            needs=(ttl, top, "session.drift"),
        )
    if session.ttl_ns < ELECTION_NS:
        faults.warn(
            f"session.ttl = {format_duration(session.ttl_ns)}: an etcd election takes 1s to 3s at etcd's default "
            "timings, and the lease may be lost in each; use 5s, or tune etcd (election-timeout)",
            needs=(ttl,),
        )
    if session.margin_ns < (least_ns := default_margin_ns(session.ttl_ns)):
        faults.warn(
            f"session.margin = {format_duration(session.margin_ns)}: address lifetimes alone are up to "
            f"{format_duration(least_ns)} late, so after a freeze of the holder two nodes may answer for the "
            "difference, unless the kernel fence (nftables) is in force",
            needs=("session.margin", ttl),
        )


def _renewals(config: Config, faults: Faults) -> None:
    """Within what a proof is good for each claim is compared once; one renewal can compare only so many."""
    session = config.session
    rounds = max(1, held_ns(session.ttl_max_ns, session.drift_ppm) // session.renew_every_ns - 2)
    if len(config.leases) > (most := rounds * CLAIMS_MAX):
        faults.add(
            "lease",
            f"{len(config.leases)} leases",
            f"one node that holds all of them renews them in {rounds} transactions, and etcd takes {CLAIMS_MAX} in "
            f"each (--max-txn-ops 128): write at most {most}, or a shorter session.renew_every, or a longer "
            "session.ttl_max",
            needs=("session.renew_every", "session.ttl_max", "session.drift"),
        )


def _etcd(config: Config, faults: Faults) -> None:
    etcd = config.etcd
    kinds = {one.tls for one in etcd.endpoints}
    if len(kinds) > 1:
        plain = next(str(one) for one in etcd.endpoints if not one.tls)
        faults.add(
            "etcd.endpoints", quoted(plain), "http and https are mixed: write https for all of them, or http"
        )
    files = (("etcd.ca", etcd.ca), ("etcd.cert", etcd.cert), ("etcd.key", etcd.key))
    for key, path in files:
        if path is not None and kinds == {False}:
            remedy = "has no effect with http endpoints: write https in etcd.endpoints, or take this line out"
            faults.add(key, quoted(str(path)), remedy, needs=("etcd.endpoints",))
    if etcd.ca is None and True in kinds:
        remedy = 'is missing: with https say whom to trust, as in ca = "/etc/leaseha/etcd-ca.pem"'
        faults.add("etcd.ca", "", remedy, needs=("etcd.ca", "etcd.endpoints"))
    _pair(faults, ("etcd.cert", etcd.cert), ("etcd.key", etcd.key), "a certificate and its private key")
    _pair(
        faults,
        ("etcd.user", etcd.user),
        ("etcd.password_file", etcd.password_file),
        "a user and the password",
    )
    if etcd.user is not None and kinds == {False}:
        faults.warn(
            "etcd.user: over http the password can be read on the network; use https",
            needs=("etcd.endpoints",),
        )
    hosts = [one.at.host for one in etcd.endpoints]
    if len(hosts) <= 2 and not all(_is_loopback(host) for host in hosts):
        what = (
            "etcd is one member, or only one is named" if len(hosts) == 1 else "two members need each other"
        )
        faults.warn(f"etcd.endpoints: {what}; name three, the third may be small", needs=("etcd.endpoints",))


def _pair(faults: Faults, one: tuple[str, object], other: tuple[str, object], what: str) -> None:
    for (key, value), (missing, absent) in ((one, other), (other, one)):
        if value is not None and absent is None:
            remedy = f"{missing} is missing: {what} go together; add it, or take this line out"
            faults.add(key, quoted(str(value)), remedy, needs=(missing,))


def _places(config: Config, faults: Faults) -> None:
    if (length := len(str(config.runtime_dir).encode())) > SOCKET_ROOM:
        faults.add(
            "runtime_dir",
            quoted(str(config.runtime_dir)),
            f"has {length} bytes, and the path of a unix socket in it would be longer than the kernel takes; "
            f"write a path of at most {SOCKET_ROOM} bytes",
        )
    homes: dict[Path, str] = {}
    around: dict[Path, str] = {}
    for lease in config.leases:
        if lease.repository is None:
            continue
        key, path = f"{join('lease', lease.name)}.repository.path", lease.repository.path
        other = next((homes[one] for one in (path, *path.parents) if one in homes), around.get(path, ""))
        if other:
            remedy = f"is inside, around or equal to {other}: give each lease a directory of its own"
            faults.add(key, quoted(str(path)), remedy, needs=(key, other))
        homes.setdefault(path, key)
        for parent in path.parents:
            around.setdefault(parent, key)


def _vips(config: Config) -> Iterator[tuple[str, IPAddress, str]]:
    for lease in config.leases:
        for index, vip in enumerate(lease.vips):
            yield f"{join('lease', lease.name)}.vips[{index}]", vip.ip, str(vip)


def _addresses(config: Config, faults: Faults) -> None:
    """A VIP belongs to one lease, and to nothing that must be reached without it."""
    seen: dict[IPAddress, str] = {}
    for key, ip, text in _vips(config):
        if ip in seen:
            remedy = (
                f"is bound by {seen[ip]} already: two holders would answer; give each lease its own address"
            )
            faults.add(key, quoted(text), remedy)
        seen.setdefault(ip, key)
    if config.node.address is not None and config.node.address in seen:
        remedy = f"is the VIP of {seen[config.node.address]}, which moves: write the node's own address"
        faults.add("node.address", quoted(str(config.node.address)), remedy)
    for index, one in enumerate(config.etcd.endpoints):
        if vip := seen.get(_ip(one.at.host) or _NO_IP):
            remedy = f"is the VIP of {vip}: without etcd nobody could bind it; write the member's own address"
            faults.add(f"etcd.endpoints[{index}]", quoted(str(one)), remedy)
    for lease in config.leases:
        for check in lease.checks:
            if isinstance(check.probe, Ping | Tcp):
                host = check.probe.host if isinstance(check.probe, Ping) else check.probe.at.host
                _check_target(faults, lease, check, seen.get(_ip(host) or _NO_IP))


def _check_target(faults: Faults, lease: LeaseConfig, check: CheckConfig, vip: str | None) -> None:
    if vip is None:
        return
    probe = check.probe
    key = f"{_check_key(lease, check)}.{'ping' if isinstance(probe, Ping) else 'tcp'}"
    value = probe.host if isinstance(probe, Ping) else str(probe.at) if isinstance(probe, Tcp) else ""
    remedy = f"is the VIP of {vip}: it says how the holder is, not this node; write the gateway's address"
    faults.add(key, quoted(value), remedy)


def _lease(config: Config, lease: LeaseConfig, faults: Faults) -> None:
    path, name = join("lease", lease.name), config.node.name
    for check in lease.checks:
        if check.timeout_ns > check.every_ns:
            faults.add(
                f"{_check_key(lease, check)}.timeout",
                quoted(format_duration(check.timeout_ns)),
                f"one attempt would still run when the next begins: write at most every = "
                f"{format_duration(check.every_ns)}, or raise every",
                needs=(f"{_check_key(lease, check)}.every",),
            )
        if check.name == "carrier" and not isinstance(check.probe, Carrier):
            remedy = "this name is kept for the check of the link that each lease has: write another name"
            faults.add(_check_key(lease, check), quoted(check.name), remedy)
    if name not in lease.priority:
        faults.warn(
            f"{path}.priority: has no entry for this node, {quoted(name)}, so it never holds the lease; add one, or "
            f"set node.name to one of {', '.join(lease.priority)}",
            needs=(f"{path}.priority", "node.name"),
        )
    slowest_ns = max((check.notices_after_ns for check in lease.checks), default=0)
    floor_ns = max(config.session.ttl_ns, slowest_ns)
    if lease.failback and lease.hold_down_ns < floor_ns:
        reason = (
            "the ttl"
            if floor_ns == config.session.ttl_ns
            else "what its slowest check needs to notice a fault"
        )
        faults.warn(
            f"{path}.hold_down = {format_duration(lease.hold_down_ns)}: is shorter than {reason} "
            f"({format_duration(floor_ns)}), so a lease may go back to a node that is about to fail again",
            needs=(f"{path}.hold_down", f"{path}.check", "session.ttl"),
        )


def _check_key(lease: LeaseConfig, check: CheckConfig) -> str:
    return join(f"{join('lease', lease.name)}.check", check.name)


_NO_IP: Final = ip_address("0.0.0.0")  # never a VIP


def _ip(host: str) -> IPAddress | None:
    return ip_address(host) if re.fullmatch(r"[0-9.]+|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*", host) else None


def _is_loopback(host: str) -> bool:
    found = _ip(host)
    return host == "localhost" or (found is not None and found.is_loopback)


def _floor_ms(duration_ns: int) -> str:
    return format_duration(max(0, duration_ns) // NS_PER_MS * NS_PER_MS)


def _ceil_ms(duration_ns: int) -> str:
    return format_duration(-(-duration_ns // NS_PER_MS) * NS_PER_MS)
