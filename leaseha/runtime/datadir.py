"""A lease's data directory: whether it is there, and whether it is the one that this node served before.

A disk that is not mounted looks like an empty store, and clients believe an empty store: they would begin a new
repository in the mount point. So leaseha never makes the directory itself, and a directory has an identity: a
uuid in `.leaseha/store-id`, written at first use, which the node remembers in `state_dir/stores/LEASE`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import uuid
from pathlib import Path
from typing import Final

from leaseha.adapters.aside import aside
from leaseha.repository.durable import fsync_folder

LOOK_S: Final = 5.0
"""How long one look may take; a network disk whose server is away may never answer."""
OURS: Final = ".leaseha"
STORE_ID: Final = "store-id"
_STORES: Final = uuid.UUID("5f0c1c2e-8a43-5d0e-9b1a-2f6d6c1c7a10")


class DataDirectory:
    """One lease's directory, as this node knows it. `memory` is the file that says what it served before."""

    def __init__(self, lease: str, path: Path, state_dir: Path, *, replicated: bool = False) -> None:
        self.path = path
        self.replicated = replicated
        self.memory = state_dir / "stores" / lease
        self._key = f"lease.{lease}.repository.path = {path}"
        self._name = f"look-at-{lease}"
        self._looking: asyncio.Future[str] | None = None
        self.identity = ""
        """The uuid in it, once a look found that it may be served."""

    def trouble(self) -> str:
        """Why it must not be served; empty if it may. Changes nothing. Raises OSError if it cannot be looked at."""
        if not self.path.exists():
            return f"{self._key}: there is no such directory: create it, or mount it"
        if not self.path.is_dir():
            return f"{self._key}: is no directory: move that file away, or name another place"
        if not os.access(self.path, os.R_OK | os.W_OK | os.X_OK):
            return f"{self._key}: cannot be written to: give it to the account that runs leaseha"
        served = _read(self.memory)
        if served and served != _read(self.path / OURS / STORE_ID):
            return (
                f"the data directory {self.path} is not the one that this node served before (is it mounted?);"
                f" if it is meant, remove {self.memory}"
                + (
                    "; as another store it is filled by the holder before it counts"
                    if self.replicated
                    else ""
                )
            )
        return ""

    def claim(self) -> str:
        """`trouble`; and if there is none, the identity is durable in both places when this returns."""
        try:
            why = self.trouble()
            if not why:
                self.identity = self._remember()
        except OSError as error:
            why = f"{self._key}: cannot be used: {error.strerror} ({error.filename})"
        return why

    def _remember(self) -> str:
        ours = self.path / OURS
        found = _read(ours / STORE_ID)
        if not found:
            ours.mkdir(exist_ok=True)
            fsync_folder(self.path)
            # If another node of this directory was quicker, its id counts.
            with contextlib.suppress(FileExistsError):
                _put(ours / STORE_ID, str(uuid.uuid4()))
            found = _read(ours / STORE_ID)
        if found and not _read(self.memory):
            self.memory.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
            self.memory.unlink(missing_ok=True)
            _put(self.memory, found)
        return found

    def store(self, node: str) -> str:
        """What names the bytes of this node's directory in an in-sync set; empty before it was looked at.

        A directory that was copied to another node, its uuid included, is not the same store there (A13).
        """
        return str(uuid.uuid5(_STORES, f"{self.identity} {node}")) if self.identity else ""

    async def look(self, timeout_s: float = LOOK_S) -> str:
        """`claim`, beside the loop. Raises TimeoutError: then nothing is known of it."""
        looking = self._looking
        if looking is None or looking.done():
            looking = self._looking = aside(self.claim, self._name)
        done, _ = await asyncio.wait({looking}, timeout=timeout_s)
        if not done:
            raise TimeoutError(f"{self._key}: has not answered for {timeout_s:g} s")
        return looking.result()


def _read(path: Path) -> str:
    """The id in a file; empty if there is none. Raises OSError for a file that cannot be read."""
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except (FileNotFoundError, NotADirectoryError):
        return ""


def _put(path: Path, text: str) -> None:
    """A new file, whole or not at all, durable when this returns. Raises FileExistsError, OSError."""
    draft = path.with_name(f"{path.name}.{uuid.uuid4().hex}.new")
    try:
        with draft.open("x", encoding="ascii") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        path.hardlink_to(draft)
    finally:
        draft.unlink(missing_ok=True)
    fsync_folder(path.parent)
