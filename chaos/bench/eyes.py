"""The instruments of one run: those of the lab, and some that see the fault from its inner side."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Final, Self

from chaos.bench.scenarios import INSIDE
from chaos.bench.systems import FIRST
from leaseha.lab import instruments, timeline
from leaseha.lab.instruments import ArpObserver, Prober
from leaseha.lab.lab import Lab

PERIOD_MS: Final = 4.0


class Eyes:
    """A context manager; the lab's own instruments run when it is entered.

    *Outside* are the lab's: the client (1 ms), the observer that asks each node by its MAC and by ARP (4 ms each).
    *Inside* asks the same from a host on the preferred node's side of any partition. *Local* is a process on the
    preferred node, which asks the VIP as any other program there would.
    """

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._stack = contextlib.ExitStack()
        self._inside: tuple[Prober | ArpObserver, ...] = ()
        self._local: tuple[Prober, ...] = ()

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _start(self) -> None:
        lab, names = self._lab, list(self._lab.node_names)
        lab.measure()
        host, nodes, folder = lab.host(INSIDE), [lab.host(name) for name in names], lab.directory
        asker = instruments.start_prober(
            host, [lab.vip], names, folder / "inside.log", PERIOD_MS, direct=nodes
        )
        self._stack.callback(asker.stop)
        arp = instruments.start_arp_observer(host, [lab.vip], nodes, folder / "inside-arp.log", PERIOD_MS)
        self._stack.callback(arp.stop)
        local = instruments.start_prober(lab.host(FIRST), [lab.vip], names, folder / "local.log", PERIOD_MS)
        self._stack.callback(local.stop)
        self._inside, self._local = (asker, arp), (local,)
        for one in (*self._inside, *self._local):
            one.wait_ready()

    @property
    def _outside(self) -> tuple[Prober | ArpObserver, ...]:
        return self._lab.prober, self._lab.direct, self._lab.arp

    def settle(self) -> int:
        """Until all have noted what happened before this call; its instant in ns."""
        now_ns = self._lab.settle()
        for one in (*self._inside, *self._local):
            one.settle(now_ns)
        return now_ns

    def answering_ms(self, start_ns: int, end_ns: int) -> tuple[float, float, float]:
        """Two nodes answering by what is seen outside, also inside, also locally: each at least the one before."""
        seen: tuple[Prober | ArpObserver, ...] = ()
        found = []
        for more in (self._outside, self._inside, self._local):
            seen += more
            found.append(timeline.total_ms(instruments.two_answering(seen, start_ns, end_ns)))
        return found[0], found[1], found[2]

    def occasions(self, start_ns: int, end_ns: int) -> int:
        """On which two nodes answered, by all that is seen."""
        everything: Iterable[Prober | ArpObserver] = (*self._outside, *self._inside, *self._local)
        return len(instruments.two_answering(everything, start_ns, end_ns))
