"""A lab without etcd for each module: three nodes, a client, an observer. Each test begins with all healed."""

from collections.abc import Iterator

import pytest

from leaseha.lab.lab import Lab


@pytest.fixture(scope="module")
def _bare() -> Iterator[Lab]:
    with Lab(etcd_members=0, clients=2, extra_hosts=("gateway",), separate_etcd_network=True) as lab:
        yield lab


@pytest.fixture
def bare(_bare: Lab) -> Iterator[Lab]:
    yield _bare
    _bare.heal()
