"""`leaseha run`: one agent from its start to its exit code."""

from __future__ import annotations

import asyncio
import logging

from leaseha import __version__
from leaseha.config import Config
from leaseha.runtime.app import Agent
from leaseha.runtime.guarding import Guarding
from leaseha.runtime.story import Story

_log = logging.getLogger("leaseha.agent")


def run(config: Config, guard: Guarding) -> int:
    """Run until a stop is done; the exit code. Raises `LeasehaError` for what keeps the node from running.

    `guard` was started before this module was imported.
    """
    story = Story(config)
    try:
        for warning in config.warnings:
            _log.warning("%s", warning)
        names = ", ".join(lease.name for lease in config.leases)
        _log.info(
            "leaseha %s: node %s of cluster %s, leases %s",
            __version__,
            config.node.name,
            config.cluster,
            names,
        )
        asyncio.run(_run(config, story, guard))
        _log.info("stopped")
    finally:
        story.close()
    return 0


async def _run(config: Config, story: Story, guard: Guarding) -> None:
    await Agent(config, story, guard).run()
