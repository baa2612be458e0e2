"""From the configuration of a lease to its repository's process, kept warm."""

from __future__ import annotations

from collections.abc import Callable

from leaseha.adapters import clock
from leaseha.config import Config, LeaseConfig, RepositoryConfig
from leaseha.core import events
from leaseha.core.events import Event
from leaseha.lines import Shape
from leaseha.runtime.copies import Copies
from leaseha.runtime.datadir import DataDirectory
from leaseha.runtime.repositories import WarmRepository


def warm_repository(
    config: Config,
    lease: LeaseConfig,
    repository: RepositoryConfig,
    address: str,
    give: Callable[[Event], None],
) -> WarmRepository:
    """Not started yet. `address`: this node's own; `give` takes events to the core."""

    def failed(detail: str) -> None:
        give(events.ResourceFailed(clock.now(), lease.name, detail))

    def busy(writing: bool) -> None:
        give(events.BusyChanged(clock.now(), lease.name, writing))

    log, wanted = config.log, repository.copies
    directory = DataDirectory(lease.name, repository.path, config.state_dir, replicated=wanted is not None)
    logs = Shape(config.node.name, config.cluster, log.format.value, log.level.value, lease.name)
    copies = Copies(lease.name, wanted, address, give) if wanted is not None else None
    return WarmRepository(lease.name, directory, logs, failed, busy, repository.door, copies)
