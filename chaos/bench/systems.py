"""What is measured: a pair of nodes that keep one address between them, whatever keeps it there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Protocol

from leaseha.lab.lab import Lab

FIRST: Final = "node1"
OTHER: Final = "node2"


class Pair(Protocol):
    """The two nodes of one lab under one system. Nothing waits for the other node to notice, unless it says so."""

    def start(self, name: str) -> None:
        """Start the system on a node and return at once."""
        ...

    def wait_holding(self, name: str) -> None:
        """Until it says that this node holds the address. Raises `LabError`."""
        ...

    def wait_standing_by(self, name: str) -> None:
        """Until this node is ready to take the address over. Raises `LabError`."""
        ...

    def term(self, name: str) -> None:
        """SIGTERM, as a service manager stops it."""
        ...

    def kill(self, name: str) -> None:
        """SIGKILL to the process that does the work, and to no other."""
        ...

    def kill_all(self, name: str) -> None:
        """SIGKILL to every process of the system on this node, so that none sees another's end."""
        ...

    def freeze(self, name: str) -> None:
        """SIGSTOP to every process of the system on this node."""
        ...

    def thaw(self, name: str) -> None:
        """SIGCONT to the same."""
        ...

    def wait_ended(self, name: str) -> None:
        """Until no process of the system is left on this node. Raises `LabError`."""
        ...

    def switch_to_other(self) -> None:
        """Move the address from `FIRST` to `OTHER` while both run, as an operator of the system does."""
        ...


class System(Protocol):
    """One system in one configuration."""

    @property
    def name(self) -> str:
        """For tables."""
        ...

    @property
    def uses_etcd(self) -> bool:
        """Whether its idle cost has a share of etcd's."""
        ...

    @property
    def patience_s(self) -> float:
        """By when it should have taken over from a silent holder, generously."""
        ...

    def facts(self) -> dict[str, str]:
        """Its settings and version."""
        ...

    def settings(self, *, fails_back: bool) -> Mapping[str, Any]:
        """What the lab lays over the configuration of leaseha; empty for others. `fails_back`: the preferred node
        shall get the address back about a second after it has returned, else not for a while.
        """
        ...

    def pair(self, lab: Lab) -> Pair:
        """For one lab."""
        ...
