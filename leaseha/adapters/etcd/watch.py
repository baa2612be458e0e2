"""All changes of one cluster from a revision on, over whatever breaks underneath.

One watch a stream: a refused one silences its neighbours on a shared stream. On any error the next member is asked,
from the revision behind the last change that was handed on; the header's revision is no measure, because a
watch that catches up is told the newest revision long before its changes. Changes of one revision always come
in one response.

A member that is frozen, or cut off behind an open connection, is silent and so looks like a quiet cluster. After
`silence_s` without a word it is asked for a sign of life (etcd's manual progress request); without an answer in
the same time the stream is given up. One that answers but lags behind what this client has read elsewhere
for that long is left, too. gRPC's own keepalive would need 6 s: etcd forbids quicker pings.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

from grpc import StatusCode, aio

from leaseha.adapters.etcd import wire
from leaseha.adapters.etcd.member import Member
from leaseha.adapters.etcd.messages import PROGRESS, Prefix
from leaseha.adapters.etcd.verdict import Proof, Verdict
from leaseha.adapters.etcd.wire import CallFailed
from leaseha.core.events import Change
from leaseha.core.values import Head, KeyValue
from leaseha.errors import StoreError

_log = logging.getLogger("leaseha.etcd")

BACKOFF_S: Final = (0.05, 1.0)
"""First and longest pause between two streams."""

REFUSED_BACKOFF_S: Final = 5.0
"""Longest pause when etcd refuses the watch: each try may cost it a password hash."""


@dataclass(frozen=True, slots=True)
class WatchBatch:
    """Changes in order, each revision complete. `head.revision` is that of the last change."""

    head: Head
    changes: tuple[Change, ...]


@dataclass(frozen=True, slots=True)
class WatchReread:
    """The watch had to start anew, behind a linearizable read of all keys: history is broken here."""

    head: Head
    keys: tuple[KeyValue, ...]
    why: str
    compacted: int = 0
    """The revision up to which etcd has forgotten; 0: that is not why."""


WatchNews = WatchBatch | WatchReread


class Source(Protocol):
    """What a watch needs of the client beside a stream."""

    def highest_read(self) -> int:
        """The highest revision in a linearizable answer; the last read's after etcd went back."""

    async def read_head(self) -> Head:
        """Linearizably, the revision of now. Raises StoreError."""

    async def read_all(self) -> tuple[Head, tuple[KeyValue, ...]]:
        """All keys, linearizably. Raises StoreError."""

    def member_for_watch(self, failures: int) -> Member:
        """Where the next stream goes after so many that failed."""

    async def metadata(self, refused: bool) -> wire.Metadata:
        """What the stream carries; with a new token if the last one was refused. Raises CallFailed."""


class HistoryBroken(Exception):  # ends one stream; never leaves the adapter
    """What lies between the last change and now cannot be told."""

    def __init__(self, why: str, compacted: int = 0) -> None:
        super().__init__(why)
        self.compacted = compacted


class Stream:
    """One watch on one member. `next_revision` is where another stream has to go on."""

    def __init__(
        self,
        prefix: Prefix,
        next_revision: int,
        cluster_id: int,
        hand_on: Callable[[WatchNews], None],
        source: Source,
        silence_s: float,
    ) -> None:
        self.next_revision = next_revision
        self.cluster_id = cluster_id
        self.alive = False
        """Whether the watch was accepted and then told something, or outlived one silence."""
        self._prefix = prefix
        self._hand_on = hand_on
        self._source = source
        self._silence_s = silence_s

    async def run(self, member: Member, metadata: wire.Metadata) -> None:
        """Hand on changes until the stream breaks.

        Raises:
            CallFailed: the stream broke, was refused, fell silent or lags.
            HistoryBroken: the revision asked for is compacted, or this is another cluster.
        """
        open_stream: Any = member.watch.Watch  # may be called without requests, which its stub forgets
        call = open_stream(metadata=metadata)
        try:
            await self._follow(call)
        except aio.AioRpcError as error:
            raise wire.failure(error.code(), error.details()) from None
        except (aio.UsageError, aio.InternalError, asyncio.InvalidStateError) as error:
            raise wire.failure(StatusCode.CANCELLED, str(error)) from None
        except TimeoutError:
            raise CallFailed(Verdict(Proof.NOTHING, "the watch fell silent")) from None
        except asyncio.CancelledError:
            wire.raise_if_ours()
            raise wire.failure(StatusCode.CANCELLED, None) from None
        finally:
            call.cancel()

    async def _follow(self, call: Any) -> None:
        async with asyncio.timeout(2 * self._silence_s):
            await call.write(self._prefix.watch(self.next_revision))
            created = await call.read()
        await self._created(created)
        reading = asyncio.ensure_future(call.read())
        try:
            while True:
                floor = self._source.highest_read()
                if not await self._within_silence(reading):
                    async with asyncio.timeout(self._silence_s):
                        await call.write(PROGRESS)
                        await asyncio.wait({reading})
                response = reading.result()
                self._heard(response, floor)
                reading = asyncio.ensure_future(call.read())
        finally:
            if not reading.cancel() and not reading.cancelled():
                reading.exception()

    async def _within_silence(self, reading: asyncio.Future[Any]) -> bool:
        done, _ = await asyncio.wait({reading}, timeout=self._silence_s)
        return bool(done)

    async def _created(self, response: Any) -> None:
        self._refuse_end(response)
        if not response.created:
            raise CallFailed(Verdict(Proof.NOTHING, "the watch began without a word of its creation"))
        cluster_id = response.header.cluster_id
        if self.cluster_id not in {0, cluster_id}:
            raise HistoryBroken(f"etcd is another cluster now ({cluster_id:x}, was {self.cluster_id:x})")
        self.cluster_id = cluster_id
        if response.header.revision < self.next_revision - 1:
            await self._lags_or_rewound()

    async def _lags_or_rewound(self) -> None:
        """The member has not reached the revision asked for: it lags, or etcd was restored from a snapshot.

        Then a watch from there would keep silent for as long as etcd takes to get there again.
        """
        head = await self._source.read_head()
        if head.revision < self.next_revision - 1:
            raise HistoryBroken(
                f"etcd's revision went back to {head.revision} (was {self.next_revision - 1})"
            )

    def _heard(self, response: Any, floor: int) -> None:
        """One response: changes, a sign of life, or the end. `floor`: what was read elsewhere before the wait."""
        self._refuse_end(response)
        self.alive = True
        changes = tuple(self._prefix.change(event) for event in response.events)
        if changes:
            head = Head(response.header.cluster_id, changes[-1].revision, response.header.raft_term)
            self.next_revision = head.revision + 1
            self._hand_on(WatchBatch(head, changes))
        elif response.header.revision < floor:
            raise CallFailed(Verdict(Proof.NOTHING, "the member lags behind the others"))

    def _refuse_end(self, response: Any) -> None:
        """A watch that is over says so in an ordinary response; created and cancelled at once is a refusal."""
        if response is wire.EOF:
            raise wire.failure(StatusCode.CANCELLED, "the watch ended")
        if response.compact_revision:
            why = f"history before revision {response.compact_revision} is compacted"
            raise HistoryBroken(why, response.compact_revision)
        if response.canceled:
            reason = response.cancel_reason or "no reason given"
            proof = Proof.DENIED if "permission denied" in reason or "auth" in reason else Proof.NOTHING
            raise CallFailed(Verdict(proof, f"the watch was refused: {reason}"))


async def follow(
    source: Source,
    prefix: Prefix,
    from_revision: int,
    hand_on: Callable[[WatchNews], None],
    silence_s: float,
) -> None:
    """Hand on every change from `from_revision` on, in order, none lost and none twice; runs until cancelled."""
    stream = Stream(prefix, from_revision, 0, hand_on, source, silence_s)
    failures, pause_s, refused = 0, BACKOFF_S[0], False
    while True:
        stream.alive = False
        try:
            metadata = await source.metadata(refused)
            await stream.run(source.member_for_watch(failures), metadata)
        except HistoryBroken as broken:
            failures += await _start_anew(source, stream, hand_on, broken)
            refused = False
        except CallFailed as error:
            failures += 1
            refused = error.verdict.proof is Proof.DENIED
            _log.debug("watch: %s", error)
        except StoreError as error:
            failures += 1
            _log.debug("watch: %s", error)
        if stream.alive:
            failures, pause_s = 1, BACKOFF_S[0]
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, REFUSED_BACKOFF_S if refused else BACKOFF_S[1])


async def _start_anew(
    source: Source, stream: Stream, hand_on: Callable[[WatchNews], None], broken: HistoryBroken
) -> int:
    """Read everything and go on from there; 1 if that failed, too."""
    try:
        head, keys = await source.read_all()
    except StoreError as error:
        _log.warning("watch: %s, and etcd cannot be read: %s", broken, error)
        return 1
    _log.warning("watch: %s; all keys read anew at revision %d", broken, head.revision)
    stream.next_revision = head.revision + 1
    stream.cluster_id = head.cluster_id
    hand_on(WatchReread(head, keys, str(broken), broken.compacted))
    return 0
