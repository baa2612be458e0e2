"""An etcd on which guards are tried."""

from collections.abc import AsyncIterator, Iterator

import pytest


@pytest.fixture(scope="module")
def members(tmp_path_factory) -> Iterator[object]:
    from tests.adapters.etcd_members import Members  # late: needed by these tests only

    with Members(tmp_path_factory.mktemp("guard-etcd")) as made:
        yield made


@pytest.fixture
async def etcd(members) -> AsyncIterator[object]:
    """A client of the agent's own kind, with nothing under the prefix."""
    from leaseha.adapters.etcd import EtcdClient
    from tests.runtime.standing import PREFIX, SOON_S

    client = EtcdClient(members.endpoints, PREFIX)
    await client.wait_ready(SOON_S)
    yield client
    await client.close()
