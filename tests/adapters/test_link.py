"""The watch on links and addresses, on a real cable."""

import asyncio
import time
from ipaddress import ip_address

import pytest
from pyroute2 import IPRoute

from leaseha.adapters import clock
from leaseha.adapters.link import AddressChange, Link, LinkWatch
from leaseha.adapters.rtnl import Address, AddressSocket
from leaseha.adapters.vip import VipBinder
from tests.adapters.wire import HERE, HERE_MAC, Wire

pytestmark = pytest.mark.netns
VIP = ip_address("10.9.0.100")


class Heard:
    """A listener that writes down."""

    def __init__(self) -> None:
        self.links: list[Link] = []
        self.gone: list[str] = []
        self.changes: list[AddressChange] = []
        self.gaps = 0
        self.news = asyncio.Event()

    def on_link(self, link: Link) -> None:
        self.links.append(link)
        self.news.set()

    def on_link_gone(self, name: str) -> None:
        self.gone.append(name)
        self.news.set()

    def on_address(self, change: AddressChange) -> None:
        self.changes.append(change)
        self.news.set()

    def on_gap(self) -> None:
        self.gaps += 1
        self.news.set()

    async def until(self, fact, within_s: float = 10) -> float:
        """Seconds until `fact()` is true."""
        start = time.monotonic()
        async with asyncio.timeout(within_s):
            while not fact():
                self.news.clear()
                await self.news.wait()
        return time.monotonic() - start


@pytest.fixture
async def heard():
    return Heard()


@pytest.fixture
async def watch(wire: Wire, heard: Heard):
    made = LinkWatch(heard)
    task = asyncio.create_task(made.run())
    async with asyncio.timeout(20):
        await made.ready.wait()
    yield made
    task.cancel()
    await asyncio.wait({task})


async def test_links_are_told_at_the_start(watch, heard):
    link = watch.link(HERE)
    assert link in heard.links
    assert (link.up, link.carrier, link.operstate, link.mac) == (True, True, "UP", HERE_MAC)
    assert watch.link("eth77") is None


async def test_a_pulled_cable_is_told_and_a_plugged_one_too(wire, watch, heard):
    wire.carrier(False)
    await heard.until(lambda: not watch.link(HERE).carrier)
    assert watch.link(HERE).up
    assert watch.link(HERE).operstate in {"DOWN", "LOWERLAYERDOWN"}
    wire.carrier(True)
    await heard.until(lambda: watch.link(HERE).carrier)


async def test_an_interface_that_is_removed_is_told(wire, watch, heard):
    def remove() -> None:
        with IPRoute() as kernel:
            kernel.link("del", index=kernel.link_lookup(ifname=HERE)[0])

    wire.here(remove)
    await heard.until(lambda: heard.gone == [HERE])
    assert watch.link(HERE) is None


async def test_a_vip_that_someone_removes_is_known_within_a_second_and_bound_again(wire, watch, heard):
    said: list[str] = []
    binder = VipBinder(HERE, "c", warn=said.append)
    await binder.bind("backups", [VIP], clock.now().plus(60 * 10**9))
    wire.address("del", str(VIP), 32)
    took = await heard.until(lambda: AddressChange(VIP, HERE, present=False) in heard.changes)
    assert await binder.missing() == {"backups": (VIP,)}
    print(f"the drift was seen {took * 1000:.1f} ms after the deletion")
    assert took < 1
    await binder.bind("backups", [VIP], clock.now().plus(60 * 10**9))
    assert await binder.missing() == {}
    binder.close()


async def test_refreshes_by_leaseha_are_not_told_and_addresses_of_others_are(wire, watch, heard):
    binder = VipBinder(HERE, "c", warn=print)
    for _ in range(20):
        await binder.bind("backups", [VIP], clock.now().plus(60 * 10**9))
    wire.address("add", "10.9.0.77", 32)
    other = AddressChange(ip_address("10.9.0.77"), HERE, present=True)
    await heard.until(lambda: other in heard.changes)
    assert AddressChange(VIP, HERE, present=True) not in heard.changes
    binder.close()


async def test_after_an_overflow_everything_is_looked_at_anew_and_the_watch_goes_on(wire, heard):
    watch = LinkWatch(heard, buffer_bytes=4096)
    task = asyncio.create_task(watch.run())
    async with asyncio.timeout(20):
        await watch.ready.wait()
    index = watch.link(HERE).index
    many = [Address(ip_address(f"10.50.{n // 250}.{n % 250 + 1}"), 32, index) for n in range(500)]
    # The loop does not run while the kernel tells of a thousand changes.
    with AddressSocket() as kernel:
        kernel.replace(many)
        kernel.delete(many)
    wire.carrier(False)
    await heard.until(lambda: heard.gaps > 0)
    await heard.until(lambda: not watch.link(HERE).carrier)
    wire.address("add", "10.9.0.77", 32)
    await heard.until(lambda: AddressChange(ip_address("10.9.0.77"), HERE, present=True) in heard.changes)
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()
