"""What is left of connections to a VIP that was given up ends, beside everything else."""

import asyncio
import errno
import os
import socket
from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from leaseha import connections
from leaseha.runtime.severing import Severing
from tests.adapters.wire import Wire, laid

VIP, OTHER = ip_address("10.9.0.100"), ip_address("10.9.0.101")

pytestmark = pytest.mark.netns


@pytest.fixture
def wire() -> Iterator[Wire]:
    with laid() as made:
        for vip in (VIP, OTHER):
            made.address("add", str(vip), 32)
        yield made


@pytest.fixture
def servers(wire: Wire) -> Iterator[list[socket.socket]]:
    """The ends here of a connection to each of the two."""
    opened, ends = [], []
    for vip in (VIP, OTHER):
        listener = socket.create_server((str(vip), 0))
        port = listener.getsockname()[1]
        client = wire.there(lambda vip=vip, port=port: socket.create_connection((str(vip), port), 5))
        ends.append(listener.accept()[0])
        ends[-1].setblocking(False)
        opened += [listener, client]
    yield ends
    for one in (*opened, *ends):
        one.close()


def dead(server: socket.socket) -> bool:
    return server.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNABORTED


def test_connections_end_at_once_at_the_end_of_the_process_and_a_moment_later_else(servers):
    async def go() -> None:
        severing = Severing(later_s=60)
        severing.off("l", [VIP], lambda: True)
        assert not dead(servers[0])
        await severing.settle(10)
        assert [dead(one) for one in servers] == [True, False]

        severing = Severing(later_s=0)
        severing.off("m", [OTHER], lambda: True)
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(10):
            with pytest.raises(ConnectionAbortedError):
                await loop.sock_recv(servers[1], 1)

    asyncio.run(go())


def test_what_is_bound_again_meanwhile_keeps_its_connections(servers):
    async def go() -> None:
        severing = Severing()
        severing.off("l", [VIP], lambda: False)
        severing.off("m", [OTHER], lambda: True)
        await severing.settle(10)
        assert [dead(one) for one in servers] == [False, True]

    asyncio.run(go())


def test_what_comes_while_it_is_busy_goes_next(servers):
    async def go() -> None:
        severing = Severing(later_s=0)
        severing.off("l", [VIP], lambda: severing.off("m", [OTHER], lambda: True) or True)
        await severing.settle(10)
        assert [dead(one) for one in servers] == [True, True]

    asyncio.run(go())


def test_a_kernel_that_cannot_is_named_once_and_breaks_nothing(servers, caplog):
    why = os.strerror(errno.EOPNOTSUPP)

    class Cannot(Severing):
        @staticmethod
        def _end(_: object, __: object) -> int:
            raise OSError(errno.EOPNOTSUPP, why)

    async def go() -> None:
        severing = Cannot()
        for _ in range(3):
            severing.off("l", [VIP], lambda: True)
            await severing.settle(10)

    asyncio.run(go())
    assert [record.getMessage() for record in caplog.records] == [
        f"the kernel cannot end old connections: {why}; after a move local processes wait for their time-outs"
    ]


def test_this_machine_can():
    assert connections.unsupported() == ""
