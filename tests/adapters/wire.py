"""A cable between two network namespaces without names: `here` (where the test runs) and `there`.

Nothing is mounted and nothing outlives the test: a namespace ends with its last process, socket or open file.
"""

import asyncio
import ctypes
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from pyroute2 import IPRoute

from leaseha.adapters import clock
from leaseha.adapters.rtnl import Address, AddressSocket
from leaseha.core.values import Instant

CLONE_NEWNET = 0x40000000
HERE, THERE = "v0", "v1"
HERE_MAC, THERE_MAC = "02:00:00:00:00:0a", "02:00:00:00:00:0b"
T = TypeVar("T")

libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int) -> None:
    if result:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _namespace() -> int:
    """A new one, entered by this thread; the open file that stands for it."""
    _check(libc.unshare(CLONE_NEWNET))
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


class Wire:
    """Two namespaces, `v0` here and `v1` there, up, with their own addresses."""

    def __init__(self) -> None:
        self.there_file = _namespace()
        self.here_file = _namespace()
        with IPRoute() as kernel:
            kernel.link(
                "add",
                kind="veth",
                ifname=HERE,
                address=HERE_MAC,
                peer={"ifname": THERE, "address": THERE_MAC, "net_ns_fd": self.there_file},
            )
        self.here(lambda: self._up(HERE, "10.9.0.1", "fd09::1"))
        self.there(lambda: self._up(THERE, "10.9.0.2", "fd09::2"))
        # The kernel takes its time with a new cable, and drops frames until then.
        self.here(lambda: _wait_for_carrier(HERE))
        self.there(lambda: _wait_for_carrier(THERE))

    def here(self, work: Callable[[], T]) -> T:
        """Run `work` in a thread of its own in the namespace here; its result or error."""
        return self._inside(self.here_file, work)

    def there(self, work: Callable[[], T]) -> T:
        """The same in the namespace there."""
        return self._inside(self.there_file, work)

    def address(self, action: str, ip: str, length: int, interface: str = HERE, **more: object) -> None:
        """`ip address <action>`, as an administrator here would do it."""
        self.here(lambda: _address(action, interface, ip, length, **more))

    def carrier(self, up: bool) -> None:
        """Plug the cable in or out, at the other end."""
        self.there(lambda: _link_state(THERE, up))

    def neighbour(self, ip: str) -> str:
        """The hardware address that the kernel there holds for `ip`; empty if it holds none."""

        def look() -> str:
            with IPRoute() as kernel:
                found = [n for n in kernel.get_neighbours() if n.get_attr("NDA_DST") == ip]
            return found[0].get_attr("NDA_LLADDR") or "" if found else ""

        return self.there(look)

    def close(self) -> None:
        os.close(self.there_file)
        os.close(self.here_file)

    @staticmethod
    def _inside(namespace: int, work: Callable[[], T]) -> T:
        results: list[T] = []
        errors: list[BaseException] = []

        def run() -> None:
            try:
                _check(libc.setns(namespace, CLONE_NEWNET))
                results.append(work())
            except BaseException as error:  # noqa: BLE001  raised again below, in the test's own thread
                errors.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        thread.join(30)
        if errors:
            raise errors[0]
        return results[0]

    @staticmethod
    def _up(interface: str, ip4: str, ip6: str) -> None:
        Path(f"/proc/sys/net/ipv6/conf/{interface}/accept_ra").write_text("0")
        with IPRoute() as kernel:
            kernel.link("set", index=kernel.link_lookup(ifname="lo")[0], state="up")
        _link_state(interface, up=True)
        _address("add", interface, ip4, 24)
        _address("add", interface, ip6, 64, flags=0x02)


def _address(action: str, interface: str, ip: str, length: int, **more: object) -> None:
    with IPRoute() as kernel:
        index = kernel.link_lookup(ifname=interface)[0]
        kernel.addr(action, index=index, address=ip, prefixlen=length, **more)


def _link_state(interface: str, up: bool) -> None:
    with IPRoute() as kernel:
        kernel.link("set", index=kernel.link_lookup(ifname=interface)[0], state="up" if up else "down")


def _wait_for_carrier(interface: str) -> None:
    end = time.monotonic() + 20
    with IPRoute() as kernel:
        while kernel.get_links(ifname=interface)[0].get_attr("IFLA_OPERSTATE") != "UP":
            assert time.monotonic() < end, f"{interface} gets no carrier"
            # waits for a fact: the kernel has noticed that the new cable is plugged
            time.sleep(0.01)


@contextmanager
def laid() -> Iterator[Wire]:
    """This thread is in the namespace `here` until the end of the block."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    made = Wire()
    try:
        yield made
    finally:
        _check(libc.setns(home, CLONE_NEWNET))
        os.close(home)
        made.close()


def in_s(seconds: float) -> Instant:
    return clock.now().plus(int(seconds * 1e9))


def held(ip: object) -> list[Address]:
    """All entries for `ip`, on any interface here."""
    with AddressSocket() as kernel:
        return [one for one in kernel.addresses() if one.ip == ip]


async def until(fact, within_s: float, what: str) -> float:
    """Seconds until `fact()` is true."""
    start = time.monotonic()
    while not fact():
        assert time.monotonic() - start < within_s, f"not within {within_s} s: {what}"
        # waits for a fact: the one that the caller names
        await asyncio.sleep(0.005)
    return time.monotonic() - start
