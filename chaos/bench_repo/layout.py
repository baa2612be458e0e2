"""Directories that are full from the beginning."""

from __future__ import annotations

import os
import random
from pathlib import Path


def fill(root: Path, repo: str, count: int, chance: random.Random, size: int = 0) -> None:
    """Objects that nobody uploaded, in restic's own layout; their names are no hashes of their bytes."""
    data = root / repo / "data"
    for number in range(256):
        (data / f"{number:02x}").mkdir(parents=True, exist_ok=True)
    for kind in ("index", "keys", "locks", "snapshots"):
        (root / repo / kind).mkdir(exist_ok=True)
    for _ in range(count):
        name = chance.randbytes(32).hex()
        fd = os.open(data / name[:2] / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        if size:
            os.write(fd, bytes(size))
        os.close(fd)
