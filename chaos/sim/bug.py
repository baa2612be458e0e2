"""One planted bug: patches for the time of a run. Nothing of them is in production code."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from chaos.sim.options import Options

Patch = tuple[Any, str, Any]
"""Owner, name, and what stands there instead."""


@dataclass(frozen=True, slots=True)
class Bug:
    """One planted bug: its patches, and how the seeds are steered towards it."""

    name: str
    story: str
    profile: str
    plant: Callable[[], list[Patch]]
    steer: Callable[[Options], None] = lambda options: None  # noqa: ARG005 - steers nothing


@contextlib.contextmanager
def planted(bug: Bug) -> Iterator[None]:
    """The bug is there within this."""
    patches = bug.plant()
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in patches]
    for owner, name, instead in patches:
        setattr(owner, name, instead)
    try:
        yield
    finally:
        for owner, name, good in before:
            setattr(owner, name, good)
