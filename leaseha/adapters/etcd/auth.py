"""The token that etcd wants with each call when it has users.

Sent as metadata by hand: gRPC refuses call credentials on a channel without TLS. A simple token ends after 300 s
without use and, at once, when the member restarts; a JWT ends after a fixed time. So it is renewed before that,
and whenever a member turns it away. Authenticate costs etcd 90 ms of hashing, so one renewal at a time serves all
calls, and is not given up with the call that asked for it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from leaseha.adapters.etcd import wire
from leaseha.adapters.etcd.member import Member
from leaseha.adapters.etcd.messages import rpc
from leaseha.adapters.etcd.verdict import Proof, Verdict
from leaseha.adapters.etcd.wire import CallFailed, Metadata
from leaseha.core.values import NS_PER_S, Instant

RENEW_EVERY_S: Final = 200.0
"""Before the 300 s after which etcd forgets a token that is not used."""

ASK_TIMEOUT_S: Final = 1.0
REFUSED_FOR_S: Final = 1
"""A password that was wrong is not tried again for so long: each try costs etcd the hashing."""

_log = logging.getLogger("leaseha.etcd")


@dataclass(frozen=True, slots=True)
class User:
    """Name and password of a user of etcd."""

    name: str
    password: str = field(repr=False)


class Token:
    """The current token, and calls that carry it. Without a user: none, and calls as they are.

    A user who is configured while etcd has authentication switched off is no error: calls go without a token
    until etcd wants one.
    """

    def __init__(
        self, user: User | None, members: Callable[[], Sequence[Member]], clock: Callable[[], Instant]
    ) -> None:
        self._user = user
        self._members = members
        self._clock = clock
        self._value = ""
        self._generation = 0
        self._renewing: asyncio.Task[None] | None = None
        self._refused: tuple[Instant, CallFailed] | None = None

    def metadata(self) -> Metadata:
        """What every call and stream carries."""
        return (*wire.HAS_LEADER, ("token", self._value)) if self._value else wire.HAS_LEADER

    async def call(self, method: Callable[..., Any], request: object, timeout_s: float) -> Any:
        """One unary call with the token. A call that is turned away for its token is made once more with a new one.

        That is no second sending of a transaction: etcd looks at the token before it proposes anything, so the
        first one was never under way.

        Raises:
            CallFailed: no good answer within `timeout_s`.
        """
        end = self._clock().plus(int(timeout_s * NS_PER_S))
        await self.ready(timeout_s)
        seen = self._generation
        try:
            return await wire.unary(method, request, self._left_s(end), self.metadata())
        except CallFailed as error:
            if error.verdict.proof is not Proof.STALE_TOKEN:
                raise
            await self.renew(seen, self._left_s(end), error)
        return await wire.unary(method, request, self._left_s(end), self.metadata())

    def _left_s(self, end: Instant) -> float:
        return end.left_ns(self._clock()) / NS_PER_S

    @property
    def wanted(self) -> bool:
        """Whether a user is configured."""
        return self._user is not None

    @property
    def generation(self) -> int:
        """Grows with each renewal: of many calls that are turned away only the first renews."""
        return self._generation

    async def ready(self, timeout_s: float) -> None:
        """Have the first token, if one is wanted at all.

        Raises:
            CallFailed: none within `timeout_s`; DENIED if the user or the password is wrong.
        """
        if self._user is not None and not self._generation:
            await self.renew(0, timeout_s)

    async def renew(self, seen: int, timeout_s: float, cause: CallFailed | None = None) -> None:
        """Have a newer token than that of generation `seen`.

        Raises:
            CallFailed: none within `timeout_s`; DENIED if the user or the password is wrong, or if etcd wants a
                user and none is configured.
        """
        if self._user is None:
            why = cause.verdict.why if cause else "no user is configured"
            raise CallFailed(Verdict(Proof.DENIED, why))
        if self._generation != seen:
            return
        if self._refused is not None and not self._refused[0].wait_over(self._clock()):
            raise self._refused[1]
        if self._renewing is None or self._renewing.done():
            self._renewing = asyncio.create_task(self._ask_all(self._user), name="etcd token")
            self._renewing.add_done_callback(_note)
        done, _ = await asyncio.wait({self._renewing}, timeout=max(timeout_s, 0.0))
        if not done:
            raise CallFailed(Verdict(Proof.NOTHING, "no new token in time"))
        self._renewing.result()

    async def keep(self) -> None:
        """Renew before etcd forgets the token; runs until cancelled."""
        while self._user is not None:
            await asyncio.sleep(RENEW_EVERY_S)
            try:
                await self.renew(self._generation, ASK_TIMEOUT_S)
            except CallFailed as error:
                _log.warning("etcd token not renewed: %s", error)

    async def _ask_all(self, user: User) -> None:
        """One member after the other, until one gives a token."""
        request = rpc.AuthenticateRequest(name=user.name, password=user.password)
        failure = CallFailed(Verdict(Proof.NOTHING, "no member to ask"))
        for member in self._members():
            try:
                answer = await wire.unary(member.auth.Authenticate, request, ASK_TIMEOUT_S)
            except CallFailed as error:
                if "authentication is not enabled" in error.verdict.why:
                    self._set("")
                    return
                if error.verdict.proof is Proof.DENIED:
                    self._refused = (self._clock().plus(REFUSED_FOR_S * NS_PER_S), error)
                    raise
                failure = error
            else:
                self._set(answer.token)
                return
        raise failure

    def _set(self, value: str) -> None:
        self._value = value
        self._generation += 1


def _note(task: asyncio.Task[None]) -> None:
    """A renewal that nobody waits for any more may fail in peace: the next call asks again."""
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.debug("etcd gave no token: %s", error)
