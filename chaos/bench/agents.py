"""leaseha, as the bench runs it: agents as processes, SIGTERM is a release, switchover is the command."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from chaos.bench.systems import FIRST, OTHER
from chaos.moves import candidate
from leaseha import __version__
from leaseha.config.durations import parse_duration
from leaseha.errors import LabError
from leaseha.lab.lab import LEASE, Lab

_STEP_S: Final = 30.0
_QUIET_HOLD_DOWN: Final = "10m"
_SLACK_S: Final = 8.0


@dataclass(frozen=True, slots=True)
class Leaseha:
    """leaseha with one ttl. Empty texts: its own defaults."""

    ttl: str
    renew_every: str = ""
    margin: str = ""

    uses_etcd: bool = True

    @property
    def name(self) -> str:
        """Such as `leaseha 300ms/60ms`."""
        return f"leaseha {self.ttl}" + (f"/{self.renew_every}" if self.renew_every else "")

    @property
    def patience_s(self) -> float:
        """ttl, and several seconds for margins and slow machines."""
        return parse_duration(self.ttl) / 1e9 + _SLACK_S

    def _session(self) -> dict[str, str]:
        given = {"ttl": self.ttl, "renew_every": self.renew_every, "margin": self.margin}
        return {key: value for key, value in given.items() if value}

    def facts(self) -> dict[str, str]:
        """What differs from the defaults, and the version."""
        return {"version": __version__, **self._session()}

    def settings(self, *, fails_back: bool) -> Mapping[str, Any]:
        """Failback after 1 s, or out of sight."""
        hold_down = "1s" if fails_back else _QUIET_HOLD_DOWN
        return {"session": self._session(), "lease": {LEASE: {"hold_down": hold_down, "flap_budget": 60}}}

    def pair(self, lab: Lab) -> Agents:
        """Of this lab, which was made with `settings`."""
        return Agents(lab)


class Agents:
    """Two agents; see `chaos.bench.systems.Pair`."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab

    def start(self, name: str) -> None:
        """`leaseha run`."""
        self._lab.start_node(name)

    def wait_holding(self, name: str) -> None:
        """By its own status."""

        def serves(status: dict[str, Any]) -> bool:
            return bool(status["leases"][LEASE]["role"] == "HOLDER")

        self._lab.nodes[name].wait_for(f"{name} serves", serves, _STEP_S)

    def wait_standing_by(self, name: str) -> None:
        """Until it counts itself among the candidates, as all others do."""
        candidate(self._lab, name)

    def term(self, name: str) -> None:
        """To the agent."""
        self._lab.nodes[name].term()

    def kill(self, name: str) -> None:
        """The agent; its guard lives."""
        self._lab.nodes[name].kill()

    def kill_all(self, name: str) -> None:
        """The agent, its guard and all that they started."""
        self._lab.nodes[name].kill_tree()

    def freeze(self, name: str) -> None:
        """The agent, its guard and all that they started."""
        self._lab.nodes[name].freeze(tree=True)

    def thaw(self, name: str) -> None:
        """The same."""
        self._lab.nodes[name].thaw(tree=True)

    def wait_ended(self, name: str) -> None:
        """The agent, and what came of it."""
        node = self._lab.nodes[name]
        node.wait()
        end = time.monotonic() + _STEP_S
        while node.pids():
            if time.monotonic() > end:
                raise LabError(f"something outlives the agent of {name}: {node.pids()}")
            time.sleep(0.01)  # waits for a fact: the guard has ended too

    def switch_to_other(self) -> None:
        """`leaseha switchover --to`, from the other node; returns when it is done."""
        config = str(self._lab.nodes[OTHER].config)
        command = [sys.executable, "-m", "leaseha", "switchover", "--config", config, "--to", OTHER]
        done = self._lab.host(OTHER).run(command, timeout_s=_STEP_S)
        if done.returncode != 0:
            raise LabError(f"switchover from {FIRST}: {done.stdout}")
