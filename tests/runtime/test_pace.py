"""How late things were, as `status` and the log tell it."""

from types import SimpleNamespace

from leaseha.config import parse
from leaseha.core import trace
from leaseha.core.effects import Transitioned
from leaseha.core.session import deadline_of
from leaseha.core.values import NS_PER_MS, Committed, Head, Instant, Unknown
from leaseha.runtime import doctor, show
from leaseha.runtime.pace import WINDOW_NS, Pace, Paced, Worst
from tests.core import hands

CONFIG = """
cluster = "c"
etcd.endpoints = ["http://127.0.0.1:2379"]
node.name = "a"
node.interface = "lo"
node.realtime = "{realtime}"
session.ttl = "{ttl}"
session.renew_every = "60ms"
[lease.web]
vips = ["10.99.0.50/24"]
priority = {{ a = 100, b = 50 }}
"""


def at(ns: int) -> Instant:
    return Instant(ns, ns)


def test_the_worst_of_the_last_while_is_remembered_and_then_forgotten():
    worst = Worst()
    assert worst.worst(at(0)) == 0

    worst.note(5, at(0))
    worst.note(3, at(WINDOW_NS))
    assert worst.worst(at(WINDOW_NS + 1)) == 5
    assert worst.worst(at(2 * WINDOW_NS)) == 3
    assert worst.worst(at(5 * WINDOW_NS)) == 0


def test_a_holder_that_stops_at_its_deadline_says_who_was_late():
    world = hands.serving()
    said: list[str] = []
    seen: list[Transitioned] = []
    inner = SimpleNamespace(transitioned=seen.append)
    pace = Pace()
    pace.rang(world.now(), world.now().plus(180 * NS_PER_MS))
    pace.state = lambda: world.nodes["a"]
    paced = Paced(inner, pace, said.append)
    move = trace.of_move("c", "l", 7, 1)
    stopped = Transitioned("l", "H-deadline", "HOLDER", "FENCED", "no renewal", "", 7, move, world.now())

    paced.transitioned(stopped)

    assert seen == [stopped]
    assert "a deadline passed: the last proven renewal was sent" in said[0]
    assert "this was noticed 180 ms late" in said[0]


def test_a_renewal_has_used_what_passed_since_the_one_before_it_was_sent():
    world = hands.serving()
    pace, state = Pace(), world.nodes["a"]
    pace.state = lambda: state
    proven = state.session.proven
    until = deadline_of(state.session, state.spec.drift_ppm)
    assert proven is not None
    assert until is not None
    half = proven.sent_at.plus((until.boot_ns - proven.sent_at.boot_ns) // 2)

    pace.answered(proven.sent_at, half, Unknown("no answer"))
    assert pace.told(half)["renewal_used"] == 0
    pace.answered(proven.sent_at, half, Committed(Head(1, 1, 1)))

    told = pace.told(half)
    assert 0.4 < told["renewal_used"] <= 1
    assert told["etcd_answer_ms"] == round((half.boot_ns - proven.sent_at.boot_ns) / NS_PER_MS, 1)


def sentences(ttl: str, realtime: str) -> list[str]:
    text = CONFIG.format(ttl=ttl, realtime=realtime)
    found = doctor.examine(parse(text, environ={}, hostname="a"), offline=True, why_no_fence=lambda: "")
    return [one.text for one in found if "busy machine" in one.text]


def test_check_says_what_a_ttl_below_a_second_lacks_and_nothing_where_it_is_longer():
    (said,) = sentences("300ms", "off")

    assert "session.ttl = 0.3s" in said
    assert "node.realtime" in said
    assert sentences("1s", "off") == []


def test_status_says_what_is_in_force_and_how_late_renewals_were():
    urgency = {
        "priority": "raised",
        "memory_locked": False,
        "guard": None,
        "note": "the account may not lock memory",
        "worst": {"renewal_used": 0.314, "timer_late_ms": 2.1, "etcd_answer_ms": 12.0, "gc_pause_ms": 0.4},
    }
    found = {
        "cluster": "c",
        "node": "a",
        "source": "agent",
        "session": {"deadline_left_s": 0.2},
        "fence_layers": ["agent"],
        "urgency": urgency,
        "leases": {},
        "etcd": [],
    }

    text = show._source(found)

    assert "priority raised, memory not locked (the account may not lock memory)" in text
    assert "31% of its time: timers 2.1 ms late, etcd 12 ms, pauses 0.4 ms" in text
    assert "priority" not in show._source(found | {"urgency": None})
