"""Clusters that run: real agents, a real etcd, clients that ask each millisecond. One for each module."""

import shutil

import pytest


@pytest.fixture(autouse=True, scope="session")
def _etcd_is_here() -> None:
    from leaseha.errors import LabError
    from leaseha.lab.etcd import find_etcd

    try:
        find_etcd()
    except LabError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def restic() -> str:
    """The restic program."""
    path = shutil.which("restic")
    if path is None:
        pytest.skip("restic is not installed: apt-get install restic")
    return path
