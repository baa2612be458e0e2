"""`leaseha reload`, the new program's side: goes on where the one before, of the same process, has ended."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Iterable, Mapping
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Final

from leaseha import __version__
from leaseha.adapters import clock
from leaseha.config import Config
from leaseha.core import deadline, events, handover, machine
from leaseha.core.spec import NodeSpec
from leaseha.core.state import NodeState
from leaseha.core.values import NS_PER_MS, Instant, earliest
from leaseha.runtime.handover import RepositoryTold, Told, hear_signals
from leaseha.runtime.reply import Reply

if TYPE_CHECKING:
    from leaseha.adapters.rtnl import IPAddress
    from leaseha.runtime.executor import Executor
    from leaseha.runtime.pump import Pump
    from leaseha.runtime.repositories import WarmRepository
    from leaseha.runtime.service import Service

PROVE_S: Final = 30.0
_PAUSE_S: Final = 0.005

_log = logging.getLogger("leaseha.agent")


class Heir:
    """What was handed over, and what becomes of it; with nothing handed over, an ordinary start."""

    def __init__(self, config: Config, told: Told | None) -> None:
        self._config = config
        self._told = told
        self._reply = Reply(told.reply_fd if told is not None else -1)
        self._deadlines: dict[str, Instant] = {}
        self._regate: list[str] = []
        self.held: dict[str, tuple[IPAddress, ...]] = {}
        """VIPs that are bound, by lease."""
        if told is None:
            return
        core, drift_ppm = told.core, config.session.drift_ppm
        for one in core.held():
            if core.proven is not None and one.cover is not None:
                until = deadline.of_write(core.proven, drift_ppm)
                self._deadlines[one.lease] = earliest(until, one.cover)
                self.held[one.lease] = tuple(ip_address(ip) for ip in told.vips[one.lease])

    def vips(self) -> dict[IPAddress, Instant]:
        """All that is bound, and until when each may be."""
        return {ip: self._deadlines[lease] for lease, vips in self.held.items() for ip in vips}

    async def adopt(
        self, services: Mapping[str, Service], repositories: Mapping[str, WarmRepository]
    ) -> None:
        """Services and repositories are up where they were."""
        if self._told is None:
            return
        for lease, vips in self.held.items():
            service = services[lease]
            token = next(one.token for one in self._told.core.leases if one.lease == lease)
            service.adopt(vips, token, self._deadlines[lease])
        serving = set()
        for told in self._told.repositories:
            repository = repositories.get(told.lease)
            if repository is None:
                await _dismiss(told)
            elif await repository.adopt(told) and self._same_place(services[told.lease], told.port):
                serving.add(told.lease)
        self._regate = [lease for lease in repositories if lease in self.held and lease not in serving]

    def _same_place(self, service: Service, port: int) -> bool:
        return service.parts.port == port and set(service.parts.vips) == set(
            self.held.get(service.parts.lease, ())
        )

    def unready(self, leases: Iterable[str]) -> dict[str, str]:
        """Why a lease's repository could not serve, before anyone has looked: to start one takes longer than there is.

        Nothing renews meanwhile. One that was not handed over is started in a moment, and no candidate until then.
        """
        told = self._told.repositories if self._told is not None else ()
        known = self.held.keys() | {one.lease for one in told}
        return {lease: "" if lease in known else "its repository is yet to be started" for lease in leases}

    def state(self, spec: NodeSpec) -> NodeState:
        """With which the core begins."""
        if self._told is None:
            return machine.initial(spec)
        drifted = {}
        for lease in self._config.leases:
            missing = {vip.ip for vip in lease.vips} - set(self.held.get(lease.name, ()))
            if lease.name in self.held and missing:
                drifted[lease.name] = f"new in the configuration: {', '.join(map(str, missing))}"
        return handover.adopted(spec, self._told.core, clock.now(), drifted=drifted, regate=self._regate)

    def begin(self, executor: Executor, spec: NodeSpec) -> None:
        """Signals are heard, and etcd's lease is kept alive, from now on."""
        if self._told is None:
            return
        hear_signals()
        if self._told.core.session:
            executor.keep_alive(self._told.core.session, spec.session_ttl_s)

    async def prove(self, pump: Pump, ttl_ns: int) -> None:
        """Until the session and all claims are proven by this program; tells whoever waits how it went."""
        told = self._told
        if told is None:
            return
        end = asyncio.get_running_loop().time() + PROVE_S
        while not handover.proven(pump.state, told.core):
            if asyncio.get_running_loop().time() > end:
                why = "etcd has not confirmed the session since: `leaseha status` says how things stand"
                _log.error("reloaded, but %s", why)
                self._reply.failed(f"the new program runs, but {why}")
                return
            if not pump.state.session.pending:
                pump.give(events.TtlChanged(clock.now(), ttl_ns))  # another slice of the claims, at once
            await asyncio.sleep(_PAUSE_S)
        self._tell(pump.state, told)

    def _tell(self, state: NodeState, told: Told) -> None:
        took_ms = (clock.now().boot_ns - told.frozen_at.boot_ns) // NS_PER_MS
        holds: dict[str, int] = {}
        lost = []
        for one in told.core.held():
            lease = state.leases[one.lease]
            if lease.mine and lease.token == one.token:
                holds[one.lease] = lease.token
            else:
                lost.append(one.lease)
        kept = ", ".join(f"{lease} (token {token})" for lease, token in holds.items()) or "nothing"
        _log.info(
            "reloaded in %d ms: leaseha %s after %s, holding %s", took_ms, __version__, told.version, kept
        )
        if lost:
            self._reply.failed(
                f"the new program runs, but lost meanwhile: {', '.join(lost)}; its log says why"
            )
            return
        found: dict[str, Any] = {"node": self._config.node.name, "version": __version__, "took_ms": took_ms}
        self._reply.done({**found, "version_before": told.version, "holds": holds})


async def _dismiss(told: RepositoryTold) -> None:
    """A repository that is not configured any more: it ends, and is waited for."""
    from leaseha.repository.adopted import AdoptedChild

    os.close(told.fd)
    with contextlib.suppress(OSError):
        child = AdoptedChild(told.pid)
        child.kill()
        await child.wait()
