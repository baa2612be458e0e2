"""The sweeper (`leaseha.lab.sweeper`) seen from the lab: start it, and ask what it heard of many VIPs."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from leaseha.errors import LabError
from leaseha.lab.frames import ETH_P_ARP, ETH_P_IP
from leaseha.lab.host import Host
from leaseha.lab.instruments import Instrument
from leaseha.lab.recording import Kind
from leaseha.lab.timeline import MS, Overlap, overlaps, runs

DIRECT: Final = 1
"""`number` of an answer to a question that was sent to a node whatever a client knew."""
_POLL_S: Final = 0.05


class Sweep(Instrument):
    """Who answered for which of many VIPs, and when; `subject` is the VIP's place in the list."""

    def first_answers(
        self, after_ns: int, *, other_than: str = "", as_client: bool = True
    ) -> dict[int, tuple[int, str]]:
        """VIP to (instant, host) of the first answer after an instant; by default, of those a client would get."""
        found: dict[int, tuple[int, str]] = {}
        for record in self.records():
            if record.kind is not Kind.ANSWER or record.t_ns <= after_ns:
                continue
            if as_client and record.number == DIRECT:
                continue
            name = self.name_of(record.who)
            known = found.get(record.subject)
            if name != other_than and (known is None or record.t_ns < known[0]):
                found[record.subject] = record.t_ns, name
        return found

    def wait_all(
        self, wanted: Iterable[int], after_ns: int, timeout_s: float, *, other_than: str = ""
    ) -> dict[int, tuple[int, str]]:
        """`first_answers`, once all of these VIPs are among them. Raises `LabError` after the timeout."""
        subjects = set(wanted)
        end = time.monotonic() + timeout_s
        while True:
            found = self.first_answers(after_ns, other_than=other_than)
            missing = subjects - found.keys()
            if not missing:
                return found
            self.require_running()
            if time.monotonic() > end:
                raise LabError(f"{len(missing)} of {len(subjects)} VIPs do not answer within {timeout_s:g} s")
            time.sleep(_POLL_S)

    def two_answering(self, hole_ms: float) -> dict[int, list[Overlap]]:
        """VIPs for which two hosts answered in turns; answers at most `hole_ms` apart are one stay."""
        heard: dict[int, dict[str, list[int]]] = {}
        for record in self.records():
            if record.kind is Kind.ANSWER:
                heard.setdefault(record.subject, {}).setdefault(self.name_of(record.who), []).append(
                    record.t_ns
                )
        found = {}
        for subject, answers in heard.items():
            stays = {who: runs(sorted(instants), int(hole_ms * MS)) for who, instants in answers.items()}
            if len(stays) > 1 and (both := overlaps(stays)):
                found[subject] = both
        return found


def start_sweep(
    client: Host, vips: Sequence[str], hosts: Sequence[Host], log: Path, direct_ms: float = 0.0
) -> Sweep:
    """A sweeper on `client` for IPv4 VIPs, which its routes must reach without a gateway; with `direct_ms` each of
    the hosts is asked for each VIP once in that time, whatever a client knows.
    """
    sockets = [_packet_socket(client, ETH_P_IP), _packet_socket(client, ETH_P_ARP)]
    options = {
        "targets": list(vips),
        "macs": [host.mac.replace(":", "") for host in hosts],
        "ip_fd": sockets[0].fileno(),
        "arp_fd": sockets[1].fileno(),
        "mac": client.mac.replace(":", ""),
        "source": client.ipv4,
        "direct_ns": int(direct_ms * MS),
    }
    return Sweep("sweeper", options, sockets, log, [host.name for host in hosts])


def _packet_socket(host: Host, protocol: int) -> socket.socket:
    made = host.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    made.bind(("eth0", protocol))
    return made
