"""What a directory holds, in short: for each folder of objects how many, and a digest of their names and sizes.

Objects are named by their hash, so the same name and size is the same object; a config has no hash for a name and
is digested itself. Two directories with the same manifest hold the same.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from leaseha.repository.paths import Address, Kind, is_name
from leaseha.repository.peer_wire import DEPTH, address_of, path_of

Digest = tuple[int, str]
_KINDS: Final = frozenset(Kind)


def manifest(root: Path) -> dict[str, Digest]:
    """By path: `/REPO/KIND/` (for packs `/REPO/data/xx`) or `/REPO/config`; empty folders are left out.

    Raises OSError.
    """
    found: dict[str, Digest] = {}
    for repo in _repositories(root, ()):
        config = root.joinpath(*repo, Kind.CONFIG)
        if config.is_file():
            found[path_of(Address(repo, Kind.CONFIG))] = (1, hashlib.sha256(config.read_bytes()).hexdigest())
    for path in folders(root):
        if entries := listing(root, path):
            text = "".join(f"{name} {entries[name]}\n" for name in sorted(entries))
            found[path] = (len(entries), hashlib.sha256(text.encode()).hexdigest())
    return found


def folders(root: Path) -> list[str]:
    """Every folder of objects, empty ones too, in the order of their paths. Raises OSError."""
    found: list[str] = []
    for repo in _repositories(root, ()):
        for kind in Kind:
            where = path_of(Address(repo, kind))
            if kind is Kind.DATA:
                found += [where + part for part in _parts(root.joinpath(*repo, kind))]
            elif kind is not Kind.CONFIG:
                found.append(where)
    return sorted(found)


def file_of(root: Path, address: Address) -> Path:
    """Where an object, or a config, is kept."""
    folder = root.joinpath(*address.repo, address.kind or "")
    if address.kind is Kind.DATA:
        folder = folder / address.name[:2]
    return folder / address.name if address.name else folder


def listing(root: Path, path: str) -> dict[str, int]:
    """Sizes in bytes by name, of one path of a manifest; none where nothing is. Raises OSError, ValueError."""
    where, part = folder_of(path)
    folder = root.joinpath(*where.repo, where.kind or "", part)
    found: dict[str, int] = {}
    try:
        listed = os.scandir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return found
    with listed:
        for entry in listed:
            if is_name(entry.name) and entry.name.startswith(part) and entry.is_file(follow_symlinks=False):
                try:
                    found[entry.name] = entry.stat(follow_symlinks=False).st_size
                except FileNotFoundError:  # deleted since
                    continue
    return found


def folder_of(path: str) -> tuple[Address, str]:
    """The kind that a path of a manifest is about, and which part of its packs. Raises ValueError."""
    address = address_of(path)
    part = ""
    if address is None and len(path) > 2:
        address, part = address_of(path[:-2]), path[-2:]
    if address is None or address.kind is None or address.name or (part and address.kind is not Kind.DATA):
        raise ValueError(f"not a folder of objects: {path!r}")
    return address, part


def _parts(folder: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in os.scandir(folder) if len(entry.name) == 2 and entry.is_dir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def _repositories(base: Path, repo: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Every folder that has a kind in it, and what lies below; hidden ones are not ours to look at."""
    names = [entry.name for entry in os.scandir(base) if not entry.name.startswith(".")]
    if not _KINDS.isdisjoint(names):
        yield repo
    if len(repo) < DEPTH:
        for name in sorted(names):
            if name not in _KINDS and (base / name).is_dir():
                yield from _repositories(base / name, (*repo, name))
