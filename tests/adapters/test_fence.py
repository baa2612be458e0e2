"""The kernel fence between two namespaces: what a neighbour, a local process and the wire see of a VIP."""

import asyncio
import os
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from ipaddress import ip_address

import pytest

from leaseha.adapters import clock, fence_rules
from leaseha.adapters.announce import Announcer, frames_for
from leaseha.adapters.fence import (
    ARM_SLACK_MS,
    FENCE_LATENESS_MS,
    LEAST_LEFT_MS,
    Fence,
    FenceDeadline,
    available,
)
from leaseha.adapters.nft import Nft, load_library
from leaseha.adapters.vip import cluster_tag
from leaseha.core.values import NS_PER_MS, Instant
from leaseha.errors import FenceError
from tests.adapters.asking import (
    Clock,
    Ear,
    armed_child,
    connects,
    datagram,
    end,
    ipv4_frame,
    ping,
    pinging,
    serving,
)
from tests.adapters.wire import HERE, HERE_MAC, THERE, Wire, in_s, until

V4, V6 = ip_address("10.9.0.100"), ip_address("fd09::100")
BOTH = (V4, V6)
OTHER = ip_address("10.9.0.101")

pytestmark = pytest.mark.netns


@pytest.fixture
async def fences(wire, warned) -> AsyncIterator[Callable[..., object]]:
    """Puts up fences here; `fences(cluster, vips, ...)`."""
    async with AsyncExitStack() as stack:

        async def up(cluster: str = "cluster-a", vips=BOTH, **more) -> Fence:
            made = Fence(cluster, [HERE], vips, warn=warned.append, **more)
            stack.callback(made.end)
            await made.stand()
            return made

        yield up


async def aside(work: Callable[[], object]) -> object:
    """Beside the event loop, so that what is under test goes on."""
    return await asyncio.get_running_loop().run_in_executor(None, work)


def services(wire: Wire, ip: object, port: int, for_s: float) -> dict[str, bool]:
    """What a neighbour gets out of `ip` here, within `for_s` each."""
    return {
        "icmp": wire.there(lambda: ping(ip, for_s)),
        "tcp": wire.there(lambda: connects(ip, port, for_s)),
        "udp": wire.there(lambda: datagram(ip, port, for_s)),
    }


def reached(wire: Wire, *vips: object) -> list[bool]:
    """Which of them a neighbour can ping, whose kernel asks for a silent address once a second."""
    return [wire.there(lambda ip=ip: ping(ip, 1.5)) for ip in vips]


async def past(deadline: Instant) -> None:
    """By so much that a fence that is not closed is noticed."""
    over = deadline.plus(300 * NS_PER_MS)
    await until(lambda: over.wait_over(clock.now()), 10, "it is well past the deadline")


ALL = {"icmp": True, "tcp": True, "udp": True}
NONE = dict.fromkeys(ALL, False)


@pytest.mark.parametrize("ip", BOTH, ids=str)
async def test_a_vip_is_closed_from_the_start_and_open_while_armed(wire, binder, fences, ip):
    fence = await fences()
    await binder.bind("backups", BOTH, in_s(60))
    with serving(ip) as port:
        assert services(wire, ip, port, 0.3) == NONE
        assert wire.neighbour(str(ip)) == ""
        await fence.arm(BOTH, in_s(30))
        assert services(wire, ip, port, 5) == ALL
        assert wire.neighbour(str(ip)) == HERE_MAC
        await fence.close(BOTH)
        assert services(wire, ip, port, 0.3) == NONE


@pytest.mark.parametrize("ip", BOTH, ids=str)
async def test_closing_one_vip_leaves_the_other_vips_and_the_nodes_own_addresses_alone(
    wire, binder, fences, ip
):
    fence = await fences(vips=(*BOTH, OTHER))
    await binder.bind("backups", (*BOTH, OTHER), in_s(60))
    await fence.arm((*BOTH, OTHER), in_s(30))
    await fence.close([ip])
    assert reached(wire, *BOTH, OTHER) == [one != ip for one in (*BOTH, OTHER)]
    assert wire.there(lambda: ping("10.9.0.1"))
    assert wire.there(lambda: ping("fd09::1"))


@pytest.mark.parametrize("ip", BOTH, ids=str)
async def test_a_local_process_does_not_reach_a_closed_vip_either(wire, binder, fences, ip):
    fence = await fences()
    await binder.bind("backups", BOTH, in_s(60))
    own = "fd09::1" if ip.version == 6 else "10.9.0.1"
    with serving(ip) as port:
        assert not connects(ip, port)
        assert not datagram(ip, port)
        assert connects(own, port)
        await fence.arm(BOTH, in_s(30))
        assert connects(ip, port)
        assert datagram(ip, port)


@pytest.mark.parametrize("ip", BOTH, ids=str)
async def test_a_standby_is_a_client_of_the_vip_that_another_node_holds(wire, fences, ip):
    """Its fence stands closed; the VIP is bound at the other end of the cable."""
    await fences()
    wire.there(lambda: subprocess.run(["ip", "addr", "add", str(ip), "dev", THERE], check=True))
    with contextless_serving(wire, ip) as port:
        assert ping(ip, 3)
        assert connects(ip, port, 3)
        assert datagram(ip, port, 3)
    assert wire.neighbour("10.9.0.1") in (HERE_MAC, "")


def contextless_serving(wire: Wire, ip: object):
    """Sockets belong to the namespace of the thread that made them."""
    made = serving(ip)

    class There:
        def __enter__(self) -> int:
            return wire.there(made.__enter__)

        def __exit__(self, *error: object) -> None:
            made.__exit__(*error)

    return There()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
@pytest.mark.parametrize("ip", BOTH, ids=str)
async def test_the_kernel_closes_at_the_deadline_of_a_process_that_was(wire, binder, ip, number):
    await binder.bind("backups", BOTH, in_s(60))
    child, deadline = armed_child(1500, BOTH)
    try:
        with pinging(wire, ip) as pinger:
            os.kill(child.pid, number)
            await past(deadline)
        last_asked = max(pinger.sent[one] for one in pinger.answered)
        print(f"last answered ping: sent {(last_asked - deadline.boot_ns) / 1e6:.1f} ms after the deadline")
        assert last_asked - deadline.boot_ns < FENCE_LATENESS_MS * NS_PER_MS
        assert deadline.boot_ns - last_asked < 500 * NS_PER_MS
        assert max(pinger.sent.values()) > deadline.boot_ns + 200 * NS_PER_MS
    finally:
        end(child)


async def test_no_frame_of_a_packet_socket_is_on_the_wire_after_the_deadline(wire, binder, fences):
    """As a holder that was frozen in mid-announcement would send them: without the clock having been read."""
    fence = await fences()
    await binder.bind("backups", BOTH, in_s(60))
    announcer, ear = Announcer(HERE), Ear(wire)
    try:
        await fence.arm(BOTH, in_s(30))
        sent = await announcer.burst(BOTH, lambda: in_s(60))
        assert (sent.frames, sent.refused) == (3, 0)
        frames = {frame for ip in BOTH for frame in frames_for(bytes.fromhex(HERE_MAC.replace(":", "")), ip)}
        assert frames <= set(ear.heard())
        await fence.arm(BOTH, in_s(0.1))
        await past(in_s(0.1))
        for bound in (True, False):
            if not bound:
                await binder.unbind("backups", BOTH)
            ear.heard()
            with pytest.raises(Exception, match="no announcement could be sent"):
                await announcer.burst(BOTH, lambda: in_s(60))
            assert not frames & set(ear.heard())
    finally:
        announcer.close()
        ear.close()


async def test_a_packet_from_a_closed_vip_is_stopped_where_it_is_bound_and_forwarded_where_it_is_not(
    wire, binder, fences
):
    """A standby may be a router on the way from the VIP's holder to a client."""
    await fences()
    ear, frame = Ear(wire), ipv4_frame(V4)
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as raw:
        raw.bind((HERE, 0))
        raw.send(frame)
        assert frame in ear.heard()
        await binder.bind("backups", BOTH, in_s(60))
        with pytest.raises(OSError, match="buffer"):
            raw.send(frame)
        assert frame not in ear.heard()
    ear.close()


@pytest.mark.parametrize("ip", BOTH, ids=str)
async def test_arming_again_and_again_loses_no_packet(wire, binder, fences, ip):
    fence = await fences()
    await binder.bind("backups", BOTH, in_s(60))
    await fence.arm(BOTH, in_s(5))
    assert await aside(lambda: wire.there(lambda: ping(ip, 3)))
    with pinging(wire, ip) as pinger:
        for _ in range(200):
            await fence.arm(BOTH, in_s(1))
            count = len(pinger.sent)
            await until(
                lambda count=count: len(pinger.sent) > count + 3, 5, "the other end has asked a few times"
            )
    assert len(pinger.sent) > 300
    assert pinger.lost() == []


async def test_a_lowered_deadline_takes_effect(wire, binder, fences):
    fence = await fences()
    await binder.bind("backups", BOTH, in_s(60))
    await fence.arm(BOTH, in_s(30))
    assert await aside(lambda: wire.there(lambda: ping(V4, 3)))
    deadline = in_s(0.2)
    await fence.arm(BOTH, deadline)
    with pinging(wire, V4) as pinger:
        await past(deadline)
    last_asked = max(pinger.sent[one] for one in pinger.answered)
    assert last_asked < deadline.boot_ns + FENCE_LATENESS_MS * NS_PER_MS


@pytest.mark.parametrize("reading", [1, 3], ids=["first", "second"])
async def test_a_process_frozen_between_its_clock_and_one_of_the_two_sets_is_closed_at_the_deadline(
    wire, binder, fences, reading
):
    """And that it never comes to read the clock again: of the four readings only one is too old."""
    now = Clock()
    fence = await fences(now=now)
    await binder.bind("backups", BOTH, in_s(60))
    deadline = in_s(0.4)
    now.frozen_after(reading)
    await fence.arm(BOTH, deadline)
    with pinging(wire, V4) as pinger:
        await past(deadline)
    last_asked = max(pinger.sent[one] for one in pinger.answered)
    assert last_asked < deadline.boot_ns + FENCE_LATENESS_MS * NS_PER_MS
    assert max(pinger.sent.values()) > deadline.boot_ns + 200 * NS_PER_MS


async def test_a_process_frozen_before_both_sets_arms_anew_when_it_wakes(wire, binder, fences):
    now = Clock()
    fence = await fences(now=now)
    await binder.bind("backups", BOTH, in_s(60))
    deadline = in_s(0.4)
    now.frozen_after(1, 3)
    await fence.arm(BOTH, deadline)
    with pinging(wire, V4) as pinger:
        await past(deadline)
    last_asked = max(pinger.sent[one] for one in pinger.answered)
    assert last_asked < deadline.boot_ns + FENCE_LATENESS_MS * NS_PER_MS


async def test_a_process_that_wakes_after_the_deadline_closes_at_once(wire, binder, fences):
    now = Clock()
    fence = await fences(now=now)
    await binder.bind("backups", BOTH, in_s(60))
    now.frozen_after(1, 2, 3, 4)
    with pytest.raises(FenceDeadline):
        await fence.arm(BOTH, in_s(-5))
    assert reached(wire, V4) == [False]


async def test_while_an_ntp_daemon_slows_the_clock_that_timeouts_run_by_they_are_shorter(
    wire, binder, fences
):
    """Against the other clock, by which the deadline may pass first: here by 8 %, as chrony does at most."""
    begin = clock.now()

    def slowed() -> Instant:
        now = clock.now()
        return Instant(begin.boot_ns + (now.boot_ns - begin.boot_ns) * 92 // 100, now.raw_ns)

    fence = await fences(now=slowed)
    await fence.arm([V4], in_s(30))
    later = in_s(0.1)
    await until(lambda: later.wait_over(clock.now()), 5, "a renewal later")
    await fence.arm([V4], in_s(20))
    assert "timeout 18s" in Nft().run(f"list set inet {fence.table} one4")


async def test_too_little_time_opens_nothing_least_of_all_for_ever(wire, binder, fences):
    """The kernel takes a timeout below one jiffy as none at all."""
    fence = await fences()
    await binder.bind("backups", BOTH, in_s(60))
    await fence.arm(BOTH, in_s(30))
    with pytest.raises(FenceDeadline):
        await fence.arm(BOTH, in_s((LEAST_LEFT_MS - 1) / 1000))
    assert reached(wire, V4) == [False]
    assert ARM_SLACK_MS < FENCE_LATENESS_MS


async def test_an_open_fence_left_by_a_killed_run_is_replaced_by_a_closed_one(wire, binder, fences):
    child, _ = armed_child(60_000, BOTH)
    end(child)
    await binder.bind("backups", BOTH, in_s(60))
    assert reached(wire, V4) == [True]
    fence = await fences()
    assert reached(wire, V4) == [False]
    await fence.arm(BOTH, in_s(30))
    assert reached(wire, V4) == [True]


async def test_two_clusters_side_by_side_leave_each_other_alone(wire, binder, fences):
    one = await fences("cluster-a", [V4])
    other = await fences("cluster-b", [OTHER])
    await binder.bind("backups", [V4, OTHER], in_s(60))
    await one.arm([V4], in_s(30))
    assert reached(wire, V4, OTHER) == [True, False]
    await other.arm([OTHER], in_s(30))
    await other.stand()
    await one.close([V4])
    assert reached(wire, V4, OTHER) == [False, True]
    await one.remove()
    assert reached(wire, V4, OTHER) == [True, True]


async def test_a_guard_closes_with_commands_for_the_library(wire, binder, fences):
    fence = await fences()
    await binder.bind("backups", BOTH, in_s(60))
    await fence.arm(BOTH, in_s(30))
    Nft().run("\n".join(fence.close_commands))
    assert reached(wire, *BOTH) == [False, False]


async def test_what_is_asked_for_together_is_armed_and_what_was_closed_meanwhile_is_not(wire, binder, fences):
    fence = await fences(vips=(*BOTH, OTHER))
    await binder.bind("backups", (*BOTH, OTHER), in_s(60))
    armings = [asyncio.create_task(fence.arm([ip], in_s(30))) for ip in (*BOTH, OTHER)]
    # waits for a fact: they have asked, and none is done
    await asyncio.sleep(0)
    fence.close_soon([OTHER])
    await asyncio.gather(*armings)
    assert reached(wire, *BOTH, OTHER) == [True, True, False]


async def test_a_thousand_vips_are_armed_and_closed(wire, warned):
    vips = [ip_address("10.9.4.0") + n for n in range(500)] + [
        ip_address("fd09::4:0") + n for n in range(500)
    ]
    fence = Fence("cluster-a", [HERE], vips, warn=warned.append)
    try:
        await fence.stand()
        begin = time.perf_counter()
        for _ in range(5):
            await fence.arm(vips, in_s(30))
        print(f"1,000 VIPs armed in {(time.perf_counter() - begin) * 200:.1f} ms")
        table = Nft().run(f"list table inet {fence.table}")
        assert table.count("expires") == 2000
        await fence.close(vips)
        table = Nft().run(f"list table inet {fence.table}")
        assert table.count("expires") == 0
    finally:
        fence.end()


async def test_a_fence_that_someone_flushed_is_put_back_by_the_next_arming(wire, binder, fences, warned):
    fence = await fences(vips=(*BOTH, OTHER))
    await binder.bind("backups", (*BOTH, OTHER), in_s(60))
    await fence.arm(BOTH, in_s(30))
    wire.here(lambda: Nft().run("flush ruleset"))
    await fence.arm([V6], in_s(30))
    assert reached(wire, *BOTH, OTHER) == [True, True, False]
    assert "removed by someone else" in warned[0]


async def test_the_hook_on_an_interface_that_was_made_anew_is_put_back(wire, fences, warned):
    fence = await fences()
    await fence.arm(BOTH, in_s(30))
    for command in (
        f"ip link del {HERE}",
        f"ip link add {HERE} type veth peer name v2",
        f"ip link set {HERE} up",
    ):
        wire.here(lambda command=command: subprocess.run(command.split(), check=True))
    await fence.stand()
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as raw:
        raw.bind((HERE, 0))
        frame = frames_for(bytes(6), V4)[0]
        raw.send(frame)  # still armed
        await fence.close(BOTH)
        with pytest.raises(OSError, match="buffer"):
            raw.send(frame)


async def test_after_the_fence_was_removed_nothing_of_it_is_left_and_nothing_is_armed(wire, fences):
    fence = await fences()
    await fence.remove()
    await fence.remove()
    await fence.close(BOTH)
    with pytest.raises(FenceError, match="does not stand"):
        await fence.arm(BOTH, in_s(30))
    assert Nft().run("list ruleset") == ""


async def test_a_vip_that_is_not_guarded_is_refused(fences):
    fence = await fences()
    with pytest.raises(FenceError, match="not guarded"):
        await fence.arm([OTHER], in_s(30))


async def test_whether_a_fence_can_stand_is_tried_without_a_trace(wire):
    assert available() == ""
    assert Nft().run("list ruleset") == ""


async def test_a_missing_library_is_named_with_its_package(wire):
    why = available(lambda _name: load_library("libnftables-that-is-not-there.so.1"))
    assert "libnftables1" in why


def test_a_table_is_named_by_the_clusters_tag():
    assert fence_rules.table_name(cluster_tag("cluster-a")) != fence_rules.table_name(
        cluster_tag("cluster-b")
    )
