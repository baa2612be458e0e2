"""Many leases: what a takeover came to, and the page that tells it."""

import json

from chaos.many.__main__ import address, leases_of
from chaos.many.figures import Death, NodeCost, Rest, Result
from chaos.many.report import as_json, as_markdown
from chaos.many.watch import takeover
from leaseha.lab.lab import LEASE, NODES
from leaseha.lab.sweeper import echo_answer, echo_body
from leaseha.lab.timeline import MS, Overlap


class Heard:
    """A sweep that heard this."""

    def __init__(
        self, first: dict[int, tuple[int, str]], both: dict[int, list[Overlap]] | None = None
    ) -> None:
        self.first, self.both = first, both or {}

    def first_answers(self, after_ns, *, other_than):
        return {at: one for at, one in self.first.items() if one[0] > after_ns and one[1] != other_than}

    def two_answering(self, hole_ms):
        return self.both


def test_a_takeover_is_its_first_and_its_last_vip_and_tells_what_is_missing():
    heard = Heard(
        {0: (110 * MS, "node2"), 3: (150 * MS, "node3"), 6: (90 * MS, "node1"), 1: (200 * MS, "node2")}
    )
    found = takeover(heard, [0, 3, 6], 100 * MS, "node1")

    assert found == {
        "first_ms": 10.0,
        "median_ms": 30.0,
        "last_ms": 50.0,
        "by": {"node2": 1, "node3": 1},
        "two_answering": 0,
        "missing": 1,
    }


def test_a_thousand_leases_have_addresses_of_their_own_and_a_third_of_the_homes_each():
    assert len({address(at) for at in range(1000)}) == 1000
    leases = leases_of(1000)
    assert leases.pop(LEASE) is None
    homes = [max(one["priority"], key=one["priority"].get) for one in leases.values()]
    assert sorted(homes.count(name) for name in NODES) == [333, 333, 334]


def test_an_echo_is_known_again_by_its_subject_and_by_how_it_was_asked():
    source, target = bytes((10, 0, 0, 1)), bytes((10, 0, 0, 2))
    body = echo_body(b"\2" * 6, source, target, 700)
    asked = b"\4" * 6 + body
    # The kernel answers with type 0 and the addresses turned round.
    answer = b"\2" * 6 + b"\4" * 6 + asked[12:26] + target + source + b"\0" + asked[35:]
    assert echo_answer(answer) == (b"\4" * 6, 700, False)
    assert echo_answer(asked) is None


def test_the_page_has_both_tables_and_the_figures_are_kept():
    nodes = tuple(NodeCost(name, 334, 20.0, 90 * 1024, 70 * 1024, 0.1, 13 * 1024, 7 * 1024) for name in NODES)
    deaths = tuple(Death(334, 1800.0, 1900.0, last, {"node2": 334}, 0, 0, 480.0) for last in (2000.0, 2200.0))
    results = [
        Result(count, 5.0, 9.0, Rest(writes, writes, 20.0, nodes), 0.5, deaths)
        for count, writes in ((1, 7.5), (1000, 7.8))
    ]
    page = as_markdown(results, {"ttl": "2s"}, {"command": "it", "cores": "2"})

    assert "| 1000 | 7.80 | 1.04 × |" in page
    assert (
        "| 1000 | 334 | 2 | 1800 / **1800** / 1800 | 2000 / **2100** / 2200 | 0 | 0 | 480 / **480** / 480 |"
        in page
    )
    assert json.loads(as_json(results, {}))["results"][1]["deaths"][0]["last_ms"] == 2000.0
