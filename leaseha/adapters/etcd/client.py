"""The client of etcd: transactions with three outcomes, hedged reads, leases, the watch.

What it does not promise: that a transaction whose outcome is `Unknown` was not, or will not be, applied. It is
sent once, to one member (see `Token.call` for the only second sending, which is of one that etcd never
looked at). All timeouts are the caller's; nothing here waits without one, except `watch` and `keep_alive`,
which run until they are cancelled.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Final, TypeVar

import tenacity

from leaseha.adapters import clock as machine_clock
from leaseha.adapters.etcd import ask, peers, status, watch, wire
from leaseha.adapters.etcd.auth import Token, User
from leaseha.adapters.etcd.member import Member, Ring, Tls
from leaseha.adapters.etcd.messages import Prefix, head_of, rpc
from leaseha.adapters.etcd.peers import Peer
from leaseha.adapters.etcd.status import MemberStatus
from leaseha.adapters.etcd.verdict import Proof
from leaseha.adapters.etcd.watch import WatchNews
from leaseha.adapters.etcd.wire import CallFailed
from leaseha.core.values import NS_PER_S, Head, Instant, KeyValue, LeaseMissing, Outcome, Txn, Unknown
from leaseha.errors import StoreDenied, StoreError, StoreUnavailable

READ_TIMEOUT_S: Final = 5.0
PAGE_KEYS: Final = 2000
SMALL_PAGE_KEYS: Final = 200
GRANT_PATIENCE_S: Final = 0.3
"""For the first answer to a grant; doubled with each round of all members."""
READS_ANEW: Final = 3
"""How often a paged read starts over because its revision was compacted under it."""
SILENCE_S: Final = 1.0
CLOSE_TIMEOUT_S: Final = 1.0
DRAIN_S: Final = 0.02
"""gRPC tells the end of cancelled calls a little later, and into stderr if their loop is closed by then."""
OLD_CHANNEL_GRACE_S: Final = 2.0

_log = logging.getLogger("leaseha.etcd")
_Answer = TypeVar("_Answer")


class EtcdClient:
    """One cluster's keys in one etcd. Make it inside a running loop; `close` it.

    `endpoints`: `https://host:port` each (`http://` without TLS). `prefix`: `/leaseha/<cluster>/`, under which
    all keys given and returned are relative. `silence_s`: how long a watch may be silent before its member
    must give a sign of life, and then until it is left.
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        prefix: str,
        *,
        tls: Tls | None = None,
        user: User | None = None,
        clock: Callable[[], Instant] = machine_clock.now,
        silence_s: float = SILENCE_S,
    ) -> None:
        self._endpoints = tuple(endpoints)
        self._prefix = Prefix(prefix)
        self._tls = tls
        self._clock = clock
        self._silence_s = silence_s
        self._ring = Ring(self._connect())
        self._token = Token(user, self._members_in_turn, clock)
        self._highest = 0
        self.page_keys = PAGE_KEYS
        """How many keys `read_all` asks for at once."""
        self._denied = ""
        self._tasks: set[asyncio.Task[None]] = set()
        if user is not None:
            self._in_background(self._token.keep())

    # --- start and end ------------------------------------------------------------------------------------

    async def wait_ready(self, timeout_s: float) -> Head:
        """Until one member answers a linearizable read; `timeout_s` and one second more at most.

        Raises:
            StoreUnavailable: none did within `timeout_s`; names each endpoint and its last reason.
            StoreDenied: user, password or permission: no use in waiting.
        """
        retries = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type(StoreUnavailable),
            stop=tenacity.stop_after_delay(timeout_s),
            wait=tenacity.wait_exponential(multiplier=0.05, max=1.0),
            reraise=True,
        )
        try:
            return await retries(self.read_head, timeout_s=min(timeout_s, 1.0))
        except StoreUnavailable:
            text = f"no etcd member answers a read within {timeout_s:g} s: {self._ring.troubles()}"
            raise StoreUnavailable(text) from None

    async def reload_certificates(self) -> None:
        """Read the certificate files again and connect anew; what is under way may finish on the old channels.

        Raises:
            StoreError: a file is missing or damaged; nothing was changed.
        """
        old = self._ring.members
        self._ring.members = self._connect()
        for member in old:
            self._in_background(member.channel.close(OLD_CHANNEL_GRACE_S))

    async def close(self) -> None:
        """End background work and the channels, within a second or so; calls under way end as unknown."""
        for task in self._tasks:
            task.cancel()
        closing = [asyncio.ensure_future(member.channel.close(None)) for member in self._ring.members]
        await asyncio.wait({*closing, *self._tasks}, timeout=CLOSE_TIMEOUT_S)
        await asyncio.sleep(DRAIN_S)

    def _connect(self) -> list[Member]:
        credentials = self._tls.credentials() if self._tls else None
        return [Member(endpoint, credentials) for endpoint in self._endpoints]

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _members_in_turn(self) -> list[Member]:
        return [self._ring.members[index] for index in self._ring.order()]

    # --- transactions -------------------------------------------------------------------------------------

    async def commit(self, txn: Txn, attempt: int, timeout_ns: int) -> Outcome:
        """Send the transaction once. Attempt 0 goes to the member stuck to, a further one to the next.

        Never raises: what proves nothing is `Unknown`, a permission that is missing too (see `denied`).
        """
        sent = self._ring.take(attempt)
        request = self._prefix.txn(txn)
        try:
            answer = await self._token.call(sent.member.kv.Txn, request, timeout_ns / NS_PER_S)
        except CallFailed as error:
            return self._failed(sent, error)
        self._ring.answered(sent)
        self._granted()
        outcome = self._prefix.outcome(txn, answer)
        self._highest = max(self._highest, outcome.head.revision)
        return outcome

    def _failed(self, sent: Any, error: CallFailed) -> Outcome:
        proof = error.verdict.proof
        if proof is Proof.LEASE_MISSING:
            self._ring.answered(sent)
            return LeaseMissing()
        if proof is Proof.DENIED and self._denied != str(error):
            self._denied = str(error)
            _log.error("etcd refuses transactions: %s", error)
        self._ring.failed(sent, str(error))
        return Unknown(f"{sent.member.endpoint}: {error}")

    def _granted(self) -> None:
        if self._denied:
            _log.info("etcd accepts transactions again")
            self._denied = ""

    @property
    def denied(self) -> str:
        """Why etcd refuses transactions on principle (user, password, permission); empty if it does not."""
        return self._denied

    # --- reads --------------------------------------------------------------------------------------------

    async def read_all(
        self, timeout_s: float = READ_TIMEOUT_S, below: str = ""
    ) -> tuple[Head, tuple[KeyValue, ...]]:
        """All keys at one revision, linearizably, in the order of their names.

        `below`: only those that begin so (`users/`), and relative to that; in small pages, since they are
        read while renewals wait for their turn in the loop.

        Raises:
            StoreUnavailable: no answer within `timeout_s`.
            StoreDenied: user, password or permission.
        """
        end = self._clock().plus(int(timeout_s * NS_PER_S))
        for _ in range(READS_ANEW):
            try:
                head, keys = await self._pages(end, Prefix(self._prefix.path + below))
            except CallFailed as error:
                _log.info("reading all keys anew: %s", error)
            else:
                self._highest = head.revision
                return head, keys
        raise StoreUnavailable(f"etcd was compacted {READS_ANEW} times during one read of all keys")

    async def _pages(self, end: Instant, prefix: Prefix) -> tuple[Head, tuple[KeyValue, ...]]:
        """The first page says the revision that all further ones are read at."""
        keys: list[KeyValue] = []
        head: Head | None = None
        after = b""
        while True:
            limit = self.page_keys if prefix == self._prefix else min(SMALL_PAGE_KEYS, self.page_keys)
            request = prefix.page(after, head.revision if head else 0, limit)
            page = await self._range(request, end.left_ns(self._clock()) / NS_PER_S)
            head = head or head_of(page.header)
            keys += [prefix.pair(kv) for kv in page.kvs]
            if not page.more or not page.kvs:
                return head, tuple(keys)
            after = page.kvs[-1].key

    async def get(self, key: str, timeout_s: float = READ_TIMEOUT_S) -> tuple[Head, KeyValue]:
        """One key, linearizably; `mod` 0 if it is absent.

        Raises:
            StoreUnavailable: no answer within `timeout_s`.
            StoreDenied: user, password or permission.
        """
        answer = await self._range(self._prefix.read(key), timeout_s)
        return head_of(answer.header), self._prefix.found(key, answer)

    async def read_head(self, timeout_s: float = READ_TIMEOUT_S) -> Head:
        """The revision of now, linearizably; raises as `get` does."""
        answer = await self._range(self._prefix.page(b"", 0, 1), timeout_s)
        head = head_of(answer.header)
        self._highest = head.revision
        return head

    async def _range(self, request: rpc.RangeRequest, timeout_s: float) -> Any:
        return await self._ask(
            lambda member, left_s: self._token.call(member.kv.Range, request, left_s), timeout_s
        )

    async def _ask(self, send: Callable[[Member, float], Awaitable[_Answer]], timeout_s: float) -> _Answer:
        return await ask.first_answer(self._ring, send, timeout_s, self._clock)

    # --- leases -------------------------------------------------------------------------------------------

    async def grant(self, ttl_s: int, timeout_s: float = READ_TIMEOUT_S) -> int:
        """A new lease's id, never used before. Asked for again if a member is slow: an unused one expires.

        Raises:
            StoreUnavailable: no answer within `timeout_s`.
            StoreDenied: user, password or permission.
        """
        request = rpc.LeaseGrantRequest(TTL=ttl_s)
        sent = 0

        async def send(member: Member, left_s: float) -> Any:
            # What reaches etcd while it has no leader is never answered: ask anew, ever more patiently.
            nonlocal sent
            patience_s = GRANT_PATIENCE_S * 2 ** (sent // len(self._ring.members))
            sent += 1
            return await self._token.call(member.lease.LeaseGrant, request, min(left_s, patience_s))

        return int((await self._ask(send, timeout_s)).ID)

    async def revoke(self, lease: int, timeout_s: float = CLOSE_TIMEOUT_S) -> bool:
        """Best effort: whether the lease is known to be gone. Never raises."""
        request = rpc.LeaseRevokeRequest(ID=lease)
        try:
            await self._ask(
                lambda member, left_s: self._token.call(member.lease.LeaseRevoke, request, left_s), timeout_s
            )
        except CallFailed as error:
            return error.verdict.proof is Proof.LEASE_MISSING
        except StoreError as error:
            _log.info("lease %x not revoked: %s", lease, error)
            return False
        return True

    async def keepalive_once(self, lease: int, timeout_s: float = READ_TIMEOUT_S) -> int:
        """The TTL (s) that etcd counts from now on; 0 or less: it knows no such lease. Neither proves anything.

        Raises:
            StoreUnavailable: no answer within `timeout_s`.
        """
        request = rpc.LeaseKeepAliveRequest(ID=lease)

        async def send(member: Member, left_s: float) -> Any:
            await self._token.ready(left_s)
            return await wire.exchange(member.lease.LeaseKeepAlive, request, left_s, self._token.metadata())

        return int((await self._ask(send, timeout_s)).TTL)

    async def keep_alive(self, lease: int, every_s: float, doubted: Callable[[int], None]) -> None:
        """Keep the lease alive until cancelled. `doubted(lease)` each time that etcd says it is gone.

        It goes on asking then, because a member that was stopped has said so of leases that lived.
        """
        while True:
            pause_s = every_s
            try:
                if await self.keepalive_once(lease, every_s) <= 0:
                    doubted(lease)
            except StoreError as error:
                _log.info("lease %x not kept alive: %s", lease, error)
                pause_s = min(every_s, 1.0)
            await asyncio.sleep(pause_s)

    # --- the watch ----------------------------------------------------------------------------------------

    async def watch(self, from_revision: int, hand_on: Callable[[WatchNews], None]) -> None:
        """Every change of the cluster's keys from a revision on; runs until cancelled.

        `hand_on` is called in the loop, in order: `WatchBatch` on an unbroken history, none lost and none
        twice; `WatchReread` where history broke (compaction, restored etcd), with all keys as they are now.
        """
        await watch.follow(self, self._prefix, from_revision, hand_on, self._silence_s)

    def highest_read(self) -> int:
        """The highest revision seen in a linearizable answer; after etcd went back, that of the last read."""
        return self._highest

    def member_for_watch(self, failures: int) -> Member:
        """After a failure the next member, those without a connection last."""
        order = self._ring.order((self._ring.current + failures) % len(self._ring.members))
        return self._ring.members[order[0]]

    async def metadata(self, refused: bool) -> wire.Metadata:
        """What a stream carries; with a new token if the last one was refused. Raises CallFailed."""
        await self._token.ready(READ_TIMEOUT_S)
        if refused and self._token.wanted:
            await self._token.renew(self._token.generation, READ_TIMEOUT_S)
        return self._token.metadata()

    # --- the members --------------------------------------------------------------------------------------

    async def status(self, timeout_s: float = 1.0) -> tuple[MemberStatus, ...]:
        """Each member in the order of the configuration, asked at the same time; none raises."""
        metadata = self._token.metadata()[len(wire.HAS_LEADER) :]
        members = self._ring.members
        return tuple(
            await asyncio.gather(*(status.status_of(member, timeout_s, metadata) for member in members))
        )

    async def versions(self, timeout_s: float = 1.0) -> dict[str, str]:
        """Endpoint to version, of the members that answer."""
        return {m.endpoint: m.version for m in await self.status(timeout_s) if not m.why}

    async def peers(self, timeout_s: float = READ_TIMEOUT_S) -> tuple[Peer, ...]:
        """The members of etcd as one of them lists them, those that no endpoint names too. Raises as `get` does."""
        request = rpc.MemberListRequest()
        answer = await self._ask(
            lambda member, left_s: self._token.call(member.cluster.MemberList, request, left_s), timeout_s
        )
        return tuple(peers.peer_of(member) for member in answer.members)

    async def foreign_key(self, root: str, timeout_s: float = READ_TIMEOUT_S) -> str:
        """A key of someone else: one that is not below `root`; empty if there is none. Raises as `get` does."""
        return await peers.foreign_key(root, lambda request: self._range(request, timeout_s))

    async def move_leader(self, member_id: int, timeout_s: float = READ_TIMEOUT_S) -> None:
        """Have etcd's leader hand over to this member.

        Raises:
            StoreError: no member leads, or it refused.
        """
        leader = next((m.endpoint for m in await self.status() if m.is_leader), None)
        member = next((m for m in self._ring.members if m.endpoint == leader), None)
        if member is None:
            raise StoreUnavailable("no etcd member that answers is the leader")
        try:
            await self._token.call(
                member.maintenance.MoveLeader, rpc.MoveLeaderRequest(targetID=member_id), timeout_s
            )
        except CallFailed as error:
            kind = StoreDenied if error.verdict.proof is Proof.DENIED else StoreError
            raise kind(f"etcd's leader did not move: {error}") from None
