"""One etcd member and the channel to it; and which of the members is asked next.

A channel of our own for each member, because gRPC's own balancing never leaves a member that is stopped but
still connected (etcd on a frozen host): one attempt there, then the next member.
"""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import grpc
from grpc import aio

from leaseha.adapters.etcd.messages import rpc
from leaseha.errors import StoreError, invariant

OPTIONS: Final = (
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),  # the time to connect, too
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.use_local_subchannel_pool", 1),  # else a back-off is shared with every other client here
    ("grpc.enable_retries", 0),  # a transaction is sent once
    ("grpc.enable_http_proxy", 0),  # the lease does not depend on a proxy of the environment
    ("grpc.keepalive_time_ms", 6000),  # etcd ends connections that are pinged more often than each 5 s
    ("grpc.keepalive_timeout_ms", 1000),
    ("grpc.http2.ping_timeout_ms", 1000),  # without it a stopped peer is not noticed for a minute
    ("grpc.keepalive_permit_without_calls", 0),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_receive_message_length", 64 << 20),  # a watch that catches up
)


@dataclass(frozen=True, slots=True)
class Tls:
    """Certificate files (PEM). `cert` and `key` are given together, for mutual TLS."""

    ca: Path
    cert: Path | None = None
    key: Path | None = None

    def credentials(self) -> grpc.ChannelCredentials:
        """Read the files now.

        Raises:
            StoreError: a file is missing or damaged, or the key is not the certificate's.
        """
        try:
            context = ssl.create_default_context(cafile=str(self.ca))
            if self.cert is not None:
                context.load_cert_chain(self.cert, self.key)
            cert = self.cert.read_bytes() if self.cert else None
            key = self.key.read_bytes() if self.key else None
            return grpc.ssl_channel_credentials(self.ca.read_bytes(), key, cert)
        except (OSError, ssl.SSLError) as error:
            files = ", ".join(str(path) for path in (self.ca, self.cert, self.key) if path)
            raise StoreError(f"cannot use the certificates for etcd ({files}): {error}") from error


class Member:
    """One endpoint: its channel, its stubs, and the last reason why it did not answer."""

    def __init__(self, endpoint: str, credentials: grpc.ChannelCredentials | None) -> None:
        url = urlsplit(endpoint if "//" in endpoint else f"//{endpoint}")
        self.endpoint = endpoint
        self.trouble = ""
        secure = url.scheme == "https" or (not url.scheme and credentials is not None)
        if secure and credentials is None:
            credentials = grpc.ssl_channel_credentials()
        self.channel = (
            aio.secure_channel(url.netloc, credentials, options=OPTIONS)
            if secure and credentials is not None
            else aio.insecure_channel(url.netloc, options=OPTIONS)
        )
        self.kv = rpc.KVStub(self.channel)
        self.lease = rpc.LeaseStub(self.channel)
        self.watch = rpc.WatchStub(self.channel)
        self.maintenance = rpc.MaintenanceStub(self.channel)
        self.cluster = rpc.ClusterStub(self.channel)
        self.auth = rpc.AuthStub(self.channel)

    def cut_off(self) -> bool:
        """Whether the last try to connect failed; asking also makes an idle channel connect."""
        return self.channel.get_state(try_to_connect=True) is grpc.ChannelConnectivity.TRANSIENT_FAILURE


@dataclass(slots=True)
class Ring:
    """The members in the order of the configuration, and the one that is stuck to.

    A member that fails or is overtaken by another loses its place. Only the newest news counts: the late
    answer of an old attempt moves nothing.
    """

    members: Sequence[Member]
    current: int = 0
    _last: int = 0
    _sent: int = field(default=0, repr=False)
    _believed: int = field(default=0, repr=False)

    def __post_init__(self) -> None:
        invariant(bool(self.members), "a client of etcd needs an endpoint")

    def take(self, attempt: int) -> Attempt:
        """For a transaction: attempt 0 goes to the member stuck to, a further one to the next after the last."""
        wanted = (self._last + 1 if attempt else self.current) % len(self.members)
        self._last = self.order(wanted)[0]
        return self.attempt(self._last)

    def attempt(self, index: int) -> Attempt:
        """A request about to be sent to this member."""
        self._sent += 1
        return Attempt(self.members[index], index, self._sent)

    def order(self, first: int | None = None) -> list[int]:
        """All members once, from `first` (the current one) on; those without a connection come last."""
        start = self.current if first is None else first
        turn = [(start + k) % len(self.members) for k in range(len(self.members))]
        return sorted(turn, key=lambda index: self.members[index].cut_off())

    def answered(self, attempt: Attempt) -> None:
        """The member gave an answer, of whatever content."""
        attempt.member.trouble = ""
        if attempt.number > self._believed:
            self._believed = attempt.number
            self.current = attempt.index

    def failed(self, attempt: Attempt, why: str) -> None:
        """The member gave none in time, or none that proves anything."""
        attempt.member.trouble = why
        if attempt.index == self.current and attempt.number > self._believed:
            self._believed = attempt.number
            self.current = (attempt.index + 1) % len(self.members)

    def troubles(self) -> str:
        """Each endpoint with the last reason, for a person."""
        return "; ".join(f"{m.endpoint}: {m.trouble or 'not tried'}" for m in self.members)


@dataclass(frozen=True, slots=True)
class Attempt:
    """One request sent to one member."""

    member: Member
    index: int
    number: int
