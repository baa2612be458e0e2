"""Every key that a configuration may have: where it stands, how it is read, what it is if left out.

Reader, environment, "did you mean" and the test of the documentation all work from this one table. A `*`
in a path stands for a name that the operator chooses.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Generic, TypeVar

from leaseha.config import network, readers
from leaseha.config.durations import NS_PER_HOUR, NS_PER_MINUTE
from leaseha.config.model import Carrier, Endpoint, LogFormat, LogLevel, OtlpProtocol, Ping, Script, Tcp, Vip
from leaseha.core.values import NS_PER_MS, NS_PER_S

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Key(Generic[T_co]):
    """One key. Exactly one of `default`, `derived`, `required` says what holds if it is left out."""

    path: str
    read: Callable[[object], T_co]
    stand_in: T_co
    """What the reading goes on with after a fault, or without a default of its own."""
    default: str = ""
    """As the file would have it."""
    derived: str = ""
    """How the value is found if it is left out."""
    required: bool = False
    example: str = ""
    """For a required key: what the remedy shows."""

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition(".")[2]

    @property
    def section(self) -> str:
        """The table in which it stands; empty at the top."""
        return self.path.rpartition(".")[0]


def _given(path: str, read: Callable[[object], T], default: str) -> Key[T]:
    return Key(path, read, read(tomllib.loads(f"v = {default}")["v"]), default=default)


def _found(path: str, read: Callable[[object], T], derived: str) -> Key[T | None]:
    return Key(path, read, None, derived=derived)


def _needed(path: str, read: Callable[[object], T], stand_in: T, example: str) -> Key[T]:
    return Key(path, read, stand_in, required=True, example=example)


_NODE_NAME = readers.matching(readers.NODE_NAME, readers.NODE_NAME_RULE)
_NOBODY: Final[Mapping[str, int]] = {}
_PREFIX_RULE = 'one or more names behind slashes, such as "/leaseha"; no slash at the end'

CLUSTER: Final = _needed("cluster", _NODE_NAME, "cluster", 'cluster = "backup"')
RUNTIME_DIR: Final = _found("runtime_dir", readers.data_path, "/run/leaseha/CLUSTER-NODE")
STATE_DIR: Final = _found("state_dir", readers.data_path, "/var/lib/leaseha/CLUSTER-NODE")

NODE_NAME: Final = _found("node.name", _NODE_NAME, "the host's name")
NODE_INTERFACE: Final = _found("node.interface", network.interface, "the interface of the route to the VIP")
NODE_ADDRESS: Final = _found(
    "node.address", network.node_address, "the source address of the route to the VIP"
)
NODE_REALTIME: Final = _given("node.realtime", readers.as_permitted, '"auto"')

TTL: Final = _given("session.ttl", readers.duration(200 * NS_PER_MS, NS_PER_HOUR), '"5s"')
RENEW_EVERY: Final = _found(
    "session.renew_every", readers.duration(20 * NS_PER_MS, 20 * NS_PER_MINUTE), "session.ttl / 5"
)
TTL_MAX: Final = _found(
    "session.ttl_max",
    readers.duration(3 * NS_PER_S, 3 * NS_PER_HOUR, "less than 3s does not outlast an etcd election"),
    "3 × session.ttl, at least 3s",
)
MARGIN: Final = _found(
    "session.margin",
    readers.duration(20 * NS_PER_MS, NS_PER_HOUR, "20ms is the slack of the timers alone"),
    "20ms; without a kernel fence 1.5s, or 2.3s where session.ttl is below 1s",
)
DRIFT: Final = _given("session.drift", readers.drift, "0.001")

ENDPOINTS: Final = _needed(
    "etcd.endpoints",
    network.list_of(network.endpoint, network.MOST_ENDPOINTS, '["https://192.168.0.2:2379"]'),
    tuple[Endpoint, ...](),
    'endpoints = ["https://192.168.0.2:2379"]',
)
PREFIX: Final = _given(
    "etcd.prefix", readers.matching(r"(?:/[A-Za-z0-9._-]{1,63}){1,8}", _PREFIX_RULE), '"/leaseha"'
)
CA: Final = _found("etcd.ca", readers.absolute_path, "none: needed with https")
CERT: Final = _found("etcd.cert", readers.absolute_path, "none: no client certificate is shown")
KEY: Final = _found("etcd.key", readers.absolute_path, "none")
USER: Final = _found("etcd.user", readers.text, "none: no login")
PASSWORD_FILE: Final = _found("etcd.password_file", readers.absolute_path, "none")
KEEP_LEADER_AWAY: Final = _given("etcd.keep_leader_away", readers.keep_away, "false")

VIPS: Final = _needed(
    "lease.*.vips",
    network.list_of(network.vip, network.MOST_VIPS, '["192.168.0.50/24"]'),
    tuple[Vip, ...](),
    'vips = ["192.168.0.50/24"]',
)
PRIORITY: Final = _needed(
    "lease.*.priority", readers.priorities, _NOBODY, "priority = { node1 = 100, node2 = 50 }"
)
FAILBACK: Final = _given("lease.*.failback", readers.on_off, '"auto"')
HOLD_DOWN: Final = _given("lease.*.hold_down", readers.duration(0, 24 * NS_PER_HOUR), '"30s"')
FLAP_BUDGET: Final = _given(
    "lease.*.flap_budget", readers.integer(1, 60, 'for none at all write failback = "off"'), "3"
)
DRAIN_TIMEOUT: Final = _given(
    "lease.*.drain_timeout",
    readers.duration(
        0, 50 * NS_PER_S, "the request for a planned move lives 60s, and the move must fit into it"
    ),
    '"5s"',
)
PATH_EVERY: Final = _given(
    "lease.*.data_path.every", readers.or_off(readers.duration(100 * NS_PER_MS, NS_PER_HOUR)), '"1s"'
)
PATH_TOLERANCE: Final = _given("lease.*.data_path.tolerance", readers.duration(0, NS_PER_HOUR), '"3s"')
LEASE_INTERFACE: Final = _found("lease.*.interface", network.interface, "node.interface")
REPOSITORY_PORT: Final = _given("lease.*.repository.port", readers.integer(1, 65535), "8000")
REPOSITORY_PATH: Final = _needed(
    "lease.*.repository.path", readers.data_path, Path("/"), 'path = "/srv/backups"'
)
REPOSITORY_AUTH: Final = _given("lease.*.repository.auth", readers.users_or_off, '"off"')
REPOSITORY_PRIVATE: Final = _given("lease.*.repository.private", readers.yes_no, "false")
REPOSITORY_APPEND_ONLY: Final = _given("lease.*.repository.append_only", readers.yes_no, "false")
REPOSITORY_QUOTA: Final = _given("lease.*.repository.quota", readers.or_off(readers.size), '"off"')
REPOSITORY_METRICS: Final = _given("lease.*.repository.metrics", readers.yes_no, "false")
REPOSITORY_CERT: Final = _found("lease.*.repository.cert", readers.absolute_path, "none: HTTP without TLS")
REPOSITORY_KEY: Final = _found("lease.*.repository.key", readers.absolute_path, "none")
REPOSITORY_TRASH_KEEP: Final = _given("lease.*.repository.trash_keep", readers.days_or_off, '"7d"')
REPOSITORY_COMPARE_EVERY: Final = _given(
    "lease.*.repository.compare_every", readers.or_off(readers.duration(NS_PER_S, 24 * NS_PER_HOUR)), '"10m"'
)
REPOSITORY_SCRUB_RATE: Final = _given("lease.*.repository.scrub_rate", readers.or_off(readers.rate), '"10M"')
REPOSITORY_SCRUB_EVERY: Final = _given("lease.*.repository.scrub_every", readers.days, '"30d"')
REPOSITORY_CATCH_UP_RATE: Final = _given(
    "lease.*.repository.catch_up_rate", readers.or_off(readers.rate), '"off"'
)
REPOSITORY_QUARANTINE_KEEP: Final = _given("lease.*.repository.quarantine_keep", readers.days, '"30d"')
REPOSITORY_REPLICATE: Final = _given("lease.*.repository.replicate", readers.yes_no, "false")
REPOSITORY_PEER_PORT: Final = _given("lease.*.repository.peer_port", readers.integer(1, 65535), "8001")
REPOSITORY_MIN_COPIES: Final = _found(
    "lease.*.repository.min_copies",
    readers.integer(1, 16),
    "1 where at most two nodes may hold the lease, else 2",
)
REPOSITORY_PEER_CA: Final = _found("lease.*.repository.peer_ca", readers.absolute_path, "none: no TLS")
REPOSITORY_PEER_CERT: Final = _found("lease.*.repository.peer_cert", readers.absolute_path, "none")
REPOSITORY_PEER_KEY: Final = _found("lease.*.repository.peer_key", readers.absolute_path, "none")

PING: Final = _found("lease.*.check.*.ping", network.ping, "one of ping, tcp, script, carrier is needed")
TCP: Final = _found("lease.*.check.*.tcp", network.tcp, "one of ping, tcp, script, carrier is needed")
SCRIPT: Final = _found("lease.*.check.*.script", readers.argv, "one of ping, tcp, script, carrier is needed")
CARRIER: Final = _found(
    "lease.*.check.*.carrier", network.carrier, "one of ping, tcp, script, carrier is needed"
)
EVERY: Final = _given("lease.*.check.*.every", readers.duration(100 * NS_PER_MS, NS_PER_HOUR), '"1s"')
TIMEOUT: Final = _found(
    "lease.*.check.*.timeout", readers.duration(10 * NS_PER_MS, NS_PER_HOUR), "the check's every"
)
RISE: Final = _given("lease.*.check.*.rise", readers.integer(1, 1000), "2")
FALL: Final = _given("lease.*.check.*.fall", readers.integer(1, 1000), "3")
WEIGHT: Final = _found("lease.*.check.*.weight", readers.weight, "one of weight, effect is needed")
EFFECT: Final = _found("lease.*.check.*.effect", readers.ineligible, "one of weight, effect is needed")

OTLP_ENDPOINT: Final = _found(
    "telemetry.otlp_endpoint", network.collector, "none: traces stay on this machine"
)
OTLP_PROTOCOL: Final = _given("telemetry.otlp_protocol", readers.choice(OtlpProtocol), '"http"')
TELEMETRY_FILE: Final = _found("telemetry.file", readers.data_path, "runtime_dir/spool/traces.jsonl")
LOG_LEVEL: Final = _given("log.level", readers.choice(LogLevel), '"info"')
LOG_FORMAT: Final = _given("log.format", readers.choice(LogFormat), '"human"')
LISTEN: Final = _found("status.listen", network.loopback, "none: the unix socket alone")

PROBES: Final[tuple[Key[Ping | None] | Key[Tcp | None] | Key[Script | None] | Key[Carrier | None], ...]] = (
    PING,
    TCP,
    SCRIPT,
    CARRIER,
)
KEYS: Final[tuple[Key[object], ...]] = tuple(one for one in list(globals().values()) if isinstance(one, Key))
"""In the order of the sections above."""
TABLES: Final = ("node", "session", "etcd", "lease", "telemetry", "log", "status")
"""The sections at the top."""
TABLES_IN: Final[Mapping[str, tuple[str, ...]]] = {
    "": TABLES,
    "lease.*": ("data_path", "repository", "check"),
}
KEY_OF: Final[Mapping[str, Key[object]]] = {one.path: one for one in KEYS}


def names_in(section: str) -> tuple[str, ...]:
    """The keys and tables that may stand in a section (`""` is the top)."""
    return tuple(one.name for one in KEYS if one.section == section) + TABLES_IN.get(section, ())


RESERVED: Final[Mapping[str, str]] = {
    "etcd.password": "a secret never stands in this file: write it into a file of its own (mode 600) and "
    'name that: password_file = "/etc/leaseha/etcd-password"',
    "session.rank_step": "not adjustable: each further candidate waits 50ms more; take the line out",
    "session.session_ttl": "follows from session.ttl_max (2 × it, in whole seconds); take the line out",
}
"""Keys that are refused with a reason of their own."""
FIELD_WORDS: Final[Mapping[str, str]] = {
    "advert_int": "renew_every",
    "auto_failback": "failback",
    "cacert": "ca",
    "data_dir": "path",
    "deadtime": "ttl",
    "device": "interface",
    "group": "lease",
    "hosts": "endpoints",
    "initdead": "hold_down",
    "instance": "lease",
    "interval": "every",
    "keepalive": "renew_every",
    "preempt": "failback",
    "preempt_delay": "hold_down",
    "servers": "endpoints",
    "username": "user",
    "vip": "vips",
    "virtual_ipaddress": "vips",
    "vrrp_instance": "lease",
}
"""What other programs call it."""
