"""Prober, ARP observer and netlink monitor tell the truth about a VIP that is moved by hand."""

import pathlib
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from leaseha.errors import LabError
from leaseha.lab.instruments import Instrument
from leaseha.lab.lab import VIP, VIP6, Lab
from leaseha.lab.recording import Kind
from leaseha.lab.timeline import MS

pytestmark = pytest.mark.netns

V4, V6 = VIP.partition("/")[0] + "/32", VIP6.partition("/")[0] + "/128"
# The machine may be busy: what is measured may be longer than what was done by this much, never shorter.
LATE_MS = 300.0


@pytest.fixture(scope="module")
def measured() -> Iterator[Lab]:
    with Lab(etcd_members=0, vips=(VIP, VIP6)) as lab:
        yield lab.measure()


@pytest.fixture
def lab(measured: Lab) -> Iterator[Lab]:
    yield measured
    for name in measured.node_names:
        host = measured.host(name)
        for address in (V4, V6):
            if address in host.addresses():
                host.remove_address(address)


def pass_by(ms: float) -> None:
    end_ns = time.monotonic_ns() + int(ms * MS)
    while (left := end_ns - time.monotonic_ns()) > 0:
        time.sleep(left / 1e9)  # waits for a fact: the gap or overlap that is made by hand is this long


def bind(lab: Lab, name: str, address: str = V4) -> None:
    """Bind and announce, and wait until the client has seen it."""
    host, began_ns = lab.host(name), time.monotonic_ns()
    host.add_address(address)
    if address == V4:
        host.announce(lab.vip)
    lab.prober.wait_for_answer(by=name, after_ns=began_ns, subject=int(address == V6))


def test_a_clean_move_shows_its_gap_to_the_client_and_no_overlap_to_anybody(lab):
    node1, node2 = lab.host("node1"), lab.host("node2")
    bind(lab, "node1")
    began_ns = time.monotonic_ns()
    node1.remove_address(V4)
    pass_by(120)
    node2.add_address(V4)
    node2.announce(lab.vip)
    _, answered_ns = lab.prober.wait_for_answer(by="node2", after_ns=began_ns)
    lab.settle()

    longest = lab.prober.longest_gap_ms(began_ns, answered_ns)
    assert 120 <= longest <= 120 + LATE_MS
    assert [h.who for h in lab.prober.holders(began_ns - 50 * MS, answered_ns)] == ["node1", "node2"]
    assert [h.who for h in lab.monitor.holders(began_ns)] == ["node1", "node2"]
    for instrument in (lab.prober, lab.direct, lab.arp, lab.monitor):
        assert instrument.overlaps(began_ns) == []
    assert lab.two_answering(began_ns) == []
    assert "node2" in {who for who, _ in lab.arp.announcements(began_ns)}


def test_an_address_that_two_hosts_have_is_seen_by_all_but_the_client_who_knows_only_one(lab):
    node2 = lab.host("node2")
    bind(lab, "node1")
    pass_by(20)
    began_ns = time.monotonic_ns()
    node2.add_address(V4)  # no announcement: the client goes on with node1
    pass_by(100)
    node2.remove_address(V4)
    ended_ns = time.monotonic_ns()
    pass_by(20)
    lab.settle()

    made_ms = (ended_ns - began_ns) / MS
    (bound,) = lab.monitor.overlaps(began_ns)
    assert bound.who == ("node1", "node2")
    assert 100 - 5 <= bound.ms <= made_ms + LATE_MS
    for found in (lab.direct.overlaps(began_ns), lab.arp.overlaps(began_ns), lab.two_answering(began_ns)):
        assert found
        assert {overlap.who for overlap in found} == {("node1", "node2")}
        # An answer is an instant: between two of them 4 ms pass, and on a busy machine more.
        assert 50 <= sum(overlap.ms for overlap in found) <= made_ms + LATE_MS
    assert lab.prober.overlaps(began_ns) == []


def test_a_client_whose_neighbour_cache_is_pulled_to_and_fro_sees_the_overlap_too(lab):
    bind(lab, "node1")
    began_ns = time.monotonic_ns()
    bind(lab, "node2")
    at_ns = time.monotonic_ns()
    lab.host("node1").announce(lab.vip)
    lab.prober.wait_for_answer(by="node1", after_ns=at_ns)
    lab.settle()
    assert lab.prober.overlaps(began_ns)
    assert lab.two_answering(began_ns)


def test_a_silent_cut_is_a_gap_for_the_client_and_no_unbinding(lab):
    node1 = lab.host("node1")
    bind(lab, "node1")
    began_ns = time.monotonic_ns()
    node1.cut_silent()
    pass_by(80)
    node1.heal()
    healed_ns = time.monotonic_ns()
    _, back_ns = lab.prober.wait_for_answer(by="node1", after_ns=healed_ns)
    lab.settle()
    assert 80 <= lab.prober.longest_gap_ms(began_ns, back_ns) <= 80 + LATE_MS
    assert len(lab.monitor.holders(began_ns)) == 1


def test_ipv6_is_measured_alike(lab):
    bind(lab, "node1", V6)
    began_ns = time.monotonic_ns()
    lab.host("node2").add_address(V6)
    pass_by(100)
    lab.host("node1").remove_address(V6)
    pass_by(20)
    lab.settle()
    for instrument in (lab.direct, lab.arp, lab.monitor):
        assert {o.who for o in instrument.overlaps(began_ns, subject=1)} == {("node1", "node2")}
        assert instrument.overlaps(began_ns) == []
    assert lab.prober.answers(subject=1)["node1"]


def test_a_dead_host_is_unbound_and_seen_again_after_it_has_booted(lab):
    bind(lab, "node3")
    lab.kill_host("node3")
    lab.settle()
    assert [h.who for h in lab.monitor.holders(time.monotonic_ns())] == []
    lab.boot_host("node3")
    began_ns = time.monotonic_ns()
    bind(lab, "node3")
    lab.settle()
    assert [h.who for h in lab.monitor.holders(began_ns)] == ["node3"]


def test_nobody_answers_where_nobody_has_the_address(lab):
    with pytest.raises(LabError, match="no answer of anybody"):
        lab.prober.wait_for_answer(after_ns=time.monotonic_ns(), timeout_s=0.1)


def test_the_prober_asks_about_once_a_millisecond(lab):
    bind(lab, "node1")
    began_ns = time.monotonic_ns()
    pass_by(300)
    lab.settle()
    sent = [at for at in lab.prober.instants(Kind.SENT) if at >= began_ns]
    span_ms = (sent[-1] - sent[0]) / MS
    assert 0.3 * span_ms <= len(sent) <= span_ms + 2


def test_measuring_anew_drops_what_was_seen_before(lab):
    bind(lab, "node1")
    before = lab.prober.pid
    lab.measure()
    assert lab.prober.pid != before
    lab.prober.wait_for_answer(by="node1")
    lab.settle()
    assert [h.who for h in lab.monitor.holders()] == ["node1"]


def test_a_tool_that_cannot_start_is_reported_with_its_last_words(tmp_path):
    broken = Instrument("prober", {"targets": ["no address"]}, (), tmp_path / "broken.log", ())
    with broken, pytest.raises(LabError, match=r"broken ended with 1: .*no address"):
        broken.wait_ready()


def test_a_tool_ends_when_the_lab_is_killed(tmp_path):
    code = (
        "import pathlib, sys, time\n"
        "from leaseha.lab.instruments import start_responder\n"
        f"tool = start_responder(pathlib.Path({str(tmp_path)!r}, 'r.log'))\n"
        "print(tool.pid, flush=True)\n"
        "sys.stdin.readline()\n"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        pid = int(child.stdout.readline())
        child.kill()
    end = time.monotonic() + 10
    while _lives(pid):
        assert time.monotonic() < end
        time.sleep(0.01)  # waits for a fact: the orphan has seen the end of its channel


def _lives(pid: int) -> bool:
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
