"""What does not answer through its VIP makes a holder ineligible, after the tolerance and for the hold-down."""

import asyncio
import socket
from ipaddress import ip_address
from types import SimpleNamespace

from leaseha.core.values import NS_PER_S, Instant
from leaseha.errors import VipError
from leaseha.runtime.datapath import DataPath, Verdict

LO = ip_address("127.0.0.1")


def at(seconds: float) -> Instant:
    return Instant(int(seconds * NS_PER_S), int(seconds * NS_PER_S))


def made() -> Verdict:
    """3 s of tolerance, 30 s of hold-down."""
    return Verdict(3 * NS_PER_S, 30 * NS_PER_S)


def broken() -> Verdict:
    """One that was served, did not answer from second 0 to 3, and is served still."""
    verdict = made()
    verdict.served("no answer", at(0))
    verdict.served("no answer", at(3))
    return verdict


def test_a_fault_counts_when_it_has_lasted_for_the_tolerance():
    verdict = made()
    for second in (0, 1, 2):
        verdict.served("no answer", at(second))
        assert verdict.broken == ""
    verdict.served("no answer at all", at(3))
    assert verdict.broken == "no answer at all"


def test_one_good_answer_within_the_tolerance_begins_it_anew():
    verdict = made()
    verdict.served("no answer", at(0))
    verdict.served("", at(1))
    verdict.served("no answer", at(2))
    verdict.served("no answer", at(4))
    assert verdict.broken == ""


def test_a_tolerance_of_zero_takes_the_first_fault_for_good():
    verdict = Verdict(0, NS_PER_S)
    verdict.served("no answer", at(0))
    assert verdict.broken == "no answer"


def test_a_holder_that_stays_is_trusted_again_when_it_has_answered_for_the_tolerance():
    verdict = broken()
    verdict.served("", at(4))
    assert verdict.broken
    verdict.served("", at(7))
    assert verdict.broken == ""


def test_a_node_that_let_go_for_it_is_not_trusted_before_the_hold_down_is_over():
    verdict = broken()
    for second in (4, 10, 33.9):
        verdict.idle(at(second))
        assert verdict.broken == "no answer"
    verdict.idle(at(34))
    assert verdict.broken == ""


def test_serving_again_meanwhile_begins_the_hold_down_anew():
    verdict = broken()
    verdict.idle(at(4))
    verdict.served("no answer", at(20))
    verdict.idle(at(30))
    verdict.idle(at(40))
    assert verdict.broken == "no answer"


def test_what_is_not_served_here_is_no_fault():
    verdict = made()
    verdict.served("no answer", at(0))
    verdict.idle(at(1))
    verdict.served("no answer", at(5))
    assert verdict.broken == ""


class Binder:
    """The addresses of an interface, as the kernel is said to have them."""

    def __init__(self, missing=None, interface="lo"):
        self.interface = interface
        self._missing = missing or {}

    async def missing(self):
        if isinstance(self._missing, VipError):
            raise self._missing
        return self._missing


def path_of(binders, ports=None, **others):
    """A data path without tolerance over one served lease for each binder, and what it tells."""
    told, ports = {}, ports or {}
    leases = [
        SimpleNamespace(name=name, path_every_ns=NS_PER_S, path_tolerance_ns=0, hold_down_ns=NS_PER_S)
        for name in binders
    ]
    services = {
        name: SimpleNamespace(
            serving=True,
            parts=SimpleNamespace(
                binder=binder, vips=(LO,), repository=ports.get(name), port=ports.get(name), tls=False
            ),
        )
        for name, binder in binders.items()
    }
    return DataPath(leases, services, told.__setitem__, **others), told


def test_an_interface_that_cannot_be_looked_at_keeps_no_other_from_being_judged(caplog):
    path, told = path_of({"a": Binder(VipError("no answer of the kernel")), "b": Binder({"b": (LO,)})})
    asyncio.run(path.look(["a", "b"]))

    assert told == {"b": "127.0.0.1 is not on lo, or does not work"}
    assert "no answer of the kernel" in caplog.text


def test_an_interface_that_is_gone_is_a_fault_although_its_addresses_cannot_be_asked_for():
    path, told = path_of({"a": Binder(VipError("it does not exist"), interface="gone0")})
    asyncio.run(path.look(["a"]))

    assert told["a"].startswith("gone0: ")


def test_what_a_round_had_learned_counts_when_it_is_broken_off(caplog):
    with socket.create_server((str(LO), 0)) as hangs, socket.socket() as closed:
        closed.bind((str(LO), 0))
        ports = {"refuses": closed.getsockname()[1], "hangs": hangs.getsockname()[1]}
        binder = Binder()
        path, told = path_of({"refuses": binder, "hangs": binder}, ports, round_s=0.5)
        asyncio.run(path.look(["refuses", "hangs"]))

    assert list(told) == ["refuses"]
    assert "not within 0.5 s" in caplog.text
