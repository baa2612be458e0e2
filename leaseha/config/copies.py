"""Rules of a repository's copies: what excludes, needs or weakens what."""

from __future__ import annotations

from leaseha.config.faults import Faults, join, quoted
from leaseha.config.model import Config, CopiesConfig


def check_copies(config: Config, faults: Faults) -> None:
    """Notes each fault and each warning of how the leases' data is kept on other nodes."""
    ports: dict[int, str] = {}
    for lease in config.leases:
        copies = lease.repository.copies if lease.repository is not None else None
        if copies is None:
            continue
        path = f"{join('lease', lease.name)}.repository"
        key = f"{path}.peer_port"
        if copies.peer_port in ports:
            remedy = f"is that of {ports[copies.peer_port]}: give each lease a port of its own"
            faults.add(key, str(copies.peer_port), remedy, needs=(ports[copies.peer_port],))
        ports.setdefault(copies.peer_port, key)
        holders = sum(priority > 0 for priority in lease.priority.values())
        if copies.min_copies > holders:
            remedy = (
                f"only {holders} nodes have a priority above 0, so no write could ever succeed: write less"
            )
            faults.add(f"{path}.min_copies", str(copies.min_copies), remedy, needs=(f"{path}.priority",))
        if config.node.address is None and (config.node.interface is not None or lease.interface is not None):
            faults.warn(
                f"{path}.replicate: other nodes reach this one at the source address of its route to the first VIP;"
                " where that is not the network for copies, write node.address",
                needs=("node.address", "node.interface"),
            )
        _tls(faults, path, copies)


def _tls(faults: Faults, path: str, copies: CopiesConfig) -> None:
    files = {"peer_ca": copies.ca, "peer_cert": copies.cert, "peer_key": copies.key}
    missing = [name for name, found in files.items() if found is None]
    if len(missing) == len(files):
        faults.warn(
            f"{path}.replicate: nodes send their copies in the clear, and whoever reaches the peer port may write;"
            " keep it to a network of their own, or write peer_ca, peer_cert and peer_key beside it"
            " (`leaseha pki` makes them)",
            needs=tuple(f"{path}.{name}" for name in files),
        )
    elif missing:
        name, found = next((name, found) for name, found in files.items() if found is not None)
        remedy = f"the three go together: write {' and '.join(missing)} beside it"
        faults.add(f"{path}.{name}", quoted(str(found)), remedy, needs=(f"{path}.{missing[0]}",))
