"""A repository's process from one program of its agent to the next: it serves on, and is waited for."""

import asyncio
import os
import signal
import socket
from pathlib import Path

import pytest

from leaseha.adapters import clock
from leaseha.core.values import NS_PER_S
from leaseha.errors import RepositoryError
from leaseha.repository.adopted import AdoptedChild, Inherited
from leaseha.repository.control import Notice, RepositoryProcess


@pytest.fixture
async def pair(tmp_path: Path):
    """The handle of the program before, its process started; that of the next; and what the next was told."""
    notices: list[Notice] = []
    before, after = RepositoryProcess(tmp_path, notices.append), RepositoryProcess(tmp_path, notices.append)
    await before.start()
    yield before, after, notices
    await after.close()
    await before.close()


async def adopted(before: RepositoryProcess, after: RepositoryProcess) -> Inherited:
    """As after an exec, but that the program before is still there, and silent."""
    told = before.hand_over()
    await after.adopt(Inherited(told.pid, os.dup(told.fd), told.number))
    return told


async def test_the_next_program_speaks_with_the_same_process(pair):
    before, after, notices = pair
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    deadline = clock.now().plus(60 * NS_PER_S)
    assert (await before.serve(["127.0.0.1"], port, 7, 1, deadline)).ok
    told = await adopted(before, after)

    assert after.running
    assert after.pid == before.pid == told.pid
    assert (await after.status()).serving
    after.extend(7, deadline.plus(NS_PER_S))
    assert (await after.stop(0.1)).ok
    assert not (await after.status()).serving
    assert notices == []


async def test_a_process_that_dies_under_the_next_program_is_told_of(pair):
    before, after, notices = pair
    await adopted(before, after)
    os.kill(after.pid, signal.SIGKILL)
    async with asyncio.timeout(10):
        while not notices:
            await asyncio.sleep(0.01)  # waits for a fact: the notice
    assert notices[0].kind == "ended"
    assert not after.running


async def test_what_is_being_spoken_to_is_not_handed_over_and_can_go_on(pair):
    before, after, _ = pair
    asking = asyncio.create_task(before.status())
    await asyncio.sleep(0)
    with pytest.raises(RepositoryError, match="being spoken to"):
        before.hand_over()
    assert not (await asking).serving
    with pytest.raises(RepositoryError, match="being spoken to"):
        after.hand_over()
    before.hand_over()
    before.go_on()
    assert not (await before.status()).serving


async def test_a_process_that_is_gone_cannot_be_adopted(tmp_path: Path):
    gone = await asyncio.create_subprocess_exec("true")
    await gone.wait()
    handle = RepositoryProcess(tmp_path, lambda notice: None)
    ours, theirs = socket.socketpair()
    with theirs, pytest.raises(RepositoryError, match="is gone"):
        await handle.adopt(Inherited(gone.pid, ours.detach(), 0))
    assert not handle.running


async def test_an_adopted_child_is_waited_for_and_can_be_killed():
    pid = os.spawnlp(os.P_NOWAIT, "sleep", "sleep", "60")
    child = AdoptedChild(pid)
    assert child.returncode is None
    child.kill()
    assert await child.wait() == -signal.SIGKILL
    assert child.returncode == -signal.SIGKILL
    with pytest.raises(ProcessLookupError):
        child.kill()
