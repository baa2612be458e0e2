"""The agent's side of its guard: started before all else, told everything, made anew when it died.

Light to import (no gRPC, no OpenTelemetry): `leaseha run` starts the guard before it loads those. What is told is
kept here too, so that a new guard learns all of it. Messages are one JSON object a datagram; the guard's end, and
what each means, is in leaseha.runtime.guard.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from leaseha.config import Config
from leaseha.core import trace
from leaseha.core.values import NS_PER_MS, NS_PER_S, Instant
from leaseha.runtime.guard_etcd import Closing, Gateway
from leaseha.runtime.guard_kernel import Unknown
from leaseha.runtime.handover import GuardTold, Told
from leaseha.runtime.lock import AgentLock

MARK: Final = "LEASEHA_AGENT"
"""In the environment of all that the agent starts: so the guard knows them, whatever becomes of their parents."""
GRACE_NS: Final = 250 * NS_PER_MS
"""How long past a deadline the agent may take to put down what is up; it needs some 10 ms where nothing is loaded."""
RELEASE_NS: Final = 15 * NS_PER_S
"""How long the guard tries to write to etcd."""
PULSE_S: Final = 2.0
MISSED_MAX: Final = 3
"""So many pulses without an answer, and the guard hangs."""
AGAIN_S: Final = 1.0
"""A guard that dies at once is not started again faster than this."""
_START: Final = """
import sys
sys.path.insert(0, sys.argv.pop(1))
from leaseha.runtime.guard import main
sys.exit(main())
"""
DEAF: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
_MESSAGE_MAX: Final = 65536
_SO_SNDBUFFORCE: Final = 32
_BUFFER: Final = 2 << 20
_SLICE: Final = 250
"""Leases in one message: with names of 63 letters and traces it stays below a fifth of a socket's buffer."""

_log = logging.getLogger("leaseha.guard")
Message = dict[str, Any]


class Inherited:
    """A child of this very process from before it was replaced in place: what a guard's handle must be able to do."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._ended: int | None = None

    def poll(self) -> int | None:
        """Its exit status, None while it lives."""
        if self._ended is None:
            try:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
            except ChildProcessError:
                pid, status = self.pid, 0
            self._ended = os.waitstatus_to_exitcode(status) if pid else None
        return self._ended

    def send_signal(self, number: int) -> None:
        """As long as it was not waited for its number is its own. Raises ProcessLookupError."""
        if self.poll() is None:
            os.kill(self.pid, number)


def charge(config: Config, vips: Mapping[str, str], tag: int, close_commands: Sequence[str] = ()) -> Message:
    """What a guard must know to take everything down. `vips`: address to interface; `tag`: the metric of ours."""
    etcd = config.etcd
    files = {"ca": etcd.ca, "cert": etcd.cert, "key": etcd.key, "password_file": etcd.password_file}
    places = {name: str(path) for name, path in files.items() if path is not None}
    return {
        "do": "configure",
        "prefix": config.key_prefix,
        "leases": [lease.name for lease in config.leases],
        "etcd": {"endpoints": [str(one) for one in etcd.endpoints], "user": etcd.user or "", **places},
        "vips": dict(vips),
        "tag": tag,
        "close_commands": list(close_commands),
        "urgent": config.node.realtime,
        "grace_ns": GRACE_NS,
        "release_ns": RELEASE_NS,
        "log": {
            "node": config.node.name,
            "cluster": config.cluster,
            "form": config.log.format.value,
        },
    }


class Guarding:
    """One guard at a time. Used from the main thread; from `attach` on, from the event loop's.

    It inherits the lock of the agent: another agent of this node begins when the guard has cleaned up, not before.
    """

    def __init__(self, cluster: str, lock: AgentLock, *, pulse_s: float = PULSE_S) -> None:
        self._pulse_s = pulse_s
        self._cluster = cluster
        self._lock = lock
        self._mark = uuid.uuid4().hex
        self._process: subprocess.Popen[bytes] | Inherited | None = None
        self._channel: socket.socket | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._told: Message = {}
        self._session = 0
        self._armed: dict[str, tuple[int, Instant]] = {}
        """Leases that are up: token, deadline."""
        self._new: set[str] = set()
        self._moved: set[str] = set()
        self._gone: set[str] = set()
        """Those of which not all is told yet: that they are up, their newest deadline, that they are down."""
        self._flushing = False
        self._unanswered = 0
        self._ready = False
        self._started_s = 0.0
        self._release: str | None = None
        """Why the guard could not free anything in etcd; empty if it could, None while nobody knows."""
        self.urgency: dict[str, Any] = {}
        """Its priority, and whether its memory is locked, as it says; empty until it does."""

    @property
    def lock_fd(self) -> int:
        """Of the agent's lock."""
        return self._lock.fd

    def hand_over(self) -> GuardTold | None:
        """Everything is told; what the next program needs to go on with this guard. None while there is none."""
        self._flush()
        if self._channel is None or self._process is None:
            return None
        fd, pid = self._channel.fileno(), self._process.pid
        return GuardTold(fd, pid, self._mark, self._release, self.urgency)

    @classmethod
    def resumed(cls, cluster: str, told: Told) -> Guarding:
        """The guard of the program before goes on, told what it was told; where there was none, another begins."""
        guarding = cls(cluster, AgentLock.inherited(told.lock_fd))
        guarding._mark = os.environ.get(MARK, guarding._mark)  # what was started before bears it
        if told.guard is None:
            guarding.start()
            return guarding
        os.environ[MARK] = guarding._mark = told.guard.mark
        guarding._session, guarding._release = told.core.session, told.guard.release
        guarding.urgency = dict(told.guard.urgency)
        channel = socket.socket(fileno=told.guard.fd)
        channel.setblocking(False)
        guarding._channel, guarding._process = channel, Inherited(told.guard.pid)
        guarding._ready = True
        for one in told.core.held():
            if one.cover is not None:
                guarding._armed[one.lease] = one.token, one.cover
        return guarding

    def start(self) -> socket.socket:
        """The guard's process; our end of its channel. Raises OSError if there can be none."""
        os.environ[MARK] = self._mark
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        _make_room(ours)
        root = str(Path(__file__).parents[2])
        myself = os.pidfd_open(os.getpid())
        # Blocked in the guard from its first instruction on: it ignores them, once it has come so far.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, DEAF)
        try:
            ends = ("--fd", str(theirs.fileno()), "--agent", str(myself))
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-E", "-c", _START, root, *ends],
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), myself, self._lock.fd),
                env={name: value for name, value in os.environ.items() if name != MARK},
                start_new_session=True,  # a signal for the terminal's group is not for it
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            theirs.close()
            os.close(myself)
        self._channel = ours
        self._unanswered = 0
        self._ready = False
        self._release = None
        self.urgency = {}
        return ours

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """From now on the guard is listened to, and replaced when it died or hangs."""
        self._loop = loop
        if self._channel is not None:
            loop.add_reader(self._channel, self._hear)
        self._timer = loop.call_later(self._pulse_s, self._pulse)

    @property
    def pid(self) -> int:
        """0 if there is none at this moment."""
        return self._process.pid if self._process is not None and self._channel is not None else 0

    def layer(self) -> str:
        """How `status` names it; empty while there is none."""
        if self._channel is None or not self._ready:
            return ""
        if self._release:
            return f"guard (frees nothing after a crash: {self._release})"
        return "guard"

    # --- what it is told --------------------------------------------------------------------------------------

    def configure(self, told: Message) -> None:
        """What it needs to take everything down (`charge`)."""
        self._told = {**told, "mark": f"{MARK}={self._mark}"}
        self._send(self._told)

    def session(self, session: int) -> None:
        """The session whose claims are this agent's; 0: none."""
        if session != self._session:
            self._session = session
            self._send({"do": "session", "id": session})

    def arm(self, lease: str, token: int, deadline: Instant) -> None:
        """The lease is up, or is about to be, until then. The guard is told before whatever is awaited from now on."""
        before = self._armed.get(lease)
        self._armed[lease] = token, deadline
        if before is None or before[0] != token:
            self._new.add(lease)
            self._tell_soon()
        elif before[1] != deadline:
            self._moved.add(lease)
            self._tell_soon()

    def disarm(self, lease: str) -> None:
        """The lease is down, or this agent said that it cannot be: no deadline of it will be missed."""
        if self._armed.pop(lease, None) is not None:
            self._gone.add(lease)
            self._tell_soon()

    def _tell_soon(self) -> None:
        """With all that this turn of the loop has to tell: a socket has no room for a thousand messages."""
        if self._loop is None:
            self._flush()
        elif not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def bye(self) -> None:
        """Everything is down and let go in order: the guard ends, with nothing to do."""
        self._send({"do": "bye"})
        self.leave()

    def leave(self) -> None:
        """The agent is about to end: the guard is left as it is, to see to the rest if there is any."""
        self._flush()
        if self._timer is not None:
            self._timer.cancel()
        channel, self._channel = self._channel, None
        if channel is not None:
            if self._loop is not None:
                self._loop.remove_reader(channel)
            channel.detach()  # open until the process ends: the guard goes by that
        self._loop = None  # where one was lost a moment ago, no other begins any more

    def _arming(self, leases: Sequence[str], deadline: Instant) -> Message:
        # The trace that the end of this holdership is, whoever tells of it.
        traces = {
            one: trace.of_move(self._cluster, one, self._armed[one][0], self._session) for one in leases
        }
        return {"do": "arm", "leases": traces, "until": (deadline.boot_ns, deadline.raw_ns)}

    def _flush(self) -> None:
        """All leases of a session move together: one short message for a thousand of them."""
        self._flushing = False
        gone, new = self._gone, self._new & self._armed.keys()
        moved = (self._moved & self._armed.keys()) - new
        self._gone, self._new, self._moved = set(), set(), set()
        for names in _slices(sorted(gone)):
            self._send({"do": "disarm", "leases": names})
        for deadline, leases in self._by_deadline(new):
            for names in _slices(leases):
                self._send(self._arming(names, deadline))
        for deadline, leases in self._by_deadline(moved):
            until = (deadline.boot_ns, deadline.raw_ns)
            if len(leases) == len(self._armed):
                self._send({"do": "extend", "leases": None, "until": until})
                continue
            for names in _slices(leases):
                self._send({"do": "extend", "leases": names, "until": until})

    def _by_deadline(self, leases: Iterable[str]) -> list[tuple[Instant, list[str]]]:
        groups: dict[Instant, list[str]] = {}
        for lease in leases:
            groups.setdefault(self._armed[lease][1], []).append(lease)
        return list(groups.items())

    def _send(self, message: Message) -> None:
        if self._channel is None:
            return
        try:
            self._channel.send(json.dumps(message, separators=(",", ":")).encode())
        except BlockingIOError:
            self._lost("it does not read what it is told")
        except OSError as error:
            self._lost(f"it does not listen: {error.strerror}")

    # --- what it says, and whether it lives ---------------------------------------------------------------------

    def _hear(self) -> None:
        while self._channel is not None:
            try:
                data = self._channel.recv(_MESSAGE_MAX)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self._lost("it died")
                return
            message = json.loads(data)
            if message["say"] == "ready":
                self._ready = True
            elif message["say"] == "pong":
                self._unanswered = 0
            elif message["say"] == "urgency":
                self.urgency = {name: message[name] for name in ("priority", "memory_locked")}
            elif message["say"] == "release":
                self._heard_of_etcd(message["why"])

    def _heard_of_etcd(self, why: str) -> None:
        if why:
            _log.warning(
                "after a crash of this agent others would wait out the ttl: the guard cannot write: %s", why
            )
        elif self._release:
            _log.info("the guard can write to etcd again")
        self._release = why

    def _pulse(self) -> None:
        if self._loop is None:
            return
        self._timer = self._loop.call_later(self._pulse_s, self._pulse)
        if self._unanswered >= MISSED_MAX:
            self._lost("it hangs")
        else:
            self._unanswered += 1
            self._send({"do": "ping", "n": self._unanswered})

    def _lost(self, why: str) -> None:
        """Without a guard a crash of this agent would take a ttl: another one, in a moment."""
        channel, self._channel = self._channel, None
        process = self._process
        if channel is None or process is None:
            return
        if self._loop is not None:
            self._loop.remove_reader(channel)
        channel.close()
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGKILL)
        process.poll()
        _log.warning("lost the guard (pid %d): %s; starting another", process.pid, why)
        if self._loop is not None:
            lived_s = self._loop.time() - self._started_s
            self._loop.call_later(0.0 if lived_s > AGAIN_S else AGAIN_S, self._again, process)

    def _again(self, old: subprocess.Popen[bytes] | Inherited) -> None:
        if self._loop is None or self._channel is not None:
            return
        if old.poll() is None:
            # SIGKILL is on its way. Two guards at a time would be one too many to take things down.
            self._loop.call_later(0.01, self._again, old)
            return
        try:
            self._started_s = self._loop.time()
            self._loop.add_reader(self.start(), self._hear)
        except OSError as error:
            _log.error("no guard can be started: %s", error)
            self._loop.call_later(AGAIN_S, self._again, old)
            return
        self._retell()

    def _retell(self) -> None:
        if self._told:
            self._send(self._told)
        self._send({"do": "session", "id": self._session})
        self._new = set(self._armed)
        self._flush()
        _log.info("another guard (pid %d) knows everything", self.pid)


def _make_room(channel: socket.socket) -> None:
    """A guard that starves for a moment is not lost for what a thousand leases have to tell meanwhile."""
    try:
        channel.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _BUFFER)
    except PermissionError:
        channel.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)  # as much as the machine allows all


def _slices(names: list[str]) -> list[list[str]]:
    return [names[at : at + _SLICE] for at in range(0, len(names), _SLICE)]


def cannot_free(config: Config, timeout_s: float) -> str:
    """Why a guard could not write to etcd, by trying to read as it would; empty if it could. Blocks."""
    told = charge(config, {}, 0)
    try:
        Closing(Gateway(told["etcd"]), told["prefix"], 0, told["leases"]).read(timeout_s)
    except (Unknown, OSError, ValueError) as error:
        return str(error)
    return ""


def begin(config: Config, told: Told | None = None) -> Guarding:
    """The first act of an agent: its lock and its guard; or those that were handed over.

    Raises `LeasehaError`, OSError.
    """
    if told is not None:
        return Guarding.resumed(config.cluster, told)
    guarding = Guarding(config.cluster, AgentLock(config.runtime_dir))
    guarding.start()
    return guarding
