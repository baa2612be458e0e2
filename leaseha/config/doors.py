"""Rules of a repository's door: what excludes, needs or weakens what."""

from __future__ import annotations

from leaseha.config.faults import Faults, join, quoted
from leaseha.config.model import LeaseConfig


def check_door(lease: LeaseConfig, faults: Faults) -> None:
    """Notes each fault and each warning of who may do what in the lease's repository."""
    if lease.repository is None:
        return
    door, path = lease.repository.door, f"{join('lease', lease.name)}.repository"
    if door.private and not door.users:
        remedy = 'without users nobody has a folder of his own: write auth = "users" beside it'
        faults.add(f"{path}.private", "true", remedy, needs=(f"{path}.auth",))
    for one, other, name in ((door.cert, door.key, "key"), (door.key, door.cert, "cert")):
        if one is not None and other is None:
            own = "cert" if name == "key" else "key"
            remedy = f"certificate and key go together: write {name} beside it"
            faults.add(f"{path}.{own}", quoted(str(one)), remedy, needs=(f"{path}.{name}",))
    if door.users and door.cert is None:
        faults.warn(
            f'{path}.auth = "users": passwords go over the wire in the clear; write cert and key beside it '
            "(`leaseha pki issue --public` makes them)",
            needs=(f"{path}.auth", f"{path}.cert", f"{path}.key"),
        )
