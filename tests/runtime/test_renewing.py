"""Fences and lifetimes of all leases are moved on together, by the newest word; a failure is told to its own lease."""

import asyncio
from ipaddress import ip_address

from leaseha.adapters import clock
from leaseha.core.values import NS_PER_S, Instant
from leaseha.errors import FenceError, VipError
from leaseha.runtime.renewing import Renewal, Renewals

NOW = clock.now()
SOON, LATER = NOW.plus(NS_PER_S), NOW.plus(2 * NS_PER_S)


class Kernel:
    """Fence and addresses: notes what it was asked, waits when it is told to, refuses what it is told to."""

    def __init__(self) -> None:
        self.armed: list[dict] = []
        self.renewed: list[dict] = []
        self.refuse_fence: set = set()
        self.refuse_lease: set[str] = set()
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.asked = asyncio.Event()

    async def arm_all(self, due):
        self.asked.set()
        await self.go_on.wait()
        self.armed.append(dict(due))
        return {ip: FenceError("no") for ip in due if ip in self.refuse_fence}

    async def renew_all(self, due):
        self.renewed.append(dict(due))
        return {lease: VipError("no") for lease in due if lease in self.refuse_lease}


class Leases:
    """Some leases, their deadlines, and what each was told."""

    def __init__(self, count: int) -> None:
        self.kernel = Kernel()
        self.renewals = Renewals(self.kernel)
        self.until: dict[str, Instant | None] = {f"l{at}": SOON for at in range(count)}
        self.told: list[tuple[str, str]] = []
        self.all = {name: self.made(at, name) for at, name in enumerate(self.until)}

    def made(self, at: int, name: str) -> Renewal:
        return Renewal(
            name,
            (ip_address(f"192.0.2.{at + 1}"),),
            self.kernel,
            lambda: self.until[name],
            lambda error: self.told.append((name, type(error).__name__)),
        )

    def extend(self, *names: str) -> None:
        for name in names or self.all:
            self.renewals.soon(self.all[name])


def test_a_hundred_leases_are_one_batch_for_the_fence_and_one_for_the_addresses():
    async def go() -> None:
        leases = Leases(100)
        leases.extend()

        assert await leases.renewals.settle(5.0)

        assert [len(batch) for batch in leases.kernel.armed] == [100]
        assert leases.kernel.renewed == [dict.fromkeys(leases.all, SOON)]

    asyncio.run(go())


def test_while_the_kernel_is_busy_only_the_newest_word_waits():
    async def go() -> None:
        leases = Leases(2)
        leases.kernel.go_on.clear()
        leases.extend()
        await leases.kernel.asked.wait()
        for moved in (SOON.plus(1), SOON.plus(2), LATER):
            leases.until["l0"] = moved
            leases.extend("l0")
        assert not await leases.renewals.settle(0.01)
        leases.kernel.go_on.set()

        assert await leases.renewals.settle(5.0)

        assert leases.kernel.renewed == [{"l0": SOON, "l1": SOON}, {"l0": LATER}]

    asyncio.run(go())


def test_the_addresses_of_a_lease_that_is_taken_down_while_the_fence_is_armed_are_left_alone():
    async def go() -> None:
        leases = Leases(2)
        leases.kernel.go_on.clear()
        leases.extend()
        await leases.kernel.asked.wait()
        leases.until["l1"] = None
        leases.kernel.go_on.set()

        assert await leases.renewals.settle(5.0)

        assert leases.kernel.renewed == [{"l0": SOON}]

    asyncio.run(go())


def test_a_lease_that_is_down_by_then_is_left_alone():
    async def go() -> None:
        leases = Leases(2)
        leases.extend()
        leases.until["l0"] = None

        assert await leases.renewals.settle(5.0)

        assert leases.kernel.renewed == [{"l1": SOON}]

    asyncio.run(go())


def test_what_fails_for_one_lease_is_told_to_it_alone():
    async def go() -> None:
        leases = Leases(3)
        leases.kernel.refuse_fence = {ip_address("192.0.2.1")}
        leases.kernel.refuse_lease = {"l1"}
        leases.extend()

        assert await leases.renewals.settle(5.0)

        assert leases.kernel.renewed == [{"l1": SOON, "l2": SOON}]  # no lifetime behind a fence that fails
        assert leases.told == [("l0", "FenceError"), ("l1", "VipError")]

    asyncio.run(go())


def test_a_fault_leaves_nobody_unaware_of_it():
    async def go() -> None:
        leases = Leases(2)
        leases.kernel.armed = None  # type: ignore[assignment]
        leases.extend()

        assert await leases.renewals.settle(5.0)

        assert leases.told == [("l0", "OperationalError"), ("l1", "OperationalError")]

    asyncio.run(go())
