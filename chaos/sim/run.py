"""One run: an unkind time in which anything may fail, then a kind one in which everything must come right."""

from __future__ import annotations

import functools
import gc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from chaos.checkers import Bounds, Violation, judge
from chaos.sim import guard
from chaos.sim.etcd import Saved
from chaos.sim.node import PPM, Clock, Node
from chaos.sim.options import Options, drawn
from chaos.sim.world import World
from leaseha.core import actions, events, placement, records
from leaseha.core.records import IntentRecord, Kind
from leaseha.core.spec import LeaseSpec, NodeSpec
from leaseha.core.state import Draft
from leaseha.core.values import NS_PER_MS, NS_PER_S, Delete, Instant, Put

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
        self._saved: Saved | None = None
        self._tokens: dict[str, list[int]] = {lease: [] for lease in self.leases}

    def _node(self, name: str) -> Node:
        world, options = self.world, self.options
        ppm = options.drift_ppm

        def spec(incarnation: str) -> NodeSpec:
            return NodeSpec(
                "sim", name, self.stores[name], incarnation, tuple(self._lease(lease) for lease in self.leases),
                ttl_ns=options.ttl_ns, renew_every_ns=options.renew_every_ns, ttl_max_ns=options.ttl_max_ns,
                margin_ns=options.margin_ns, drift_ppm=ppm, slice_size=options.slice_size,
                session_ttl_s=max(2, -(-2 * options.ttl_max_ns // NS_PER_S)),
            )  # fmt: skip

        def offset() -> int:
            return world.between(0, 10**6) * NS_PER_S

        def rate() -> int:
            return world.chance.choice((-ppm, ppm)) if options.latest else world.between(-ppm, ppm)

        clock = Clock(offset(), rate(), offset(), rate())
        return Node(world, name, clock, spec)

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
            world.after(world.between(0, NS_PER_S), self._starter(node))
        self._plan_faults()
        self._clients()
        world.run_until(options.unkind_ns)
        self._heal()
        bound_ns = self.convergence_ns()
        deadline_ns = world.now_ns + bound_ns
        # What was broken at the last moment (a claim deleted by hand) must show before it is looked for.
        world.run_until(world.now_ns + options.ttl_max_ns + 2 * options.margin_ns)
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
        waits_ns = 6 * (options.ttl_max_ns + options.margin_ns) + 2 * options.hold_down_ns
        if options.failing_effects:
            waits_ns += actions.STUCK_NS
        return waits_ns + 20 * NS_PER_S + 12 * options.renew_every_ns

    def _starter(self, node: Node) -> Callable[[], None]:
        def start() -> None:
            if not node.alive:
                self._begin(node)

        return start

    def _begin(self, node: Node) -> None:
        self.world.history.add(self.world.now_ns, "registered", node.name)
        node.start()

    def _what(self, fault: str) -> Callable[[Node], None]:
        return guard.FAULTS[fault] if fault in guard.FAULTS else getattr(self, f"_do_{fault}")

    def _plan_faults(self) -> None:
        world, options = self.world, self.options
        for node in self.nodes.values():
            for fault, mean in options.faults.items():
                count = world.chance.choices((0, 1, 2, 4), weights=(2, 2, 1, 0.5))[0] * mean
                for _ in range(round(count)):
                    at_ns = world.between(NS_PER_S, options.unkind_ns)
                    world.after(at_ns, self._fault(self._what(fault), node))

        if options.silence_ns:
            world.after(options.silence_ns, self._silence)

    def _silence(self) -> None:
        """The holder of one lease says nothing any more, in one of the ways in which that happens."""
        holder = next((node for node in self.nodes.values() if node.holds(self.leases[0])), None)
        if holder is None:
            return
        self.world.history.add(self.world.now_ns, "silent", holder.name)
        way = self.world.chance.choice(("kill", "freeze", "cut"))
        if way == "freeze":
            holder.freeze(self.convergence_ns())
        else:
            getattr(self, f"_do_{way}")(holder)

    def _fault(self, do: Callable[[Node], None], node: Node) -> Callable[[], None]:
        def happen() -> None:
            if not self.world.healed:
                do(node)

        return happen

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
                self._begin(node)
            for lease in self.leases:
                self._tell_health(node, lease, penalty=0, why="")
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
                    self._streams(node, lease, frozenset(self.stores.values()))
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
        self._intend(lease, target, holder.state.leases[lease].token, "order")
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

    def _intend(self, lease: str, target: str, token: int, reason: str) -> None:
        intent = IntentRecord(Kind.SWITCHOVER, "operator", token, target, reason)
        self.world.etcd.write((Put(records.intent_key(lease), records.encode(intent)),))

    # Faults and orders, one a method

    def _lease_of_chance(self) -> str:
        return self.world.chance.choice(self.leases)

    def _do_kill(self, node: Node) -> None:
        if node.alive:
            node.kill()

    def _do_restart(self, node: Node) -> None:
        if not node.alive or node.stopped:
            node.alive = False
            self._begin(node)

    def _do_hard_release(self, node: Node) -> None:
        """A holder lets go, is cut off meanwhile for longer than its ttl, and is well again."""
        for lease in self.leases:
            if node.holds(lease):
                if self.options.hard_breaks:  # no target is chosen then: *free* is written
                    node.give(functools.partial(events.ResourceFailed, lease=lease, detail="broken"))
                else:
                    self._tell_health(node, lease, penalty=0, why="gateway gone")
                self.world.after(self.world.between(0, 600 * NS_PER_MS), self._fault(self._do_cut, node))
                end_ns = self.options.ttl_ns + self.world.between(600 * NS_PER_MS, 2 * self.options.ttl_ns)
                self.world.after(end_ns, self._fault(self._do_heal, node))
                self.world.after(end_ns, self._fault(self._do_recover, node))

    def _do_orphan(self, node: Node) -> None:
        """While no other sees it a holder is cut off and loses its record; then the others read everything anew."""
        if not any(node.holds(lease) for lease in self.leases):
            return
        world, ttl_ns = self.world, self.options.ttl_ns
        others = [name for name in self.nodes if name != node.name]
        world.cut_watch.update(others)

        def strike(_: Node) -> None:
            self._do_cut(node)
            self._do_drop_session(node)
            world.etcd.compact(world.etcd.revision)

        def mend(_: Node) -> None:
            world.cut_watch.difference_update(others)

        struck_ns = world.between(ttl_ns, 3 * ttl_ns)
        mended_ns = struck_ns + world.between(0, ttl_ns // 2)
        for at_ns, do in ((struck_ns, strike), (mended_ns, mend), (struck_ns + 3 * ttl_ns, self._do_heal)):
            world.after(at_ns, self._fault(do, node))

    def _do_reborn(self, node: Node) -> None:
        """A node opens a session, is cut off, and etcd goes back to before it: another may be granted the same id."""
        world, ttl_ns = self.world, self.options.ttl_ns
        other = self.nodes[world.chance.choice([name for name in self.nodes if name != node.name])]
        opened_ns = world.between(100 * NS_PER_MS, 2 * ttl_ns)

        def begin(one: Node) -> None:
            self._do_kill(one)
            self._begin(one)

        def rewind(_: Node) -> None:
            self._do_cut(node)
            self._do_restore(node)
            begin(other)

        self._do_save(node)
        begin(node)
        world.after(opened_ns, self._fault(rewind, node))
        world.after(opened_ns + world.between(ttl_ns // 2, 3 * ttl_ns), self._fault(self._do_heal, node))

    def _do_recover(self, node: Node) -> None:
        for lease in self.leases:
            self._tell_health(node, lease, penalty=0, why="")

    def _do_stop(self, node: Node) -> None:
        node.give(events.StopAsked)

    def _do_freeze(self, node: Node) -> None:
        if node.alive:
            node.freeze(self.world.between(self.options.ttl_ns // 4, 4 * self.options.ttl_ns))

    def _do_cut(self, node: Node) -> None:
        self.world.cut_requests.add(node.name)
        self.world.cut_replies.add(node.name)

    def _do_cut_requests(self, node: Node) -> None:
        self.world.cut_requests.add(node.name)

    def _do_cut_replies(self, node: Node) -> None:
        self.world.cut_replies.add(node.name)

    def _do_cut_watch(self, node: Node) -> None:
        self.world.cut_watch.add(node.name)

    def _do_heal(self, node: Node) -> None:
        for cut in (self.world.cut_requests, self.world.cut_replies, self.world.cut_watch):
            cut.discard(node.name)

    def _do_elect(self, _: Node) -> None:
        self.world.elect()

    def _do_switchover(self, node: Node) -> None:
        lease = self._lease_of_chance()
        token = self._token(lease)
        late_ns = self.world.between(0, 50 * NS_PER_MS)
        self._tokens[lease].append(token)
        self.world.after(late_ns, lambda: self._intend(lease, node.name, token, "order"))

    def _do_stale_intent(self, node: Node) -> None:
        lease = self._lease_of_chance()
        old = [token for token in self._tokens[lease] if token != self._token(lease)]
        token = self.world.chance.choice(old) if old else 1
        self._intend(lease, node.name, token, "stale")

    def _token(self, lease: str) -> int:
        kv = self.world.etcd.keys.get(records.claim_key(lease))
        return kv.mod if kv is not None else 0

    def _do_ttl(self, node: Node) -> None:
        ttl_ns = (
            self.options.ttl_ns * self.world.chance.choice((1, 1, 2, 3)) // self.world.chance.choice((1, 2))
        )
        node.give(lambda at: events.TtlChanged(at, ttl_ns))

    def _do_health(self, node: Node) -> None:
        lease = self._lease_of_chance()
        why = self.world.chance.choice(("", "gateway gone"))
        self._tell_health(node, lease, penalty=self.world.chance.choice((0, -15, -60)), why=why)

    def _tell_health(self, node: Node, lease: str, *, penalty: int, why: str) -> None:
        def told(at: Instant) -> events.Event:
            if bool(node.state.leases[lease].ineligible) != bool(why):
                self.world.history.add(self.world.now_ns, "well", node.name, lease, not why)
            return events.HealthChanged(at, lease, penalty, why)

        node.give(told)

    def _do_copies(self, node: Node) -> None:
        lease = self._lease_of_chance()
        if node.holds(lease):
            chosen = [store for store in self.stores.values() if self.world.chance.random() < 0.6]
            self._streams(node, lease, frozenset((*chosen, self.stores[node.name])))

    def _streams(self, node: Node, lease: str, stores: frozenset[str]) -> None:
        """The replication of a holder streams to these from now on; a new one was brought up to date first."""
        before = node.state.leases[lease].wanted or frozenset()
        for store in sorted(stores - before):
            self.world.history.add(self.world.now_ns, "copied", lease, store)
        node.give(lambda at: events.CopiesReported(at, lease, stores))

    def _do_wipe(self, node: Node) -> None:
        """Its disk is replaced, once a run: another store under the same name, and nothing on it."""
        if any(store.endswith("+") for store in self.stores.values()):
            return
        if node.alive:
            node.kill()
        self.stores[node.name] += "+"
        self.world.after(self.world.between(0, self.options.ttl_ns), self._starter(node))

    def _do_unkeep(self, node: Node) -> None:
        self.world.unkept.add(node.name)

    def _do_drop_session(self, node: Node) -> None:
        if node.state.session.id:
            self.world.etcd.write((Delete(records.session_key(node.state.session.id)),))

    def _do_drop_claim(self, _: Node) -> None:
        self.world.etcd.write((Delete(records.claim_key(self._lease_of_chance())),))

    def _do_revoke(self, node: Node) -> None:
        self.world.etcd.revoke(node.state.session.id)

    def _do_compact(self, _: Node) -> None:
        self.world.etcd.compact(self.world.etcd.revision - self.world.between(0, 3))

    def _do_remove_vip(self, node: Node) -> None:
        node.vanish(self._lease_of_chance(), "removed by hand")

    def _do_save(self, _: Node) -> None:
        self._saved = self.world.etcd.save()

    def _do_restore(self, _: Node) -> None:
        if self._saved is not None:
            self.world.etcd.restore(self._saved, self.world.now_ns)
            if self.options.reuse_sessions:
                self.world.etcd.next_lease = self._saved.next_lease
            self.world.history.add(self.world.now_ns, "restored", self._saved.revision)


def run_seed(seed: int, profile: str = "") -> Result:
    """The run of a seed: always the same. Garbage is collected once, after it: looking for it costs a tenth."""
    gc.disable()
    try:
        return Run(drawn(seed, profile)).run()
    finally:
        gc.enable()
        gc.collect()
