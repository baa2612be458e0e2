"""Announcements of one lease, repeated until a neighbour has confirmed that it sees its VIPs here, and a while longer.

The holder asks in the name of the VIP: the gateway of the link, and the addresses of the other nodes that live. Their
answers say what is in their caches (leaseha.adapters.answers). Nothing waits for them: a move is over without.

What it does not promise: that every client believes the same; there are networks where nobody can be asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from leaseha.adapters import clock
from leaseha.core.values import NS_PER_MS, Instant

if TYPE_CHECKING:
    from leaseha.adapters.announce import Announcer
    from leaseha.adapters.rtnl import IPAddress

AGAIN_S: Final = (0.05, 0.2, 1.0, 3.0, 8.0)
"""When announcements are repeated after the first burst, s: a single one lost cost others minutes."""
SELDOM_S: Final = (12.0, 20.0, 30.0, 45.0, 60.0)
"""The same for as long as nobody of those who were asked has confirmed them; at the first of these that is said."""
WITNESSES_MOST: Final = 4
"""So many are asked about one VIP."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of it: `by` the last witness that was needed (None: nobody has confirmed it)."""

    lease: str
    trace: str
    since: Instant
    """The VIPs were bound, or announced again."""
    at: Instant
    by: IPAddress | None
    asked: tuple[IPAddress, ...]


class Proof:
    """Of one lease. `witnesses()` are those to ask now, the best first; `tell` hears a verdict: once *proven*, or once
    *not proven*, and *proven* later perhaps.
    """

    def __init__(
        self,
        lease: str,
        vips: Sequence[IPAddress],
        announcer: Announcer,
        witnesses: Callable[[], Sequence[IPAddress]],
        tell: Callable[[Verdict], None],
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._lease = lease
        self._vips = tuple(vips)
        self._announcer = announcer
        self._witnesses = witnesses
        self._tell = tell
        self._pause = pause
        self._trace = ""
        self._since: Instant | None = None
        self._asked: dict[IPAddress, set[IPAddress]] = {}
        self._confirmed: dict[IPAddress, IPAddress] = {}
        self._verdict: Verdict | None = None

    async def run(self, trace: str, since: Instant | None, deadline: Callable[[], Instant | None]) -> None:
        """Ask at once, then announce and ask again, until cancelled or done; `deadline` as for `Announcer.announce`.

        Raises `AnnounceError` when nothing at all could be sent.
        """
        self._trace, self._since = trace, since or clock.now()
        self._asked, self._confirmed, self._verdict = {}, {}, None
        elapsed_s = 0.0
        for at_s in (0.0, *AGAIN_S, *SELDOM_S):
            await self._pause(at_s - elapsed_s)
            elapsed_s = at_s
            if at_s > AGAIN_S[-1]:
                if self._proven or not self._asked:
                    return
                if at_s == SELDOM_S[0]:
                    self._conclude(None)
            if at_s and (await self._announcer.burst(self._vips, deadline)).late:
                return
            await self._ask(deadline)

    def answered(self, vip: IPAddress, witness: IPAddress) -> None:
        """This witness answered to a question in the name of this VIP, which we may have asked."""
        if vip in self._confirmed or witness not in self._asked.get(vip, ()):
            return
        self._confirmed[vip] = witness
        if self._proven:
            self._conclude(witness)

    def told(self) -> dict[str, Any] | None:
        """For `status`; None: not announced by this program."""
        if self._since is None:
            return None
        verdict = self._verdict
        proven = verdict is not None and verdict.by is not None
        took_ms = round(-verdict.since.left_ns(verdict.at) / NS_PER_MS, 1) if verdict and proven else None
        return {
            "proven": proven,
            "by": str(verdict.by) if verdict and proven else None,
            "after_ms": took_ms,
            "asked": [str(one) for one in self._all_asked()],
            "nobody_to_ask": [str(vip) for vip in self._vips if vip not in self._asked],
        }

    @property
    def _proven(self) -> bool:
        """Every VIP about which somebody could be asked is confirmed."""
        return bool(self._asked) and self._asked.keys() == self._confirmed.keys()

    def _all_asked(self) -> tuple[IPAddress, ...]:
        return tuple(dict.fromkeys(one for asked in self._asked.values() for one in sorted(asked, key=str)))

    def _conclude(self, by: IPAddress | None) -> None:
        if self._since is not None:
            at = clock.now()
            self._verdict = Verdict(self._lease, self._trace, self._since, at, by, self._all_asked())
            self._tell(self._verdict)

    async def _ask(self, deadline: Callable[[], Instant | None]) -> None:
        open_vips = [vip for vip in self._vips if vip not in self._confirmed]
        if not open_vips:
            return
        witnesses = self._witnesses()
        asked = [
            (vip, one)
            for vip in open_vips
            for one in [one for one in witnesses if one.version == vip.version][:WITNESSES_MOST]
        ]
        for vip, one in asked:
            self._asked.setdefault(vip, set()).add(one)
        if asked:
            await self._announcer.ask(asked, deadline)
