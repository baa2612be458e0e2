"""What a seed decides before anything happens: the cluster, its timings, and how unkind the world is."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Final

from leaseha.core.values import NS_PER_MS, NS_PER_S

PROFILES: Final = (
    "mixed",
    "crash",
    "freeze",
    "network",
    "copies",
    "hands",
    "restore",
    "slices",
    "calm",
    "insync",
    "takeover",
    "tight",
    "wiped",
    "swarm",
    "guard",
)
SHARP: Final = PROFILES[-5:-1]
"""What every eighth seed is drawn from: runs in which one thing is judged to the millisecond, or rare."""
_COMMON: Final = PROFILES[:-5]


@dataclass(slots=True)
class Options:
    """One run."""

    seed: int
    profile: str
    nodes: int = 3
    leases: int = 1
    ttl_ns: int = NS_PER_S
    renew_every_ns: int = NS_PER_S // 5
    ttl_max_ns: int = 3 * NS_PER_S
    margin_ns: int = 100 * NS_PER_MS
    drift_ppm: int = 50_000
    slice_size: int = 50
    hold_down_ns: int = 2 * NS_PER_S
    flap_budget: int = 2
    failback: bool = True
    replicated: bool = False
    unkind_ns: int = 20 * NS_PER_S
    watch_lag_ns: int = 3 * NS_PER_MS
    """A watch tells what happened within this; more of it makes fewer and fuller deliveries."""
    slow: float = 0.0
    slow_max_ns: int = NS_PER_S
    copies: float = 0.0
    late_max_ns: int = 4 * NS_PER_S
    late_through_cut: float = 0.0
    lost_replies: float = 0.0
    failing_effects: float = 0.0
    freeze_steps: float = 0.0
    late_kinds: tuple[str, ...] = ()
    """Transactions (`T9`, ...) that are often applied late, cut or not; for steering towards planted bugs."""
    late_kind: float = 0.0
    snatch: float = 0.0
    """How often a claim is deleted by hand within a moment of being written."""
    hard_breaks: bool = False
    """What lets go hard does so for a broken resource, and not for its health."""
    reuse_sessions: bool = False
    """A restored etcd grants the ids anew that it had granted after the snapshot."""
    latest: bool = False
    """The kernel uses the whole margin, and clocks run as fast or as slow as the drift allows."""
    silence_ns: int = 0
    """When the holder of one lease falls silent, and nothing else happens: G3 is judged. 0: not in this run."""
    unfenced: frozenset[str] = frozenset("abcd")
    """Nodes without a kernel fence: address lifetimes alone end what they serve."""
    lifetime_margin_ns: int = 0
    """What others wait for their sake in a cluster that has both kinds; 0: as for all."""
    freeze_arming: float = 0.0
    """How often the agent is frozen between two steps of arming its fence."""
    freeze_frames: float = 0.0
    """How often it is frozen between reading the clock for a frame and sending it."""
    slewed: bool = False
    """NTP slows the first clock of every other node, and the kernel's timers with it, by far more than the drift."""
    faults: dict[str, float] = field(default_factory=dict)
    """Fault or order to its mean number in the unkind time, for each node."""


_FAULTS: Final[dict[str, dict[str, float]]] = {
    "crash": {"kill": 1.2, "restart": 2, "stop": 0.3},
    "freeze": {"freeze": 2.5, "kill": 0.2, "restart": 1, "reload": 0.3},
    "network": {
        "cut": 2, "cut_requests": 0.7, "cut_replies": 0.7, "cut_watch": 0.7, "elect": 0.5, "heal": 4,
        "reload": 0.3,
    },
    "copies": {
        "switchover": 1.5, "stop": 0.5, "restart": 2, "cut": 0.8, "heal": 2, "ttl": 1, "elect": 0.3,
        "reload": 0.3,
    },
    "hands": {
        "drop_session": 0.8, "drop_claim": 0.5, "revoke": 0.4, "cut": 0.8, "heal": 2, "compact": 1, "freeze": 0.5,
    },
    "restore": {"restore": 0.4, "save": 1, "cut": 0.5, "heal": 2, "switchover": 1, "kill": 0.3, "restart": 1},
    "slices": {"drop_claim": 0.8, "cut_watch": 1.0, "heal": 0.5, "cut": 0.3},
    "calm": {
        "kill": 0.5, "restart": 1, "health": 0.5, "switchover": 0.3, "compact": 0.5, "remove_vip": 0.5,
        "reload": 0.3,
    },
    "insync": {"copies": 6, "kill": 0.5, "restart": 1, "cut": 0.5, "heal": 1.5, "switchover": 0.5, "reload": 0.3},
    "takeover": {},
    "swarm": {},
    "guard": {
        "crash": 1.5, "hang": 0.7, "hush": 0.5, "restart": 2, "kill": 0.2, "cut": 0.4, "heal": 1, "switchover": 0.4,
        "ttl": 0.3, "drop_session": 0.2, "stop": 0.2,
        "reload": 0.3,
    },
    "tight": {
        "freeze": 1, "kill": 0.5, "restart": 1.5, "cut": 1, "heal": 2, "switchover": 0.5, "ttl": 0.5, "unkeep": 0.5,
        "drop_session": 0.2, "reload": 0.3,
    },
    "wiped": {
        "wipe": 0.7, "copies": 8, "switchover": 3, "kill": 0.4, "restart": 2, "cut": 0.7, "heal": 2, "accept": 1,
    },
    "mixed": {
        "kill": 0.4, "restart": 1.5, "freeze": 0.5, "cut": 0.5, "cut_requests": 0.2, "cut_replies": 0.2,
        "cut_watch": 0.3, "heal": 2, "elect": 0.2, "switchover": 0.4, "stale_intent": 0.4, "ttl": 0.3, "health": 0.4,
        "drop_session": 0.2, "drop_claim": 0.15, "revoke": 0.15, "compact": 0.4, "remove_vip": 0.2, "stop": 0.2,
        "reload": 0.3,
    },
}  # fmt: skip


def drawn(seed: int, profile: str = "") -> Options:
    """The options of a seed; a profile that is given is kept, else the seed chooses it too."""
    chance = random.Random(f"options {seed}")
    chosen = profile or chance.choices(_COMMON, weights=(4, 1, 1, 2, 2, 2, 1, 1, 1, 1))[0]
    if not profile and seed % 8 == 0:
        chosen = chance.choice(SHARP)
    if not profile and seed % 8 == 4:
        chosen = "guard"
    ttl_ns = chance.choice((300, 500, 1000, 1000, 2000)) * NS_PER_MS
    options = Options(seed, chosen)
    options.nodes = chance.choice((2, 3, 3, 4))
    options.leases = chance.choice((1, 1, 2, 3))
    options.ttl_ns = ttl_ns
    options.renew_every_ns = ttl_ns // chance.choice((3, 5, 5))
    options.ttl_max_ns = ttl_ns * chance.choice((1, 2, 3))
    options.margin_ns = chance.choice((5, 50, 200)) * NS_PER_MS
    options.drift_ppm = chance.choice((1000, 20_000, 50_000, 100_000))
    options.slice_size = chance.choice((1, 50))
    options.hold_down_ns = chance.choice((500, 1000, 2500)) * NS_PER_MS
    options.flap_budget = chance.choice((1, 2, 3))
    options.failback = chance.random() < 0.8
    options.unkind_ns = min(16 * NS_PER_S, 2 * NS_PER_S + 8 * ttl_ns)
    options.watch_lag_ns = chance.choice((3 * NS_PER_MS, ttl_ns // 20, ttl_ns // 20))
    options.faults = dict(_FAULTS[chosen])
    _steer(options, chance)
    _fence(options)
    return options


def _fence(options: Options) -> None:
    """Which nodes have one, and what befalls it; drawn apart, so that all else is the same with and without."""
    chance = random.Random(f"fence {options.seed}")
    kind = chance.choices(("all", "both", "none"), weights=(5, 1, 2))[0]
    freezes, frames, slewed = (
        chance.choice((0, 0.003, 0.02)),
        chance.choice((0, 0.05)),
        chance.random() < 0.25,
    )
    if kind == "none" or options.margin_ns == 0:
        return
    options.unfenced = frozenset() if kind == "all" or options.profile in SHARP else frozenset("bd")
    if options.unfenced:
        options.lifetime_margin_ns = 1500 * NS_PER_MS
    if options.profile not in ("calm", "takeover", "wiped"):
        options.freeze_arming, options.freeze_frames = freezes, frames
        options.slewed = slewed and not options.unfenced


def _steer(options: Options, chance: random.Random) -> None:
    """What belongs to a profile beside its faults."""
    if options.profile in ("mixed", "network", "copies", "hands", "insync"):
        options.slow = chance.choice((0.0, 0.02, 0.1))
        options.slow_max_ns = options.ttl_ns * chance.choice((1, 2))
        options.lost_replies = chance.choice((0.0, 0.02, 0.1))
        options.copies = chance.choice((0.0, 0.1, 0.4))
        options.late_max_ns = options.ttl_ns * chance.choice((2, 4))
        options.late_through_cut = chance.choice((0.0, 0.5))
    if options.profile == "copies":
        options.lost_replies = chance.choice((0.1, 0.25))
        options.copies = 0.4
    if options.profile in ("mixed", "freeze"):
        options.freeze_steps = chance.choice((0.0, 0.002, 0.01))
    if options.profile == "mixed":
        options.failing_effects = chance.choice((0.0, 0.0, 0.05))
    if options.profile == "guard":
        options.failing_effects = chance.choice((0.0, 0.0, 0.1))
        options.lost_replies, options.copies = chance.choice((0.0, 0.05, 0.2)), chance.choice((0.0, 0.2))
        options.late_max_ns, options.slow = 2 * options.ttl_ns, chance.choice((0.0, 0.05))
    if options.profile == "slices":
        options.slice_size, options.leases = 1, chance.choice((4, 6))
        options.ttl_max_ns, options.renew_every_ns = 2 * options.ttl_ns, options.ttl_ns // 5
        options.slow = 0.0
    if options.profile in ("insync", "wiped"):
        options.replicated = True
        options.lost_replies, options.copies = chance.choice((0.1, 0.25)), 0.4
        options.late_max_ns = options.ttl_ns * 4
    if options.profile == "swarm":
        _swarm(options, chance)
    elif options.profile in SHARP:
        _sharpen(options, chance)
    if options.profile == "calm":
        options.unkind_ns = min(20 * NS_PER_S, 4 * NS_PER_S + 16 * options.ttl_ns)


def _sharpen(options: Options, chance: random.Random) -> None:
    options.latest = True
    options.margin_ns = chance.choice((0, 5, 50)) * NS_PER_MS
    if options.profile == "takeover":
        options.nodes = chance.choice((3, 4))
        options.silence_ns = 3 * NS_PER_S + chance.randrange(0, 3 * options.ttl_ns)
        options.unkind_ns = options.silence_ns + 2 * options.ttl_ns + options.margin_ns + NS_PER_S


def _swarm(options: Options, chance: random.Random) -> None:
    """A few faults of all that there are, and every knob turned by chance: what no profile puts together."""
    every = sorted(
        {fault for faults in _FAULTS.values() for fault in faults} - {"accept", "restore", "save", "wipe"}
    )
    chosen = chance.sample((*every, "hard_release", "orphan"), chance.randrange(3, 9))
    options.faults = {fault: chance.choice((0.3, 0.7, 1.5)) for fault in chosen}
    options.faults |= {"heal": 2, "restart": 1.5}
    options.replicated = chance.random() < 0.4
    if options.replicated:  # where nothing is copied anew, a lost disk needs `recover`
        options.faults |= {"copies": chance.choice((2, 8)), "wipe": chance.choice((0, 0.7))}
    options.freeze_steps = chance.choice((0, 0, 0.003, 0.01))
    options.failing_effects = chance.choice((0, 0, 0.03, 0.1))
    options.lost_replies = chance.choice((0, 0.05, 0.2))
    options.copies = chance.choice((0, 0.1, 0.4))
    options.slow = chance.choice((0, 0.03, 0.1))
    options.late_through_cut = chance.choice((0, 0.5))
    options.late_max_ns = options.ttl_ns * chance.choice((1, 4))
    options.latest = chance.random() < 0.5
    options.snatch = chance.choice((0, 0, 0, 0.1))
    if chance.random() < 0.3:
        options.late_kinds = tuple(chance.sample([f"T{number}" for number in range(1, 15)], 3))
        options.late_kind = 0.4
