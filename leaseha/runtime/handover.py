"""What the process before hands to the one that replaces it in place: as a document in memory, and open descriptors.

`leaseha reload` replaces the program by execve: pid, lock, guard and repositories stay, addresses and fence are the
kernel's. The document travels in a memfd, whose number is in the environment. Both versions must know its `FORMAT`;
fields that a version does not know are passed over.
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import signal
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, NoReturn, Self, TypeVar

from leaseha.core.deadline import Written
from leaseha.core.handover import Carried, Handover
from leaseha.core.values import Head, Instant
from leaseha.errors import OperationalError

VARIABLE: Final = "LEASEHA_HANDOVER"
FORMAT: Final = 1
HELD_BACK: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""Blocked until the new program hears them: by default they would end it without a release."""
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class GuardTold:
    """The guard that goes on: our end of its channel, and the mark of what the agent started."""

    fd: int
    pid: int
    mark: str
    release: str | None
    """Why it could free nothing in etcd; empty if it could, None while that is not known."""
    urgency: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RepositoryTold:
    """A repository's process that goes on: our end of its channel, and the number of the last request."""

    lease: str
    fd: int
    pid: int
    number: int
    path: str
    port: int
    serving: bool
    version: str
    copies: Mapping[str, Any] | None = None
    """What it was told of its copies on other nodes (leaseha.runtime.copies)."""


@dataclass(frozen=True, slots=True)
class Told:
    """All of it. Descriptors are open in the new process."""

    version: str
    """Of the program before."""
    text: str
    """The configuration, as the trial of the new program has read it."""
    frozen_at: Instant
    """Since when nothing is decided."""
    upgrade: bool
    core: Handover
    vips: Mapping[str, list[str]]
    """Of the held leases."""
    lock_fd: int
    guard: GuardTold | None
    repositories: tuple[RepositoryTold, ...] = ()
    reply_fd: int = -1
    """A connection on which the outcome is awaited; -1: none."""
    format: int = field(default=FORMAT)

    def fds(self) -> tuple[int, ...]:
        """The descriptors that the new process needs."""
        guard = (self.guard.fd,) if self.guard is not None else ()
        reply = (self.reply_fd,) if self.reply_fd >= 0 else ()
        return (self.lock_fd, *guard, *(one.fd for one in self.repositories), *reply)


def encode(told: Told) -> bytes:
    """As JSON."""
    return json.dumps(asdict(told), separators=(",", ":")).encode()


def decode(data: bytes) -> Told:
    """Raises `OperationalError` for a format of another version."""
    try:
        found = json.loads(data)
        if found["format"] != FORMAT:
            raise OperationalError(f"handed over in format {found['format']}, this version knows {FORMAT}")
        core, guard = found["core"], found["guard"]
        proven = core["proven"]
        found["core"] = _of(
            Handover,
            core,
            proven=Written(_instant(proven["sent_at"]), proven["ttl_ns"]) if proven else None,
            head=Head(**core["head"]),
            claims_from=_instant_or_none(core["claims_from"]),
            leases=tuple(map(_carried, core["leases"])),
        )
        return _of(
            Told,
            found,
            frozen_at=_instant(found["frozen_at"]),
            guard=_of(GuardTold, guard) if guard else None,
            repositories=tuple(_of(RepositoryTold, one) for one in found["repositories"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise OperationalError(f"what was handed over cannot be read: {error!r}") from error


def _carried(found: Mapping[str, Any]) -> Carried:
    return _of(
        Carried,
        found,
        since=_instant(found["since"]),
        cover=_instant_or_none(found["cover"]),
        up=tuple(found["up"]),
        not_before=_instant_or_none(found["not_before"]),
        wanted=tuple(found["wanted"]) if found.get("wanted") is not None else None,
    )


def _of(kind: type[_T], found: Mapping[str, Any], **read: Any) -> _T:
    known = {one.name for one in dataclasses.fields(kind)}  # type: ignore[arg-type]  # all of them are
    return kind(**{**{name: value for name, value in found.items() if name in known}, **read})


def _instant(found: Mapping[str, int]) -> Instant:
    return Instant(found["boot_ns"], found["raw_ns"])


def _instant_or_none(found: Mapping[str, int] | None) -> Instant | None:
    return None if found is None else _instant(found)


def program(*arguments: str) -> tuple[list[str], dict[str, str]]:
    """Command and environment of our own program as it is installed now: the same interpreter, our own place first.

    Never a package that lies in the working directory by chance.
    """
    here = str(Path(__file__).parents[2])
    places = [one for one in os.environ.get("PYTHONPATH", "").split(os.pathsep) if one and one != here]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([here, *places])}
    return [sys.executable, "-P", "-m", *arguments], environment


class Heard:
    """Whether a signal came while this was entered: the next program would not hear of one that this one has caught.

    The event loop hears it too, and acts on it when it runs again. For the main thread.
    """

    def __init__(self) -> None:
        self.signals: list[int] = []
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for number in HELD_BACK:
            self._before[number] = signal.signal(number, lambda number, _: self.signals.append(number))
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


def replace_program(told: Told, config: Path, heard: Heard) -> NoReturn:
    """Become the program that is installed now. Raises OSError when that fails: then nothing is changed.

    Raises `OperationalError` if a signal was `heard`. From the main thread only: the kernel kills the children of any
    other.
    """
    command, environment = program("leaseha", "run", "--config", str(config))
    memory = os.memfd_create("leaseha-handover", os.MFD_CLOEXEC)
    try:
        with os.fdopen(memory, "wb", closefd=False) as file:
            file.write(encode(told))
        # Seen by nobody else of this process: nothing runs between here and execve but this thread's own code,
        # and what other threads start takes only what it is given.
        keep = (memory, *told.fds())
        _close_all_but(keep)
        environment[VARIABLE] = str(memory)
        # A real-time program may compute for so long only; the next one takes that up when it is loaded (urgency).
        before = signal.pthread_sigmask(signal.SIG_BLOCK, (*HELD_BACK, signal.SIGXCPU))
        try:
            if heard.signals:
                raise OperationalError("a signal came meanwhile")
            os.execve(command[0], command, environment)  # noqa: S606 - our own program
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            for fd in keep:
                os.set_inheritable(fd, False)
    finally:
        os.close(memory)


def _close_all_but(keep: Iterable[int]) -> None:
    """At execve, and not before: libraries may have opened descriptors without saying so."""
    kept = {0, 1, 2, *keep}
    for place in list(Path("/proc/self/fd").iterdir()):
        fd = int(place.name)
        try:
            flags = fcntl.fcntl(fd, fcntl.F_GETFD)
            wanted = flags & ~fcntl.FD_CLOEXEC if fd in kept else flags | fcntl.FD_CLOEXEC
            fcntl.fcntl(fd, fcntl.F_SETFD, wanted)
        except OSError:
            continue  # the listing's own


def received() -> Told | None:
    """What was handed to this process, once; None at an ordinary start. Raises `OperationalError`."""
    number = os.environ.pop(VARIABLE, "")
    if not number:
        return None
    try:
        with os.fdopen(int(number), "rb") as file:
            file.seek(0)
            told = decode(file.read())
        for fd in told.fds():
            os.set_inheritable(fd, False)
    except (OSError, ValueError) as error:
        raise OperationalError(f"{VARIABLE}={number}: nothing was handed over there: {error}") from error
    return told


def hear_signals() -> None:
    """This process heeds them now."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD_BACK)
