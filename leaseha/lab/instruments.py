"""The measuring processes, seen from the lab: start, read while they run, stop, and ask what they saw.

All instants are CLOCK_MONOTONIC in ns, as `time.monotonic_ns()` gives them.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self

from leaseha.errors import LabError
from leaseha.lab import timeline
from leaseha.lab.frames import ETH_P_ARP, ETH_P_IPV6
from leaseha.lab.host import Host
from leaseha.lab.loop import hand_over
from leaseha.lab.netlink_monitor import listening_socket as netlink_socket
from leaseha.lab.recording import Kind, Reader, Record
from leaseha.lab.responder import listening_socket as responder_socket
from leaseha.lab.timeline import MS, Holding, Overlap, Span

HOLE_NS: Final = 100 * MS
"""Answers of one host at most this far apart are one stay; a second host's between them is an overlap."""
SERVICE: Final = "service"
FOREVER_NS: Final = 1 << 62
_READY_S: Final = 15.0
_POLL_S: Final = 0.003


class Tool:
    """A process of the lab on given sockets. It ends with the lab, however that ends."""

    def __init__(self, module: str, arguments: object, sockets: Sequence[socket.socket], log: Path) -> None:
        command = [sys.executable, "-m", f"leaseha.lab.{module}", json.dumps(arguments)]
        self._log = log
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, log.open("ab") as sink:
            self._process = subprocess.Popen(
                command,
                stdin=theirs.fileno(),
                stdout=sink,
                stderr=sink,
                pass_fds=[one.fileno() for one in sockets],
                start_new_session=True,
            )
        for one in sockets:
            one.close()

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def require_running(self) -> None:
        """Raises `LabError` with what it said last if it has ended."""
        if self._process.poll() is not None:
            said = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
            raise LabError(f"{self._log.stem} ended with {self._process.returncode}: {' '.join(said)}")

    def adopt(self, message: object, sockets: Sequence[socket.socket]) -> None:
        """Hand over more sockets, of a host that has booted since. Raises `LabError` if it has ended."""
        self.require_running()
        hand_over(self._channel, message, sockets)
        for one in sockets:
            one.close()

    def stop(self) -> None:
        """End it, at most 5 s later."""
        self._channel.close()
        try:
            self._process.wait(5.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class Instrument(Tool):
    """A tool that writes a recording. `names[who]` is the host of a record; 255 is nobody known."""

    def __init__(
        self,
        module: str,
        options: Mapping[str, Any],
        sockets: Sequence[socket.socket],
        log: Path,
        names: Sequence[str],
    ) -> None:
        self.file = log.with_suffix(".rec")
        self.file.unlink(missing_ok=True)
        self.names = tuple(names)
        super().__init__(module, {**options, "file": str(self.file)}, sockets, log)
        self._reader = Reader(self.file)

    def records(self) -> Sequence[Record]:
        """All so far, at most about 50 ms behind."""
        return self._reader.records()

    def wait_ready(self) -> Self:
        """Until it measures. Raises `LabError` after 15 s, or if it ended."""
        end = time.monotonic() + _READY_S
        while not self.records():
            self.require_running()
            if time.monotonic() > end:
                raise LabError(f"{self.file.stem} does not start")
            time.sleep(_POLL_S)
        return self

    def name_of(self, who: int) -> str:
        """Host of a record; `?` for one that the lab does not know."""
        return self.names[who] if who < len(self.names) else "?"

    def settle(self, after_ns: int | None = None, timeout_s: float = 5.0) -> Self:
        """Until the recording has something later than `after_ns` (default: now). Raises `LabError`."""
        wanted_ns = time.monotonic_ns() if after_ns is None else after_ns
        end = time.monotonic() + timeout_s
        while not (records := self.records()) or records[-1].t_ns <= wanted_ns:
            self.require_running()
            if time.monotonic() > end:
                raise LabError(f"{self.file.stem} records nothing any more")
            time.sleep(_POLL_S)
        return self


class Prober(Instrument):
    """A client that asks all the time: who has the VIPs (see `leaseha.lab.prober`), or whether the service on
    one of them answers (see `leaseha.lab.service_prober`), whoever it is.
    """

    def instants(self, kind: Kind, subject: int = 0) -> list[int]:
        """Sorted instants of all sends or answers."""
        return sorted(r.t_ns for r in self.records() if r.kind is kind and r.subject == subject)

    def answers(self, subject: int = 0) -> dict[str, list[int]]:
        """Sorted instants of the answers of each host."""
        return _by_who(self, (r for r in self.records() if r.kind is Kind.ANSWER and r.subject == subject))

    def gaps(self, start_ns: int = 0, end_ns: int = FOREVER_NS, subject: int = 0) -> list[Span]:
        """Silences that the client noticed and that touch the window; see `timeline.gaps`. Each runs from the
        last answer before to the first answer after, and is not cut at the window.
        """
        found = timeline.gaps(self.instants(Kind.SENT, subject), self.instants(Kind.ANSWER, subject))
        return [one for one in found if one.end_ns >= start_ns and one.start_ns <= end_ns]

    def longest_gap_ms(self, start_ns: int = 0, end_ns: int = FOREVER_NS, subject: int = 0) -> float:
        """The longest of `gaps`; 0 if no probe was lost. What a client saw of an event at `start_ns`."""
        return max((one.ms for one in self.gaps(start_ns, end_ns, subject)), default=0.0)

    def holders(self, start_ns: int = 0, end_ns: int = FOREVER_NS, subject: int = 0) -> list[Holding]:
        """Who answered from when to when, in order of beginning."""
        return _holdings(_present(self.answers(subject)), start_ns, end_ns)

    def overlaps(self, start_ns: int = 0, end_ns: int = FOREVER_NS, subject: int = 0) -> list[Overlap]:
        """When two hosts answered: an answer of one between two answers of another at most 100 ms apart."""
        return _clip_overlaps(timeline.overlaps(_present(self.answers(subject))), start_ns, end_ns)

    def wait_for_answer(
        self, *, by: str | None = None, after_ns: int = 0, timeout_s: float = 10.0, subject: int = 0
    ) -> tuple[str, int]:
        """(host, instant) of the first answer (of `by`) after an instant. Raises `LabError` after the timeout."""
        end = time.monotonic() + timeout_s
        seen = 0
        while True:
            news = self.records()[seen:]
            seen += len(news)
            for record in news:
                wanted = record.kind is Kind.ANSWER and record.subject == subject and record.t_ns > after_ns
                if wanted and by in {None, self.name_of(record.who)}:
                    return self.name_of(record.who), record.t_ns
            self.require_running()
            if time.monotonic() > end:
                raise LabError(f"no answer of {by or 'anybody'} on the VIP within {timeout_s:g} s")
            time.sleep(_POLL_S)


class ArpObserver(Instrument):
    """Who answers ARP or neighbour solicitations for the VIPs; see `leaseha.lab.arp_observer`."""

    def answers(self, subject: int = 0) -> dict[str, list[int]]:
        """Sorted instants of the answers of each MAC address, by host name."""
        return _by_who(self, (r for r in self.records() if r.kind is Kind.ANSWER and r.subject == subject))

    def overlaps(self, start_ns: int = 0, end_ns: int = FOREVER_NS, subject: int = 0) -> list[Overlap]:
        """When two MAC addresses answered for the VIP; as `Prober.overlaps`."""
        return _clip_overlaps(timeline.overlaps(_present(self.answers(subject))), start_ns, end_ns)

    def announcements(
        self, start_ns: int = 0, end_ns: int = FOREVER_NS, subject: int = 0
    ) -> list[tuple[str, int]]:
        """(host, instant) of each gratuitous ARP or unsolicited neighbour advertisement."""
        wanted = (r for r in self.records() if r.kind is Kind.ANNOUNCED and r.subject == subject)
        return [(self.name_of(r.who), r.t_ns) for r in wanted if start_ns <= r.t_ns <= end_ns]


class NetlinkMonitor(Instrument):
    """Which kernels have the VIPs; see `leaseha.lab.netlink_monitor`."""

    def bound(self, subject: int = 0) -> dict[str, list[Span]]:
        """From when to when each host had the address; to this moment where it has it still."""
        found: dict[str, list[Span]] = {}
        since: dict[str, int] = {}
        for record in self.records():
            who = self.name_of(record.who)
            if record.subject == subject and record.kind is Kind.BOUND:
                since.setdefault(who, record.t_ns)
            elif record.subject == subject and record.kind is Kind.UNBOUND and who in since:
                found.setdefault(who, []).append(Span(since.pop(who), record.t_ns))
        now_ns = time.monotonic_ns()
        for who, start_ns in since.items():
            found.setdefault(who, []).append(Span(start_ns, now_ns))
        return found

    def holders(self, start_ns: int = 0, end_ns: int = FOREVER_NS, subject: int = 0) -> list[Holding]:
        """Who had it from when to when, in order of beginning."""
        return _holdings(self.bound(subject), start_ns, end_ns)

    def overlaps(self, start_ns: int = 0, end_ns: int = FOREVER_NS, subject: int = 0) -> list[Overlap]:
        """When two kernels had the address (an answer is worse: a fence may keep such a host silent)."""
        return _clip_overlaps(timeline.overlaps(self.bound(subject)), start_ns, end_ns)


def two_answering(
    instruments: Iterable[Prober | ArpObserver], start_ns: int = 0, end_ns: int = FOREVER_NS, subject: int = 0
) -> list[Overlap]:
    """When two hosts answered for the VIP, by what all of these saw together: the strictest of all."""
    together: dict[str, list[int]] = {}
    for instrument in instruments:
        for who, instants in instrument.answers(subject).items():
            together.setdefault(who, []).extend(instants)
    present = _present({who: sorted(instants) for who, instants in together.items()})
    return _clip_overlaps(timeline.overlaps(present), start_ns, end_ns)


def _by_who(instrument: Instrument, records: Iterable[Record]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for record in records:
        found.setdefault(instrument.name_of(record.who), []).append(record.t_ns)
    return {who: sorted(instants) for who, instants in found.items()}


def _present(answers: Mapping[str, Sequence[int]]) -> dict[str, list[Span]]:
    return {who: timeline.runs(instants, HOLE_NS) for who, instants in answers.items()}


def _holdings(present: Mapping[str, Sequence[Span]], start_ns: int, end_ns: int) -> list[Holding]:
    found = [
        Holding(who, one.start_ns, one.end_ns)
        for who, spans in present.items()
        for one in timeline.clip(spans, start_ns, end_ns)
    ]
    return sorted(found, key=lambda one: (one.start_ns, one.end_ns))


def _clip_overlaps(found: Iterable[Overlap], start_ns: int, end_ns: int) -> list[Overlap]:
    cut = (Overlap(max(o.start_ns, start_ns), min(o.end_ns, end_ns), o.who) for o in found)
    return [one for one in cut if one.start_ns <= one.end_ns]


# Starting them


def start_responder(log: Path) -> Tool:
    """A process that will answer the probers; see `answer_on`."""
    return Tool("responder", None, (), log)


def answer_on(responder: Tool, hosts: Sequence[Host]) -> None:
    """Answer the probers on these hosts from now on, until they are powered off."""
    sockets = [(host.name, host.call(responder_socket, family)) for host in hosts for family in _families()]
    responder.adopt([name for name, _ in sockets], [one for _, one in sockets])


def start_prober(
    client: Host,
    vips: Sequence[str],
    names: Sequence[str],
    log: Path,
    period_ms: float,
    direct: Sequence[Host] = (),
) -> Prober:
    """A prober on `client`; with `direct` hosts it asks each of them by its MAC address."""
    sockets = [client.socket(family, socket.SOCK_DGRAM) for family in _families()]
    options: dict[str, Any] = {
        "targets": list(vips),
        "names": list(names),
        "fds": [one.fileno() for one in sockets],
        "period_ns": int(period_ms * MS),
    }
    if direct:
        for one in sockets:
            one.bind(("", 0))
        packet = _packet_socket(client, 0)
        sockets.append(packet)
        nodes = [host.mac.replace(":", "") for host in direct]
        options |= {"packet_fd": packet.fileno(), "nodes": nodes} | _identity(client)
    return Prober("prober", options, sockets, log, names)


def start_service_prober(client: Host, vip: str, port: int, log: Path, period_ms: float) -> Prober:
    """A prober on `client` that asks the service; all its answers are those of `SERVICE`."""
    options = {"target": vip, "port": port, "period_ns": int(period_ms * MS)}
    # Made in the client's network, where it stays: it needs a new socket for each probe.
    return client.call(Prober, "service_prober", options, (), log, (SERVICE,))


def start_arp_observer(
    client: Host, vips: Sequence[str], hosts: Sequence[Host], log: Path, period_ms: float
) -> ArpObserver:
    """An observer on `client`, which should be nobody's client; it tells these hosts apart by MAC address."""
    arp, neighbours = _packet_socket(client, ETH_P_ARP), _packet_socket(client, ETH_P_IPV6)
    options = {
        "targets": list(vips),
        "macs": [host.mac.replace(":", "") for host in hosts],
        "arp_fd": arp.fileno(),
        "nd_fd": neighbours.fileno(),
        "period_ns": int(period_ms * MS),
    } | _identity(client)
    return ArpObserver("arp_observer", options, [arp, neighbours], log, [host.name for host in hosts])


def start_monitor(names: Sequence[str], vips: Sequence[str], log: Path) -> NetlinkMonitor:
    """A process that will watch the addresses of hosts with these names; see `watch_on`."""
    return NetlinkMonitor("netlink_monitor", {"targets": list(vips)}, (), log, names)


def watch_on(monitor: NetlinkMonitor, hosts: Sequence[Host]) -> None:
    """Watch the addresses of these hosts from now on, until they are powered off."""
    sockets = [host.call(netlink_socket) for host in hosts]
    monitor.adopt([monitor.names.index(host.name) for host in hosts], sockets)


def _families() -> tuple[int, ...]:
    ipv6 = os.path.exists("/proc/sys/net/ipv6")  # noqa: PTH110  (a question, not a path to work with)
    return (socket.AF_INET, socket.AF_INET6) if ipv6 else (socket.AF_INET,)


def _packet_socket(host: Host, protocol: int) -> socket.socket:
    made = host.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    made.bind(("eth0", protocol))
    return made


def _identity(host: Host) -> dict[str, Any]:
    return {"mac": host.mac.replace(":", ""), "sources": [host.ipv4, host.ipv6]}
