"""One agent per cluster, node and host, its guard included; and the store's identity, which outlives the agent."""

from __future__ import annotations

import fcntl
import os
import select
import uuid
from pathlib import Path
from typing import Final

from leaseha.errors import AgentRunning, OperationalError

GUARD_S: Final = 20.0
"""How long the guard of an agent that died may take to clean up."""
_PAUSE_S: Final = 0.02


def make_folder(path: Path, what: str) -> None:
    """Make a folder with its parents, for its owner alone. Raises `OperationalError` naming it."""
    try:
        path.mkdir(mode=0o750, parents=True, exist_ok=True)
    except FileExistsError as error:
        raise OperationalError(
            f"{what} {path} is no directory: move that file away, or name another place"
        ) from error
    except OSError as error:
        raise OperationalError(f"{what} {path} cannot be made: {error.strerror}") from error


class AgentLock:
    """Held from the start to the end of the process, and of its guard; the kernel lets go of it whatever happens."""

    def __init__(self, runtime_dir: Path) -> None:
        make_folder(runtime_dir, "the runtime directory (runtime_dir)")
        path = runtime_dir / "lock"
        try:
            self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        except OSError as error:
            raise OperationalError(f"the lock {path} cannot be opened: {error.strerror}") from error
        for _ in range(int(GUARD_S / _PAUSE_S)):
            try:
                fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                self._other_lives(path)
                select.select(
                    [], [], [], _PAUSE_S
                )  # an agent that died, and its guard that cleans up after it
        else:
            os.close(self.fd)
            raise AgentRunning(
                f"the guard of an earlier agent has not ended for {GUARD_S:g} s: {path} is locked "
                f"(`fuser {path}` names it; if it is frozen, kill it)"
            )
        os.ftruncate(self.fd, 0)
        os.pwrite(self.fd, f"{os.getpid()}\n".encode(), 0)

    @classmethod
    def inherited(cls, fd: int) -> AgentLock:
        """The lock that this very process held before it was replaced in place."""
        lock = cls.__new__(cls)
        lock.fd = fd
        return lock

    def _other_lives(self, path: Path) -> None:
        """Raises `AgentRunning` if the agent that wrote its pid there is alive."""
        other = os.pread(self.fd, 32, 0).decode(errors="replace").strip()
        if other.isdigit() and not _lives(int(other)):
            return
        os.close(self.fd)
        raise AgentRunning(
            f"another agent (pid {other or 'unknown'}) of this cluster and node runs here: {path} is locked"
        )


def _lives(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in ("Z", "X")


def store_id(folder: Path) -> str:
    """The uuid in `<folder>/store-id`, made at the first call: it names the disk, not the node (A13).

    Raises `OperationalError` if it can be neither read nor made durable.
    """
    make_folder(folder, "the state directory (state_dir)")
    path = folder / "store-id"
    try:
        if path.exists():
            text = path.read_text().strip()
            return str(uuid.UUID(text))
        found = str(uuid.uuid4())
        temporary = path.with_suffix(".new")
        with temporary.open("w") as file:
            file.write(found + "\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
    except ValueError as error:
        raise OperationalError(
            f"{path} holds no uuid: restore it, or remove it to begin as a new store"
        ) from error
    except OSError as error:
        raise OperationalError(f"{path} cannot be kept: {error.strerror}") from error
    return found
