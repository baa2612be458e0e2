"""VIPs on a real interface of a namespace, seen by the kernel and by a neighbour."""

import asyncio
import itertools
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from ipaddress import ip_address

import pytest
from pyroute2 import AsyncIPRoute, IPRoute

from leaseha.adapters import clock
from leaseha.adapters.rtnl import (
    IFA_F_DADFAILED,
    IFA_F_DEPRECATED,
    IFA_F_NODAD,
    IFA_F_NOPREFIXROUTE,
    IFA_F_TENTATIVE,
    SCOPE_HOST,
    Address,
)
from leaseha.adapters.vip import (
    IFA_PROTO_LEASEHA,
    KERNEL_LATENESS_MS,
    LABEL_MAX,
    SLACK_FINER_FENCE_MS,
    DeadlinePassed,
    TooLittleLeft,
    VipBinder,
    cluster_tag,
    fault_of,
    label_for,
    lifetime_s,
)
from leaseha.core.values import Instant
from tests.adapters.wire import HERE, HERE_MAC, Wire, held, in_s, until

V4, V6 = ip_address("10.9.0.100"), ip_address("fd09::100")
BOTH = (V4, V6)


def test_a_label_is_interface_and_lease():
    assert label_for("eth0", "backups") == "eth0:backups"
    assert label_for("eth0", "tenletters") == "eth0:tenletters"


@pytest.mark.parametrize("interface", ["lo", "eth0", "enp129s0f0", "enx0123456789ab"])
@pytest.mark.parametrize("lease", ["a", "backups", "the-backups-of-the-second-floor", "größe", "a b/c"])
def test_a_label_always_fits_the_kernel(interface, lease):
    label = label_for(interface, lease)
    assert len(label.encode()) <= LABEL_MAX
    assert label.startswith(interface)


def test_long_names_that_begin_alike_have_different_labels():
    labels = {label_for("eth0", f"a-very-long-lease-name-{n}") for n in range(100)}
    assert len(labels) == 100


@pytest.mark.parametrize(
    ("remaining_ms", "seconds"),
    [(-50, 1), (0, 1), (1, 1), (799, 1), (1799, 1), (1800, 2), (1990, 2), (2000, 2), (2799, 2), (30000, 30)],
)
def test_a_lifetime_ends_near_the_deadline_and_is_never_below_a_second(remaining_ms, seconds):
    assert lifetime_s(remaining_ms) == seconds


def test_a_lifetime_and_the_kernels_lateness_fit_into_the_margin():
    worst = max(lifetime_s(ms) * 1000 - ms for ms in range(1000, 20000))
    assert worst + KERNEL_LATENESS_MS <= 1500


def test_with_a_finer_fence_a_lifetime_never_ends_before_the_deadline():
    assert all(lifetime_s(ms, SLACK_FINER_FENCE_MS) * 1000 >= ms for ms in range(20000))


def test_clusters_have_different_tags_that_a_kernel_takes():
    tags = {cluster_tag(f"cluster-{n}") for n in range(1000)}
    assert len(tags) == 1000
    assert all(0 < tag < 2**31 for tag in tags)


@pytest.mark.parametrize(
    ("flags", "word"), [(IFA_F_DADFAILED, "in use"), (IFA_F_TENTATIVE, "tentative"), (IFA_F_DEPRECATED, "")]
)
def test_the_flags_of_an_address_tell_its_fault(flags, word):
    fault = fault_of(Address(V6, 128, 1, flags=flags))
    assert word in fault
    assert bool(fault) == bool(word)


@pytest.mark.netns
async def test_a_bound_vip_is_whole_labelled_marked_and_mortal(binder):
    await binder.bind("backups", BOTH, in_s(3.9))
    (four,), (six,) = held(V4), held(V6)
    assert (four.prefix_length, four.scope, four.label) == (32, SCOPE_HOST, f"{HERE}:backups")
    assert (six.prefix_length, six.preferred_s) == (128, 0)
    assert six.flags & IFA_F_NODAD
    assert not six.flags & (IFA_F_TENTATIVE | IFA_F_DADFAILED)
    for one in (four, six):
        assert one.flags & IFA_F_NOPREFIXROUTE
        assert one.proto in {IFA_PROTO_LEASEHA, 0}
        assert one.priority == cluster_tag("cluster-a")
        assert 2 <= one.valid_s <= 4
    assert [fact.present for fact in await binder.present("backups")] == [True, True]
    assert await binder.missing() == {}


@pytest.mark.netns
async def test_binding_and_unbinding_twice_is_as_good_as_once(binder, warned):
    await binder.unbind("backups", BOTH)
    await binder.bind("backups", BOTH, in_s(5))
    await binder.bind("backups", BOTH, in_s(9))
    (four,) = held(V4)
    assert four.valid_s >= 8
    await binder.unbind("backups", BOTH)
    await binder.unbind("backups", BOTH)
    assert [held(ip) for ip in BOTH] == [[], []]
    assert warned == []


@pytest.mark.netns
@pytest.mark.parametrize("ip", BOTH, ids=str)
async def test_a_neighbour_reaches_a_bound_vip_and_not_an_unbound_one(wire, binder, ip):
    await binder.bind("backups", [ip], in_s(20))
    family = socket.AF_INET if ip.version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_STREAM) as server:
        server.bind((str(ip), 0))
        server.listen()
        where = server.getsockname()[:2]

        def call() -> str:
            with socket.create_connection(where, timeout=5) as client:
                return client.getpeername()[0]

        assert wire.there(call) == str(ip)
        assert wire.neighbour(str(ip)) == HERE_MAC
        await binder.unbind("backups", [ip])
        with pytest.raises(OSError, match=r"timed out|[Nn]o route"):
            wire.there(lambda: socket.create_connection(where, timeout=0.3))


def source_towards(peer: str) -> str:
    """The address that an unbound UDP socket would send from."""
    with socket.socket(socket.AF_INET6 if ":" in peer else socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect((peer, 9))
        return str(sock.getsockname()[0])


async def routed_source(peer: str) -> str:
    async with AsyncIPRoute() as kernel:
        family = socket.AF_INET6 if ":" in peer else socket.AF_INET
        (route,) = list(await kernel.route("get", family=family, dst=peer))
    return str(route.get_attr("RTA_PREFSRC"))


def readd_own_address(wire: Wire) -> None:
    """As a network manager does it: own addresses and routes gone, and put back."""

    def routes() -> None:
        with IPRoute() as kernel:
            index = kernel.link_lookup(ifname=HERE)[0]
            # No gateway: the kernel takes the first address of the interface that will do.
            kernel.route("replace", dst="198.51.100.0/24", oif=index, scope="link")
            kernel.route("replace", dst="default", gateway="10.9.0.2")
            kernel.route("replace", family=socket.AF_INET6, dst="default", gateway="fd09::2")

    for ip, length in (("10.9.0.1", 24), ("fd09::1", 64)):
        wire.address("del", ip, length)
        wire.address("add", ip, length, **({"flags": 0x02} if ":" in ip else {}))
    wire.here(routes)


@pytest.mark.netns
@pytest.mark.parametrize(
    ("peer", "own"),
    [
        ("10.9.0.2", "10.9.0.1"),
        ("192.0.2.1", "10.9.0.1"),
        ("198.51.100.1", "10.9.0.1"),
        ("fd09::2", "fd09::1"),
        ("2001:db8::1", "fd09::1"),
    ],
)
async def test_a_vip_is_never_a_source_address_even_when_the_own_address_came_after_it(
    wire, binder, peer, own
):
    await binder.bind("backups", BOTH, in_s(60))
    readd_own_address(wire)
    assert source_towards(peer) == own
    assert await routed_source(peer) == own


@pytest.mark.netns
async def test_an_ordinary_address_would_have_become_the_source(wire):
    """What the test above would find if the VIP were bound as most tools do it."""
    wire.address("add", str(V4), 32)
    readd_own_address(wire)
    assert source_towards("198.51.100.1") == str(V4)


@pytest.mark.netns
async def test_the_kernel_removes_a_vip_whose_node_was_killed(wire):
    code = (
        "import asyncio, sys\n"
        "from ipaddress import ip_address\n"
        "from leaseha.adapters import clock, vip\n"
        "async def main():\n"
        f"    binder = vip.VipBinder({HERE!r}, 'c', warn=sys.stderr.write)\n"
        f"    vips = [ip_address('{V4}'), ip_address('{V6}')]\n"
        "    await binder.bind('backups', vips, clock.now().plus(10**9))\n"
        "    sys.stdout.write('bound\\n')\n"
        "    sys.stdout.flush()\n"
        "    await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    try:
        assert child.stdout.readline() == b"bound\n"
        start = time.monotonic()
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
    assert held(V4)
    assert held(V6)
    await until(lambda: not held(V4) and not held(V6), 10, "the VIPs are gone")
    late = time.monotonic() - start - 1
    print(f"removed {late * 1000:.0f} ms after the end of the lifetime")
    assert late < KERNEL_LATENESS_MS / 1000 + 1  # and one second for a machine that has other things to do


@pytest.mark.netns
async def test_renewals_keep_a_vip_without_a_moment_of_absence(binder):
    await binder.bind("backups", BOTH, in_s(1))
    start, looks, gaps = time.monotonic(), 0, 0
    while time.monotonic() - start < 3:
        await binder.renew("backups", in_s(1))
        for _ in range(20):
            looks += 1
            gaps += not held(V4) or not held(V6)
            # waits for a fact: three lifetimes went by
            await asyncio.sleep(0.005)
    assert (gaps, looks > 100) == (0, True)


@pytest.mark.netns
async def test_a_renewal_may_shorten_the_life_of_a_vip(binder):
    await binder.bind("backups", BOTH, in_s(30))
    await binder.renew("backups", in_s(1))
    assert [fact.valid_s for fact in await binder.present("backups")] == [1, 1]


@pytest.mark.netns
async def test_a_renewal_that_comes_after_the_unbinding_binds_nothing(binder):
    await binder.renew("backups", in_s(5))
    await binder.bind("backups", BOTH, in_s(5))
    late = asyncio.create_task(binder.renew("backups", in_s(5)))
    await asyncio.sleep(0)
    await binder.unbind("backups", BOTH)
    await late
    assert [held(ip) for ip in BOTH] == [[], []]


@pytest.mark.netns
async def test_a_passed_deadline_binds_nothing_and_a_passed_renewal_unbinds(binder):
    with pytest.raises(DeadlinePassed):
        await binder.bind("backups", BOTH, in_s(-0.1))
    assert not held(V4)
    await binder.bind("backups", BOTH, in_s(5))
    with pytest.raises(DeadlinePassed):
        await binder.renew("backups", in_s(-0.1))
    assert [held(ip) for ip in BOTH] == [[], []]


@pytest.mark.netns
@pytest.mark.parametrize("action", ["bind", "renew"])
async def test_a_node_that_was_frozen_while_it_bound_lets_go_when_it_wakes(wire, warned, action):
    frozen = threading.Event()
    late = itertools.count()

    def now() -> Instant:
        # The second reading is the one after the address was put there.
        return clock.now().plus(60 * 10**9) if frozen.is_set() and next(late) % 2 else clock.now()

    binder = VipBinder(HERE, "c", warn=warned.append, now=now)
    try:
        if action == "renew":
            await binder.bind("backups", BOTH, in_s(5))
        frozen.set()
        with pytest.raises(DeadlinePassed):
            await (
                binder.bind("backups", BOTH, in_s(5))
                if action == "bind"
                else binder.renew("backups", in_s(5))
            )
        assert [held(ip) for ip in BOTH] == [[], []]
    finally:
        binder.close()


def readings(*late_ms: int) -> Callable[[], Instant]:
    """A clock by which the test begins at 0, and each reading is this much later; the last one stays."""
    began, left = clock.now(), list(late_ms)

    def now() -> Instant:
        return began.plus((left.pop(0) if len(left) > 1 else left[0]) * 10**6)

    return now


@pytest.mark.netns
@pytest.mark.parametrize("waited_ms", [1201, 1900, 1999])
async def test_no_vip_is_bound_when_the_wait_for_the_thread_left_too_little_for_a_lifetime(
    wire, warned, waited_ms
):
    binder = VipBinder(HERE, "c", warn=warned.append, now=readings(waited_ms))
    try:
        with pytest.raises(TooLittleLeft):
            await binder.bind("backups", BOTH, in_s(2))
        assert [held(ip) for ip in BOTH] == [[], []]
    finally:
        binder.close()


@pytest.mark.netns
async def test_a_renewal_that_comes_too_near_to_its_deadline_leaves_the_lifetime_that_there_is(wire, warned):
    binder = VipBinder(HERE, "c", warn=warned.append, now=readings(0, 0, 58_900))
    try:
        await binder.bind("backups", BOTH, in_s(60))
        await binder.renew("backups", in_s(59.5))
        assert [held(ip)[0].valid_s >= 50 for ip in BOTH] == [True, True]
    finally:
        binder.close()


@pytest.mark.netns
async def test_with_a_margin_for_it_the_shortest_lifetime_may_outlast_a_ttl_below_a_second(wire, warned):
    binder = VipBinder(HERE, "c", warn=warned.append, now=readings(1900), most_past_ms=1000)
    try:
        await binder.bind("backups", BOTH, in_s(2))
        assert [held(ip)[0].valid_s for ip in BOTH] == [1, 1]
    finally:
        binder.close()


@pytest.mark.netns
async def test_a_freeze_before_the_kernel_was_told_shortens_the_lifetime_at_once(wire, warned):
    binder = VipBinder(HERE, "c", warn=warned.append, now=readings(0, 2500))
    try:
        await binder.bind("backups", BOTH, in_s(5))
        assert [held(ip)[0].valid_s <= 2 for ip in BOTH] == [True, True]
    finally:
        binder.close()


@pytest.mark.netns
async def test_who_is_held_up_at_each_attempt_lets_go(wire, warned):
    binder = VipBinder(HERE, "c", warn=warned.append, now=readings(0, 1500, 1500, 3000, 3000, 4500))
    try:
        with pytest.raises(DeadlinePassed, match="held up"):
            await binder.bind("backups", BOTH, in_s(5))
        assert [held(ip) for ip in BOTH] == [[], []]
    finally:
        binder.close()


@pytest.mark.netns
async def test_a_vip_that_someone_deletes_is_missed_and_comes_back_with_the_renewal(wire, binder):
    await binder.bind("backups", BOTH, in_s(60))
    await binder.bind("others", [ip_address("10.9.0.101")], in_s(60))
    wire.address("del", str(V4), 32)
    assert await binder.missing() == {"backups": (V4,)}
    assert [fact.present for fact in await binder.present("backups")] == [False, True]
    await binder.renew("backups", in_s(60))
    assert await binder.missing() == {}
