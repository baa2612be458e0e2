"""What each etcd member says of itself, for `check` and `status`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from leaseha.adapters.etcd import messages, wire
from leaseha.adapters.etcd.member import Member
from leaseha.adapters.etcd.messages import rpc
from leaseha.adapters.etcd.wire import CallFailed

OLDEST: Final = (3, 4, 0)
DIVERGES: Final = ((3, 5, 0), (3, 5, 2))
"""First and last release whose members may come to hold different data."""
_VERSION: Final = re.compile(r"v?(\d+)\.(\d+)\.(\d+)")


@dataclass(frozen=True, slots=True)
class MemberStatus:
    """One member. `why` is empty if it answered; else the reason, and nothing else is known."""

    endpoint: str
    why: str = ""
    version: str = ""
    member_id: int = 0
    leader_id: int = 0
    """0: the member knows of no leader."""
    raft_term: int = 0
    raft_index: int = 0
    revision: int = 0
    cluster_id: int = 0
    db_bytes: int = 0
    alarms: tuple[str, ...] = ()
    """What the member complains of itself: alarms (NOSPACE, CORRUPT), no leader."""

    @property
    def is_leader(self) -> bool:
        """Whether this member leads."""
        return bool(self.member_id) and self.member_id == self.leader_id


async def status_of(member: Member, timeout_s: float, metadata: wire.Metadata) -> MemberStatus:
    """Ask one member, which answers without a quorum, too."""
    try:
        answer = await wire.unary(member.maintenance.Status, rpc.StatusRequest(), timeout_s, metadata)
    except CallFailed as error:
        return MemberStatus(member.endpoint, why=str(error))
    return MemberStatus(
        endpoint=member.endpoint,
        version=answer.version,
        member_id=answer.header.member_id,
        leader_id=answer.leader,
        raft_term=answer.raftTerm,
        raft_index=answer.raftIndex,
        revision=answer.header.revision,
        cluster_id=answer.header.cluster_id,
        db_bytes=answer.dbSize,
        alarms=messages.status_errors(answer),
    )


def diverges(version: str) -> bool:
    """Whether members of this version may differ in their data after a crash (etcd issue 13766): never usable."""
    found = _VERSION.match(version)
    return found is not None and DIVERGES[0] <= _numbers(found) <= DIVERGES[1]


def known_bad(version: str) -> str | None:
    """Why an etcd of this version must not be trusted with leases; None if nothing is known against it."""
    found = _VERSION.match(version)
    if found is None:
        return f"its version ({version or 'none'}) is not understood; leaseha knows 3.4 and later"
    if _numbers(found) < OLDEST:
        return (
            f"etcd {version} is older than 3.4: no answer to progress requests, so a frozen watch goes unseen"
        )
    if diverges(version):
        return (
            f"members of etcd {version} may differ in their data after a crash (3.5.0 to 3.5.2), which breaks"
            " every compare: use 3.5.3 or later"
        )
    return None


def _numbers(found: re.Match[str]) -> tuple[int, ...]:
    return tuple(int(part) for part in found.groups())
