"""How a repository process ends, and what another one finds: tokens, leftovers, death of either side."""

import asyncio
import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from leaseha.lines import Shape
from leaseha.repository.control import Notice, RepositoryError, RepositoryProcess
from tests.repository.agent import BODY, TOP, URL, Agent, in_s, reset_or_closed
from tests.repository.served import CHILD_ENV, HOST, free_port, post_head, read_all


async def test_a_stale_process_of_another_node_is_refused_by_token(agent: Agent, new_agent):
    """Both believe that they may serve the one directory; the higher token decides, at the rename."""
    await agent.serve(token=7)
    sock = await agent.begin_upload()
    other = await new_agent()
    assert (await other.serve(token=8)).ok
    sock.sendall(BODY[-1:])

    assert not (await reset_or_closed(sock)).startswith(b"HTTP/1.1 200")
    await agent.until(lambda: agent.notices != [], "it closed by itself")
    assert "older than token 8" in agent.notices[0].why
    assert agent.refuses_connections()
    assert not agent.stored()
    assert (await other.ask("POST", URL, BODY)).status == 200


async def test_a_new_process_removes_leftovers_of_the_dead_and_nothing_of_the_living(agent: Agent, new_agent):
    await agent.serve(token=7)
    living = await agent.begin_upload()
    victim = await new_agent()
    assert (await victim.serve(token=7)).ok
    with victim.dial() as sock:
        sock.sendall(post_head(f"/r/data/{'0' * 64}", 100) + b"x")
        await agent.until(lambda: agent.temporaries() == 2, "both upload")
        victim.process.kill()
        await victim.until(lambda: victim.notices != [], "its end is told")
    assert agent.temporaries() == 2

    await new_agent()
    assert agent.temporaries() == 1
    living.sendall(BODY[-1:])
    assert (await asyncio.to_thread(living.recv, 12)) == b"HTTP/1.1 200"
    living.close()


async def test_a_killed_child_is_noticed_and_can_be_started_again(agent: Agent):
    await agent.serve(token=7)
    os.kill(agent.process.pid, signal.SIGKILL)
    await agent.until(lambda: agent.notices != [], "its end is told")

    assert [Notice("ended", "the repository process ended (signal 9)")] == agent.notices
    with pytest.raises(RepositoryError, match="does not run"):
        await agent.serve(token=8)
    await agent.process.start()
    assert (await agent.serve(token=8)).ok


async def test_a_request_that_its_end_overtakes_is_an_error_and_not_a_wait(agent: Agent):
    os.kill(agent.process.pid, signal.SIGSTOP)
    asking = asyncio.create_task(agent.serve())
    await asyncio.sleep(0)
    os.kill(agent.process.pid, signal.SIGKILL)

    with pytest.raises(RepositoryError, match="ended"):
        await asking


async def test_closing_ends_the_process(agent: Agent):
    pid = agent.process.pid
    await agent.serve()
    await agent.process.close()
    await agent.process.close()

    assert not Path(f"/proc/{pid}").exists()
    assert agent.refuses_connections()
    assert agent.notices == []


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
async def test_signals_to_the_whole_group_leave_the_decision_to_the_agent(agent: Agent, sign):
    await agent.serve()
    os.kill(agent.process.pid, sign)

    assert (await agent.ask("GET", "/r/data/")).status == 200
    assert (await agent.process.status()).serving


async def test_a_data_directory_that_cannot_be_used_is_told_at_the_start(tmp_path: Path):
    (tmp_path / "file").write_text("no directory")
    process = RepositoryProcess(tmp_path / "file", lambda notice: None)

    with pytest.raises(RepositoryError, match=r"data directory cannot be used: .*Not a directory"):
        await process.start()
    assert not process.running
    await process.close()


async def test_a_data_directory_is_never_made_by_the_one_who_serves_it(tmp_path: Path):
    process = RepositoryProcess(tmp_path / "mount", lambda notice: None)

    with pytest.raises(RepositoryError, match=r"data directory cannot be used: .*No such file"):
        await process.start()
    assert not (tmp_path / "mount").exists()
    await process.close()


async def test_its_log_lines_have_the_shape_of_its_agents(agent: Agent, capfd):
    """Format, level, node and lease: who reads the journal of a node need not know of a second process."""
    shape = Shape("node1", "backup", "json", "info", "backups")
    await agent.process.close()
    agent.process = RepositoryProcess(agent.root, agent.notices.append, logs=shape)
    await agent.process.start()
    assert (await agent.serve()).ok
    said = ""

    def serving() -> bool:
        nonlocal said
        said += capfd.readouterr().err
        return "serving on" in said and said.endswith("\n")

    await agent.until(serving, "it says that it serves")
    line = json.loads(said.splitlines()[-1])
    assert (line["node"], line["cluster"], line["lease"]) == ("node1", "backup", "backups")
    assert (line["level"], line["event"]) == ("info", "log")


async def test_a_directory_that_vanishes_ends_no_process(agent: Agent):
    """It must still answer its agent, who takes it off the VIP."""
    await agent.serve()
    agent.root.rename(agent.root.with_name("elsewhere"))

    assert (await agent.process.status()).highest_token == 0
    assert (await agent.process.stop(0.1)).ok


async def test_status_counts_what_was_done(agent: Agent):
    await agent.serve(token=7)
    await agent.ask("POST", URL, BODY)
    await agent.ask("GET", URL)
    await agent.ask("DELETE", URL)
    status = await agent.process.status()

    assert (
        status.serving,
        status.gate_open,
        status.token,
        status.epoch,
        status.highest_token,
    ) == (True, True, 7, 0, 7)
    assert (3, 1, 1, len(BODY), len(BODY), 0) == (
        status.requests,
        status.uploads,
        status.deletes,
        status.bytes_in,
        status.bytes_out,
        status.faults,
    )


PARENT = """
    import asyncio, sys
    from pathlib import Path
    from leaseha.repository.control import RepositoryProcess
    from leaseha.repository.gate import now

    async def main():
        process = RepositoryProcess(Path(sys.argv[1]), print)
        await process.start()
        await process.serve(["127.0.0.1"], int(sys.argv[2]), 7, 0, now().plus(300 * 10**9))
        print(process.pid, flush=True)
        await asyncio.sleep(300)

    asyncio.run(main())
"""


def test_it_dies_with_its_agent(tmp_path: Path):
    """SIGKILL of the parent: nothing of the child may serve or acknowledge any more, and it does not linger."""
    port = free_port()
    (tmp_path / "data").mkdir()
    command = [sys.executable, "-c", textwrap.dedent(PARENT), str(tmp_path / "data"), str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=TOP, env=CHILD_ENV) as parent:
        child = int(parent.stdout.readline())
        with socket.create_connection((HOST, port), timeout=20) as sock:
            sock.sendall(post_head(URL, len(BODY)) + BODY[:-1])
            child_fd = os.pidfd_open(child)
            parent.kill()
            parent.wait()
            with contextlib.suppress(ConnectionResetError, BrokenPipeError):
                sock.sendall(BODY[-1:])
            assert not read_all(sock).startswith(b"HTTP/1.1 200")
    try:
        gone = select.poll()
        gone.register(child_fd, select.POLLIN)
        assert gone.poll(20_000), "the child outlives its parent"
    finally:
        os.close(child_fd)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((HOST, port), timeout=20).close()


async def test_words_fifty_times_a_second_cost_next_to_nothing(agent: Agent):
    """Twenty seconds' worth of renewals are taken in a fraction of a second."""
    await agent.serve()
    before = _cpu_ticks(agent.process.pid)
    for _ in range(1000):
        agent.process.extend(7, in_s(300))
    await agent.process.status()

    spent_s = (_cpu_ticks(agent.process.pid) - before) / os.sysconf("SC_CLK_TCK")
    assert spent_s < 1.0


def _cpu_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])
