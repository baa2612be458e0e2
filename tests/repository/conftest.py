"""Repositories on loopback and files under pytest's temporary folder; nothing else is touched."""

import contextlib
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.repository.agent import Agent
from tests.repository.cluster import Cluster
from tests.repository.served import Served


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Served]]:
    """Makes served repositories; all of them end with the test."""
    made: list[Served] = []

    def make(**options: Any) -> Served:
        made.append(Served(tmp_path / "data", **options))
        return made[-1]

    (tmp_path / "data").mkdir()
    yield make
    for served in made:
        served.close()


@pytest.fixture
def served(serve: Callable[..., Served]) -> Served:
    """An open gate under token 7."""
    return serve()


@pytest.fixture
async def new_agent(tmp_path: Path) -> AsyncIterator[Callable[..., Awaitable[Agent]]]:
    """Makes agents with a warm process; all use the same data directory."""
    made: list[Agent] = []
    (tmp_path / "data").mkdir(exist_ok=True)

    async def make() -> Agent:
        agent = Agent(tmp_path / "data")
        made.append(agent)
        await agent.process.start()
        return agent

    yield make
    for agent in made:
        if agent.process.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(agent.process.pid, signal.SIGCONT)
        await agent.process.close()


@pytest.fixture
async def agent(new_agent: Callable[..., Awaitable[Agent]]) -> Agent:
    return await new_agent()


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    """No nodes yet; all that are added end with the test."""
    made = Cluster(tmp_path)
    yield made
    await made.close()
