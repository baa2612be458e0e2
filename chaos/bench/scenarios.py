"""What is done to the holder, and how that ends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from chaos.bench.systems import FIRST, OTHER, Pair
from leaseha.lab.lab import Lab

INSIDE: Final = "inside"
"""An extra host: it is cut off together with the preferred node, and hears it as before."""
LASTS_S: Final = 5.0
"""Of a fault that is taken back."""
WATCHED_S: Final = 2.0
"""After a fault that stays; longer than the lifetime of an address that nobody renews goes on."""
SHORT_S: Final = 1.0

Act = Callable[[Lab, Pair], None]


@dataclass(frozen=True, slots=True)
class Phase:
    """Something that is done to the nodes, and then looked at for a while.

    Args:
        name, text: for tables.
        act: does it; what it returns at is of no importance.
        to: who shall answer after it; empty: whoever does (it is enough that one does, alone and without a break).
        lasts_s: for how long is looked at least.
        alive: the preferred node can be reached all the time, so that the address may stay there.

    """

    name: str
    text: str
    act: Act
    to: str = OTHER
    lasts_s: float = SHORT_S
    alive: bool = False


@dataclass(frozen=True, slots=True)
class Scenario:
    """One or two phases, with `FIRST` holding before, or `OTHER` where that is `prepared`."""

    phases: tuple[Phase, ...]
    prepared: Act | None = None

    @property
    def name(self) -> str:
        """That of its first phase."""
        return self.phases[0].name


def _silent(lab: Lab, _: Pair) -> None:
    """Two sides which do not hear each other: the preferred node with one more host, and all others."""
    cut = (FIRST, INSIDE)
    lab.partition(cut, [name for name in lab.hosts if name not in cut])


def _stop_first(lab: Lab, pair: Pair) -> None:
    """The other node holds, the preferred one is down."""
    pair.term(FIRST)
    lab.prober.wait_for_answer(by=OTHER, timeout_s=30.0)
    pair.wait_ended(FIRST)


SCENARIOS: Final = (
    Scenario((Phase("term", "SIGTERM", lambda _, pair: pair.term(FIRST)),)),
    Scenario(
        (
            Phase(
                "kill",
                "SIGKILL of the agent alone",
                lambda _, pair: pair.kill(FIRST),
                lasts_s=WATCHED_S,
                alive=True,
            ),
        )
    ),
    Scenario(
        (
            Phase(
                "kill-all",
                "SIGKILL of the agent and its guard",
                lambda _, pair: pair.kill_all(FIRST),
                lasts_s=WATCHED_S,
            ),
        )
    ),
    Scenario(
        (
            Phase(
                "freeze",
                "SIGSTOP of everything",
                lambda _, pair: pair.freeze(FIRST),
                lasts_s=LASTS_S,
            ),
            Phase("thaw", "SIGCONT after 5 s", lambda _, pair: pair.thaw(FIRST), to=""),
        )
    ),
    Scenario((Phase("death", "node death", lambda lab, _: lab.kill_host(FIRST), lasts_s=WATCHED_S),)),
    Scenario(
        (Phase("carrier", "carrier lost", lambda lab, _: lab.host(FIRST).cut_carrier(), lasts_s=WATCHED_S),)
    ),
    Scenario(
        (
            Phase("silent", "silent partition", _silent, lasts_s=LASTS_S),
            Phase("heal", "heal of the silent partition", lambda lab, _: lab.heal(), to=""),
        )
    ),
    Scenario((Phase("switchover", "switchover", lambda _, pair: pair.switch_to_other()),)),
    Scenario(
        (Phase("failback", "failback", lambda _, pair: pair.start(FIRST), to=FIRST),), prepared=_stop_first
    ),
)

PHASES: Final = tuple(phase for scenario in SCENARIOS for phase in scenario.phases)
"""In the order of tables."""


def scenario_of(name: str) -> Scenario:
    """By its own name or that of its second phase. Raises `ValueError` that lists what there is."""
    for scenario in SCENARIOS:
        if name in {phase.name for phase in scenario.phases}:
            return scenario
    raise ValueError(f"no scenario {name}: there are {', '.join(one.name for one in SCENARIOS)}")
