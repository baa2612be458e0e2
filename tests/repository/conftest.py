"""Repositories on loopback and files under pytest's temporary folder; nothing else is touched."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.repository.served import Served


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Served]]:
    """Makes served repositories; all of them end with the test."""
    made: list[Served] = []

    def make(**options: Any) -> Served:
        made.append(Served(tmp_path / "data", **options))
        return made[-1]

    (tmp_path / "data").mkdir()
    yield make
    for served in made:
        served.close()


@pytest.fixture
def served(serve: Callable[..., Served]) -> Served:
    """An open gate under token 7."""
    return serve()
