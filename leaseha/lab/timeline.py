"""From instants to what they mean: gaps, who was there when, and when two were. Pure.

Each definition errs on the strict side: a gap is never shorter, an overlap never shorter than it was.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

MS = 1_000_000


class Span(NamedTuple):
    """From `start_ns` to `end_ns`, both included."""

    start_ns: int
    end_ns: int

    @property
    def ms(self) -> float:
        """Its length."""
        return (self.end_ns - self.start_ns) / MS


@dataclass(frozen=True, slots=True)
class Overlap:
    """Two (or more) at the same time. It may have no length: one answer between two of another host."""

    start_ns: int
    end_ns: int
    who: tuple[str, ...]

    @property
    def ms(self) -> float:
        """Its length."""
        return (self.end_ns - self.start_ns) / MS


@dataclass(frozen=True, slots=True)
class Holding:
    """`who` answered (or had the address), alone or not, from the first to the last instant of this run."""

    who: str
    start_ns: int
    end_ns: int


def clip(spans: Iterable[Span], start_ns: int, end_ns: int) -> list[Span]:
    """The parts inside the window."""
    cut = (Span(max(one.start_ns, start_ns), min(one.end_ns, end_ns)) for one in spans)
    return [one for one in cut if one.start_ns <= one.end_ns]


def gaps(sent_ns: Sequence[int], answered_ns: Sequence[int]) -> list[Span]:
    """Silences in which a client waited in vain: between two answers that follow each other, where at least
    two probes were sent (so that the first one was lost or late). From last answer to first answer. Sorted
    input. A silence at the beginning or end, with two probes sent in it, is a gap from or to that probe.

    A prober that was itself late sent nothing meanwhile, and so makes no gap.
    """
    if not sent_ns:
        return []
    first = min([sent_ns[0], *answered_ns[:1]])
    last = max([sent_ns[-1], *answered_ns[-1:]])
    edges = [first, *answered_ns, last]
    found = []
    for before, after in pairwise(edges):
        sent = bisect.bisect_left(sent_ns, after) - bisect.bisect_left(sent_ns, before)
        at_end = after == sent_ns[-1] and (not answered_ns or answered_ns[-1] < after)
        if sent + at_end >= 2:
            found.append(Span(before, after))
    return found


def runs(instants_ns: Sequence[int], hole_ns: int) -> list[Span]:
    """Sorted instants joined to spans wherever two are at most `hole_ns` apart."""
    found: list[Span] = []
    for at in instants_ns:
        if found and at - found[-1].end_ns <= hole_ns:
            found[-1] = Span(found[-1].start_ns, at)
        else:
            found.append(Span(at, at))
    return found


def overlaps(present: Mapping[str, Sequence[Span]]) -> list[Overlap]:
    """When more than one was present. Spans of one name are sorted and apart."""
    edges: list[tuple[int, int, str]] = []
    for who, spans in present.items():
        for span in spans:
            edges += [(span.start_ns, 0, who), (span.end_ns, 1, who)]
    there: set[str] = set()
    found: list[Overlap] = []
    since = 0
    # At the same instant starts come before ends: touching counts.
    for at, is_end, who in sorted(edges):
        if len(there) >= 2:
            both = tuple(sorted(there))
            if found and found[-1].end_ns == since and found[-1].who == both:
                found[-1] = Overlap(found[-1].start_ns, at, both)
            elif at > since or is_end:
                found.append(Overlap(since, at, both))
        since = at
        if is_end:
            there.discard(who)
        else:
            there.add(who)
    return found


def total_ms(spans: Iterable[Span] | Iterable[Overlap]) -> float:
    """Lengths added up; overlaps of a sweep are apart by construction."""
    return sum(one.ms for one in spans)
