"""What another store's directory has that ours has not, and the other way round: names and sizes, folder by folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from leaseha.repository.manifest import folder_of, listing, manifest
from leaseha.repository.paths import Address, Kind
from leaseha.repository.peer_client import PeerError
from leaseha.repository.peer_manifest import MANIFEST
from leaseha.repository.peer_wire import address_of
from leaseha.repository.peers import Peer

COMPARE_S: Final = 120.0
"""How long another node may take to read its directory."""


@dataclass(slots=True)
class Differences:
    """As seen from our side. A config is in `configs` when both have one, and they differ."""

    lacking: dict[Address, int] = field(default_factory=dict)
    """Bytes of ours that it has not, or has with another size."""
    surplus: list[Address] = field(default_factory=list)
    configs: list[Address] = field(default_factory=list)

    def without(self, known: frozenset[Address]) -> Differences:
        """The rest."""
        return Differences(
            {one: size for one, size in self.lacking.items() if one not in known},
            [one for one in self.surplus if one not in known],
            [one for one in self.configs if one not in known],
        )

    def all(self) -> list[Address]:
        """Of either kind."""
        return [*self.lacking, *self.surplus, *self.configs]


def differences(peer: Peer, root: Path, check: Callable[[], None]) -> Differences:
    """`check` is called between steps and may raise. Raises PeerError, OSError."""
    theirs = peer.client.ask("GET", MANIFEST, peer.stamp(), answer_s=COMPARE_S).json["folders"]
    ours = manifest(root)
    found = Differences()
    for path in sorted({*theirs, *ours}):
        check()
        if tuple(theirs.get(path, ())) == tuple(ours.get(path, ())):
            continue
        config = address_of(path)
        if config is None or config.kind is not Kind.CONFIG:
            _differ(peer, root, path, found)
        elif path in theirs and path in ours:
            found.configs.append(config)
        elif path in ours:
            found.lacking[config] = 0
        else:
            found.surplus.append(config)
    return found


def _differ(peer: Peer, root: Path, path: str, found: Differences) -> None:
    where, _ = folder_of(path)
    answer = peer.client.ask("GET", MANIFEST.decode() + path, peer.stamp(), answer_s=COMPARE_S)
    if answer.status != 200:
        raise PeerError(f"answered {answer.status}")
    theirs, ours = answer.json, listing(root, path)
    for name, size in ours.items():
        if theirs.get(name) != size:
            found.lacking[Address(where.repo, where.kind, name)] = size
    found.surplus += [Address(where.repo, where.kind, name) for name in theirs if name not in ours]
