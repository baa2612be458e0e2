"""The users of repositories: read from etcd, and told to each repository's process.

The watch of the cluster's keys, which runs anyway, says that something changed below `users/`; then all of them are
read, and told in pieces that leave the channel free for deadlines. Nothing waits for any of it: a process that has
not been told answers 503.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from typing import Final, Protocol

from leaseha.config import DoorConfig
from leaseha.core.events import Change
from leaseha.core.values import NS_PER_S, Head, KeyValue
from leaseha.errors import RepositoryError, StoreError
from leaseha.repository.control import RepositoryProcess
from leaseha.repository.door import DoorOptions
from leaseha.runtime.stores import EtcdStore

FOLDER: Final = "users/"
READ_S: Final = 5.0
ANYWAY_S: Final = 60.0
"""How often the users are read without a sign of change."""
SETTLE_S: Final = 0.1
"""An import changes many, one after the other."""
AGAIN_S: Final = 1.0
LONGEST: Final = 300
"""Characters of a name or a value; real ones have half of that at most."""

_log = logging.getLogger("leaseha.repository")
Users = tuple[tuple[str, str], ...]


class Reader(Protocol):
    """The part of etcd's client that is needed."""

    async def read_all(self, timeout_s: float, below: str) -> tuple[Head, tuple[KeyValue, ...]]:
        """All keys below a folder. Raises `StoreError`."""


def _fits(text: str) -> bool:
    """What somebody else wrote there must not make a line too long for the channel."""
    return len(text) <= LONGEST and text.isascii() and text.isprintable()


def options_of(door: DoorConfig) -> DoorOptions:
    """What the repository's process is told of the configuration."""
    return DoorOptions(
        users=door.users,
        private=door.private,
        append_only=door.append_only,
        quota_bytes=door.quota_bytes,
        metrics=door.metrics,
        cert=str(door.cert or ""),
        key=str(door.key or ""),
        trash_days=door.trash_days,
        quarantine_days=door.quarantine_days,
        compare_every_s=door.compare_every_ns / NS_PER_S,
        scrub_rate=door.scrub_rate,
        scrub_every_s=door.scrub_days * 86400.0,
        catch_up_rate=door.catch_up_rate,
    )


class DoorTeller:
    """Tells one repository's process who may do what: after each start, and when that changes."""

    def __init__(self, lease: str, options: DoorOptions, process: RepositoryProcess) -> None:
        self._lease = lease
        self._options = options
        self._process = process
        self._users: Users | None = None
        self._telling: asyncio.Task[None] | None = None
        self._again = self._options_too = False

    @property
    def wants_users(self) -> bool:
        """The configuration asks for passwords."""
        return self._options.users

    def users_are(self, users: Users) -> None:
        """All users there are now."""
        self._users = users
        self.tell_soon()

    def tell_soon(self, *, options: bool = False) -> None:
        """All that is known, in the background; `options`: also what a process hears when it is started."""
        self._again = True
        self._options_too |= options
        if self._telling is None or self._telling.done():
            self._telling = asyncio.get_running_loop().create_task(self._tell(), name="users")

    @staticmethod
    async def feed(store: EtcdStore, doors: Sequence[DoorTeller]) -> None:
        """Keep all of these told, until cancelled."""
        feed = UserFeed(store.client, doors)
        store.noticed = feed.notice
        await feed.run()

    async def _tell(self) -> None:
        while self._again and self._process.running:
            self._again = False
            if self._options_too:
                self._options_too = False
                await self._tell_options()
            if self._users is not None and self._options.users:
                await self._process.tell_users(self._users)

    async def _tell_options(self) -> None:
        with contextlib.suppress(RepositoryError):  # it ended: the next one is started with them
            answer = await self._process.change_door(self._options)
            if not answer.ok:
                _log.error("not applied: %s", answer.why, extra={"leaseha": {"lease": self._lease}})


class UserFeed:
    """Keeps every `DoorTeller` told, until cancelled."""

    def __init__(self, reader: Reader, doors: Sequence[DoorTeller]) -> None:
        self._reader = reader
        self._doors = doors
        self._changed = asyncio.Event()
        self._known: Users | None = None

    def notice(self, changes: Sequence[Change]) -> None:
        """What the watch tells; quick, since renewals wait behind it."""
        if any(change.now.key.startswith(FOLDER) for change in changes):
            self._changed.set()

    async def run(self) -> None:
        """Read, tell, wait for a change."""
        while True:
            self._changed.clear()
            try:
                _, keys = await self._reader.read_all(READ_S, FOLDER)
            except StoreError as error:
                _log.debug("users not read: %s", error)
                await asyncio.sleep(AGAIN_S)
                continue
            self._tell(tuple((kv.key, kv.value) for kv in keys if _fits(kv.key) and _fits(kv.value)))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), ANYWAY_S)
                await asyncio.sleep(SETTLE_S)

    def _tell(self, users: Users) -> None:
        if users == self._known:
            return
        _log.info("%d users", len(users))
        self._known = users
        for door in self._doors:
            if door.wants_users:
                door.users_are(users)
