"""The judge: guarantees, checked on a history in true time. Written from the guarantees and section 4 of the design
alone; shares no code and no word with the product but those of the history.

A fact of the history is (at_ns, what, facts); see `Facts` for what is known of each. A checker returns what it
found broken; an empty list is "valid as far as this history goes".
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from chaos.history import Entry

Checker = Callable[[list[Entry], "Bounds"], list["Violation"]]
HOUR_NS: Final = 3600 * 1_000_000_000


@dataclass(frozen=True, slots=True)
class Violation:
    """A broken promise: its name, when, and what was seen."""

    name: str
    at_ns: int
    text: str

    def __str__(self) -> str:
        return f"{self.name} at {self.at_ns / 1e9:.6f} s: {self.text}"


@dataclass(frozen=True, slots=True)
class Bounds:
    """What the run was configured with, as far as the judge needs it."""

    hold_down_ns: int
    flap_budget: int
    drift_ppm: int
    takeover_ns: int = 0
    """G3: bound on a takeover in a run whose only fault is one silent node; 0: not judged."""
    heard_ns: int = 0
    """By then everyone has heard that a node is not well; a lease may go back to it before."""


def one_answers(entries: list[Entry], _: Bounds) -> list[Violation]:
    """G1: at no instant have two nodes the address of a lease where it is answered."""
    present: dict[str, dict[str, int]] = defaultdict(dict)
    found: list[Violation] = []
    for entry in entries:
        if entry.what == "present":
            node, lease = entry.facts
            others = [other for other in present[lease] if other != node]
            if others:
                found.append(
                    Violation("G1 two answer", entry.at_ns, f"{lease}: {node} and {', '.join(others)}")
                )
            present[lease][node] = entry.at_ns
        elif entry.what == "absent":
            node, lease = entry.facts
            present[lease].pop(node, None)
    return found


def announced_by_who_answers(entries: list[Entry], _: Bounds) -> list[Violation]:
    """G1: once another node answers, the one before puts no frame on the wire that announces the address."""
    last: dict[str, str] = {}
    found = []
    for entry in entries:
        if entry.what == "present":
            last[entry.facts[1]] = entry.facts[0]
        elif entry.what == "frame":
            node, lease = entry.facts
            if last.get(lease, node) != node:
                text = f"{node} announced {lease}, which {last[lease]} has taken over"
                found.append(Violation("G1 announced too late", entry.at_ns, text))
    return found


def no_later_than_proven(entries: list[Entry], _: Bounds) -> list[Violation]:
    """G5: nobody means to serve longer than his newest own record in etcd, counted from its sending, allows.

    A late T1 that is applied after the record was deleted by hand puts an older one back. Who reads that waits from
    then on, so it does not shorten what was proven; G1 judges whether two answer.
    """
    newest: dict[int, tuple[int, int]] = {}
    means: dict[tuple[str, str], tuple[int, int]] = {}
    found = []
    for entry in entries:
        if entry.what == "record":
            session, life, sent_ns, ttl_ns = entry.facts[1:5]
            if life == "live" and sent_ns >= newest.get(session, (0, 0))[0]:
                newest[session] = (sent_ns, ttl_ns)
                for (node, lease), (until_ns, under) in means.items():
                    if under == session and until_ns > sent_ns + ttl_ns:
                        found.append(_too_long(entry.at_ns, node, lease, until_ns, sent_ns + ttl_ns))
        elif entry.what == "told":
            node, lease, _, session, until_ns = entry.facts
            means[node, lease] = (until_ns, session)
            sent_ns, ttl_ns = newest.get(session, (0, 0))
            if until_ns > sent_ns + ttl_ns:
                found.append(_too_long(entry.at_ns, node, lease, until_ns, sent_ns + ttl_ns))
        elif entry.what == "absent":
            means.pop(entry.facts, None)
        elif entry.what == "claim" and entry.facts[2] == "free":  # let go of: `free_means_off` judges that
            means = {key: meant for key, meant in means.items() if key[1] != entry.facts[0]}
        elif entry.what == "died":
            means = {key: meant for key, meant in means.items() if key[0] != entry.facts[0]}
    return found


def _too_long(at_ns: int, node: str, lease: str, until_ns: int, bound_ns: int) -> Violation:
    over_ms = (until_ns - bound_ns) / 1e6
    return Violation(
        "G5 longer than proven", at_ns, f"{node} means to serve {lease} {over_ms:.3f} ms too long"
    )


def under_its_claim(entries: list[Entry], _: Bounds) -> list[Violation]:
    """G6: a lease is served under a claim that was written, that names the session, and by its `mod` as token.

    What was proven before etcd was put back counts for one ttl more: nobody can know yet.
    """
    claims: dict[tuple[str, int], tuple[str, int]] = {}
    before: dict[tuple[str, int], tuple[str, int]] = {}
    ttl_ns = restored_ns = 0
    found = []
    for entry in entries:
        if entry.what == "record":
            ttl_ns = max(ttl_ns, entry.facts[4])
        elif entry.what == "claim":
            lease, mod, hold, session = (entry.facts[at] for at in (0, 1, 2, 4))
            claims[lease, mod] = (hold, session)
        elif entry.what == "restored":
            (revision,) = entry.facts
            before, restored_ns = claims, entry.at_ns
            claims = {key: claim for key, claim in claims.items() if key[1] <= revision}
        elif entry.what == "told":
            node, lease, token, session, until_ns = entry.facts
            hold, named = claims.get((lease, token), ("", 0))
            if until_ns <= restored_ns + ttl_ns and before.get((lease, token)) == ("held", session):
                continue
            if claims and (hold != "held" or named != session):
                text = f"{node} serves {lease} under token {token} and session {session}: that claim is {hold} {named}"
                found.append(Violation("G6 not its claim", entry.at_ns, text))
    return found


def tokens_grow(entries: list[Entry], _: Bounds) -> list[Violation]:
    """G6: writes are accepted under tokens that never go back."""
    highest: dict[str, int] = defaultdict(int)
    found: list[Violation] = []
    for entry in entries:
        if entry.what == "write":
            node, lease, token = entry.facts
            if token < highest[lease]:
                text = f"{node} accepted a write for {lease} under {token}, after {highest[lease]}"
                found.append(Violation("G6 stale write accepted", entry.at_ns, text))
            highest[lease] = max(highest[lease], token)
        elif entry.what == "restored":
            return found  # revisions begin again lower; what saves G6 then is the epoch that `recover` raises
    return found


def nothing_acknowledged_is_lost(entries: list[Entry], _: Bounds) -> list[Violation]:
    """G2: whoever gets a claim has every object that was acknowledged before."""
    objects: dict[str, int] = defaultdict(int)
    given_up: dict[str, set[int]] = defaultdict(set)
    has: dict[tuple[str, str], set[int]] = defaultdict(set)
    stores: dict[int, str] = {}
    found: list[Violation] = []
    for entry in entries:
        if entry.what == "record":
            session, life, store = entry.facts[1], entry.facts[2], entry.facts[5]
            if life == "live":
                stores[session] = store
        elif entry.what == "ack":
            lease, on = entry.facts
            for store in on:
                has[lease, store].add(objects[lease])
            objects[lease] += 1
        elif entry.what == "copied":
            lease, store = entry.facts
            has[lease, store] = set(range(objects[lease]))
        elif entry.what == "recovered":  # an operator has given up what no store has
            objects[entry.facts[0]] = 0
            given_up[entry.facts[0]].clear()
            has = defaultdict(set, {key: held for key, held in has.items() if key[0] != entry.facts[0]})
        elif entry.what == "accepted":  # and here: what that store has not
            lease, store = entry.facts
            given_up[lease] |= set(range(objects[lease])) - has[lease, store]
        elif entry.what == "restored":
            return found
        elif entry.what == "claim":
            lease, hold, node, session = (entry.facts[at] for at in (0, 2, 3, 4))
            lacks = len(set(range(objects[lease])) - has[lease, stores.get(session, "")] - given_up[lease])
            if hold == "held" and lacks:
                text = f"{node} holds {lease} and lacks {lacks} acknowledged objects"
                found.append(Violation("G2 acknowledged object lost", entry.at_ns, text))
    return found


def free_means_off(entries: list[Entry], _: Bounds) -> list[Violation]:
    """Section 4: *free*, and a claim handed to another, are written only when the writer's address is off.

    Off means: neither answered for nor bound, as far as the history tells the two apart.
    """
    present: set[tuple[str, str]] = set()
    bound: set[tuple[str, str]] = set()
    found = []
    for entry in entries:
        if entry.what == "present":
            present.add(entry.facts)
        elif entry.what == "absent":
            present.discard(entry.facts)
        elif entry.what == "bound":
            bound.add(entry.facts)
        elif entry.what == "unbound":
            bound.discard(entry.facts)
        elif entry.what == "claim":
            lease, hold, node, kind, giver = (entry.facts[at] for at in (0, 2, 3, 5, 7))
            given = hold == "free" or (
                hold == "held" and kind in ("switchover", "failback") and node != giver
            )
            if given and (giver, lease) in present | bound:
                text = f"{giver} let go of {lease} with its address still on"
                found.append(Violation("let go while answering", entry.at_ns, text))
    return found


def orders_are_current(entries: list[Entry], _: Bounds) -> list[Violation]:
    """Section 4.1: an intent against an older token is not obeyed."""
    return [
        Violation(
            "stale intent obeyed", entry.at_ns, f"{entry.facts[0]} went to {entry.facts[3]}: {entry.facts[6]}"
        )
        for entry in entries
        if entry.what == "claim" and "stale" in entry.facts[6]
    ]


def _is_failback(entry: Entry) -> bool:
    return (
        entry.what == "claim"
        and entry.facts[2] == "held"
        and entry.facts[5] == "failback"
        and not entry.facts[6].startswith("session")  # the same holder's claim, written anew
    )


def held_down(entries: list[Entry], bounds: Bounds) -> list[Violation]:
    """G8: no failback before its target was well for the hold-down, on end."""
    since: dict[str, int] = {}
    well_since: dict[tuple[str, str], tuple[int, int]] = {}
    ill_since: dict[tuple[str, str], int] = {}
    least_ns = bounds.hold_down_ns * (1_000_000 - 2 * bounds.drift_ppm) // 1_000_000
    found = []
    for entry in entries:
        at_ns = entry.at_ns
        if entry.what == "registered":
            since[entry.facts[0]] = at_ns
            for known in (well_since, ill_since):
                for key in [key for key in known if key[0] == entry.facts[0]]:
                    del known[key]
        elif entry.what == "well":
            node, lease, well = entry.facts
            if not well:
                ill_since.setdefault((node, lease), at_ns)
            elif (ill_ns := ill_since.pop((node, lease), None)) is not None:
                well_since[node, lease] = (ill_ns, at_ns)
        elif _is_failback(entry):
            lease, node = entry.facts[0], entry.facts[3]
            ill_ns, well_ns = well_since.get((node, lease), (0, 0))
            if (
                at_ns - ill_ns <= bounds.heard_ns
            ):  # an intent of before may have been obeyed by who had not heard
                well_ns = 0
            waited_ns = at_ns - max(since.get(node, 0), well_ns)
            if at_ns - ill_since.get((node, lease), at_ns) > bounds.heard_ns:
                found.append(Violation("G8 back to an ill node", at_ns, f"{lease} back to {node}"))
            if waited_ns < least_ns:
                text = f"{lease} back to {node} {waited_ns / 1e6:.0f} ms after it came"
                found.append(Violation("G8 hold-down skipped", at_ns, text))
    return found


def within_budget(entries: list[Entry], bounds: Bounds) -> list[Violation]:
    """G8: failbacks of a lease within its flap budget.

    A failback whose claim was deleted by hand before its target answered was none: no trace of it is left to count.
    """
    moves: dict[str, list[int]] = defaultdict(list)
    unserved: dict[str, str] = {}
    found = []
    for entry in entries:
        at_ns = entry.at_ns
        if entry.what == "restored":
            unserved.clear()
            moves.clear()  # the history that counted them is gone with everything after the snapshot
        elif entry.what == "present":
            unserved.pop(entry.facts[1], None)
        elif _is_failback(entry):
            lease = entry.facts[0]
            moves[lease].append(at_ns)
            unserved[lease] = entry.facts[3]
            recent = [t for t in moves[lease] if t > at_ns - HOUR_NS]
            if len(recent) > bounds.flap_budget:
                text = f"{lease}: {len(recent)} failbacks within an hour"
                found.append(Violation("G8 flap budget", at_ns, text))
        elif entry.what == "claim" and unserved.pop(entry.facts[0], "") and entry.facts[2] == "absent":
            moves[entry.facts[0]].pop()
    return found


def bounded_takeover(entries: list[Entry], bounds: Bounds) -> list[Violation]:
    """G3: when a holder falls silent for good, another has the address within the bound of its last own record.

    The moment that counts is when that record was sent; a node that never wrote one counts from its silence.
    """
    if not bounds.takeover_ns:
        return []
    present: dict[str, str] = {}
    sent: dict[str, int] = {}
    waiting: dict[str, tuple[int, str]] = {}
    found = []
    for entry in entries:
        if entry.what == "record" and entry.facts[2] == "live":
            sent[entry.facts[0]] = entry.facts[3]
        elif entry.what == "present":
            node, lease = entry.facts
            present[lease] = node
            silent_ns, silent = waiting.get(lease, (0, ""))
            if silent and node != silent:
                del waiting[lease]
                took_ns = entry.at_ns - sent.get(silent, silent_ns)
                if took_ns > bounds.takeover_ns:
                    text = f"{lease}: {took_ns / 1e6:.0f} ms, bound {bounds.takeover_ns / 1e6:.0f} ms"
                    found.append(Violation("G3 late takeover", entry.at_ns, text))
        elif entry.what == "absent" and present.get(entry.facts[1]) == entry.facts[0]:
            del present[entry.facts[1]]
        elif entry.what in ("died", "silent"):
            for lease, node in present.items():
                if node == entry.facts[0]:
                    waiting.setdefault(lease, (entry.at_ns, node))
        elif entry.what == "ended":
            found += [
                Violation("G3 no takeover", entry.at_ns, f"{lease} after {silent} fell silent")
                for lease, (silent_ns, silent) in waiting.items()
                if entry.at_ns - sent.get(silent, silent_ns) > bounds.takeover_ns
            ]
    return found


def converged(entries: list[Entry], _: Bounds) -> list[Violation]:
    """After all faults have ended every lease is held, where it should be, and orders are carried out."""
    return [
        Violation("not healed", entry.at_ns, str(entry.facts[0]))
        for entry in entries
        if entry.what == "unhealed"
    ]


CHECKERS: Final[tuple[Checker, ...]] = (
    one_answers,
    announced_by_who_answers,
    no_later_than_proven,
    under_its_claim,
    tokens_grow,
    nothing_acknowledged_is_lost,
    free_means_off,
    orders_are_current,
    held_down,
    within_budget,
    bounded_takeover,
    converged,
)


def judge(
    entries: Iterable[Entry], bounds: Bounds, only: Mapping[str, bool] | None = None
) -> list[Violation]:
    """All that is broken, in the order of time."""
    listed = list(entries)
    chosen = [checker for checker in CHECKERS if only is None or only.get(checker.__name__, True)]
    found = [violation for checker in chosen for violation in checker(listed, bounds)]
    return sorted(found, key=lambda violation: violation.at_ns)
