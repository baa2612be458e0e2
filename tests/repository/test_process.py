"""The repository as its agent has it: a child that obeys words, closes by itself, and never outlives them."""

import asyncio
import contextlib
import os
import signal
import socket

import pytest

from leaseha.core.values import Instant
from leaseha.repository.control import Notice, RepositoryError
from leaseha.repository.gate import now
from tests.repository.agent import BODY, URL, Agent, in_s, reset_or_closed
from tests.repository.served import HOST, Client, free_port


async def test_a_warm_process_listens_nowhere_and_serves_when_it_is_told(agent: Agent):
    assert agent.refuses_connections()

    answer = await agent.serve(token=7)

    assert (answer.ok, answer.highest_token) == (True, 7)
    assert (await agent.ask("POST", URL, BODY)).status == 200
    assert (await agent.ask("GET", URL)).body == BODY


async def test_it_may_listen_before_its_gate_is_open_and_answers_503_until_then(agent: Agent):
    assert (await agent.serve(token=7, gate=False)).ok
    for method, path in (
        ("HEAD", "/r/config"),
        ("GET", "/r/data/"),
        ("POST", URL),
        ("GET", "/no/such/path/at/all"),
    ):
        assert (await agent.ask(method, path)).status == 503
    assert (await agent.process.status()).highest_token == 0

    assert (await agent.process.open_gate(7, 0, in_s(300))).ok
    assert (await agent.ask("HEAD", "/r/config")).status == 404
    assert (await agent.process.status()).highest_token == 7


async def test_opening_the_gate_of_one_that_does_not_listen_is_refused(agent: Agent):
    answer = await agent.process.open_gate(7, 0, in_s(300))

    assert (answer.ok, answer.why) == (False, "not listening")


async def test_addresses_may_be_bound_after_it_listens_on_them(agent: Agent):
    """Documentation addresses, which are on no interface: IP_FREEBIND."""
    answer = await agent.process.serve(
        ["192.0.2.77/24", "2001:db8::77/64", HOST], agent.port, 7, 0, in_s(300)
    )

    assert answer.ok
    assert (await agent.ask("GET", "/r/data/")).status == 200


async def test_it_serves_on_ipv6(agent: Agent):
    try:
        port = free_port("::1")
    except OSError:
        pytest.skip("this machine has no ::1 (kernel without IPv6; no package cures that)")
    assert (await agent.process.serve(["::1"], port, 7, 0, in_s(300))).ok

    def talk():
        with Client(port, "::1") as client:
            return client.ask("GET", "/r/data/").status

    assert await asyncio.to_thread(talk) == 200


async def test_a_port_that_is_taken_is_a_clear_refusal(agent: Agent):
    with socket.create_server((HOST, agent.port)):
        answer = await agent.serve()

    assert not answer.ok
    assert "in use" in answer.why
    assert not (await agent.process.status()).serving


async def test_a_lower_token_than_the_directory_has_seen_is_refused_with_the_reason(agent: Agent, new_agent):
    await agent.serve(token=9)
    other = await new_agent()

    answer = await other.serve(token=8)

    assert (answer.ok, answer.highest_token) == (False, 9)
    assert answer.why == "token 8 (epoch 0) is older than token 9 (epoch 0) that this data directory has seen"
    assert other.refuses_connections()
    assert not (await other.process.status()).gate_open


async def test_the_token_is_remembered_by_a_new_process(agent: Agent, new_agent):
    await agent.serve(token=9)
    await agent.process.close()
    other = await new_agent()

    assert not (await other.serve(token=8)).ok
    assert (await other.serve(token=9)).ok


async def test_past_its_deadline_it_resets_uploads_and_refuses_connections(agent: Agent):
    """No fresh word: nothing is acknowledged, and the client hears of it at once."""
    await agent.serve(seconds=300)
    sock = await agent.begin_upload()
    idle = agent.dial()
    agent.process.extend(7, in_s(0.05))
    await agent.until(lambda: agent.notices != [], "it closed by itself")

    assert [Notice("closed", "no fresh word by the deadline")] == agent.notices
    assert agent.refuses_connections()
    with sock, pytest.raises(ConnectionResetError):
        await asyncio.to_thread(sock.recv, 100)
    assert await reset_or_closed(idle) == b""
    await agent.until(lambda: agent.temporaries() == 0, "the temporary is removed")
    assert not agent.stored()


async def test_closed_by_its_deadline_it_can_serve_again(agent: Agent):
    await agent.serve(seconds=0.05)
    await agent.until(lambda: agent.notices != [], "it closed by itself")

    assert (await agent.serve(token=8)).ok
    assert (await agent.ask("GET", "/r/data/")).status == 200


async def test_a_word_that_comes_after_the_deadline_revives_nothing(agent: Agent):
    await agent.serve(seconds=0.05)
    await agent.until(lambda: agent.notices != [], "it closed by itself")
    agent.process.extend(7, in_s(300))

    assert not (await agent.process.status()).gate_open
    assert agent.refuses_connections()


@pytest.mark.parametrize("clock", ["boot", "raw"])
async def test_either_clock_alone_ends_it(agent: Agent, clock):
    await agent.serve()
    far, near = in_s(300), in_s(0.05)
    agent.process.extend(
        7, Instant(near.boot_ns, far.raw_ns) if clock == "boot" else Instant(far.boot_ns, near.raw_ns)
    )

    await agent.until(lambda: agent.notices != [], "it closed by itself")


async def test_extended_it_serves_on(agent: Agent):
    """Words as often as they may come; those of another token do not count."""
    await agent.serve(seconds=0.5)
    asked_until = in_s(1.0)
    while not asked_until.deadline_passed(now()):
        agent.process.extend(7, in_s(0.5))
        agent.process.extend(6, in_s(0.001))
        assert (await agent.ask("GET", "/r/data/")).status == 200
    assert agent.notices == []


async def test_serving_past_its_deadline_is_refused_at_once(agent: Agent):
    answer = await agent.serve(seconds=-1)

    assert not answer.ok
    assert agent.refuses_connections()


async def test_stop_lets_requests_in_flight_finish_and_takes_no_new_ones(agent: Agent):
    await agent.serve()
    sock = await agent.begin_upload()
    idle = agent.dial()
    stopping = asyncio.create_task(agent.process.stop(drain_s=20))
    assert await reset_or_closed(idle) == b""
    assert agent.refuses_connections()
    assert not stopping.done()
    sock.sendall(BODY[-1:])
    answer = await stopping

    assert (answer.ok, answer.cut) == (True, 0)
    reply = await reset_or_closed(sock)
    assert reply.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\nConnection: close\r\n" in reply
    assert agent.stored()
    assert agent.notices == []


async def test_stop_resets_what_does_not_finish_in_time(agent: Agent):
    await agent.serve()
    sock = await agent.begin_upload()

    answer = await agent.process.stop(drain_s=0.05)

    assert (answer.ok, answer.cut) == (True, 1)
    with contextlib.suppress(ConnectionResetError, BrokenPipeError):
        sock.sendall(BODY[-1:])
    assert await reset_or_closed(sock) == b""
    await agent.until(lambda: agent.temporaries() == 0, "the temporary is removed")
    assert not agent.stored()


async def test_a_deadline_within_a_drain_counts(agent: Agent):
    await agent.serve()
    sock = await agent.begin_upload()
    stopping = asyncio.create_task(agent.process.stop(drain_s=60))
    agent.process.extend(7, in_s(0.05))

    assert (await stopping).ok
    assert [notice.kind for notice in agent.notices] == ["closed"]
    assert await reset_or_closed(sock) == b""


async def test_idle_stop_is_immediate_and_it_stays_warm(agent: Agent):
    await agent.serve()
    pid = agent.process.pid
    assert (await agent.process.stop(drain_s=60)).ok
    assert agent.refuses_connections()

    assert (await agent.serve(token=8)).ok
    assert pid == agent.process.pid


async def test_stop_of_one_that_hangs_kills_it(agent: Agent):
    """When stop comes back, in whatever way, nothing can be acknowledged any more."""
    await agent.serve()
    os.kill(agent.process.pid, signal.SIGSTOP)

    with pytest.raises(RepositoryError, match="did not answer 'stop'"):
        await agent.process.stop(drain_s=0)
    await agent.until(lambda: agent.notices != [], "its end is told")
    assert agent.refuses_connections()
    assert not agent.process.running


async def test_frozen_past_its_deadline_it_acknowledges_nothing_when_it_thaws(agent: Agent):
    await agent.serve()
    sock = await agent.begin_upload()
    agent.process.extend(7, in_s(0.1))
    await agent.process.status()
    os.kill(agent.process.pid, signal.SIGSTOP)
    deadline = in_s(0.2)
    await agent.until(lambda: deadline.deadline_passed(now()), "the deadline has passed")
    sock.sendall(BODY[-1:])
    os.kill(agent.process.pid, signal.SIGCONT)

    reply = await reset_or_closed(sock)
    assert not reply.startswith(b"HTTP/1.1 200")
    await agent.until(lambda: agent.notices != [], "it closed by itself")
    assert not agent.stored()
