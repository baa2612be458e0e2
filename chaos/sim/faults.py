"""Faults and orders of a run, one a method: what befalls a node, and when."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

from chaos.sim import accepting, guard, reloads
from chaos.sim.etcd import Saved
from chaos.sim.node import Node
from leaseha.core import events, records
from leaseha.core.records import IntentRecord, Kind
from leaseha.core.values import NS_PER_MS, NS_PER_S, Delete, Instant, Put

if TYPE_CHECKING:
    from chaos.sim.run import Run


class Faults:
    """Of one run."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self.world, self.options = run.world, run.options
        self.leases, self.nodes, self.stores = run.leases, run.nodes, run.stores
        self._saved: Saved | None = None
        self._tokens: dict[str, list[int]] = {lease: [] for lease in self.leases}

    def starter(self, node: Node) -> Callable[[], None]:
        """Starts a node, if it is not running then."""

        def start() -> None:
            if not node.alive:
                self.begin(node)

        return start

    def begin(self, node: Node) -> None:
        """A new process."""
        self.world.history.add(self.world.now_ns, "registered", node.name)
        node.start()

    def plan(self) -> None:
        """When each happens."""
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
            holder.freeze(self._run.convergence_ns())
        else:
            getattr(self, f"_do_{way}")(holder)

    def _fault(self, do: Callable[[Node], None], node: Node) -> Callable[[], None]:
        def happen() -> None:
            if not self.world.healed:
                do(node)

        return happen

    def _what(self, fault: str) -> Callable[[Node], None]:
        for others in (guard.FAULTS, reloads.FAULTS, accepting.FAULTS):
            if fault in others:
                return others[fault]
        do: Callable[[Node], None] = getattr(self, f"_do_{fault}")
        return do

    def _lease_of_chance(self) -> str:
        return self.world.chance.choice(self.leases)

    def _do_kill(self, node: Node) -> None:
        if node.alive:
            node.kill()

    def _do_restart(self, node: Node) -> None:
        if not node.alive or node.stopped:
            node.alive = False
            self.begin(node)

    def _do_hard_release(self, node: Node) -> None:
        """A holder lets go, is cut off meanwhile for longer than its ttl, and is well again."""
        for lease in self.leases:
            if node.holds(lease):
                if self.options.hard_breaks:  # no target is chosen then: *free* is written
                    node.give(functools.partial(events.ResourceFailed, lease=lease, detail="broken"))
                else:
                    self.tell_health(node, lease, penalty=0, why="gateway gone")
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
            self.begin(one)

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
            self.tell_health(node, lease, penalty=0, why="")

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
        self.world.after(late_ns, lambda: self.intend(lease, node.name, token, "order"))

    def _do_stale_intent(self, node: Node) -> None:
        lease = self._lease_of_chance()
        old = [token for token in self._tokens[lease] if token != self._token(lease)]
        token = self.world.chance.choice(old) if old else 1
        self.intend(lease, node.name, token, "stale")

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
        self.tell_health(node, lease, penalty=self.world.chance.choice((0, -15, -60)), why=why)

    def tell_health(self, node: Node, lease: str, *, penalty: int, why: str) -> None:
        """Its checks find a lease to be well (`why` is empty) or not."""

        def told(at: Instant) -> events.Event:
            if bool(node.state.leases[lease].ineligible) != bool(why):
                self.world.history.add(self.world.now_ns, "well", node.name, lease, not why)
            return events.HealthChanged(at, lease, penalty, why)

        node.give(told)

    def _do_copies(self, node: Node) -> None:
        lease = self._lease_of_chance()
        if node.holds(lease):
            chosen = [store for store in self.stores.values() if self.world.chance.random() < 0.6]
            self.streams(node, lease, frozenset((*chosen, self.stores[node.name])))

    def streams(self, node: Node, lease: str, stores: frozenset[str]) -> None:
        """The replication of a holder streams to these from now on; a new one was brought up to date first."""
        node.service.copies.stream(lease, stores)

    def _do_wipe(self, node: Node) -> None:
        """Its disk is replaced, once a run: another store under the same name, and nothing on it."""
        if any(store.endswith("+") for store in self.stores.values()):
            return
        if node.alive:
            node.kill()
        self.stores[node.name] += "+"
        self.world.after(self.world.between(0, self.options.ttl_ns), self.starter(node))

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

    def intend(self, lease: str, target: str, token: int, reason: str) -> None:
        """An operator's order to switch over."""
        intent = IntentRecord(Kind.SWITCHOVER, "operator", token, target, reason)
        self.world.etcd.write((Put(records.intent_key(lease), records.encode(intent)),))
