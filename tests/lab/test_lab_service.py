"""The service prober tells a service that is away from an address that is: the kernel answers for the address."""

import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from leaseha.errors import LabError
from leaseha.lab.instruments import SERVICE
from leaseha.lab.lab import VIP, Lab
from leaseha.lab.timeline import MS

pytestmark = pytest.mark.netns

V4 = VIP.partition("/")[0] + "/32"
PORT = 8000
LATE_MS = 300.0
SERVER = """
import socket, sys
with socket.create_server((sys.argv[2], int(sys.argv[3])), backlog=256) as server:
    while True:
        one, _ = server.accept()
        with one:
            try:
                one.recv(4096)
                one.sendall(b"HTTP/1.1 " + sys.argv[1].encode() + b" Said\\r\\n\\r\\n")
            except OSError:
                continue
"""


@pytest.fixture(scope="module")
def measured() -> Iterator[Lab]:
    with Lab(nodes=("node1", "node2"), etcd_members=0) as lab:
        lab.host("node1").add_address(V4)
        yield lab.measure(service_port=PORT)


@pytest.fixture
def lab(measured: Lab) -> Iterator[Lab]:
    measured.prober.wait_for_answer(by="node1", after_ns=time.monotonic_ns())
    yield measured
    measured.heal()
    measured.host("node1").kill_all()


def serve(lab: Lab, status: int = 404) -> subprocess.Popen[str]:
    """Answers each request on the VIP with this status."""
    return lab.host("node1").popen([sys.executable, "-c", SERVER, str(status), lab.vip, str(PORT)])


def pass_by(ms: float) -> None:
    time.sleep(ms / 1000)  # waits for a fact: the gap that is made by hand is this long


def answered(lab: Lab) -> int:
    """The instant of the next answer, in ns."""
    return lab.service.wait_for_answer(by=SERVICE, after_ns=time.monotonic_ns())[1]


def test_a_dead_service_is_a_gap_although_its_address_answers(lab: Lab):
    server = serve(lab)
    began_ns = answered(lab)
    server.kill()
    server.wait()
    pass_by(200)
    again = serve(lab)
    back_ns = answered(lab)
    lab.settle()
    again.kill()
    again.wait()

    assert lab.service.longest_gap_ms(began_ns, back_ns) >= 200
    assert lab.prober.longest_gap_ms(began_ns, back_ns) < lab.service.longest_gap_ms(began_ns, back_ns)


def test_a_service_that_hangs_or_is_cut_off_is_a_gap_as_long_as_that(lab: Lab):
    server = serve(lab)
    began_ns = answered(lab)
    lab.host("node1").cut_silent()
    pass_by(200)
    lab.host("node1").heal()
    back_ns = answered(lab)
    lab.settle()
    server.kill()
    server.wait()

    assert 200 <= lab.service.longest_gap_ms(began_ns, back_ns) <= 200 + LATE_MS


def test_a_closed_gate_is_no_answer(lab: Lab):
    began_ns = time.monotonic_ns()
    server = serve(lab, 503)
    pass_by(300)
    lab.settle()
    server.kill()
    server.wait()

    assert not [at for at in lab.service.answers().get(SERVICE, []) if at > began_ns]
    assert lab.service.longest_gap_ms(began_ns) >= 300


def test_a_service_that_answers_all_the_time_has_no_long_gap(lab: Lab):
    server = serve(lab)
    began_ns = answered(lab)
    pass_by(200)
    ended_ns = lab.settle()
    server.kill()
    server.wait()

    answers = [at for at in lab.service.answers()[SERVICE] if began_ns < at < ended_ns]
    assert len(answers) >= 5
    assert (answers[-1] - answers[0]) / MS > 50


def test_without_a_port_there_is_no_view_of_a_service():
    with Lab(nodes=("node1",), etcd_members=0) as lab, pytest.raises(LabError, match="nothing is measured"):
        _ = lab.measure().service
