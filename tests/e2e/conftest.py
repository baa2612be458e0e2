"""Clusters that run: real agents, a real etcd, clients that ask each millisecond. One for each module."""

import os
import shutil
from pathlib import Path

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


NEWER = Path(__file__).parents[2] / "build" / "restic" / "restic"
# Where nothing may be skipped it was fetched before, if it can be had.
GENERATIONS = ["installed", *(["newer"] if NEWER.exists() or not os.environ.get("LEASEHA_NO_SKIP") else [])]


@pytest.fixture(scope="session")
def newer_restic() -> str:
    """That of the next Debian, fetched beforehand: there is no network in here."""
    if not NEWER.exists():
        pytest.skip("no newer restic: sh scripts/newer_restic build/restic")
    return str(NEWER)


@pytest.fixture(params=GENERATIONS)
def any_restic(request: pytest.FixtureRequest) -> str:
    """Each of the two generations of restic."""
    path: str = request.getfixturevalue("restic" if request.param == "installed" else "newer_restic")
    return path
