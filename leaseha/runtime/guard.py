"""The guard: a tiny process beside the agent, which takes everything down when the agent died or hangs.

It stands on the standard library alone, is started before the agent's heavy imports, and hears at the end of a
socket pair what is up, until when, and under which session. When the agent ends without a `bye`, or lets a deadline
pass (then it is killed, and its end is waited for), the guard closes the fence, unbinds the addresses, kills what
the agent had started, and only then writes that the session is *closed* and its claims *free* (T12): others take
over at once, and wait out no ttl.

What it does not promise: to act while it is frozen itself (the kernel's fences are there for that), nor to free
anything when it cannot prove that all of it is off: then it writes nothing, and others wait as for a silent node.
SIGTERM and its like do not end it: it ends with the agent. docs/decisions/0008-processes.md tells who outlives whom.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable
from typing import Final

from leaseha.connections import end, found, open_diag
from leaseha.runtime.guard_etcd import NS_PER_MS, Closing, Gateway, Message
from leaseha.runtime.guard_kernel import (
    DEATH_S,
    NS_PER_S,
    Settled,
    Unknown,
    close_fence,
    unbind,
    wait_gone,
)
from leaseha.runtime.guard_tree import kill_all, own_group
from leaseha.scheduling import NORMAL, lock_memory, lower_process, raise_process, rank

MESSAGE_MAX: Final = 1 << 20
IDLE_MS: Final = 500.0
"""Poll waits on CLOCK_MONOTONIC, which sleeps with the machine: look at the other clocks at least this often."""
OWN_LATENESS_NS: Final = 100 * NS_PER_MS
"""A guard that woke so much too late was frozen, or starved, and so perhaps was the agent: it gets another grace."""
OFF_S: Final = 5.0
"""How long the addresses are tried to be taken off."""
PAUSE_S: Final = 0.03
NAMED_MAX: Final = 8
SCOUT_S: Final = 60.0
SCOUT_AGAIN_S: Final = 5.0
"""How often the way to etcd is tried while nothing is wrong; it keeps a user's token fresh, too."""
SCOUT_TIMEOUT_S: Final = 2.0
SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE)

Moment = tuple[int, int]
"""CLOCK_BOOTTIME and CLOCK_MONOTONIC_RAW, ns."""


def now() -> Moment:
    """This moment by both clocks."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME), time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW)


def left_ns(until: Moment, at: Moment) -> int:
    """ns to a deadline, by the clock that reaches it first."""
    return min(until[0] - at[0], until[1] - at[1])


class Log:
    """One line each, in the agent's form, on the standard error that both share."""

    def __init__(self) -> None:
        self.node, self.cluster, self.form = "", "", "human"

    def say(self, level: str, text: str) -> None:
        """Write it; a reader that is gone is no reason to stop."""
        wall_ns = time.time_ns()
        flat = "".join(sign if sign.isprintable() else " " for sign in text)
        if self.form == "json":
            stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(wall_ns // NS_PER_S))
            stamp += f".{wall_ns // 1000 % 1_000_000:06d}Z"
            line: Message = {"ts": stamp, "level": level, "node": self.node, "cluster": self.cluster}
            line |= {"lease": "", "event": "guard", "message": flat, "logger": "leaseha.guard"}
            text = json.dumps(line, separators=(",", ":"), ensure_ascii=False)
        else:
            stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(wall_ns // NS_PER_S))
            stamp += f".{wall_ns // NS_PER_MS % 1000:03d}"
            text = f"{stamp} {level.upper():<7} {self.node}: guard: {flat}"
        try:
            os.write(2, (text + "\n").encode("utf-8", "backslashreplace"))
        except OSError:
            return


class Charge:
    """What the guard was told: what may be up, until when, and how all of it is taken down."""

    def __init__(self) -> None:
        self.told: Message = {}
        self.session = 0
        """The etcd lease id of the agent's session; 0: none, and nothing can be freed."""
        self.until: dict[str, Moment] = {}
        """Leases that are up, and the deadline of each."""
        self.traces: dict[str, str] = {}
        """The traceparent of the move that the end of each would be."""
        self.gateway: Gateway | None = None

    def hear(self, message: Message) -> None:
        """Take in one message of the agent."""
        match message["do"]:
            case "configure":
                self.told = message
                self.gateway = Gateway(message["etcd"]) if message["etcd"]["endpoints"] else None
            case "session":
                self.session = message["id"]
            case "arm":
                moment = (message["until"][0], message["until"][1])
                self.until |= dict.fromkeys(message["leases"], moment)
                self.traces |= message["leases"]
            case "extend":
                moment = (message["until"][0], message["until"][1])
                names = message["leases"]
                # A lease that was disarmed meanwhile stays so.
                self.until |= {one: moment for one in names or list(self.until) if one in self.until}
            case "disarm":
                for one in message["leases"]:
                    self.until.pop(one, None)

    def overdue_ns(self, at: Moment) -> int:
        """By how much the earliest deadline has passed; negative while it is to come."""
        return max((-left_ns(until, at) for until in self.until.values()), default=-NS_PER_S)

    @property
    def grace_ns(self) -> int:
        """How long past a deadline the agent may take to put down by itself what it says is up."""
        return int(self.told.get("grace_ns", 0))

    def closing(self) -> Closing | None:
        """The way to T12, if there is one."""
        if self.gateway is None:
            return None
        return Closing(self.gateway, self.told["prefix"], self.session, self.told["leases"])

    def vips(self) -> dict[bytes, str]:
        """All that may be bound (packed), and on which interface."""
        return {
            socket.inet_pton(socket.AF_INET6 if ":" in ip else socket.AF_INET, ip): interface
            for ip, interface in self.told.get("vips", {}).items()
        }

    def unbind(self) -> None:
        """Addresses off, proven. Raises Unknown, OSError."""
        if vips := self.vips():
            unbind(vips, self.told["tag"])


class Scout:
    """Tries the way to etcd now and then, beside: what it finds is told before it is needed."""

    def __init__(self, charge: Charge, tell: Callable[[Message], None]) -> None:
        self._charge = charge
        self._tell = tell
        self._wake = threading.Event()
        self._said: str | None = None
        threading.Thread(target=self._run, name="scout", daemon=True).start()

    def look(self) -> None:
        """Try it now."""
        self._wake.set()

    def _run(self) -> None:
        while True:
            self._wake.wait(SCOUT_S if self._said == "" else SCOUT_AGAIN_S)
            self._wake.clear()
            closing, gateway = self._charge.closing(), self._charge.gateway
            if closing is None or gateway is None:
                continue
            why = ""
            try:
                gateway.refresh(SCOUT_TIMEOUT_S)
                closing.read(SCOUT_TIMEOUT_S)
            except (Unknown, OSError, ValueError) as error:
                why = str(error)
            if why != self._said:
                self._said = why
                self._tell({"say": "release", "why": why})


class Guard:
    """The process: waits for word, for a deadline, and for the end of the agent; then cleans up, once."""

    def __init__(self, channel: socket.socket, agent: int) -> None:
        """`agent`: its pidfd."""
        self._channel = channel
        self._agent = agent
        self._group = own_group()
        self.charge = Charge()
        self.log = Log()
        self._excused: Moment = now()
        """No lateness of the agent counts before this."""
        self._scout = Scout(self.charge, self._tell)

    def run(self) -> None:
        """Until the agent says `bye`, or is gone and everything that can be done is done."""
        waiting = select.poll()
        waiting.register(self._channel, select.POLLIN)
        waiting.register(self._agent, select.POLLIN)
        self._tell({"say": "ready"})
        while True:
            patience_ms, before = self._patience_ms(), now()
            ready = {fd for fd, _ in waiting.poll(patience_ms)}
            at = now()
            if at[0] - before[0] > int(patience_ms * NS_PER_MS) + OWN_LATENESS_NS:
                self._excused = at[0] + self.charge.grace_ns, at[1] + self.charge.grace_ns
            end = self._listen() if ready else ""
            if end == "bye":
                return
            if self._agent in ready:
                self._clean_up(f"the agent of {self.log.node} died", late=False)
                return
            if end == "silence":
                # It is about to end, or will be late. Its end is what its pidfd says, not this.
                waiting.unregister(self._channel)
            late_ns = self.charge.overdue_ns(now())
            if late_ns > self.charge.grace_ns and left_ns(self._excused, now()) <= 0:
                why = f"the agent of {self.log.node} hung, {late_ns // NS_PER_MS} ms past its deadline"
                self._clean_up(why, late=True)
                return

    def _patience_ms(self) -> float:
        if not self.charge.until:
            return IDLE_MS
        left = (self.charge.grace_ns - self.charge.overdue_ns(now())) / NS_PER_MS
        excused = left_ns(self._excused, now()) / NS_PER_MS
        return min(IDLE_MS, max(left, excused, 0.0) + 1.0)

    def _listen(self) -> str:
        """Everything that has come; `bye`, or `silence` at the channel's end."""
        while True:
            try:
                data = self._channel.recv(MESSAGE_MAX, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return ""
            except OSError:
                return "silence"
            if not data:
                return "silence"
            message = json.loads(data)
            if message["do"] == "bye":
                return "bye"
            self._hear(message)

    def _hear(self, message: Message) -> None:
        if message["do"] == "ping":
            self._tell({"say": "pong", "n": message["n"]})
            return
        self.charge.hear(message)
        if message["do"] == "configure":
            log = message["log"]
            self.log.node, self.log.cluster, self.log.form = log["node"], log["cluster"], log["form"]
            self._hurry(urgent=bool(message.get("urgent")))
            self._scout.look()

    def _hurry(self, *, urgent: bool) -> None:
        """As urgent as its agent: a guard that starves sees no end in time. Where that is permitted."""
        locked = False
        if urgent:
            raise_process()
            locked = not lock_memory()
        elif rank() != NORMAL:
            lower_process()
        self._tell({"say": "urgency", "priority": rank(), "memory_locked": locked})

    def _tell(self, message: Message) -> None:
        try:
            self._channel.send(json.dumps(message).encode(), socket.MSG_DONTWAIT)
        except OSError:
            return  # an agent that does not listen learns nothing; its end is seen elsewhere

    # --- the end ----------------------------------------------------------------------------------------------

    def _clean_up(self, why: str, *, late: bool) -> None:
        began_ns = time.monotonic_ns()
        charge = self.charge
        if not charge.told:
            return
        if late:
            self.log.say("error", f"{why}: killing it")
        trouble = self._take_down()
        if charge.session == 0:
            return
        off_ms = (time.monotonic_ns() - began_ns) / NS_PER_MS
        if trouble:
            text = f"{why}; not everything is proven off, so nothing is freed, others wait out the ttl: {trouble}"
            self.log.say("error", text)
            return
        said = self._free(why, began_ns)
        all_ms = (time.monotonic_ns() - began_ns) / NS_PER_MS
        text = f"{why}; everything is off, {said} (off after {off_ms:.1f} ms, written after {all_ms:.1f} ms)"
        self.log.say("warning", text)
        self._sever()  # last: others wait for what is written, and nobody for this

    def _take_down(self) -> str:
        """Everything off, whatever of it fails; the first thing that is not proven, empty if all is."""
        trouble = ""
        for step in (self._end_agent, self._close_fence, self._unbind, self._end_children):
            try:
                step()
            except (OSError, Unknown, ValueError) as error:
                trouble = trouble or str(error)
        return trouble

    def _end_agent(self) -> None:
        """Nothing may be written free while the agent can still run."""
        try:
            signal.pidfd_send_signal(self._agent, signal.SIGKILL)
        except ProcessLookupError:
            return
        # Its end may be a while away (the kernel gives its memory back): take off already what it can only put
        # back before it is gone. What counts is the look afterwards.
        try:
            self.charge.unbind()
        except (OSError, Unknown):
            pass  # it is done again, and looked at, as a step of its own
        if not wait_gone(self._agent, DEATH_S):
            raise Unknown("the agent was killed and does not end")

    def _close_fence(self) -> None:
        commands = self.charge.told.get("close_commands")
        if commands:
            close_fence(commands)

    def _unbind(self) -> None:
        end_ns = time.monotonic_ns() + int(OFF_S * NS_PER_S)
        while True:
            try:
                self.charge.unbind()
            except (OSError, Unknown):
                if time.monotonic_ns() > end_ns:
                    raise
                select.select([], [], [], PAUSE_S)
            else:
                return

    def _sever(self) -> None:
        """End old connections to what is off: a fence is closed, so that no reset of theirs reaches the wire."""
        if not self.charge.told.get("close_commands"):
            return
        try:
            with open_diag() as kernel:
                end(kernel, found(kernel, self.charge.vips()))
        except OSError:
            return  # the agent said, if the kernel cannot; and nothing hangs on it but their processes' patience

    def _end_children(self) -> None:
        kill_all(self.charge.told["mark"], self._group)

    def _free(self, why: str, began_ns: int) -> str:
        """T12, tried until others have waited long enough anyway; what came of it, in words."""
        closing = self.charge.closing()
        end_ns = began_ns + self.charge.told["release_ns"]
        text = f"{why}, and its guard let go of everything"
        trouble = "etcd has no JSON gateway here"
        while closing is not None and time.monotonic_ns() < end_ns:
            try:
                freed = closing.write(self.charge.traces, text, began_ns, end_ns)
            except Settled as end:
                return f"and {end}"
            except (OSError, Unknown, ValueError, KeyError, TypeError) as error:
                trouble = str(error) or type(error).__name__
            else:
                return f"and freed: {named(freed)}" if freed else "it held nothing, and its session is closed"
            select.select([], [], [], PAUSE_S)
        return f"but nothing is freed, others wait out the ttl: {trouble}"


def named(leases: list[str]) -> str:
    """For a line that a person reads: hundreds of names are none."""
    more = f" and {len(leases) - NAMED_MAX} more" if len(leases) > NAMED_MAX else ""
    return ", ".join(leases[:NAMED_MAX]) + more


def main(argv: list[str] | None = None) -> int:
    """Run to the end of the agent that started this process."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    reading = argparse.ArgumentParser(prog="leaseha-guard", description="started by the agent, not by people")
    reading.add_argument("--fd", type=int, required=True)
    reading.add_argument("--agent", type=int, required=True, help="pidfd of the agent")
    told = reading.parse_args(argv)
    guard = Guard(socket.socket(fileno=told.fd), told.agent)
    try:
        guard.run()
    except Exception as error:  # noqa: BLE001 - a person gets a sentence; the agent sees that its guard is gone
        guard.log.say("error", f"fault in the guard, please report it: {type(error).__name__}: {error}")
        return 1
    return 0
