"""The composition root: from a configuration to a running agent, and to its orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import signal
import uuid
from collections.abc import Coroutine
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from leaseha import __version__
from leaseha.adapters import clock, route
from leaseha.adapters.link import AddressChange, Link, LinkWatch
from leaseha.adapters.vip import VipBinder, cluster_tag
from leaseha.config import Config, LeaseConfig, lease_spec, node_spec
from leaseha.core import events, machine
from leaseha.core.spec import NodeSpec
from leaseha.core.state import NodeState
from leaseha.core.values import NS_PER_S
from leaseha.errors import InvariantBroken, LeasehaError, OperationalError, fault
from leaseha.runtime import report
from leaseha.runtime.chores import Desk
from leaseha.runtime.executor import Executor
from leaseha.runtime.fencing import interface_of, put_up
from leaseha.runtime.guarding import Guarding, charge
from leaseha.runtime.handover import Told
from leaseha.runtime.heir import Heir
from leaseha.runtime.leader import LeaderKeeper, nodes_of
from leaseha.runtime.lock import store_id
from leaseha.runtime.neighbourhood import Neighbourhood
from leaseha.runtime.proving import Verdict
from leaseha.runtime.pump import Pump
from leaseha.runtime.reach import Reach
from leaseha.runtime.reload import Process, Reload
from leaseha.runtime.reply import Reply
from leaseha.runtime.rights import require_rights
from leaseha.runtime.service import Parts, Repository, Service
from leaseha.runtime.status import STATUS_SOCKET, Answers, StatusServer
from leaseha.runtime.stores import EtcdStore, make_client
from leaseha.runtime.story import Story
from leaseha.runtime.unheld import Unheld, reasons
from leaseha.runtime.urgency import Urgency
from leaseha.runtime.wellness import Wellness

if TYPE_CHECKING:
    from leaseha.adapters.rtnl import IPAddress
    from leaseha.runtime.repositories import WarmRepository

STALLED_NS: Final = 5 * NS_PER_S
"""A pump that has not advanced for this long (beyond its renewals) is not alive."""
MEMBERS_EVERY_S: Final = 5.0
EXIT_SETTLE_S: Final = 1.0

_log = logging.getLogger("leaseha.agent")


@dataclass(slots=True)
class Ended:
    """How the agent ended."""

    failure: str = ""


class Agent:
    """One node: made from its configuration, run to its end once."""

    def __init__(
        self, config: Config, observer: Story, guard: Guarding, path: Path, told: Told | None = None
    ) -> None:
        """`path`: the configuration's file, for a reload; `told`: what the program before handed over."""
        self.config = config
        self._path = path
        self._heir = Heir(config, told)
        self._observer = observer
        self._guard = guard
        self._urgency = Urgency(wanted=config.node.realtime)
        self._ended = Ended()
        self._over = asyncio.Event()
        self._leader = LeaderKeeper(config.etcd, clock.now)
        self._tasks: set[asyncio.Task[None]] = set()
        self._gap = self._looking = False
        self._binders: dict[str, VipBinder] = {}
        self._neighbours = Neighbourhood(lambda: self.pump.state, self._proven)
        self._services: dict[str, Service] = {}
        self._lease_of: dict[IPAddress, str] = {}
        self._repositories: dict[str, WarmRepository] = {}

    async def run(self) -> None:
        """Until a stop is asked for and done. Raises `LeasehaError` for what makes the node unable to run."""
        config = self.config
        require_rights()
        self._guard.attach(asyncio.get_running_loop())
        # Before anything is bound, or seen of what an earlier run left bound.
        self._fencing = await put_up(config, _warn, held=self._heir.vips())
        spec = self._spec()
        store = EtcdStore(make_client(config), Reach(", ".join(map(str, config.etcd.endpoints))))
        self.pump = Pump(machine.initial(spec), self._execute, self._broken, self._seen)
        self.pump.attach(asyncio.get_running_loop())
        for lease in config.leases:
            self._make_service(lease)
        paced, pace = self._urgency.watching(self._observer, lambda: self.pump.state)
        self._executor = Executor(store, self._services, paced, self.pump.give, self._stopped, pace)
        answers = Answers(self.status, self._alive, self._ready, self._holder)
        self._status = StatusServer(answers, self.reload, self._chore)
        self._reload = self._make_reload()
        self._urgency.begin()
        self._guard.configure(self._charge())
        try:
            self._wellness = Wellness(self.config, self._services, self._health_changed)
            await self._sweep()
            await self._heir.adopt(self._services, self._repositories)
            unready = await self._readiness()
            self.pump.state = self._heir.state(spec)
            place, held = config.runtime_dir / STATUS_SOCKET, bool(self._heir.held)
            await self._status.listen(place, config.status.listen, tcp_needed=not held)
            self._catch_signals()
            self._heir.begin(self._executor, spec)
            self._watch_surroundings(store)
            self.pump.give(events.Started(clock.now()))
            for repository in self._repositories.values():
                repository.begin()
            self.on_gap()  # what was handed over as bound may have been taken off meanwhile
            self._keep_ready(unready)
            self._beside("the end of the reload", self._heir.prove(self.pump, spec.ttl_ns), vital=False)
            await self._over.wait()
        finally:
            await self._end(store)
        if self._ended.failure:
            raise OperationalError(self._ended.failure)

    def stop(self) -> None:
        """Ask for an orderly stop; asked twice it stays one."""
        _log.info("stop asked for: letting go of everything")
        self.pump.give(events.StopAsked(clock.now()))

    def reload(self, reply: Reply, *, upgrade: bool, config: str = "") -> None:
        """Become the program that is installed, under the configuration of now, with all that is held."""
        if self._reload.may_begin(reply, config):
            self._beside("the reload", self._reload.run(reply, upgrade=upgrade), vital=False)

    def _chore(self, reply: Reply, asked: dict[str, Any]) -> None:
        desk = Desk(self.config.node.name, self._repositories, self._holder)
        self._beside("an operator's request", desk.answer(reply, asked), vital=False)

    # --- what the node is made of -------------------------------------------------------------------------

    def _spec(self) -> NodeSpec:
        config = self.config
        address = str(config.node.address or "")
        copied = any(lease.replicated for lease in map(lease_spec, config.leases))
        if not address and config.leases and (copied or config.node.interface is None):
            source = route.facing(config.leases[0].vips[0].ip).source
            address = str(source or "")
        store = store_id(config.state_dir)
        spec = node_spec(
            config, store=store, incarnation=uuid.uuid4().hex, version=__version__, address=address
        )
        return replace(spec, margin_ns=self._fencing.margin_ns(config.session))

    def _make_service(self, lease: LeaseConfig) -> None:
        interface = interface_of(self.config, lease)
        if interface not in self._binders:
            fencing = self._fencing
            self._binders[interface] = VipBinder(
                interface,
                self.config.cluster,
                warn=_warn,
                slack_ms=fencing.slack_ms,
                most_past_ms=fencing.most_past_ms(self.config.session),
            )
        parts = Parts(
            lease=lease.name,
            vips=tuple(vip.ip for vip in lease.vips),
            binder=self._binders[interface],
            announcer=self._neighbours.announcer(interface),
            repository=self._make_repository(lease),
            port=lease.repository.port if lease.repository is not None else 0,
            guard=self._guard,
            fencing=self._fencing,
            tls=lease.repository is not None and lease.repository.door.cert is not None,
            proof=self._neighbours.proof(lease, interface),
        )
        self._lease_of |= dict.fromkeys(parts.vips, lease.name)
        self._services[lease.name] = Service(parts, self._answered, self._lease_warning, self._vip_broken)

    def _make_reload(self) -> Reload:
        return Reload(
            Process(
                config=self.config,
                path=self._path,
                pump=self.pump,
                guard=self._guard,
                fencing=self._fencing,
                services=self._services,
                repositories=self._repositories,
                told_all=lambda: self._executor.told_all() and self._observer.told_all(),
            )
        )

    def _charge(self) -> dict[str, Any]:
        """What the guard takes down if this process cannot any more."""
        parts = [service.parts for service in self._services.values()]
        vips = {str(ip): part.binder.interface for part in parts for ip in part.vips}
        return charge(self.config, vips, cluster_tag(self.config.cluster), self._fencing.close_commands)

    def _make_repository(self, lease: LeaseConfig) -> Repository | None:
        if lease.repository is None:
            return None
        from leaseha.runtime.warming import warm_repository

        address = self.pump.state.spec.address
        made = warm_repository(self.config, lease, lease.repository, address, self.pump.give)
        self._repositories[lease.name] = made
        return made

    def _keep_ready(self, first: dict[str, str]) -> None:
        """One bad data directory costs its own lease and no other: this node is no candidate for it meanwhile."""
        for lease, repository in self._repositories.items():
            if first[lease]:
                self._unready(lease, first[lease])
            keeping = repository.keep_ready(first[lease], functools.partial(self._unready, lease))
            self._beside(f"the look at the data directory of {lease}", keeping)

    async def _readiness(self) -> dict[str, str]:
        """Why each lease's repository could not serve; empty if it could. What is held does not wait for that."""
        if self._heir.held:
            return self._heir.unready(self._repositories)
        tries = (repository.readiness() for repository in self._repositories.values())
        return dict(zip(self._repositories, await asyncio.gather(*tries), strict=True))

    def _unready(self, lease: str, why: str) -> None:
        if why:
            _log.error("not served by this node: %s", why, extra={"leaseha": {"lease": lease}})
        else:
            _log.info("the repository can serve again", extra={"leaseha": {"lease": lease}})
        self._wellness.unready(lease, why)

    async def _sweep(self) -> None:
        vips = [vip.ip for lease in self.config.leases for vip in lease.vips]
        for binder in self._binders.values():
            swept = await binder.sweep_leftovers(vips, self._heir.vips())
            for address in swept.removed:
                _log.warning("removed a leftover of an earlier run: %s", address.ip)
            for address in swept.foreign:
                _log.warning(
                    "%s is configured here by someone else: it will be taken over when held", address.ip
                )

    def _watch_surroundings(self, store: EtcdStore) -> None:
        self._beside("the watch of links and addresses", LinkWatch(self).run())
        self._beside("the checks", self._wellness.run())
        if doors := [one.door for one in self._repositories.values() if one.door.wants_users]:
            self._beside("the look at the users", doors[0].feed(store, doors), vital=False)
        self._beside("the look at etcd's members", self._ask_members(store), vital=False)
        self._neighbours.listen(self._services)

    def _beside(self, what: str, work: Coroutine[Any, Any, None], *, vital: bool = True) -> None:
        """Run something for as long as the agent runs."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(functools.partial(self._beside_ended, what, vital))

    def _beside_ended(self, what: str, vital: bool, task: asyncio.Task[None]) -> None:
        """A node that does not look any more at what it needs to see lets go, so that another holds; and comes back."""
        self._tasks.discard(task)
        if task.cancelled() or (error := task.exception()) is None:
            return
        _log.error("%s broke off: %s", what, fault(error))
        if vital:
            self._ended.failure = f"{what} broke off: {fault(error)}"
            self.stop()

    # --- events from outside ------------------------------------------------------------------------------

    def _catch_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        loop.add_signal_handler(signal.SIGHUP, functools.partial(self.reload, Reply(), upgrade=False))

    def _answered(self, lease: str, serial: int, ok: bool) -> None:
        self._executor.answered(lease, serial, ok)

    def _health_changed(self, lease: str, penalty: int, ineligible: str) -> None:
        self.pump.give(events.HealthChanged(clock.now(), lease, penalty, ineligible))

    def _proven(self, verdict: Verdict) -> None:
        self._observer.proven(verdict)

    def _lease_warning(self, lease: str, text: str) -> None:
        _log.warning("%s", text, extra={"leaseha": {"lease": lease}})

    def _vip_broken(self, lease: str, why: str) -> None:
        self.pump.give(events.VipMissing(clock.now(), lease, why))

    def on_link(self, link: Link) -> None:
        """A link was found or changed: carrier checks, and announcements when it comes back."""
        self._fencing.on_link(link.name, link.index)
        self._neighbours.on_link(link.name, link.index)
        came_back = self._wellness.on_link(link)
        if came_back:
            self._doubt_all(link.name, f"link {link.name} is up again")

    def on_link_gone(self, name: str) -> None:
        """An interface vanished."""
        self._wellness.on_link_gone(name)

    def on_address(self, change: AddressChange) -> None:
        """An address came or went; ours, while bound, went by someone else's hand."""
        if change.present:
            return
        name = self._lease_of.get(change.ip, "")
        if name and self._services[name].bound:
            detail = f"{change.ip} was removed from {change.interface} by someone else"
            self.pump.give(events.VipMissing(clock.now(), name, detail))

    def on_gap(self) -> None:
        """Changes may have been missed: look at every bound VIP."""
        self._gap = True
        if not self._looking:
            self._looking = True
            self._beside("the look for VIPs that are gone", self._look_for_drift())

    async def _look_for_drift(self) -> None:
        while self._gap:
            self._gap = False
            await self._look_at_all()
        self._looking = False

    async def _look_at_all(self) -> None:
        for binder in self._binders.values():
            with contextlib.suppress(OperationalError):
                for lease, vips in (await binder.missing()).items():
                    detail = f"{', '.join(str(ip) for ip in vips)} is not there or does not work"
                    self.pump.give(events.VipMissing(clock.now(), lease, detail))

    def _doubt_all(self, interface: str, why: str) -> None:
        for name, service in self._services.items():
            if service.parts.binder.interface == interface:
                self.pump.give(events.Doubt(clock.now(), name, why))

    async def _ask_members(self, store: EtcdStore) -> None:
        """For `status`: what etcd's members say, asked now and then beside everything else. And: is there a holder?"""
        unheld = Unheld()
        while True:
            await self._leader.look(store.client, nodes_of(self.pump.state))
            unheld.look(reasons(self.pump.state, clock.now()))
            await asyncio.sleep(MEMBERS_EVERY_S)

    # --- what is told -------------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """The status document of now."""
        around = report.Surroundings(
            version=__version__,
            pid=os.getpid(),
            source="agent",
            fence_layers=self._layers(),
            vips={lease.name: [str(vip) for vip in lease.vips] for lease in self.config.leases},
            checks=self._wellness.results(),
            replication={name: one.copies.status for name, one in self._repositories.items() if one.copies},
            announced=self._neighbours.announced(),
            foreign_claims=self._neighbours.contested(),
            etcd=self._leader.rows,
            etcd_leader=self._leader.told,
            urgency=self._urgency.told(self._guard.urgency),
        )
        return report.document(self.pump.state, clock.now(), around)

    def _layers(self) -> tuple[str, ...]:
        """The fence layers in force."""
        return tuple(layer for layer in ("agent", self._guard.layer(), *self._fencing.layers) if layer)

    def _alive(self) -> tuple[bool, str]:
        quiet_ns = clock.now().boot_ns - self.pump.advanced_at.boot_ns
        longest_ns = STALLED_NS + 2 * self.config.session.renew_every_ns
        return quiet_ns < longest_ns, f"the pump advanced {quiet_ns // 1_000_000} ms ago"

    def _ready(self) -> tuple[bool, str]:
        well = report.proven(self.pump.state, clock.now())
        return well, "the session is proven" if well else "the session is not proven"

    def _holder(self, lease: str) -> str | None:
        names = {one.name for one in self.config.leases}
        return report.holder(self.pump.state, lease) if lease in names else None

    # --- the end ------------------------------------------------------------------------------------------

    def _seen(self, state: NodeState) -> None:
        for repository in self._repositories.values():
            repository.look(state)

    def _execute(self, effect: Any) -> None:
        # Before the first transaction of a new session is sent: a guard that knows no session frees nothing.
        self._guard.session(self.pump.state.session.id)
        self._executor.execute(effect)
        self._neighbours.executed(effect)

    def _stopped(self, failure: str) -> None:
        self._ended.failure = failure or self._ended.failure
        self._over.set()

    def _broken(self, error: InvariantBroken) -> None:
        _log.critical("an invariant is broken, this node stops holding: %s", error)
        self._ended.failure = f"fault in leaseha: {error}"
        self._over.set()

    async def _end(self, store: EtcdStore) -> None:
        """Everything off, whatever state it is in; then the rest, bounded. What is not proven off is the guard's."""
        in_order, all_off = not self._ended.failure, True
        for service in self._services.values():
            service.give_up()
            try:
                await service.take_down()
            except (LeasehaError, OSError):
                in_order = all_off = False
        if in_order:
            await self._urgency.end()
        if hasattr(self, "_executor"):
            await self._executor.settle(EXIT_SETTLE_S)
        for task in self._tasks:
            task.cancel()
        self._neighbours.close()
        for repository in self._repositories.values():
            await repository.close()
        if hasattr(self, "_status"):
            self._status.close()
        await store.close()
        for binder in self._binders.values():
            binder.close()
        await self._fencing.end(all_off=all_off)
        self._guard.bye() if in_order else self._guard.leave()


def _warn(text: str) -> None:
    _log.warning("%s", text)
