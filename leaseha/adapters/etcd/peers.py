"""etcd's members as they know each other: where each listens, and whether it votes. And whose keys are in there."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

from google.protobuf import unknown_fields

from leaseha.adapters.etcd.messages import rpc

_LEARNER: Final = 5
_FIRST: Final = b"\0"
_NO_END: Final = b"\0"
"""As the end of a range: up to the last key."""

Ask = Callable[[rpc.RangeRequest], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Peer:
    """One member of etcd, running or not."""

    member_id: int
    name: str
    """Empty: it has never started."""
    urls: tuple[str, ...]
    """Under which clients, then other members, reach it."""
    learner: bool = False
    """Has no vote, and cannot lead."""


def peer_of(member: rpc.Member) -> Peer:
    """As a list of members tells it (field 5, `isLearner`, is younger than etcd3's protos)."""
    fields: Any = unknown_fields.UnknownFieldSet(member)
    learner = any(f.field_number == _LEARNER and bool(f.data) for f in fields)
    return Peer(member.ID, member.name, (*member.clientURLs, *member.peerURLs), learner)


async def foreign_key(root: str, ask: Ask) -> str:
    """A key that is not below `root` (such as `/leaseha/`), empty if there is none.

    Two reads of one key each, so that it costs a large etcd nothing: before the root, and behind it.
    """
    begin = root.encode()
    behind = begin[:-1] + bytes([begin[-1] + 1])
    for first, end in ((_FIRST, begin), (behind, _NO_END)):
        answer = await ask(
            rpc.RangeRequest(key=first, range_end=end, limit=1, keys_only=True, serializable=True)
        )
        if answer.kvs:
            return bytes(answer.kvs[0].key).decode(errors="replace")
    return ""
