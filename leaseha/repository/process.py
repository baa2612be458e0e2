"""The repository process: obeys the agent's words, and closes by itself when there is no fresh one.

It is warm before it is needed: everything is imported, the directory is looked at, no listener is open.
It dies with its agent, twice over: the kernel kills it when the agent's main thread ends, and the end of the
control channel makes it reset everything and leave. SIGTERM, SIGINT and SIGHUP are ignored: a service manager or
a terminal sends them to the whole group, and the agent decides what finishes.

What this process cannot promise is to act while it is frozen. Then the kernel's fences keep it unheard, and
when it thaws, each answer looks at the clock first.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import queue
import select
import signal
import socket
import sys
import threading
from dataclasses import asdict
from logging.handlers import QueueHandler, QueueListener
from pathlib import Path
from typing import Final

from leaseha.core.values import NS_PER_MS, Instant
from leaseha.lines import Shape, formatter
from leaseha.repository import kernel
from leaseha.repository.app import App
from leaseha.repository.aside import Keeper
from leaseha.repository.chores import Chores
from leaseha.repository.control import Message, decode, encode
from leaseha.repository.door import DoorOptions
from leaseha.repository.doorman import Doorman
from leaseha.repository.gate import Gate, GateClosedError, Word, now
from leaseha.repository.http import parse_head
from leaseha.repository.peering import Outcome, Peering, PeerOptions, read_options
from leaseha.repository.replicate import SingleCopy
from leaseha.repository.server import Limits, Server
from leaseha.repository.store import OURS, DirectoryStore
from leaseha.repository.tokens import Mark, TokenLedger, TokenTooOldError
from leaseha.repository.undelete import Undelete
from leaseha.repository.upkeep import Upkeep
from leaseha.repository.usage import Usage

log = logging.getLogger(__name__)

_LINE_MAX: Final = 64 * 1024
_LOG_LINES: Final = 10_000
_IDLE_NS: Final = 10_000 * NS_PER_MS


class Repository:
    """One data directory, its gate and its server, at the end of a control channel."""

    def __init__(
        self,
        channel: socket.socket,
        path: Path,
        *,
        depth: int,
        door: DoorOptions,
        peers: PeerOptions | None = None,
    ) -> None:
        """Raises OSError when the directory, or the door's certificate, cannot be used."""
        self._channel = channel
        self._ledger = TokenLedger(path / OURS / "token")
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._superseded = threading.Event()
        self._gate = Gate(self._ledger, superseded=self._lose)
        store = DirectoryStore(path)
        self._store = store
        removed = store.temporaries.remove_stale()
        if removed:
            log.info("removed %d temporary files of dead processes", removed)
        self._doorman = Doorman(door)
        self._set_keeping(door)
        Keeper(store.trash, store.quarantine).begin()
        self._usage = Usage(path, depth)
        self._usage.begin()
        self._opening = 0
        """The agent's request that waits for the members to settle; 0: none."""
        self._peering = (
            Peering(peers, self._gate, self._ledger, store, self._tell, self._poke, self._fault)
            if peers
            else None
        )
        copies = self._peering.replicator if self._peering else SingleCopy()
        entry = self._doorman.door
        self._app = App(
            self._gate,
            store,
            copies,
            depth=depth,
            door=entry,
            usage=self._usage,
            kept=(store.trash, store.quarantine),
            disk_fault=self._fault,
        )
        self._server = Server(self._app.handle, Limits(), quiet=self._poke, tls=self._doorman.tls)
        self._chores = Chores()
        undelete = Undelete(store, self._gate, copies, self._usage)
        self._chores.register("undelete", undelete, undelete.allowed)
        self._upkeep = Upkeep(store, self._gate, self._peering, self._chores, self._fault)
        self._app.upkeep = self._upkeep.status
        self._upkeep.begin(door)
        self._serving: Word | None = None
        """Listeners are open until this deadline, whether or not the gate is."""
        self._vips: list[str] = []
        """On which they listen."""
        self._stopping: tuple[int, int] | None = None
        """A drain: (number of the request to answer, its end in ns of CLOCK_MONOTONIC_RAW)."""
        self._received = bytearray()

    def run(self) -> str:
        """Until the channel ends; returns why. Never blocks longer than to the next deadline."""
        waiting = select.poll()
        waiting.register(self._channel, select.POLLIN)
        waiting.register(self._wake, select.POLLIN)
        self._tell({"say": "ready", "id": 0, "ok": True, "highest": self._highest()})
        while True:
            ready = dict(waiting.poll(self._patience_ms()))
            self._mind_deadline()
            if self._wake in ready:
                os.eventfd_read(self._wake)
                self._mind_opening()
            if self._channel.fileno() in ready and not self._listen_to_agent():
                self._close("the agent is gone")
                self._chores.end()
                return "the agent closed the control channel"
            self._mind_stop()

    # ---- time

    def _patience_ms(self) -> float:
        left_ns = _IDLE_NS
        moment = now()
        if self._serving:
            left_ns = min(left_ns, self._serving.deadline.left_ns(moment))
        if self._stopping:
            left_ns = min(left_ns, self._stopping[1] - moment.raw_ns)
        return max(0.0, left_ns / NS_PER_MS)

    def _mind_deadline(self) -> None:
        """Before anything else is done: past the deadline nothing the agent said earlier counts."""
        if self._serving and self._serving.deadline.deadline_passed(now()):
            self._close_by_myself("no fresh word by the deadline")
        elif self._superseded.is_set():
            self._close_by_myself(self._gate.why_closed)

    def _mind_stop(self) -> None:
        if self._stopping is None:
            return
        number, until_ns = self._stopping
        connections, _ = self._server.counts()
        if connections and self._serving and now().raw_ns < until_ns:
            return
        self._stopping = None
        cut = self._close("stopped")
        self._answer(number, ok=True, cut=cut)

    # ---- words

    def _listen_to_agent(self) -> bool:
        """Everything that has come. False: the channel is at its end."""
        try:
            piece = self._channel.recv(_LINE_MAX, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return True
        except OSError:
            return False
        self._received += piece
        while (end := self._received.find(b"\n")) >= 0:
            line = bytes(self._received[:end])
            del self._received[: end + 1]
            self._obey(decode(line))
        return bool(piece) and len(self._received) < _LINE_MAX

    def _obey(self, message: Message) -> None:
        match message["do"]:
            case "extend":
                self._extend(message["token"], Instant(message["boot_ns"], message["raw_ns"]))
            case "serve":
                self._serve(message)
            case "gate":
                self._open_gate(message)
            case "stop":
                self._stop(message)
            case "members":
                if self._peering:
                    self._peering.hear(message)
            case "status":
                self._status(message["id"])
            case "chore":
                why = self._chores.begin(message["what"], message["arguments"])
                self._answer(message["id"], ok=not why, why=why)
            case "users":
                self._doorman.tell_users(message)
            case "door":
                self._answer(message["id"], ok=not (why := self._doorman.change(message)), why=why)
                self._set_keeping(self._doorman.door.options)
                self._upkeep.change(self._doorman.door.options)
            case unknown:
                self._answer(message["id"], ok=False, why=f"unknown word {unknown!r}")

    def _set_keeping(self, options: DoorOptions) -> None:
        self._store.trash.keep_days = options.trash_days
        self._store.quarantine.keep_days = options.quarantine_days

    def _extend(self, token: int, deadline: Instant) -> None:
        word = self._serving
        if word is None or word.mark.token != token or word.deadline.deadline_passed(now()):
            return
        self._serving = Word(word.mark, deadline)
        self._gate.extend(token, deadline)

    def _serve(self, message: Message) -> None:
        number = message["id"]
        self._abandon_stop()
        self._close("serving anew")
        word = _word(message)
        try:
            self._ledger.check(word.mark)
            if self._peering:
                self._gate.about_to_open("the members settle")
            elif message["gate"]:
                self._gate.open(word)
            else:
                self._gate.close("not open yet")
            # After the token is durable: whoever gets an answer gets it from the one who may give it.
            self._server.listen(message["vips"], message["port"])
        except (TokenTooOldError, GateClosedError, OSError, OverflowError) as refused:
            self._close(f"refused to serve: {refused}")
            self._answer(number, ok=False, why=str(refused))
            return
        self._serving = word
        self._vips = message["vips"]
        self._usage.count_soon()  # another node's work may have come here
        log.info(
            "serving on %s port %d, token %d", ", ".join(message["vips"]), message["port"], word.mark.token
        )
        if self._peering and message["gate"]:
            self._settle(number, word)
        else:
            self._answer(number, ok=True)

    def _open_gate(self, message: Message) -> None:
        word = _word(message)
        if self._serving is None or self._stopping:
            self._answer(message["id"], ok=False, why="not listening")
            return
        if self._peering:
            self._abandon_opening("another word came before this was done")
            self._serving = word
            self._settle(message["id"], word)
        else:
            self._open(message["id"], word)

    def _open(self, number: int, word: Word) -> None:
        try:
            self._gate.open(word)
        except (TokenTooOldError, GateClosedError, OSError) as refused:
            self._close(f"refused to open the gate: {refused}")
            self._answer(number, ok=False, why=str(refused))
            return
        self._serving = word
        self._answer(number, ok=True)
        if self._peering:
            self._peering.opened(word.mark, self._vips, self._server.flows)

    def _settle(self, number: int, word: Word) -> None:
        """The gate opens when the members have settled; the deadline is minded meanwhile."""
        if self._peering:
            self._gate.about_to_open("the members settle")
            self._opening = number
            self._peering.settle(number, word)

    def _mind_opening(self) -> None:
        while self._peering and (outcome := self._peering.outcome()):
            if outcome.number == self._opening and self._serving:
                self._opening = 0
                self._end_opening(outcome, self._serving)

    def _end_opening(self, outcome: Outcome, serving: Word) -> None:
        if not outcome.why:
            self._open(outcome.number, Word(outcome.word.mark, serving.deadline))
            return
        self._close(f"refused to open the gate: {outcome.why}")
        self._answer(outcome.number, ok=False, why=outcome.why)
        if outcome.stale:
            self._tell({"say": "stale", "why": outcome.why, "highest": outcome.stale.token})

    def _abandon_opening(self, why: str) -> None:
        if self._opening:
            number, self._opening = self._opening, 0
            self._answer(number, ok=False, why=why)

    def _stop(self, message: Message) -> None:
        self._abandon_stop()
        self._abandon_opening("stopped before the gate was open")
        self._stopping = (message["id"], now().raw_ns + message["drain_ns"])
        self._gate.drain("the service moves to another node")
        self._server.stop_accepting()

    def _abandon_stop(self) -> None:
        if self._stopping:
            number, self._stopping = self._stopping[0], None
            self._answer(number, ok=False, why="another word came before this was done")

    def _status(self, number: int) -> None:
        word = self._gate.word
        connections, busy = self._server.counts()
        self._tell(
            {
                "say": "answer",
                "id": number,
                "serving": self._serving is not None,
                "gate_open": word is not None,
                "token": word.mark.token if word else 0,
                "epoch": word.mark.epoch if word else 0,
                "highest_token": self._highest(),
                "connections": connections,
                "busy": busy,
                **asdict(self._app.counters),
                "replication": self._peering.status() if self._peering else {},
                "chores": self._chores.status(),
                "upkeep": self._upkeep.status(),
            }
        )

    # ---- the end of serving

    def _close(self, why: str) -> int:
        """Nothing can be acknowledged after this. Returns how many requests were cut."""
        self._gate.close(why)
        self._abandon_opening(why)
        if self._peering:
            self._peering.cancel()
        cut = self._server.reset_all()
        if self._serving:
            log.info("closed: %s%s", why, f", {cut} requests cut" if cut else "")
        self._serving = None
        self._superseded.clear()
        return cut

    def _close_by_myself(self, why: str) -> None:
        self._close(why)
        self._tell({"say": "closed", "why": why})

    def _fault(self, what: str) -> None:
        """From a worker's thread."""
        self._tell({"say": "fault", "why": what})

    def _lose(self) -> None:
        """From a worker's thread: the directory has seen a higher token."""
        self._superseded.set()
        self._poke()

    def _poke(self) -> None:
        os.eventfd_write(self._wake, 1)

    def _answer(self, number: int, *, ok: bool, why: str = "", cut: int = 0) -> None:
        highest = self._highest()
        self._tell({"say": "answer", "id": number, "ok": ok, "why": why, "cut": cut, "highest": highest})

    def _highest(self) -> int:
        """For information only; 0 when the directory cannot be read, for instance because it was unmounted."""
        try:
            return self._ledger.highest().token
        except OSError:
            return 0

    def _tell(self, message: Message) -> None:
        """Never waits: an agent that does not read is as good as gone, and its deadline will pass."""
        line = encode(message)
        try:
            sent = self._channel.send(line, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except OSError as trouble:
            log.warning("the agent does not hear: %s", trouble)
            sent = 0
        if 0 < sent < len(line):
            # Half a line would spoil all that follow.
            self._channel.shutdown(socket.SHUT_RDWR)


def _word(message: Message) -> Word:
    return Word(Mark(message["epoch"], message["token"]), Instant(message["boot_ns"], message["raw_ns"]))


def _warm_up() -> None:
    """What the first request would pay for."""
    parse_head(b"GET /config HTTP/1.1\r\nHost: warm\r\n\r\n")


def _start_logging(shape: Shape) -> QueueListener:
    """Lines go to stderr through a bounded queue: whoever does not read it must not stop a deadline."""
    out = logging.StreamHandler(sys.stderr)
    out.setFormatter(formatter(shape))
    lines: queue.Queue[logging.LogRecord] = queue.Queue(_LOG_LINES)
    logging.raiseExceptions = False  # a line that finds the queue full is dropped
    logging.basicConfig(level=shape.level.upper(), format="%(message)s", handlers=[QueueHandler(lines)])
    listener = QueueListener(lines, out)
    listener.start()
    return listener


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 the agent ended the channel, 1 the directory cannot be used, 2 bad arguments."""
    parser = argparse.ArgumentParser(prog="python -m leaseha.repository", description=__doc__)
    parser.add_argument("--control-fd", type=int, required=True, help="the child's end of the socket pair")
    parser.add_argument("--parent", type=int, required=True, help="the agent's process id: die with it")
    parser.add_argument("--path", type=Path, required=True, help="the data directory")
    parser.add_argument("--depth", type=int, default=2, help="segments of a repository's name, at most")
    parser.add_argument("--door", type=DoorOptions.of, default=DoorOptions(), help="who may do what, as JSON")
    parser.add_argument("--lease", default="", help="the lease's name, where copies are kept")
    parser.add_argument("--store", default="", help="the uuid of this node's store")
    parser.add_argument(
        "--peer-listen", default="", help="HOST:PORT for the other nodes; empty: one copy, here"
    )
    parser.add_argument("--peer-tls", default="", help="PEM files for that port, as JSON; empty: plain HTTP")
    parser.add_argument("--log", type=json.loads, default={}, help="the shape of log lines, as JSON")
    options = parser.parse_args(arguments)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    if not kernel.die_with_parent(options.parent):
        return 0
    logs = _start_logging(Shape(**options.log))
    try:
        return _run(options)
    finally:
        logs.stop()


def _run(options: argparse.Namespace) -> int:
    _warm_up()
    channel = socket.socket(fileno=options.control_fd)
    try:
        peers = read_options(options.lease, options.store, options.peer_listen, options.peer_tls)
        repository = Repository(channel, options.path, depth=options.depth, door=options.door, peers=peers)
    except (OSError, ValueError, TypeError) as trouble:
        what = "the data directory cannot be used" if isinstance(trouble, OSError) else "wrong options"
        why = f"{what}: {trouble}"
        log.error("%s", why)  # noqa: TRY400 - an operator's sentence, no traceback
        channel.sendall(encode({"say": "ready", "id": 0, "ok": False, "why": why}))
        return 1
    log.info("%s", repository.run())
    return 0
