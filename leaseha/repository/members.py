"""Whose confirmation counts: the agent's word about the in-sync set, and what this process has asked it for.

Required is every store that may be in the set now, or may come into it by what was asked for: a store counts from
the moment that it is asked in, and until the agent says that it is out. Words cross on the way; a `wants` carries a
number, which comes back with the first `members` that took it into account.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from leaseha.repository.tokens import Mark

_LOOK_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class PeerAddress:
    """Where another node's process for this lease listens. `alive` False: its node is known to be dead."""

    store: str
    node: str
    host: str
    port: int
    alive: bool = True


@dataclass(frozen=True, slots=True)
class Members:
    """What the agent says. `insync`: the union of what may be the set now, the own store included or not."""

    own: str
    insync: frozenset[str]
    peers: tuple[PeerAddress, ...] = ()
    min_copies: int = 1
    wants: int = 0
    """Number of the last `wants` that this takes into account (its change is in `insync`, or was undone); 0: none."""

    def message(self) -> dict[str, Any]:
        """For the wire between agent and child."""
        return {**asdict(self), "insync": sorted(self.insync), "peers": [asdict(one) for one in self.peers]}


def read_members(message: Mapping[str, Any]) -> Members:
    """Raises KeyError, TypeError."""
    return Members(
        own=message["own"],
        insync=frozenset(message["insync"]),
        peers=tuple(
            PeerAddress(one["store"], one["node"], one["host"], one["port"], bool(one.get("alive", True)))
            for one in message["peers"]
        ),
        min_copies=message.get("min_copies", 1),
        wants=message.get("wants", 0),
    )


NOBODY: Final = Members("", frozenset())
Tell = Callable[[frozenset[str], str, int], None]
"""Takes (stores, why, number) to the agent; from any thread, never waits."""


class Membership:
    """The required set of one process. Used by many threads."""

    def __init__(self, own: str, tell: Tell) -> None:
        self._own = own
        self._tell = tell
        self._changed = threading.Condition()
        self._members = NOBODY
        self._asked: dict[int, frozenset[str]] = {}
        """What was asked for and may still come true, by number; the last one always."""
        self._tenure: Mark | None = None

    @property
    def members(self) -> Members:
        """The agent's last word."""
        return self._members

    def hear(self, members: Members) -> None:
        """The agent's word."""
        with self._changed:
            self._members = members
            last = max(self._asked, default=0)
            for number in [one for one in self._asked if one < members.wants and one != last]:
                del self._asked[number]
            self._changed.notify_all()

    @property
    def tenure(self) -> Mark | None:
        """Under which is asked now; exact in `tell`, which is called with the lock held."""
        return self._tenure

    def begin(self, mark: Mark) -> None:
        """A new tenure: what was asked for under another token cannot come true any more (T13 compares it)."""
        with self._changed:
            if mark != self._tenure:
                self._tenure = mark
                self._asked.clear()

    def required(self) -> frozenset[str]:
        """Every other store that must have what is acknowledged."""
        with self._changed:
            return self._required()

    def _required(self) -> frozenset[str]:
        return self._members.insync.union(*self._asked.values()) - {self._own}

    def _target(self) -> frozenset[str]:
        asked = self._asked[max(self._asked)] if self._asked else self._members.insync
        return asked | {self._own}

    def target(self) -> frozenset[str]:
        """The set as it will be once all that was asked for is done; the own store included."""
        with self._changed:
            return self._target()

    def drop(self, stores: Iterable[str], why: str) -> None:
        """Ask for the set without these. They count until the agent says otherwise."""
        self._ask(lambda target: target - frozenset(stores), why)

    def add(self, store: str, why: str) -> None:
        """Ask for the set with this one too. It counts from now on."""
        self._ask(lambda target: target | {store}, why)

    def _ask(self, change: Callable[[frozenset[str]], frozenset[str]], why: str) -> None:
        with self._changed:
            target = self._target()
            stores = change(target) | {self._own}
            if stores == target:
                return
            number = max(time.monotonic_ns(), max(self._asked, default=0) + 1)
            self._asked[number] = stores
            self._tell(stores, why, number)
            self._changed.notify_all()

    def wait_until(
        self, fact: Callable[[frozenset[str]], bool], timeout_s: float, check: Callable[[], None]
    ) -> bool:
        """Wait until `fact(required)`. False: not in time. Raises what `check`, asked now and then, raises.

        `fact` is asked with the lock held and must not wait.
        """
        until = time.monotonic() + timeout_s
        with self._changed:
            while not fact(self._required()):
                left_s = until - time.monotonic()
                if left_s <= 0:
                    return False
                check()
                self._changed.wait(min(left_s, _LOOK_S))
            return True
