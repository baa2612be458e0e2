"""What several adapters are tried on."""

from collections.abc import AsyncIterator, Iterator

import pytest


@pytest.fixture
def wire() -> Iterator[object]:
    """A cable between two namespaces; the test runs at one end of it."""
    from tests.adapters.wire import laid  # late: pyroute2 is needed by these tests only

    with laid() as made:
        yield made


@pytest.fixture
def warned() -> list[str]:
    """What an adapter told the operator."""
    return []


@pytest.fixture
async def binder(wire: object, warned: list[str]) -> AsyncIterator[object]:
    """Binds VIPs at this end of the cable, for the cluster `cluster-a`."""
    from leaseha.adapters.vip import VipBinder
    from tests.adapters.wire import HERE

    made = VipBinder(HERE, "cluster-a", warn=warned.append)
    yield made
    made.close()
