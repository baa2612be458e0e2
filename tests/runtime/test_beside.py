"""What runs beside the pump: its end is heard of, and a node that cannot look any more lets go."""

import asyncio
import logging

import pytest

from leaseha.config import load
from leaseha.core import effects, events
from leaseha.core.values import Head
from leaseha.runtime.app import Agent
from leaseha.runtime.executor import Executor


class Given:
    """A pump that keeps what it is given."""

    def __init__(self):
        self.events = []

    def give(self, event):
        self.events.append(event)


CONFIG = """
cluster = "c"
etcd.endpoints = ["http://127.0.0.1:2379"]
lease.l.vips = ["10.0.0.50/24"]
lease.l.priority = { n1 = 100 }
node.name = "n1"
node.interface = "lo"
"""


@pytest.fixture
def agent(tmp_path):
    path = tmp_path / "leaseha.toml"
    path.write_text(CONFIG, encoding="utf-8")
    made = Agent(load(path, environ={}), observer=None, guard=None, path=path)
    made.pump = Given()
    return made


async def breaking():
    raise ValueError("no such thing")


async def running(agent, what, **others):
    agent._beside(what, breaking(), **others)
    while agent._tasks:
        await asyncio.sleep(0)


def test_a_watch_that_breaks_off_is_said_and_ends_the_node_in_order(agent, caplog):
    asyncio.run(running(agent, "the checks"))

    assert [type(event) for event in agent.pump.events] == [events.StopAsked]
    assert "the checks broke off" in caplog.text
    agent._stopped("")
    assert agent._ended.failure.startswith("the checks broke off")


def test_what_only_status_needs_ends_nothing(agent, caplog):
    asyncio.run(running(agent, "the look at etcd's members", vital=False))

    assert agent.pump.events == []
    assert "the look at etcd's members broke off" in caplog.text


def test_gaps_that_come_together_make_one_look_more_and_no_queue(agent):
    looks = []

    class Binder:
        async def missing(self):
            looks.append(len(agent._tasks))
            await asyncio.sleep(0)
            return {}

    async def gaps():
        for _ in range(100):
            agent.on_gap()
        await asyncio.sleep(0)
        agent.on_gap()
        while agent._tasks:
            await asyncio.sleep(0)

    agent._binders = {"eth0": Binder()}
    asyncio.run(gaps())

    assert looks == [1, 1]


class Store:
    """An etcd whose reads are answered when the test says so."""

    def __init__(self):
        self.watched = []
        self.answers = []

    async def read_all(self, timeout_s):
        answer = asyncio.get_running_loop().create_future()
        self.answers.append(answer)
        await answer
        return Head(1, 10 * len(self.answers), 1), ()

    def watch(self, revision, changed, reread):
        self.watched.append(revision)


def test_a_read_that_was_superseded_begins_no_watch(caplog):
    caplog.set_level(logging.ERROR)
    store, pump = Store(), Given()

    async def twice():
        executor = Executor(store, {}, None, pump.give, lambda failure: None)
        executor.execute(effects.ReadAll(1, restart_watch=True))
        executor.execute(effects.ReadAll(2, restart_watch=True))
        await asyncio.sleep(0)
        for answer in store.answers:
            answer.set_result(None)
            await asyncio.sleep(0)
        await executor.settle(1)

    asyncio.run(twice())

    assert [event.request for event in pump.events] == [1, 2]
    assert store.watched == [21]
