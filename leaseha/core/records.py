"""What stands in etcd: the keys under `/leaseha/<cluster>/` and the JSON of each (design 4.1).

Decoding never raises: a value that cannot be read (written by hand, or by a later version) gives None,
and whoever looks at it treats it as "someone's, not mine".
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, TypeVar

NODES: Final = "nodes/"
SESSIONS: Final = "sessions/"
LEASES: Final = "leases/"


def node_key(node: str) -> str:
    """`nodes/<node>`."""
    return f"{NODES}{node}"


def session_key(session: int) -> str:
    """`sessions/<id>`: the etcd lease id as 16 hex digits."""
    return f"{SESSIONS}{session:016x}"


def claim_key(lease: str) -> str:
    """`leases/<lease>/claim`."""
    return f"{LEASES}{lease}/claim"


def insync_key(lease: str) -> str:
    """`leases/<lease>/insync`."""
    return f"{LEASES}{lease}/insync"


def intent_key(lease: str) -> str:
    """`leases/<lease>/intent`."""
    return f"{LEASES}{lease}/intent"


def history_key(lease: str, token: int) -> str:
    """`leases/<lease>/history/<token>`: 20 digits, so that keys sort by token."""
    return f"{LEASES}{lease}/history/{token:020d}"


class Life(StrEnum):
    """What a session record says of its session."""

    LIVE = "live"
    DEAD = "dead"
    """Declared dead by another node, after its wait."""
    CLOSED = "closed"
    """Closed by its node, or by that node's guard, with everything already let go."""


class Hold(StrEnum):
    """What a claim says of its lease."""

    HELD = "held"
    FREE = "free"
    LOST = "lost"
    """Its key was found absent; absence proves nothing, so it is written down and waited for."""


class Kind(StrEnum):
    """Why a lease moves."""

    FIRST = "first"
    FAILOVER = "failover"
    SWITCHOVER = "switchover"
    FAILBACK = "failback"
    RELEASE = "release"


@dataclass(frozen=True, slots=True)
class SessionRecord:
    """`sessions/<id>`: written anew, with a fresh nonce (incarnation, sequence), by each own transaction."""

    life: Life
    node: str
    store: str = ""
    incarnation: str = ""
    sequence: int = 0
    ttl_ns: int = 0
    margin_ns: int = 0
    by: str = ""
    """*dead*, *closed*: the node that wrote it."""

    def nonce(self) -> tuple[str, int]:
        """Names one write among all that were ever sent for this record."""
        return self.incarnation, self.sequence


@dataclass(frozen=True, slots=True)
class ClaimRecord:
    """`leases/<lease>/claim`: its `mod_revision` is the token."""

    hold: Hold
    node: str = ""
    session: int = 0
    kind: str = ""
    reason: str = ""
    traceparent: str = ""
    previous: int = 0
    """The token before this one; 0 at the first."""
    from_node: str = ""
    epoch: int = 1
    down_ms: int = -1
    """Handed over or free: how long the VIP had been off when this was sent; -1 unknown."""


@dataclass(frozen=True, slots=True)
class InsyncRecord:
    """`leases/<lease>/insync`: the stores that the holder has admitted, or an operator who accepted a loss."""

    stores: frozenset[str]
    nodes: Mapping[str, str] | None = None
    """Of each of these stores, the node that had it: to be known by name once that node is away."""
    at_ms: int = 0
    """Since when it has been this set, unix time by the writer's clock, ms; 0: not known."""
    accepted: str = ""
    """Who accepted which loss, where an operator wrote it (`leaseha recover`); empty: a holder did."""


@dataclass(frozen=True, slots=True)
class IntentRecord:
    """`leases/<lease>/intent`: who asks, for what, against which token."""

    kind: str
    """`switchover` or `failback`."""
    by: str
    token: int
    target: str = ""
    """A node; empty: the best candidate."""
    reason: str = ""
    traceparent: str = ""
    answer: str = ""
    """Why the holder does not do it; empty while it may."""


@dataclass(frozen=True, slots=True)
class NodeRecord:
    """`nodes/<node>`: what others need to know of a node; attached to its session."""

    node: str
    session: int
    store: str
    """Of the state directory."""
    version: str = ""
    address: str = ""
    ttl_max_ns: int = 0
    priorities: Mapping[str, int] | None = None
    """Effective priority by lease: as configured, plus the weights of failed checks."""
    ineligible: Mapping[str, str] | None = None
    """By lease, why this node should not hold it."""
    digests: Mapping[str, str] | None = None
    stores: Mapping[str, str] | None = None
    """Of each lease whose data is replicated, the uuid of its data directory."""
    peer_ports: Mapping[str, int] | None = None
    """Of each of these, where the other nodes' copies come in, at `address`."""


@dataclass(frozen=True, slots=True)
class HistoryRecord:
    """`leases/<lease>/history/<token>`: one move, as the new holder tells it."""

    token: int
    kind: str
    reason: str
    from_node: str
    to_node: str
    at_ms: int
    """Unix time of the claim by the new holder's clock, ms."""
    trace_id: str
    gap_ms: int = -1
    """Without service, as the new holder can know it; -1 while not answered yet, or unknown."""
    answered: bool = False


Record = SessionRecord | ClaimRecord | InsyncRecord | IntentRecord | NodeRecord | HistoryRecord


def encode(record: Record) -> str:
    """The JSON of a record: compact, defaults left out, key order fixed."""
    fields: dict[str, Any] = {}
    for name in record.__dataclass_fields__:
        value = getattr(record, name)
        default = record.__dataclass_fields__[name].default
        if value != default:
            fields[name] = sorted(value) if isinstance(value, frozenset) else value
    return json.dumps(fields, separators=(",", ":"), sort_keys=True)


def _field(kind: str, value: Any) -> Any:
    """One decoded field, checked against its annotation. Raises ValueError on another type."""
    match kind:
        case "Life":
            return Life(value)
        case "Hold":
            return Hold(value)
        case "frozenset[str]" if isinstance(value, list) and all(isinstance(s, str) for s in value):
            return frozenset(value)
        case "str" if isinstance(value, str):
            return value
        case "bool" if isinstance(value, bool):
            return value
        case "int" if isinstance(value, int) and not isinstance(value, bool):
            return value
        case "Mapping[str, int] | None" if _maps_to(int, value):
            return value
        case "Mapping[str, str] | None" if _maps_to(str, value):
            return value
    raise ValueError(f"{value!r} is no {kind}")


def _maps_to(wanted: type, value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(inner, wanted) for inner in value.values())


R = TypeVar("R", SessionRecord, ClaimRecord, InsyncRecord, IntentRecord, NodeRecord, HistoryRecord)


def decode(kind: type[R], value: str) -> R | None:
    """The record in `value`, or None if it is none of this kind. Unknown fields (a later version's) are passed over."""
    try:
        found = json.loads(value)
        known = kind.__dataclass_fields__
        return kind(**{name: _field(str(known[name].type), found[name]) for name in found if name in known})
    except (ValueError, TypeError, AttributeError, RecursionError):
        return None
