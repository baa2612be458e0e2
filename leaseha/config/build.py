"""Puts the typed configuration together, section by section, noting faults instead of stopping at one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from leaseha.config import keys
from leaseha.config.faults import Faults, quoted
from leaseha.config.model import (
    CheckConfig,
    Config,
    CopiesConfig,
    DoorConfig,
    EtcdConfig,
    LeaseConfig,
    LogConfig,
    NodeConfig,
    Ping,
    Probe,
    RepositoryConfig,
    SessionConfig,
    StatusConfig,
    TelemetryConfig,
)
from leaseha.config.readers import NODE_NAME, PLAIN_NAME, PLAIN_NAME_RULE
from leaseha.config.rules import default_margin_ns
from leaseha.config.section import Section, Table
from leaseha.core.values import NS_PER_S

MOST_LEASES: Final = 4096
MOST_CHECKS: Final = 64
LEAST_TTL_MAX_NS: Final = 3 * NS_PER_S
EXAMPLE_LEASE: Final = '[lease.backups] with vips = ["192.168.0.50/24"]'


def build(table: Table, faults: Faults, hostname: str) -> Config:
    """The configuration in `table`; with stand-ins wherever `faults` says that something is wrong."""
    top = Section(faults, table)
    cluster = top.get(keys.CLUSTER)
    node = _node(top.inner("node"), faults, hostname)
    session = _session(top.inner("session"))
    etcd = _etcd(top.inner("etcd"))
    leases = _leases(top, faults)
    own = f"{cluster}-{node.name}"
    runtime_dir = top.get(keys.RUNTIME_DIR) or Path("/run/leaseha") / own
    state_dir = top.get(keys.STATE_DIR) or Path("/var/lib/leaseha") / own
    telemetry, log, status = top.inner("telemetry"), top.inner("log"), top.inner("status")
    return Config(
        cluster=cluster,
        runtime_dir=runtime_dir,
        state_dir=state_dir,
        node=node,
        session=session,
        etcd=etcd,
        leases=leases,
        telemetry=TelemetryConfig(
            otlp_endpoint=telemetry.get(keys.OTLP_ENDPOINT),
            otlp_protocol=telemetry.get(keys.OTLP_PROTOCOL),
            file=telemetry.get(keys.TELEMETRY_FILE) or runtime_dir / "spool" / "traces.jsonl",
        ),
        log=LogConfig(level=log.get(keys.LOG_LEVEL), format=log.get(keys.LOG_FORMAT)),
        status=StatusConfig(listen=status.get(keys.LISTEN)),
    )


def _node(section: Section, faults: Faults, hostname: str) -> NodeConfig:
    name = section.get(keys.NODE_NAME)
    if name is None:
        name = hostname
        if re.fullmatch(NODE_NAME, hostname) is None:
            if faults.clean("node.name"):
                faults.add(
                    "node.name",
                    quoted(hostname),
                    'the host\'s name is no node name: write one, name = "node1"',
                )
            name = "node"
        elif hostname.partition(".")[0] == "localhost":
            faults.warn(
                "node.name: the host is called localhost, as others may be; give each node a name of its own"
            )
    interface, address = section.get(keys.NODE_INTERFACE), section.get(keys.NODE_ADDRESS)
    return NodeConfig(name, interface, address, section.get(keys.NODE_REALTIME))


def _session(section: Section) -> SessionConfig:
    ttl_ns = section.get(keys.TTL)
    margin_ns = section.get(keys.MARGIN)
    return SessionConfig(
        ttl_ns=ttl_ns,
        renew_every_ns=section.get(keys.RENEW_EVERY) or ttl_ns // 5,
        ttl_max_ns=section.get(keys.TTL_MAX) or max(3 * ttl_ns, LEAST_TTL_MAX_NS),
        margin_ns=margin_ns or default_margin_ns(ttl_ns),
        margin_given=margin_ns is not None,
        drift_ppm=section.get(keys.DRIFT),
    )


def _etcd(section: Section) -> EtcdConfig:
    return EtcdConfig(
        endpoints=section.get(keys.ENDPOINTS),
        prefix=section.get(keys.PREFIX),
        ca=section.get(keys.CA),
        cert=section.get(keys.CERT),
        key=section.get(keys.KEY),
        user=section.get(keys.USER),
        password_file=section.get(keys.PASSWORD_FILE),
        keep_leader_away=section.get(keys.KEEP_LEADER_AWAY),
    )


def _leases(top: Section, faults: Faults) -> tuple[LeaseConfig, ...]:
    found: list[LeaseConfig] = []
    for name, section in top.named("lease"):
        if len(found) == MOST_LEASES:
            faults.add(
                "lease", f"more than {MOST_LEASES}", f"write at most {MOST_LEASES} leases in a cluster"
            )
            break
        if _plain_name(section, name, faults):
            found.append(_lease(name, section, faults))
    if not found and faults.clean("lease"):
        faults.add("lease", "", f"there is none, so nothing to keep alive: add one, such as {EXAMPLE_LEASE}")
    return tuple(found)


def _plain_name(section: Section, name: str, faults: Faults) -> bool:
    if re.fullmatch(PLAIN_NAME, name):
        return True
    faults.add(section.path, quoted(name), f"is no name here: write {PLAIN_NAME_RULE}")
    return False


def _lease(name: str, section: Section, faults: Faults) -> LeaseConfig:
    repository = None
    if section.holds("repository"):
        inner = section.inner("repository")
        repository = RepositoryConfig(
            inner.get(keys.REPOSITORY_PORT),
            inner.get(keys.REPOSITORY_PATH),
            _door(inner),
            _copies(inner, section.get(keys.PRIORITY)),
        )
    path = section.inner("data_path")
    checks: list[CheckConfig] = []
    for check, inner in section.named("check"):
        if len(checks) == MOST_CHECKS:
            faults.add(
                f"{section.path}.check",
                f"more than {MOST_CHECKS}",
                f"write at most {MOST_CHECKS} for a lease",
            )
            break
        if _plain_name(inner, check, faults):
            checks.append(_check(check, inner, faults))
    return LeaseConfig(
        name=name,
        vips=section.get(keys.VIPS),
        priority=section.get(keys.PRIORITY),
        failback=section.get(keys.FAILBACK),
        hold_down_ns=section.get(keys.HOLD_DOWN),
        flap_budget=section.get(keys.FLAP_BUDGET),
        drain_timeout_ns=section.get(keys.DRAIN_TIMEOUT),
        interface=section.get(keys.LEASE_INTERFACE),
        repository=repository,
        checks=tuple(checks),
        path_every_ns=path.get(keys.PATH_EVERY),
        path_tolerance_ns=path.get(keys.PATH_TOLERANCE),
    )


def _door(section: Section) -> DoorConfig:
    return DoorConfig(
        users=section.get(keys.REPOSITORY_AUTH),
        private=section.get(keys.REPOSITORY_PRIVATE),
        append_only=section.get(keys.REPOSITORY_APPEND_ONLY),
        quota_bytes=section.get(keys.REPOSITORY_QUOTA),
        metrics=section.get(keys.REPOSITORY_METRICS),
        cert=section.get(keys.REPOSITORY_CERT),
        key=section.get(keys.REPOSITORY_KEY),
        trash_days=section.get(keys.REPOSITORY_TRASH_KEEP),
        quarantine_days=section.get(keys.REPOSITORY_QUARANTINE_KEEP),
        compare_every_ns=section.get(keys.REPOSITORY_COMPARE_EVERY),
        scrub_rate=section.get(keys.REPOSITORY_SCRUB_RATE),
        scrub_days=section.get(keys.REPOSITORY_SCRUB_EVERY),
        catch_up_rate=section.get(keys.REPOSITORY_CATCH_UP_RATE),
    )


def _copies(section: Section, priority: Mapping[str, int]) -> CopiesConfig | None:
    holders = sum(one > 0 for one in priority.values())
    found = CopiesConfig(
        peer_port=section.get(keys.REPOSITORY_PEER_PORT),
        min_copies=section.get(keys.REPOSITORY_MIN_COPIES) or (1 if holders <= 2 else 2),
        ca=section.get(keys.REPOSITORY_PEER_CA),
        cert=section.get(keys.REPOSITORY_PEER_CERT),
        key=section.get(keys.REPOSITORY_PEER_KEY),
    )
    return found if section.get(keys.REPOSITORY_REPLICATE) else None


def _check(name: str, section: Section, faults: Faults) -> CheckConfig:
    every_ns = section.get(keys.EVERY)
    weight, ineligible = section.get(keys.WEIGHT), section.get(keys.EFFECT)
    _exactly_one(section, faults, (keys.WEIGHT, keys.EFFECT), 'weight = -60 or effect = "ineligible"')
    return CheckConfig(
        name=name,
        probe=_probe(section, faults),
        every_ns=every_ns,
        timeout_ns=section.get(keys.TIMEOUT) or every_ns,
        rise=section.get(keys.RISE),
        fall=section.get(keys.FALL),
        weight=weight or 0,
        ineligible=bool(ineligible),
    )


def _probe(section: Section, faults: Faults) -> Probe:
    found = [probe for probe in (section.get(key) for key in keys.PROBES) if probe is not None]
    _exactly_one(
        section,
        faults,
        keys.PROBES,
        'ping = "192.168.0.1", tcp = "host:port", script = [...] or carrier = true',
    )
    return found[0] if found else Ping("127.0.0.1")


def _exactly_one(section: Section, faults: Faults, group: tuple[keys.Key[object], ...], example: str) -> None:
    given = [key for key in group if section.has(key)]
    names = ", ".join(key.name for key in given)
    if not given:
        faults.add(
            section.path, "", f"says nothing of {' or '.join(key.name for key in group)}: write {example}"
        )
    elif len(given) > 1:
        faults.add(section.path, names, f"exclude each other: keep one of them, {example}")
