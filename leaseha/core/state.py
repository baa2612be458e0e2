"""One node's whole state, and the working copy that a step edits."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from operator import attrgetter
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

from leaseha.core.effects import Effect
from leaseha.core.session import Session
from leaseha.core.spec import LeaseSpec, NodeSpec
from leaseha.core.values import Delete, Head, Instant, Put, changed
from leaseha.core.view import View


class Role(StrEnum):
    """What a node is for one lease. A role causes nothing; transitions do."""

    STANDBY = "STANDBY"
    CLAIMING = "CLAIMING"
    PREPARING = "PREPARING"
    HOLDER = "HOLDER"
    YIELDING = "YIELDING"
    FENCED = "FENCED"
    STOPPED = "STOPPED"


class Way(StrEnum):
    """How a lease is being claimed or let go: the transaction to send."""

    NONE = ""
    T3 = "T3"
    T4 = "T4"
    T5 = "T5"
    T6 = "T6"
    T7 = "T7"
    T8 = "T8"
    T9 = "T9"
    T10 = "T10"
    T11 = "T11"


@dataclass(frozen=True, slots=True)
class Move:
    """What is known of the move under way, for its trace and its line of history."""

    kind: str = ""
    reason: str = ""
    trace: str = ""
    from_node: str = ""
    off_since: Instant | None = None
    """Since when there has been no service, as far as this node can know."""
    down_ms: int = -1
    """How long the old holder had been off when it handed over or released."""


@dataclass(frozen=True, slots=True)
class LeaseState:
    """One lease as this node has it."""

    role: Role = Role.STANDBY
    since: Instant = Instant(0, 0)
    """When the role was taken."""
    way: Way = Way.NONE
    token: int = 0
    """The `mod` of the own claim; kept after losing it, as the newest token that was ours."""
    under: int = 0
    """The session that the own claim names."""
    epoch: int = 1
    mine: bool = False
    """The claim names our session, proven; false as soon as anything says otherwise."""
    cover: Instant | None = None
    """Until when the claim itself is known to be untouched."""
    covered_by: int = 0
    """Sequence number of the last committed write that compared or wrote the claim."""
    barrier: int = 0
    """Serve again only after a committed write with a sequence number above this."""
    told: Instant | None = None
    """The deadline that the executor was told last."""
    told_token: int = 0
    up: frozenset[str] = frozenset()
    """Which of `resources`, `vip`, `gate` are, or may be, up."""
    expected: Mapping[int, str] = field(default_factory=dict)
    """Effects under way: serial to effect name."""
    plan: tuple[str, ...] = ()
    """Names of the effects still to come, in order."""
    failed: str = ""
    """The effect that failed, and where the plan stands still."""
    retry_at: Instant | None = None
    """When a failed way down is tried again."""
    vain: int = 0
    """YIELDING, FENCED: how often the way down was tried again."""
    stuck_until: Instant | None = None
    """HOLDER: it could not be let go a moment ago, so it is not tried of the node's own accord before this."""
    target: int = 0
    """YIELDING: the session to hand over to; 0: release."""
    tries: int = 0
    """YIELDING: how often T9 was sent."""
    tried: int = 0
    """The `mod` of the intent that was obeyed last: if that came to nothing, it is not obeyed again."""
    off_at: Instant | None = None
    """YIELDING: when the VIP was proven off."""
    move: Move = Move()
    not_before: Instant | None = None
    """After a failure to serve: no claim before this."""
    penalty: int = 0
    ineligible: str = ""
    retired: str = ""
    """Why this node lets go of it, whether or not another can take it (a new configuration does not have it)."""
    better_since: Instant | None = None
    """Since when we, healthy and in-sync, have been better than a live holder: hold-down."""
    asked_at: Instant | None = None
    busy: bool = False
    """Clients are writing to it now."""
    wanted_back: Instant | None = None
    """HOLDER: since when a better node has been asking for it."""
    store: str = ""
    """Replicated: the uuid of this node's data directory as it is now; empty: there is none that can be used."""
    wanted: frozenset[str] | None = None
    """The in-sync set that the replication wants; None: it has not said."""
    heard: int = 0
    """The number of what it said last."""
    awaiting: int = 0
    """Serial of the `Announce` whose `FirstAnswer` is awaited."""
    drain: bool = True
    blocked: str = ""
    """Why nobody here may claim until an operator acts (after a restored etcd)."""
    seen_epoch: int = 0
    regate: bool = False
    """The token changed under a served lease: the gate is to be opened under the new one."""
    lost: str = ""
    """Why the claim is not ours any more: `taken`, `session` or `rewound`."""
    trouble: str = ""
    """HOLDER: what is wrong with the resources, if anything."""
    drifted: str = ""
    """HOLDER: what became of the VIP that is no longer there."""
    doubt: str = ""
    """HOLDER: why the VIP should be announced again."""


@dataclass(frozen=True, slots=True)
class Common:
    """What every lease depends on, beside its own state and keys (`attention`)."""

    phase: str = ""
    session: int = 0
    steady_since: Instant | None = None
    letting_go: bool = False
    """Asked to stop, and the others know of it."""
    claims_from: Instant | None = None
    ready: bool = False
    past: bool = True
    """The session's deadline has passed, or there is none."""


@dataclass(frozen=True, slots=True)
class NodeState:
    """Everything that `step` knows. Never changed in place."""

    spec: NodeSpec
    leases: Mapping[str, LeaseState]
    session: Session
    view: View | None = None
    head: Head = Head(0, 0, 0)
    """The newest that was heard of etcd, by linearizable answers."""
    request: int = 0
    serial: int = 0
    reading: int = 0
    """The request number of `ReadAll` under way; 0: none."""
    reading_floor: Head = Head(0, 0, 0)
    """The head when that read was asked for."""
    read_at: Instant | None = None
    claims_from: Instant | None = None
    """After a restored etcd: no claim before this."""
    notes: Mapping[str, Put | Delete] = field(default_factory=dict)
    """Writes that ride along with the next renewal, by key."""
    published: str = ""
    republished_at: Instant | None = None
    """When the own node record was put again because another's stood there."""
    twin: int = 0
    """The session of another process under our name that was told of."""
    """The own node record as last committed or queued."""
    renew_asked: bool = False
    swept_at: Instant | None = None
    """When a write that compares a slice of the own claims was sent last."""
    slice_from: int = 0
    """Where the next rotating slice of own claims begins."""
    retry_at: Instant | None = None
    """Session could not be opened: not again before this."""
    stopping: bool = False
    stop_told_by: Instant | None = None
    """Asked to stop: until when the others are told of it before anything goes down."""
    closing: int = 0
    """The request number of T12; 0: not sent."""
    off_by: Instant | None = None
    """Asked to stop: until when everything must be let go."""
    stop_by: Instant | None = None
    """Everything is let go: until when the session must be closed."""
    stopped: bool = False
    wake: Instant | None = None
    common: Common = Common()
    """As it was when every lease was looked at last."""
    wanting: frozenset[str] = frozenset()
    """Leases that want something written, or may soon."""
    active: frozenset[str] = frozenset()
    """Leases that are neither STANDBY nor STOPPED."""
    holders: frozenset[int] = frozenset()
    """The sessions, of other nodes, that the claims name."""
    again: frozenset[str] = frozenset()
    """Leases that went through a transition in the last step: what follows from that is seen in the next."""
    due: Mapping[str, Instant] = field(default_factory=dict)
    """When time alone makes something due for a lease."""
    due_first: Instant | None = None
    """Not later than any of these; None: not known."""
    offers: Mapping[str, tuple[int, str, str]] = field(default_factory=dict)
    """Of each lease what the node record says: priority, why this node is no candidate, and its store."""


def lease_spec(spec: NodeSpec, lease: str) -> LeaseSpec:
    """The configuration of one lease."""
    return spec.lease_by_name[lease]


if TYPE_CHECKING:
    Open = NodeState
else:
    Open = SimpleNamespace
    """A node's state under change: made once a step, since each copy costs as much as a small step does."""

_FIELDS: Final = tuple(field.name for field in fields(NodeState))
_values_of: Final = attrgetter(*_FIELDS)


class Draft:
    """The working copy of one step: fields are replaced, never changed; effects are collected in order."""

    def __init__(self, state: NodeState, at: Instant) -> None:
        self.at = at
        self.spec = state.spec
        self.effects: list[Effect] = []
        self.node = Open(**dict(zip(_FIELDS, _values_of(state), strict=True)))
        self.leases = dict(state.leases)
        self.republish = False
        """Something that the node record tells may have changed."""
        self.touched: set[str] = set()
        """The leases that this step looks at (`attention`)."""
        self.moved: set[str] = set()
        """Those that went through a transition in this step."""
        self.noticed = state.session.pending

    @property
    def session(self) -> Session:
        """The own session."""
        return self.node.session

    @session.setter
    def session(self, session: Session) -> None:
        self.set(session=session)

    @property
    def view(self) -> View:
        """What was seen of etcd. Only after the first snapshot (callers check `ready`)."""
        return self.node.view if self.node.view is not None else View(self.at, 0, 0, self.at)

    @property
    def ready(self) -> bool:
        """True once a snapshot was seen."""
        return self.node.view is not None

    def set(self, **changes: Any) -> None:
        """Replace fields of the node's state."""
        vars(self.node).update(changes)

    def update(self, lease: str, **changes: Any) -> LeaseState:
        """Replace fields of one lease's state."""
        self.touched.add(lease)
        return self.update_quietly(lease, **changes)

    def update_quietly(self, lease: str, **changes: Any) -> LeaseState:
        """The same, where no row of the table can fire by it."""
        self.leases[lease] = changed(self.leases[lease], **changes)
        return self.leases[lease]

    def touch(self, *leases: str) -> None:
        """Look at these in this step."""
        self.touched.update(lease for lease in leases if lease in self.leases)

    def touch_all(self) -> None:
        """Look at every lease in this step."""
        self.touched.update(self.leases)

    def attended(self) -> list[str]:
        """The leases that this step looks at, as configured."""
        return self.in_order(self.touched)

    def in_order(self, leases: Collection[str]) -> list[str]:
        """These leases, in the order of the configuration."""
        if len(leases) == len(self.leases):
            return list(self.leases)
        return sorted(leases, key=self.spec.position.__getitem__)

    def next_request(self) -> int:
        """A number for a question to etcd."""
        self.set(request=self.node.request + 1)
        return self.node.request

    def next_serial(self) -> int:
        """A number for an effect on a lease."""
        self.set(serial=self.node.serial + 1)
        return self.node.serial

    def expect(self, lease: str, effect: str) -> int:
        """A serial for an effect whose end is awaited."""
        serial = self.next_serial()
        self.update(lease, expected={**self.leases[lease].expected, serial: effect})
        return serial

    def done(self) -> NodeState:
        """The state after the step."""
        return NodeState(**{**vars(self.node), "leases": self.leases})
