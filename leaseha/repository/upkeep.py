"""What is done for the copies' sake beside serving: scrub, mending, compare; and the chores `scrub` and `verify`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from leaseha.repository.chores import Chores
from leaseha.repository.compare import Comparer
from leaseha.repository.door import DoorOptions
from leaseha.repository.gate import Gate
from leaseha.repository.mend import Mender
from leaseha.repository.peering import Peering
from leaseha.repository.scrub import Scrub
from leaseha.repository.store import DirectoryStore
from leaseha.repository.verify import HashesRoute, Verify


class Upkeep:
    """Of one process. Used by its main thread; everything has threads of its own."""

    def __init__(
        self,
        store: DirectoryStore,
        gate: Gate,
        peering: Peering | None,
        chores: Chores,
        fault: Callable[[str], None],
    ) -> None:
        # Without copies the directory may be one that all nodes see: who serves it looks after it.
        self._scrub = Scrub(store, lambda: peering is not None or gate.word is not None, fault)
        self._peering = peering
        self._mender: Mender | None = None
        self._comparer: Comparer | None = None
        chores.register("scrub", self._scrub.chore)
        if peering is not None:
            replicator = peering.replicator
            HashesRoute(store.root, self._scrub).join(peering.app)
            peering.app.bad = self._scrub.bad
            peering.catch_up.suspect = self._scrub.suspect
            self._mender = Mender(replicator, store, gate, self._scrub, fault)
            self._comparer = Comparer(replicator, store, self._scrub, self._mender)
            verify = Verify(replicator, store.root, self._scrub)
            chores.register("verify", verify, verify.allowed)

    def begin(self, options: DoorOptions) -> None:
        """All threads."""
        self.change(options)
        self._scrub.begin()
        if self._mender and self._comparer:
            self._mender.begin()
            self._comparer.begin()

    def change(self, options: DoorOptions) -> None:
        """From now on."""
        self._scrub.pace.rate = options.scrub_rate
        self._scrub.every_s = options.scrub_every_s
        if self._peering and self._comparer:
            self._comparer.every_s = options.compare_every_s
            self._peering.catch_up.pace.rate = options.catch_up_rate

    def status(self) -> dict[str, Any]:
        """For `status` and metrics."""
        told = {"scrub": self._scrub.status()}
        if self._mender and self._comparer:
            told |= {"mending": self._mender.status(), "compare": self._comparer.status()}
        return told
