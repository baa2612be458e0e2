"""etcd's client, made from the configuration, and what the executor needs of it beside."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from leaseha.adapters.etcd import EtcdClient, Tls, User, WatchBatch, WatchNews, WatchReread
from leaseha.config import Config, read_password
from leaseha.core.events import Change
from leaseha.core.values import Head, KeyValue, Outcome, Txn, Unknown
from leaseha.errors import OperationalError
from leaseha.runtime.reach import Reach

CLOSE_S: Final = 1.0
"""How long the end may take to revoke what is still held."""
_Answer = TypeVar("_Answer")


def make_client(config: Config) -> EtcdClient:
    """A client for the cluster's keys; nothing is sent yet. Raises `StoreError` for unreadable certificates."""
    etcd = config.etcd
    tls = Tls(etcd.ca, etcd.cert, etcd.key) if etcd.tls and etcd.ca is not None else None
    user = None
    if etcd.user is not None and etcd.password_file is not None:
        user = User(etcd.user, read_password(etcd.password_file))
    return EtcdClient([str(endpoint) for endpoint in etcd.endpoints], config.key_prefix, tls=tls, user=user)


class EtcdStore:
    """The executor's store: calls pass through; the watch and the keepalives run beside, one task each."""

    def __init__(self, client: EtcdClient, reach: Reach) -> None:
        self.client = client
        self._reach = reach
        self._watching: asyncio.Task[None] | None = None
        self._keeping: dict[int, asyncio.Task[None]] = {}
        self._revoking: set[asyncio.Task[None]] = set()
        self.noticed: Callable[[tuple[Change, ...]], None] = lambda _: None
        """Also hears each batch of changes; must be quick."""

    async def commit(self, txn: Txn, attempt: int, timeout_ns: int) -> Outcome:
        """Send once."""
        outcome = await self.client.commit(txn, attempt, timeout_ns)
        if isinstance(outcome, Unknown):
            self._reach.failed(outcome.why)
        else:
            self._reach.answered()
        return outcome

    async def read_all(self, timeout_s: float) -> tuple[Head, tuple[KeyValue, ...]]:
        """Everything under the prefix, linearizable. Raises `StoreError`."""
        return await self._asked(self.client.read_all(timeout_s))

    async def grant(self, ttl_s: int, timeout_s: float) -> int:
        """A fresh etcd lease. Raises `StoreError`."""
        return await self._asked(self.client.grant(ttl_s, timeout_s))

    def keep_alive(self, session: int, every_s: float, doubted: Callable[[int], None]) -> None:
        """Keep an etcd lease alive until `release`."""
        work = self.client.keep_alive(session, every_s, doubted)
        self._keeping[session] = asyncio.get_running_loop().create_task(work)

    def release(self, session: int) -> None:
        """Keep it alive no more, and revoke it, best effort."""
        keeping = self._keeping.pop(session, None)
        if keeping is not None:
            keeping.cancel()
        revoking = asyncio.get_running_loop().create_task(self._revoke(session))
        self._revoking.add(revoking)
        revoking.add_done_callback(self._revoking.discard)

    def watch(
        self,
        from_revision: int,
        changed: Callable[[Head, tuple[Change, ...]], None],
        reread: Callable[[Head, tuple[KeyValue, ...]], None],
    ) -> None:
        """Watch the prefix from a revision on, instead of what was watched before."""

        def hand_on(news: WatchNews) -> None:
            if isinstance(news, WatchBatch):
                changed(news.head, news.changes)
                self.noticed(news.changes)
            elif isinstance(news, WatchReread):
                reread(news.head, news.keys)

        if self._watching is not None:
            self._watching.cancel()
        work = self.client.watch(from_revision, hand_on)
        self._watching = asyncio.get_running_loop().create_task(work)

    async def close(self) -> None:
        """Let revocations under way finish, bounded; then end everything."""
        if self._revoking:
            await asyncio.wait(self._revoking, timeout=CLOSE_S)
        for task in (self._watching, *self._keeping.values()):
            if task is not None:
                task.cancel()
        await self.client.close()

    async def _asked(self, asking: Awaitable[_Answer]) -> _Answer:
        try:
            answer = await asking
        except OperationalError as error:
            self._reach.failed(str(error))
            raise
        self._reach.answered()
        return answer

    async def _revoke(self, session: int) -> None:
        await self.client.revoke(session, CLOSE_S)
