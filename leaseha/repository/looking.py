"""What `leaseha repo` reads from a data directory, whether or not anything runs on it. JSON-ready; changes nothing."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from leaseha.repository.aside import QUARANTINE, TRASH, Aside
from leaseha.repository.paths import DEPTH, Kind, is_name
from leaseha.repository.store import OURS
from leaseha.repository.usage import Usage, Use


def repositories(root: Path) -> list[dict[str, Any]]:
    """Each repository, by name. Raises OSError."""
    return [
        {
            "repository": _label(repo),
            "bytes": use.total_bytes,
            "snapshots": use.objects[Kind.SNAPSHOTS],
            "last_snapshot_s": round(use.last_snapshot_s, 3),
        }
        for repo, use in _uses(root)
    ]


def usage(root: Path) -> dict[str, Any]:
    """By kind of object, with what trash and quarantine hold. Raises OSError."""
    rows = [
        {
            "repository": _label(repo),
            "bytes": use.total_bytes,
            "kinds": {
                kind: {"objects": use.objects[kind], "bytes": use.sizes[kind]} for kind in sorted(use.objects)
            },
        }
        for repo, use in _uses(root)
    ]
    disk = os.statvfs(root)
    return {
        "repositories": rows,
        **{name: _held(root, name) for name in (TRASH, QUARANTINE)},
        "disk_bytes": disk.f_blocks * disk.f_frsize,
        "free_bytes": disk.f_bavail * disk.f_frsize,
    }


def locks(root: Path) -> list[dict[str, Any]]:
    """restic's locks, the oldest first. Who holds them only restic can read. Raises OSError."""
    rows = []
    for repo, _ in _uses(root):
        folder = root.joinpath(*repo, Kind.LOCKS)
        for path in folder.iterdir() if folder.is_dir() else ():
            if is_name(path.name):
                row = {"repository": _label(repo), "name": path.name, "since_s": path.stat().st_mtime}
                rows.append(row)
    return sorted(rows, key=lambda row: row["since_s"])


def aside(root: Path, name: str, repository: str | None, since: str) -> list[dict[str, Any]]:
    """What `trash` or `quarantine` has: of one repository (None: of all), put there on the day `since` or later."""
    return [
        {
            "day": kept.day,
            "repository": _label(kept.address.repo),
            "kind": str(kept.address.kind),
            "name": kept.address.name or Kind.CONFIG.value,
            "bytes": kept.size,
        }
        for kept in Aside(root, root / OURS / name, 0).entries()
        if kept.day >= since and repository in {None, "/".join(kept.address.repo)}
    ]


def _uses(root: Path) -> list[tuple[tuple[str, ...], Use]]:
    usage = Usage(root, DEPTH, rest=lambda: None)
    usage.count()
    return sorted(usage.uses().items())


def _held(root: Path, name: str) -> dict[str, int]:
    held = Aside(root, root / OURS / name, 0)
    held.count()
    return {"objects": held.objects, "bytes": held.bytes}


def _label(repo: tuple[str, ...]) -> str:
    return f"/{'/'.join(repo)}/" if repo else "/"
