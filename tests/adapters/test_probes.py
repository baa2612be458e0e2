"""The questions of health checks, asked of real kernels, ports and programs."""

import asyncio
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from leaseha.adapters.announce import internet_checksum
from leaseha.adapters.probes import (
    Answer,
    CarrierProbe,
    PingProbe,
    Resolver,
    ScriptProbe,
    TcpProbe,
    echo_request,
)
from tests.adapters.wire import HERE, Wire

PYTHON = sys.executable


async def until_dead(pid: int) -> None:
    """The process is gone, or a zombie that its new parent has not collected yet."""

    def alive() -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        except (FileNotFoundError, ProcessLookupError):
            return False

    async with asyncio.timeout(10):
        while alive():
            # waits for a fact: the process is dead
            await asyncio.sleep(0.01)


def test_an_echo_request_has_a_right_checksum():
    assert internet_checksum(echo_request(8, 7, b"sixteen bytes...")) == 0


@pytest.mark.parametrize(
    ("code", "answer"),
    [
        ("", Answer(healthy=True, detail="exit 0")),
        ("print('first'); print('all is well')", Answer(healthy=True, detail="all is well")),
        ("raise SystemExit('read-only')", Answer(healthy=False, detail="exit 1: read-only")),
        ("raise SystemExit(7)", Answer(healthy=False, detail="exit 7")),
        ("import os; os.kill(os.getpid(), 11)", Answer(healthy=False, detail="ended by signal 11")),
        ("print('a' * 500)", Answer(healthy=True, detail="a" * 200)),
        ("print('\\x1b[31mred\\x00')", Answer(healthy=True, detail="[31mred")),
        (
            "import os, sys; os.write(1, b'x;' * 900_000 + b'%c' % 10); print('the end', file=sys.stderr)",
            Answer(healthy=True, detail="the end"),
        ),
    ],
)
async def test_a_script_is_healthy_when_it_ends_with_0_and_its_last_line_is_kept(code, answer):
    assert await ScriptProbe([PYTHON, "-c", code]).ask() == answer


@pytest.mark.parametrize(
    ("program", "word"),
    [("/no/such/program", "No such file"), ("/etc/passwd", "Permission denied"), ("/dev", "denied")],
)
async def test_a_script_that_cannot_be_run_fails_and_says_why(program, word):
    answer = await ScriptProbe([program]).ask()
    assert answer.healthy is False
    assert answer.detail.startswith(f"{program}: ")
    assert word in answer.detail


async def test_a_script_sees_no_shell_and_no_input():
    assert await ScriptProbe(["/bin/echo", "$HOME; echo *"]).ask() == Answer(
        healthy=True, detail="$HOME; echo *"
    )
    code = "import sys; print(repr(sys.stdin.read()))"
    assert (await ScriptProbe([PYTHON, "-c", code]).ask()).detail == "''"


FAMILY = (
    "import os, subprocess, sys, signal\n"
    "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    "child = subprocess.Popen([sys.executable, '-c', '''\n"
    "import signal, sys, time\n"
    "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
    "print('ready', flush=True)\n"
    "time.sleep(600)\n"
    "'''], stdout=subprocess.PIPE)\n"
    "child.stdout.readline()\n"
    "open(sys.argv[1] + '.new', 'w').write(f'{os.getpid()} {child.pid}')\n"
    "os.rename(sys.argv[1] + '.new', sys.argv[1])\n"
)


async def test_a_script_that_takes_too_long_is_killed_with_its_grandchildren(tmp_path):
    names = tmp_path / "pids"
    probe = ScriptProbe([PYTHON, "-c", FAMILY + "child.wait()", str(names)])
    asking = asyncio.create_task(probe.ask())
    async with asyncio.timeout(20):
        while not names.exists():
            # waits for a fact: script and grandchild run
            await asyncio.sleep(0.01)
    asking.cancel()
    await asyncio.wait({asking})
    assert asking.cancelled()
    parent, child = map(int, names.read_text().split())
    assert not Path(f"/proc/{parent}").exists()
    await until_dead(child)


async def test_what_a_script_leaves_behind_is_killed_when_it_ends(tmp_path):
    names = tmp_path / "pids"
    assert (await ScriptProbe([PYTHON, "-c", FAMILY, str(names)]).ask()).healthy
    await until_dead(int(names.read_text().split()[1]))


def open_files() -> set[str]:
    return {one.name for one in Path("/proc/self/fd").iterdir()}


async def test_no_descriptor_and_no_process_is_left_by_scripts():
    probe = ScriptProbe(["/usr/bin/true"])
    await probe.ask()
    before = open_files()
    for _ in range(20):
        await probe.ask()
    slow = ScriptProbe(["/usr/bin/sleep", "60"])
    for _ in range(5):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(slow.ask(), 0.05)
    await until_dead(slow._unkillable.pid)
    assert open_files() == before


async def test_a_script_whose_start_hangs_is_not_started_again_and_killed_when_it_starts_at_last(tmp_path):
    """As with a program on a dead network disk."""
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\nsleep 600\n")
    program.chmod(0o755)
    probe = ScriptProbe([str(program)])
    go = asyncio.get_running_loop().create_future()
    # In the place of the call that was put aside and does not return.
    probe._starting = go
    answer = await probe.ask()
    assert answer == Answer(healthy=False, detail=f"{program} still does not start")
    probe._starting.add_done_callback(probe._kill_late)
    late = subprocess.Popen([str(program)], start_new_session=True)
    go.set_result(late)
    await until_dead(late.pid)
    late.wait()
    answer = await asyncio.wait_for(ScriptProbe(["/usr/bin/true"]).ask(), 10)
    assert answer.healthy


async def test_a_port_that_accepts_is_healthy_by_address_and_by_name():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert await TcpProbe("127.0.0.1", port, Resolver()).ask() == Answer(
            True, f"127.0.0.1 port {port} accepts"
        )
        assert (await TcpProbe("localhost", port, Resolver()).ask()).healthy
    assert (await TcpProbe("127.0.0.1", port, Resolver()).ask()).healthy is False


async def test_a_name_that_hangs_is_asked_once_and_stalls_nothing():
    go = threading.Event()
    asked: list[str] = []

    class Hanging(Resolver):
        @staticmethod
        def _resolve(host: str, port: int):
            asked.append(host)
            go.wait(30)
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    resolver = Hanging()
    probe = TcpProbe("slow.example", 9, resolver)
    for _ in range(3):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(probe.ask(), 0.02)
    assert asked == ["slow.example"]
    go.set()
    assert await resolver.addresses("slow.example", 9) == [(socket.AF_INET, ("127.0.0.1", 9))]
    assert asked == ["slow.example"]


async def test_a_name_that_does_not_exist_is_a_failure():
    class NoName(Resolver):
        @staticmethod
        def _resolve(host: str, port: int):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    for probe in (TcpProbe("nowhere.example", 9, NoName()), PingProbe("nowhere.example", NoName())):
        assert await probe.ask() == Answer(False, "nowhere.example: Name or service not known")


@pytest.mark.netns
@pytest.mark.parametrize("group_range", ["", "0 0"], ids=["raw socket", "ping socket"])
@pytest.mark.parametrize("host", ["10.9.0.2", "fd09::2", "10.9.0.1"])
async def test_a_host_that_answers_an_echo_is_healthy(wire: Wire, host, group_range):
    if group_range:  # a new namespace lets no group have ping sockets
        wire.here(lambda: Path("/proc/sys/net/ipv4/ping_group_range").write_text(group_range))
    probe = PingProbe(host, Resolver())
    for _ in range(3):
        assert await asyncio.wait_for(probe.ask(), 10) == Answer(healthy=True, detail=f"{host} answers")


@pytest.mark.netns
async def test_a_host_that_does_not_answer_is_waited_for_until_the_callers_timeout(wire: Wire):
    wire.there(lambda: Path("/proc/sys/net/ipv4/icmp_echo_ignore_all").write_text("1"))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(PingProbe("10.9.0.2", Resolver()).ask(), 0.1)


@pytest.mark.netns
async def test_a_host_without_a_route_is_a_failure_at_once(wire: Wire):
    answer = await asyncio.wait_for(PingProbe("192.0.2.1", Resolver()).ask(), 10)
    assert answer == Answer(healthy=False, detail="192.0.2.1: Network is unreachable")


@pytest.mark.netns
async def test_a_link_is_healthy_while_frames_can_pass(wire: Wire):
    probe = CarrierProbe(HERE)
    assert await probe.ask() == Answer(healthy=True, detail=f"{HERE} has carrier")
    wire.carrier(False)
    assert await probe.ask() == Answer(healthy=False, detail=f"{HERE} has no carrier")
    assert await CarrierProbe("eth77").ask() == Answer(healthy=False, detail="eth77: No such device")
