"""The configuration as typed, frozen values. What each means to an operator stands in docs/configuration.md."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Final

from leaseha.core.values import NS_PER_S

IPAddress = IPv4Address | IPv6Address
ETCD_LEAST_TTL_S: Final = 2
"""etcd grants no shorter lease at its default election timeout."""


class LogFormat(StrEnum):
    """How a log line is written."""

    HUMAN = "human"
    JSON = "json"


class LogLevel(StrEnum):
    """From which level on lines are written."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class OtlpProtocol(StrEnum):
    """How spans travel."""

    HTTP = "http"
    GRPC = "grpc"


@dataclass(frozen=True, slots=True)
class Vip:
    """One virtual address. It is bound as a host address; `prefix_len` says of which network it is part."""

    ip: IPAddress
    prefix_len: int

    def __str__(self) -> str:
        return f"{self.ip}/{self.prefix_len}"


@dataclass(frozen=True, slots=True)
class HostPort:
    """A host (name or address, IPv6 without brackets) and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One etcd member as clients reach it."""

    tls: bool
    at: HostPort

    def __str__(self) -> str:
        return f"{'https' if self.tls else 'http'}://{self.at}"


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """This node. `interface` and `address` are found by the route to the VIPs where they are None."""

    name: str
    interface: str | None
    address: IPAddress | None
    realtime: bool = True
    """As urgent as this account may be; False: an ordinary process."""


@dataclass(frozen=True, slots=True)
class SessionConfig:
    """The timings of this node's session; `ttl_max_ns` and `drift_ppm` are constants of the cluster."""

    ttl_ns: int
    renew_every_ns: int
    ttl_max_ns: int
    margin_ns: int
    """What standbys add while this node holds, where no kernel fence (leaseha.runtime.fencing) makes it less."""
    margin_given: bool
    """True: the operator set the margin, so the fence layers in force do not lower it."""
    drift_ppm: int

    @property
    def session_ttl_s(self) -> int:
        """TTL of the etcd lease, whole seconds: 2 x ttl_max rounded up, and no less than etcd grants."""
        return max(ETCD_LEAST_TTL_S, -(-2 * self.ttl_max_ns // NS_PER_S))


class KeepAway(StrEnum):
    """Whether a holder moves etcd's leadership off its own host."""

    OFF = "off"
    OWN = "own"
    """Only in an etcd that has no keys but leaseha's."""
    ALWAYS = "always"
    """Also in an etcd that others use."""


@dataclass(frozen=True, slots=True)
class EtcdConfig:
    """Where etcd is and how this node proves who it is."""

    endpoints: tuple[Endpoint, ...]
    prefix: str
    ca: Path | None
    """Never None with https."""
    cert: Path | None
    key: Path | None
    user: str | None
    password_file: Path | None
    keep_leader_away: KeepAway = KeepAway.OFF

    @property
    def tls(self) -> bool:
        """All endpoints speak TLS (they never mix)."""
        return bool(self.endpoints) and self.endpoints[0].tls


@dataclass(frozen=True, slots=True)
class Ping:
    """ICMP echo to a host."""

    host: str


@dataclass(frozen=True, slots=True)
class Tcp:
    """A TCP connection that opens."""

    at: HostPort


@dataclass(frozen=True, slots=True)
class Script:
    """A program that exits 0; `argv[0]` is an absolute path, no shell is involved."""

    argv: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Carrier:
    """The link of an interface is up; None: the interface of the lease."""

    interface: str | None


Probe = Ping | Tcp | Script | Carrier


@dataclass(frozen=True, slots=True)
class CheckConfig:
    """One health check of one lease on this node."""

    name: str
    probe: Probe
    every_ns: int
    timeout_ns: int
    rise: int
    """So many successes in a row make a failed check pass again."""
    fall: int
    """So many failures in a row make a passing check fail."""
    weight: int
    """Below 0: added to the priority while the check fails; above 0: while it passes; 0 if `ineligible`."""
    ineligible: bool
    """True: while the check fails the node is no candidate, and yields if a better one exists."""

    def contribution(self, *, passing: bool) -> int:
        """What the check adds to the node's priority now."""
        return self.weight if passing == (self.weight > 0) else 0

    @property
    def notices_after_ns(self) -> int:
        """The longest time from a fault until the check has failed."""
        return self.fall * self.every_ns + self.timeout_ns


@dataclass(frozen=True, slots=True)
class DoorConfig:
    """Who may do what in a repository, and how it is spoken to."""

    users: bool = False
    """Only with a user's password; users are kept in etcd."""
    private: bool = False
    """Each user sees `/USER/...` alone."""
    append_only: bool = False
    quota_bytes: int = 0
    """Of each single repository; 0: none."""
    metrics: bool = False
    cert: Path | None = None
    """With `key`: TLS, and nothing else, on the port."""
    key: Path | None = None
    trash_days: int = 7
    """How long what clients delete is kept; 0: not at all."""
    quarantine_days: int = 30
    """How long what leaseha puts aside is kept."""
    compare_every_ns: int = 600 * NS_PER_S
    """How often the holder compares with the members; 0: never."""
    scrub_rate: int = 10 << 20
    """Bytes a second that are read again and hashed; 0: none."""
    scrub_days: int = 30
    """From the beginning of one pass over all of it to that of the next."""
    catch_up_rate: int = 0
    """Bytes a second to a node that is brought level; 0: no bound."""


@dataclass(frozen=True, slots=True)
class CopiesConfig:
    """How a repository's data is kept on other nodes too."""

    peer_port: int = 8001
    """Where this node takes copies in, at its own address."""
    min_copies: int = 1
    """Fewer than these, this node's own included, and writes are refused."""
    ca: Path | None = None
    """With `cert` and `key`: nodes speak TLS among themselves, each showing its certificate."""
    cert: Path | None = None
    key: Path | None = None


@dataclass(frozen=True, slots=True)
class RepositoryConfig:
    """The restic repository which the holder serves on the VIPs of its lease."""

    port: int
    path: Path
    door: DoorConfig = DoorConfig()
    copies: CopiesConfig | None = None
    """None: one copy, on the disk of whoever holds the lease."""


@dataclass(frozen=True, slots=True)
class LeaseConfig:
    """One lease: what nodes compete for."""

    name: str
    vips: tuple[Vip, ...]
    priority: Mapping[str, int]
    failback: bool
    hold_down_ns: int
    flap_budget: int
    drain_timeout_ns: int
    interface: str | None
    """Where the VIPs are bound; None: the node's."""
    repository: RepositoryConfig | None
    checks: tuple[CheckConfig, ...]
    path_every_ns: int = NS_PER_S
    """How often a holder looks whether its VIPs and what it serves on them answer; 0: never."""
    path_tolerance_ns: int = 3 * NS_PER_S
    """What does not answer for so long makes the holder ineligible."""

    def digest(self) -> str:
        """`<of the VIPs>.<of the rest>`, 12 hexadecimal digits each: what must agree between nodes.

        The first part: VIPs with their prefix lengths, in any order. A node that differs here is no candidate.
        The second: priority, failback, hold_down, flap_budget, drain_timeout, whether there is a repository and
        its port, its users, quota and whether it speaks TLS, whether and how often its data is copied, the checks'
        names and effects: what decides who holds, or what a client meets. Left out, since machines differ in it:
        interface, repository.path, peer_port, how long trash is kept, the certificates' files, and what a check asks,
        and how often.
        """
        rest = {
            "priority": dict(sorted(self.priority.items())),
            "failback": self.failback,
            "hold_down_ns": self.hold_down_ns,
            "flap_budget": self.flap_budget,
            "drain_timeout_ns": self.drain_timeout_ns,
            "repository_port": self.repository.port if self.repository else None,
            "checks": sorted([check.name, check.weight, check.ineligible] for check in self.checks),
        }
        door = self.repository.door if self.repository else DoorConfig()
        told = [
            *(door.users, door.private, door.append_only, door.quota_bytes, door.metrics),
            door.cert is not None,
        ]
        if any(told):  # else the digest is what it was before there was a door
            rest["door"] = told
        if self.repository is not None and self.repository.copies is not None:
            copies = self.repository.copies
            rest["copies"] = [copies.min_copies, copies.ca is not None]
        return f"{_hash(sorted(str(vip) for vip in self.vips))}.{_hash(rest)}"


@dataclass(frozen=True, slots=True)
class TelemetryConfig:
    """Where traces go. `file` always gets them; `otlp_endpoint` is the base URL of a collector, if there is one."""

    otlp_endpoint: str | None
    otlp_protocol: OtlpProtocol
    file: Path


@dataclass(frozen=True, slots=True)
class LogConfig:
    """How the agent logs to its standard error."""

    level: LogLevel
    format: LogFormat


@dataclass(frozen=True, slots=True)
class StatusConfig:
    """The read-only HTTP endpoint beside the unix socket; None: the socket alone."""

    listen: HostPort | None


@dataclass(frozen=True, slots=True)
class Config:
    """All that one node is told. Never changes; a reload makes another."""

    cluster: str
    runtime_dir: Path
    """Socket, guard hand-over, spool; gone at reboot."""
    state_dir: Path
    """Store id and history; kept over reboots."""
    node: NodeConfig
    session: SessionConfig
    etcd: EtcdConfig
    leases: tuple[LeaseConfig, ...]
    telemetry: TelemetryConfig
    log: LogConfig
    status: StatusConfig
    warnings: tuple[str, ...] = ()
    """What is allowed and yet likely to disappoint; one sentence each."""

    def lease(self, name: str) -> LeaseConfig:
        """The lease of that name.

        Raises:
            KeyError: there is none.

        """
        for lease in self.leases:
            if lease.name == name:
                return lease
        raise KeyError(name)

    @property
    def key_prefix(self) -> str:
        """What every key of this cluster begins with: "/leaseha/<cluster>/"."""
        return f"{self.etcd.prefix}/{self.cluster}/"


def _hash(value: object) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]
