"""One run: an unkind time in which anything may fail, then a kind one in which everything must come right."""

from __future__ import annotations

import gc
from dataclasses import dataclass
from typing import Final

from chaos.checkers import Bounds, Violation, judge
from chaos.sim.clock import PPM, Clock
from chaos.sim.faults import Faults
from chaos.sim.node import Node
from chaos.sim.options import Options, drawn
from chaos.sim.world import World
from leaseha.core import actions, placement, records
from leaseha.core.spec import LeaseSpec, NodeSpec
from leaseha.core.state import Draft
from leaseha.core.values import NS_PER_MS, NS_PER_S, Put

SLEW_PPM: Final = 90_000
"""chrony slews by up to 83,333, adjtimex by up to 100,000."""
ORDER_NS: Final = 2 * NS_PER_S
"""In a kind world a switchover is done within this."""
AROUND_NS: Final = 40 * NS_PER_MS
"""Beside the wait: the record's way to the standby, its timer, one commit, resources and address."""


@dataclass(frozen=True, slots=True)
class Result:
    """How a run ended."""

    options: Options
    violations: list[Violation]
    digest: str
    moves: int


class Run:
    """A world with its nodes and its faults."""

    def __init__(self, options: Options) -> None:
        self.world = World(options)
        self.options = options
        self.leases = [f"l{number}" for number in range(options.leases)]
        self.stores = {name: f"store-{name}" for name in "abcd"[: options.nodes]}
        self.nodes = {name: self._node(name) for name in self.stores}
        self.faults = Faults(self)

    def _node(self, name: str) -> Node:
        world, options = self.world, self.options
        ppm = options.drift_ppm

        def spec(incarnation: str) -> NodeSpec:
            return NodeSpec(
                "sim", name, self.stores[name], incarnation, tuple(self._lease(lease) for lease in self.leases),
                ttl_ns=options.ttl_ns, renew_every_ns=options.renew_every_ns, ttl_max_ns=options.ttl_max_ns,
                margin_ns=self._margin_ns(name), drift_ppm=ppm, slice_size=options.slice_size,
                session_ttl_s=max(2, -(-2 * options.ttl_max_ns // NS_PER_S)),
            )  # fmt: skip

        def offset() -> int:
            return world.between(0, 10**6) * NS_PER_S

        def rate() -> int:
            return world.chance.choice((-ppm, ppm)) if options.latest else world.between(-ppm, ppm)

        clock = Clock(offset(), rate(), offset(), rate())
        if options.slewed and world.chance.random() < 0.5:
            clock.boot_ppm = -SLEW_PPM
        return Node(world, name, clock, spec)

    def _margin_ns(self, name: str) -> int:
        options = self.options
        return (
            options.lifetime_margin_ns
            if name in options.unfenced and options.lifetime_margin_ns
            else options.margin_ns
        )

    def _most_margin_ns(self) -> int:
        return max(self.options.margin_ns, self.options.lifetime_margin_ns)

    def _lease(self, lease: str) -> LeaseSpec:
        at = self.leases.index(lease)
        names = list("abcd"[: self.options.nodes])
        order = names[at % len(names) :] + names[: at % len(names)]
        priorities = {node: 100 - 10 * rank for rank, node in enumerate(order)}
        return LeaseSpec(
            lease, priorities, digest="v.x", failback=self.options.failback, hold_down_ns=self.options.hold_down_ns,
            flap_budget=self.options.flap_budget, drain_ns=200 * NS_PER_MS, resources=True,
            replicated=self.options.replicated,
        )  # fmt: skip

    # The run

    def run(self) -> Result:
        """Unkind, kind, judged."""
        world, options = self.world, self.options
        for node in self.nodes.values():
            world.after(world.between(0, NS_PER_S), self.faults.starter(node))
        self.faults.plan()
        self._clients()
        world.run_until(options.unkind_ns)
        self._heal()
        bound_ns = self.convergence_ns()
        deadline_ns = world.now_ns + bound_ns
        # What was broken at the last moment (a claim deleted by hand) must show before it is looked for.
        world.run_until(world.now_ns + options.ttl_max_ns + 2 * self._most_margin_ns())
        while world.now_ns < deadline_ns and self._wrong():
            world.run_until(world.now_ns + 100 * NS_PER_MS)
        if wrong := self._wrong():
            world.history.add(world.now_ns, "unhealed", wrong)
        else:
            self._order()
        world.history.add(world.now_ns, "ended")
        found = judge(world.history.entries, self._bounds())
        moves = sum(entry.what == "claim" and entry.facts[2] == "held" for entry in world.history.entries)
        return Result(options, found, world.history.digest(), moves)

    def _bounds(self) -> Bounds:
        options = self.options
        takeover_ns = 0
        if options.silence_ns:  # the wait on the slowest clock, and what is done before and after it
            wait_ns = options.ttl_ns * (PPM + options.drift_ppm) // PPM + options.margin_ns
            takeover_ns = wait_ns * PPM // (PPM - options.drift_ppm) + options.watch_lag_ns + AROUND_NS
        heard_ns = 2 * options.ttl_max_ns + NS_PER_S
        return Bounds(options.hold_down_ns, options.flap_budget, options.drift_ppm, takeover_ns, heard_ns)

    def convergence_ns(self) -> int:
        """How long the kind world may take: every wait there is, one after the other."""
        options = self.options
        waits_ns = 6 * (options.ttl_max_ns + self._most_margin_ns()) + 2 * options.hold_down_ns
        if options.failing_effects:
            waits_ns += actions.STUCK_NS
        return waits_ns + 20 * NS_PER_S + 12 * options.renew_every_ns

    def _clients(self) -> None:
        for lease in self.leases:
            for node in self.nodes.values():
                node.client_writes(lease)
        self.world.after(self.world.between(20 * NS_PER_MS, 120 * NS_PER_MS), self._clients)

    def _heal(self) -> None:
        world = self.world
        world.healed = True
        for cut in (world.cut_requests, world.cut_replies, world.cut_watch):
            cut.clear()
        for node in self.nodes.values():
            node.thaw()
            if not node.alive or node.stopped or node.state.stopping:
                node.alive = False
                self.faults.begin(node)
            for lease in self.leases:
                self.faults.tell_health(node, lease, penalty=0, why="")
        if self.options.replicated:
            self._replicate()

    def _replicate(self) -> None:
        """In the kind world every holder's replication comes to stream to all; an operator recovers what is lost."""
        for lease in self.leases:
            kv = self.world.etcd.keys.get(records.insync_key(lease))
            admitted = records.decode(records.InsyncRecord, kv.value) if kv is not None else None
            if admitted is not None and not admitted.stores & set(self.stores.values()):
                self.world.history.add(self.world.now_ns, "recovered", lease)
                everyone = records.InsyncRecord(frozenset(self.stores.values()))
                self.world.etcd.write((Put(records.insync_key(lease), records.encode(everyone)),))
            for node in self.nodes.values():
                if node.holds(lease):
                    self.faults.streams(node, lease, frozenset(self.stores.values()))
        self.world.after(200 * NS_PER_MS, self._replicate)

    def _wrong(self) -> str:
        """What is not as it should be in a kind world; empty if all is."""
        for lease in self.leases:
            holders = [node.name for node in self.nodes.values() if node.holds(lease)]
            if len(holders) != 1:
                roles = {node.name: node.state.leases[lease].role.value for node in self.nodes.values()}
                return f"{lease} is held by {holders or 'nobody'}: {roles}"
            if self.options.failback and holders[0] != self._preferred(lease) and not self._spent(lease):
                return f"{lease} is with {holders[0]} and not back"
        return ""

    def _preferred(self, lease: str) -> str:
        priorities = self._lease(lease).priorities
        return max(priorities, key=lambda name: priorities[name])

    def _spent(self, lease: str) -> bool:
        """The flap budget keeps the lease where it is."""
        node = self.nodes[self._preferred(lease)]
        return placement.budget_free_at(Draft(node.state, node.now()), lease) is not None

    def _order(self) -> None:
        """In the kind world an order is carried out at once."""
        world, lease = self.world, self.leases[0]
        world.run_until(world.now_ns + self.options.ttl_ns)
        holder = next((node for node in self.nodes.values() if node.holds(lease)), None)
        if holder is None:
            world.history.add(world.now_ns, "unhealed", f"{lease} lost its holder in a kind world")
            return
        best = placement.best_other(Draft(holder.state, holder.now()), lease)
        if best is None:
            return
        target = best.node
        began_ns = world.now_ns
        self.faults.intend(lease, target, holder.state.leases[lease].token, "order")
        seen = len(world.history.entries)
        done = False
        while not done and world.now_ns < began_ns + ORDER_NS:
            world.run_until(world.now_ns + 50 * NS_PER_MS)
            new = world.history.entries[seen:]
            done = any(entry.what == "present" and entry.facts == (target, lease) for entry in new)
        if not done:
            roles = {node.name: node.state.leases[lease].role.value for node in self.nodes.values()}
            world.history.add(
                world.now_ns, "unhealed", f"switchover of {lease} to {target} was not done: {roles}"
            )


def run_seed(seed: int, profile: str = "") -> Result:
    """The run of a seed: always the same. Garbage is collected once, after it: looking for it costs a tenth."""
    gc.disable()
    try:
        return Run(drawn(seed, profile)).run()
    finally:
        gc.enable()
        gc.collect()
