"""What happened in a run, in true time: the judge reads this and nothing else."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Entry:
    """One fact. `what` names it, `at_ns` is true time, `facts` is what belongs to it."""

    at_ns: int
    what: str
    facts: tuple[Any, ...]


@dataclass(slots=True)
class History:
    """Facts in the order in which they happened."""

    entries: list[Entry] = field(default_factory=list)

    def add(self, at_ns: int, what: str, *facts: Any) -> None:
        """One more."""
        self.entries.append(Entry(at_ns, what, facts))

    def claim(self, at_ns: int, *facts: Any) -> None:
        """A claim was written: lease, mod, hold, node, session, kind, reason, from node."""
        self.add(at_ns, "claim", *facts)

    def record(self, at_ns: int, *facts: Any) -> None:
        """A session record was written: node, session, life, sent at, ttl, store."""
        self.add(at_ns, "record", *facts)

    def digest(self) -> str:
        """The same for the same run."""
        whole = hashlib.sha256()
        for entry in self.entries:
            whole.update(repr((entry.at_ns, entry.what, entry.facts)).encode())
        return whole.hexdigest()

    def save(self, path: Path) -> None:
        """One JSON line a fact."""
        with path.open("w") as file:
            for entry in self.entries:
                file.write(json.dumps([entry.at_ns, entry.what, *entry.facts], default=sorted) + "\n")
