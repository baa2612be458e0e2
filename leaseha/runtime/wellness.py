"""The checks of every lease on this node: the configured ones, and the carrier of the interface that has the VIPs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any, Final, assert_never

from leaseha.adapters.health import Checks, CheckSpec, Kind
from leaseha.adapters.link import Link
from leaseha.config import Carrier, CheckConfig, Config, Ping, Script, Tcp
from leaseha.core.values import NS_PER_S
from leaseha.runtime.datapath import DataPath
from leaseha.runtime.service import Service

CARRIER: Final = "carrier"
"""The check that every lease has unless one of its own asks for a carrier."""

_log = logging.getLogger("leaseha.health")


def check_spec(check: CheckConfig, interface: str) -> CheckSpec:
    """A configured check as the adapter runs it; `interface` is that of the lease."""
    kind: Kind
    target: tuple[str, ...]
    match check.probe:
        case Carrier(named):
            kind, target = Kind.CARRIER, (named or interface,)
        case Ping(host):
            kind, target = Kind.PING, (host,)
        case Tcp(at):
            kind, target = Kind.TCP, (at.host, str(at.port))
        case Script(argv):
            kind, target = Kind.SCRIPT, argv
        case _ as never:
            assert_never(never)
    return CheckSpec(
        name=check.name,
        kind=kind,
        target=target,
        every_s=check.every_ns / NS_PER_S,
        timeout_s=check.timeout_ns / NS_PER_S,
        rise=check.rise,
        fall=check.fall,
        weight=check.weight,
        ineligible=check.ineligible,
    )


def specs_of(config: Config, interfaces: Mapping[str, str]) -> dict[str, list[CheckSpec]]:
    """All checks by lease. A node without carrier is ineligible: nobody would hear it."""
    found = {}
    for lease in config.leases:
        interface = interfaces[lease.name]
        specs = [check_spec(check, interface) for check in lease.checks]
        if not any(spec.kind is Kind.CARRIER for spec in specs):
            specs.append(CheckSpec(CARRIER, Kind.CARRIER, (interface,), ineligible=True, fall=1, rise=2))
        found[lease.name] = specs
    return found


class Wellness:
    """Runs the checks; `changed(lease, penalty, ineligible)` is called when what they say together changes."""

    def __init__(
        self, config: Config, services: Mapping[str, Service], changed: Callable[[str, int, str], None]
    ) -> None:
        interfaces = {name: service.parts.binder.interface for name, service in services.items()}
        self._interfaces = interfaces
        self._path = DataPath(config.leases, services, self._path_broken)
        self._changed = changed
        self._said: dict[str, tuple[int, str]] = {lease.name: (0, "") for lease in config.leases}
        self._unready: dict[str, str] = {}
        self._broken: dict[str, str] = {}
        self._carrier: dict[str, bool] = {}
        self._checks = Checks(
            specs_of(config, interfaces), self._verdict, warn=lambda text: _log.warning("%s", text)
        )

    async def run(self) -> None:
        """Until cancelled; then every check, running scripts included, is ended."""
        self._checks.start()
        for lease in self._interfaces:
            self._tell(lease)
        try:
            await self._path.run()
            await asyncio.Event().wait()
        finally:
            await self._checks.stop()

    def on_link(self, link: Link) -> bool:
        """A link was found or changed; True if its carrier came back."""
        before = self._carrier.get(link.name)
        self._carrier[link.name] = link.carrier
        if before is not None and before != link.carrier:
            _log.warning("%s: carrier %s", link.name, "is back" if link.carrier else "lost")
            self._checks.nudge(link.name)
        return before is False and link.carrier

    def on_link_gone(self, name: str) -> None:
        """An interface vanished."""
        self._carrier[name] = False
        self._checks.nudge(name)

    def unready(self, lease: str, why: str) -> None:
        """What the lease is made of cannot serve, and why; empty: it can. As good as a check that forbids it."""
        self._unready[lease] = why
        self._tell(lease)

    def _path_broken(self, lease: str, why: str) -> None:
        """What the holder serves does not answer through its VIPs, and why; empty: it does, or may be tried anew."""
        self._broken[lease] = f"data path: {why}" if why else ""
        self._tell(lease)

    def results(self) -> dict[str, list[dict[str, Any]]]:
        """For `status`: every check of every lease."""
        return {
            lease: [
                {"check": one.name, "kind": one.kind.value, "healthy": one.healthy, "detail": one.detail}
                for one in self._checks.report(lease)
            ]
            for lease in self._interfaces
        }

    def _verdict(self, lease: str, check: str, healthy: bool, detail: str) -> None:
        level = logging.INFO if healthy else logging.WARNING
        _log.log(
            level,
            "check %s %s: %s",
            check,
            "passes" if healthy else "fails",
            detail,
            extra={"leaseha": {"lease": lease}},
        )
        self._tell(lease)

    def _tell(self, lease: str) -> None:
        standing = self._checks.standing(lease)
        why = self._unready.get(lease, "") or standing.ineligible or self._broken.get(lease, "")
        now = (standing.penalty, why)
        if now != self._said[lease]:
            self._said[lease] = now
            self._changed(lease, *now)
