"""The agent's side of one lease's copies on other nodes: what its process is told, and what it says.

The process says which stores it would have in the in-sync set; the core writes that (T13), and what may stand there
is told to the process again. The words are in `leaseha.repository.control`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, Final

from leaseha.adapters import clock
from leaseha.config import CopiesConfig
from leaseha.core import events
from leaseha.core.events import Event
from leaseha.core.state import NodeState
from leaseha.repository.control import Notice, Peering
from leaseha.repository.members import Members
from leaseha.repository.tls import TlsFiles
from leaseha.runtime.members import MembersTeller

_LISTENS: Final = ("lease", "listen_host", "listen_port", "tls")
_log = logging.getLogger("leaseha.repository")


class Copies:
    """Of one lease on this node. `give` takes events to the core; `tell` is set to what takes a word to the process."""

    def __init__(self, lease: str, config: CopiesConfig, address: str, give: Callable[[Event], None]) -> None:
        """`address`: this node's own, where the others' copies come in."""
        self._lease = lease
        self._config = config
        self._address = address
        self._give = give
        self._store = ""
        self._said: Notice | None = None
        self._begun = False
        self.tell: Callable[[Members], None] = lambda _: None
        self._teller = MembersTeller(lease, config.min_copies, self._tell_now, clock.now)
        self.status: Mapping[str, Any] = {}
        """What the process said last of its copies; empty while this node does not serve."""

    def _tell_now(self, members: Members) -> None:
        self.tell(members)

    def look(self, state: NodeState) -> None:
        """After each step of the core, before anything of it is carried out."""
        self._teller.look(state)

    def started(self) -> None:
        """The process is a new one, or another program's."""
        self._teller.again()

    def begin(self) -> None:
        """The core has started, and may hear events: first what was found and said before."""
        self._begun = True
        if self._store:
            self._give(events.StoreFound(clock.now(), self._lease, self._store))
        if self._said is not None:
            self.heard(self._said)

    @property
    def store(self) -> str:
        """What names this node's bytes; empty before the directory was looked at."""
        return self._store

    def found(self, store: str) -> None:
        """The data directory was looked at, and may be served."""
        if store != self._store:
            if self._store:
                _log.warning(
                    "another data directory than before: it is filled by the holder before it counts",
                    extra={"leaseha": {"lease": self._lease}},
                )
            self._store = store
            if self._begun:
                self._give(events.StoreFound(clock.now(), self._lease, store))

    def peering(self) -> Peering:
        """How the process listens and who it is; of the store found last."""
        config = self._config
        tls = None
        if config.ca is not None and config.cert is not None and config.key is not None:
            tls = TlsFiles(str(config.cert), str(config.key), str(config.ca))
        return Peering(self._lease, self._store, self._address, config.peer_port, tls)

    def heard(self, said: Notice) -> None:
        """`wants`: which stores the process would have in the set."""
        self._said = said
        if self._begun:
            self._give(events.CopiesReported(clock.now(), self._lease, said.stores, said.token, said.number))

    # ---- from one program to the next

    def told(self) -> dict[str, Any]:
        """What the next program needs, as JSON."""
        said = self._said
        words = {"why": said.why, "stores": sorted(said.stores), "number": said.number} if said else None
        return {
            "peering": asdict(self.peering()),
            "said": words and {**words, "token": said.token if said else 0},
        }

    def adopt(self, told: Mapping[str, Any]) -> bool:
        """Go on with what the program before was told; False: its process listens elsewhere, or is another store."""
        before, now = told.get("peering", {}), asdict(self.peering())
        if any(before.get(name) != now[name] for name in _LISTENS) or before.get("store") != self._store:
            return False
        if said := told.get("said"):
            self._said = Notice(
                "wants", said["why"], frozenset(said["stores"]), said["number"], token=said["token"]
            )
        return True
