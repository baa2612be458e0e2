"""What this node says to its neighbours about VIPs, and hears of them: announcements, their proof, foreign claims."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

from leaseha.adapters import clock, route
from leaseha.adapters.announce import Announcer
from leaseha.adapters.answers import Answers
from leaseha.adapters.conflict import Claim, ConflictWatch
from leaseha.core import effects, placement
from leaseha.core.state import Draft, NodeState
from leaseha.core.values import Instant
from leaseha.errors import OperationalError
from leaseha.runtime.defending import Defence
from leaseha.runtime.proving import Proof, Verdict

if TYPE_CHECKING:
    from leaseha.adapters.rtnl import IPAddress
    from leaseha.config import LeaseConfig
    from leaseha.runtime.service import Service

_log = logging.getLogger("leaseha.agent")


def peers(state: NodeState, now: Instant) -> Iterator[IPAddress]:
    """The addresses that other nodes give themselves, of those that give a sign of life."""
    if state.view is None:
        return
    draft = Draft(state, now)
    for name, seen in sorted(draft.view.nodes.items()):
        if name == state.spec.node or seen.record is None or placement.silent(draft, seen.record.session):
            continue
        try:
            yield ip_address(seen.record.address)
        except ValueError:
            continue  # it gives none, or a name


class Neighbourhood:
    """Of one agent. `state()` is the node's; `tell` hears the verdict on an announcement."""

    def __init__(self, state: Callable[[], NodeState], tell: Callable[[Verdict], None]) -> None:
        self._state = state
        self._tell = tell
        self._announcers: dict[str, Announcer] = {}
        self._proofs: dict[str, Proof] = {}
        self._lease_of: dict[IPAddress, str] = {}
        self._services: Mapping[str, Service] = {}
        self._defence = Defence(state, self._say_once)
        self._listening: dict[str, list[ConflictWatch | Answers]] = {}
        self._indexes: dict[str, int] = {}

    def announcer(self, interface: str) -> Announcer:
        """The one for this interface."""
        if interface not in self._announcers:
            self._announcers[interface] = Announcer(interface)
        return self._announcers[interface]

    def proof(self, lease: LeaseConfig, interface: str) -> Proof:
        """A new one for this lease."""
        vips = [vip.ip for vip in lease.vips]
        versions = sorted({vip.version for vip in vips})

        def witnesses() -> list[IPAddress]:
            gateways = (route.gateway(interface, version) for version in versions)
            return [*(one for one in gateways if one is not None), *peers(self._state(), clock.now())]

        made = Proof(lease.name, vips, self.announcer(interface), witnesses, self._tell)
        self._proofs[lease.name] = made
        self._lease_of |= dict.fromkeys(vips, lease.name)
        return made

    def listen(self, services: Mapping[str, Service]) -> None:
        """Begin to hear. What cannot be heard is logged."""
        self._services = services
        for interface in self._announcers:
            self._listen(interface)

    def executed(self, effect: effects.Effect) -> None:
        """The core has asked for this: when a deadline moves on, a claim may be defended."""
        if isinstance(effect, effects.Extend):
            self._defence.renewed(effect.lease)
        elif isinstance(effect, effects.UnbindVip):
            self._defence.dropped(effect.lease)

    def announced(self) -> dict[str, dict[str, Any] | None]:
        """What `status` says of the announcements of leases that are served here."""
        return {name: self._proofs[name].told() for name, one in self._services.items() if one.serving}

    def contested(self) -> dict[str, dict[str, Any] | None]:
        """What `status` says of foreign claims."""
        return {name: self._defence.told(name) for name in self._services}

    def close(self) -> None:
        """Neither hear nor say anything more."""
        for interface in tuple(self._listening):
            self._unlisten(interface)
        for announcer in self._announcers.values():
            announcer.close()

    def on_link(self, name: str, index: int) -> None:
        """An interface was found: one that was made anew under its old name is listened to again."""
        if self._indexes.setdefault(name, index) != index and name in self._listening:
            self._indexes[name] = index
            self._unlisten(name)
            self._listen(name)

    def _listen(self, interface: str) -> None:
        watch = ConflictWatch(interface, self._claimed)
        ears = self._listening.setdefault(interface, [])
        ears.append(watch)
        try:
            mine = [one.parts for one in self._services.values() if one.parts.binder.interface == interface]
            watch.watch([ip for parts in mine for ip in parts.vips])
        except OperationalError as error:
            _log.warning("foreign claims on VIPs of %s will not be noticed: %s", interface, error)
        try:
            ears.append(Answers(interface, self._answered))
        except OperationalError as error:
            _log.warning("announcements on %s will not be proven: %s", interface, error)

    def _unlisten(self, interface: str) -> None:
        for ear in self._listening.pop(interface):
            ear.close()

    def _claimed(self, claim: Claim) -> None:
        lease = self._lease_of.get(claim.ip, "")
        if lease and self._services[lease].bound:
            self._defence.heard(lease, f"{claim.mac} claims {claim.ip}")

    async def _say_once(self, lease: str) -> None:
        """Raises `AnnounceError` when nothing could be sent."""
        service = self._services[lease]
        await service.parts.announcer.burst(
            service.parts.vips, lambda: service.deadline if service.bound else None
        )

    def _answered(self, vip: IPAddress, witness: IPAddress) -> None:
        if lease := self._lease_of.get(vip):
            self._proofs[lease].answered(vip, witness)
