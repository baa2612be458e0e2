"""After a move nothing of the old holder is on the wire for the VIP, whenever it was stopped."""

import ipaddress
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from leaseha.lab.host import Host
from leaseha.lab.lab import LEASE, Lab
from leaseha.lab.recording import SO_TIMESTAMPNS, kernel_stamp_ns
from tests.e2e.cluster import (
    FIRST,
    SECOND,
    SOON_S,
    cluster,
    holding,
    log_of,
    never_two,
    only_one_answers,
    run_cli,
    standing_by,
    told,
    wait_logged,
    wait_until,
    whole,
)

pytestmark = [pytest.mark.netns, pytest.mark.lab]

SHORT = {
    "session": {"ttl": "300ms", "renew_every": "60ms"},
    "lease": {LEASE: {"hold_down": "10m", "flap_budget": 60}},
}
ETH_P_ALL, ETH_P_ARP, ETH_P_IP = 0x0003, 0x0806, 0x0800
OUTGOING = 4
WOKEN_S = 1.5
"""Announcements are repeated 50, 200 and 1,000 ms after the first: what was left of them would be sent by then."""


class Tap:
    """Frames that leave a host (past its egress hook) with the VIP as their sender, and when: monotonic, ns."""

    def __init__(self, host: Host, vip: str) -> None:
        self.frames: list[tuple[int, str]] = []
        self._vip = ipaddress.IPv4Address(vip).packed
        self._socket = host.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        self._socket.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        self._socket.bind(("eth0", ETH_P_ALL))
        self._socket.settimeout(0.1)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while not self._over.is_set():
            try:
                frame, stamp, _, where = self._socket.recvmsg(2048, 64)
            except TimeoutError:
                continue
            if where[2] == OUTGOING and (kind := self._kind(frame)):
                self.frames.append((kernel_stamp_ns(stamp), kind))

    def _kind(self, frame: bytes) -> str:
        ether_type = int.from_bytes(frame[12:14], "big")
        if ether_type == ETH_P_ARP and frame[28:32] == self._vip:
            return "announcement" if frame[38:42] == self._vip else "arp"
        if ether_type == ETH_P_IP and frame[26:30] == self._vip:
            return f"ip {frame[23]}"
        return ""

    def since(self, at_ns: int) -> list[str]:
        return [kind for when, kind in list(self.frames) if when > at_ns]

    def close(self) -> None:
        self._over.set()
        self._thread.join()
        self._socket.close()


@contextmanager
def tap(lab: Lab, name: str) -> Iterator[Tap]:
    made = Tap(lab.host(name), lab.vip)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def _lab(tmp_path_factory) -> Iterator[Lab]:
    with cluster(tmp_path_factory.mktemp("after"), settings=SHORT, nodes=(FIRST, SECOND)) as lab:
        yield lab


@pytest.fixture
def lab(_lab: Lab) -> Lab:
    """The preferred node holds, brought there by hand: nothing fails back by itself here."""
    if not _lab.nodes[FIRST].running:
        _lab.start_nodes(FIRST)
        standing_by(_lab, SECOND, FIRST)
    status = _lab.nodes[SECOND].status()
    if status["leases"][LEASE]["holder"] != FIRST:
        told(_lab, SECOND, "switchover", "--to", FIRST)
    whole(_lab)
    return _lab


@pytest.mark.parametrize("after_ms", [0, 190])
def test_a_holder_frozen_between_its_announcements_sends_no_frame_when_it_is_woken_after_the_takeover(
    lab: Lab, after_ms: int
):
    told(lab, FIRST, "switchover", "--to", SECOND)
    holding(lab, SECOND)
    with tap(lab, FIRST) as wire, never_two(lab):
        asked_ns = time.monotonic_ns()
        told(lab, SECOND, "switchover", "--to", FIRST)
        wait_until("the first announcement", lambda: "announcement" in wire.since(asked_ns))
        time.sleep(after_ms / 1000)  # waits for a fact: it is between two of its repetitions
        lab.nodes[FIRST].freeze(tree=True)
        frozen_ns = time.monotonic_ns()
        _, taken_ns = lab.prober.wait_for_answer(by=SECOND, after_ns=frozen_ns)
        lab.nodes[FIRST].thaw(tree=True)
        end_ns = time.monotonic_ns() + int(WOKEN_S * 1e9)
        lab.prober.wait_for_answer(by=SECOND, after_ns=end_ns)
        assert wire.since(taken_ns) == []
        only_one_answers(lab, SECOND)


@pytest.mark.parametrize("cause", ["switchover", "freeze", "silent cut"])
def test_neither_a_reset_nor_any_other_frame_of_the_old_holder_is_on_the_wire_after_a_move(
    lab: Lab, cause: str
):
    """Its clients' connections are the new holder's to answer."""
    with tap(lab, FIRST) as wire, never_two(lab) as began_ns, lab.client.socket() as client:
        client.settimeout(2.0)
        with pytest.raises(ConnectionRefusedError):
            client.connect((lab.vip, 9))
        assert wire.since(began_ns)
        if cause == "switchover":
            told(lab, FIRST, "switchover", "--to", SECOND)
        elif cause == "freeze":
            lab.nodes[FIRST].freeze(tree=True)
        else:
            lab.host(FIRST).cut_silent()
        _, taken_ns = lab.prober.wait_for_answer(by=SECOND, after_ns=began_ns)
        if cause == "freeze":
            lab.nodes[FIRST].thaw(tree=True)
        elif cause == "silent cut":
            lab.host(FIRST).heal()
        end_ns = time.monotonic_ns() + int(WOKEN_S * 1e9)
        lab.prober.wait_for_answer(by=SECOND, after_ns=end_ns)
        assert wire.since(taken_ns) == []


def test_a_neighbour_confirms_where_the_vip_is_now_and_trace_log_and_status_say_so(lab: Lab):
    after = len(log_of(lab, SECOND))
    trace = told(lab, FIRST, "switchover", "--to", SECOND)["trace_id"]
    line = wait_logged(lab, SECOND, "announce.proven took", f"(by {lab.host(FIRST).ipv4})", after=after)

    assert f"[trace {trace[:8]}]" in line
    status = holding(lab, SECOND)["announced"]
    assert (status["proven"], status["by"], status["nobody_to_ask"]) == (True, lab.host(FIRST).ipv4, [])
    said = run_cli(lab, SECOND, "status").stdout
    assert f"announced: proven by {status['by']} after {status['after_ms']:.0f} ms" in said
    assert "announced:" not in run_cli(lab, FIRST, "status").stdout
    spans = [
        json.loads(one)
        for one in (lab.directory / f"{SECOND}.run" / "spool" / "traces.jsonl").read_text().splitlines()
    ]
    (span,) = [one for one in spans if one["name"] == "announce.proven" and one["trace_id"] == trace]
    assert span["leaseha.detail"] == f"by {status['by']}"
    print(f"proven {span['took_ms']:.1f} ms after the VIP was bound")


@pytest.mark.parametrize("cause", ["switchover", "crash"])
def test_the_old_holders_own_end_of_a_connection_is_dead_soon_and_no_frame_of_that_is_on_the_wire(
    lab: Lab, cause: str
):
    """A process there that waits for its client does not wait for a time-out."""
    with lab.host(FIRST).socket() as listener, lab.client.socket() as client, tap(lab, FIRST) as wire:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((lab.vip, 7710))
        listener.listen()
        client.settimeout(5.0)
        client.connect((lab.vip, 7710))
        server = listener.accept()[0]
        server.settimeout(SOON_S)
        began_ns = time.monotonic_ns()
        if cause == "switchover":
            told(lab, FIRST, "switchover", "--to", SECOND)
        else:
            lab.nodes[FIRST].kill()
        with server, pytest.raises(ConnectionAbortedError):
            server.recv(1)
        dead_ns = time.monotonic_ns()
        _, taken_ns = lab.prober.wait_for_answer(by=SECOND, after_ns=began_ns)
        assert (dead_ns - taken_ns) / 1e9 < 2.0
        lab.prober.wait_for_answer(by=SECOND, after_ns=taken_ns + int(0.3e9))
        assert wire.since(taken_ns) == []
        client.send(b"are you there?")
        with pytest.raises(ConnectionResetError):
            client.recv(1)


def test_a_connection_to_the_old_holder_is_reset_by_the_new_one_at_its_next_segment(lab: Lab):
    """So a client learns of the move at once, and does not wait for a time-out."""
    with lab.host(FIRST).socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind((lab.vip, 7709))
        server.listen()
        with lab.client.socket() as client:
            client.settimeout(3.0)
            client.connect((lab.vip, 7709))
            server.accept()[0].detach()
            told(lab, FIRST, "switchover", "--to", SECOND)
            lab.prober.wait_for_answer(by=SECOND, after_ns=lab.settle())
            client.send(b"are you there?")
            with pytest.raises(ConnectionResetError):
                client.recv(1)
