"""`leaseha run`: one agent from its start to its exit code."""

from __future__ import annotations

import asyncio
import logging
import sys
from pathlib import Path
from typing import Final

from leaseha import __version__
from leaseha.config import Config
from leaseha.runtime.app import Agent
from leaseha.runtime.guarding import Guarding
from leaseha.runtime.handover import Told
from leaseha.runtime.story import Story

SWITCH_S: Final = 0.0001
"""How long one thread computes while another waits to. Python's own 5 ms pass after each system call of the event loop
while the fence's or the addresses' thread is at work, and the other way round: hundreds of them at a takeover.
"""
_log = logging.getLogger("leaseha.agent")


def run(config: Config, guard: Guarding, path: Path, told: Told | None = None) -> int:
    """Run until a stop is done; the exit code. Raises `LeasehaError` for what keeps the node from running.

    `guard` was started before this module was imported; `path` is the file that `config` came from; `told` is what the
    program before has handed over, if this process was replaced in place.
    """
    sys.setswitchinterval(SWITCH_S)
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
        asyncio.run(_run(Agent(config, story, guard, path, told)))
        _log.info("stopped")
    finally:
        story.close()
    return 0


async def _run(agent: Agent) -> None:
    await agent.run()
