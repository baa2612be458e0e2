"""Whole moves of the real core, as traces: in a collector over loopback, judged on the protobuf."""

import itertools
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from chaos.otlp_receiver import OtlpReceiver, ReceivedSpan, broken
from leaseha.core import events, records
from leaseha.core.trace import trace_id
from leaseha.core.values import NS_PER_MS
from tests.adapters.collectors import BlackHole, refused_endpoint
from tests.adapters.traced import TracedWorld


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")


@pytest.fixture
def receiver() -> Iterator[OtlpReceiver]:
    with OtlpReceiver() as made:
        yield made


@pytest.fixture
def world(receiver: OtlpReceiver) -> TracedWorld:
    made = TracedWorld(endpoint=receiver.endpoint)
    made.start()
    made.run(2)
    return made


def trace_of_last_move(world: TracedWorld, receiver: OtlpReceiver) -> list[ReceivedSpan]:
    world.close()
    return receiver.traces()[world.ended[-1][1].trace_id]


def names_by_node(spans: list[ReceivedSpan]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for span in sorted(spans, key=lambda s: (s.span.end_time_unix_nano, s.span.start_time_unix_nano)):
        found.setdefault(str(span.resource["leaseha.node"]), []).append(span.span.name)
    return {node: sorted(names) for node, names in found.items()}


def root(spans: list[ReceivedSpan]) -> ReceivedSpan:
    (found,) = (span for span in spans if not span.parent_id)
    return found


TOP = Path(__file__).resolve().parents[2]
KINDS = ("first", "failover", "switchover", "failback", "release", "takeover", "resume")
UP = ["announce", "bind", "claim", "first_answer", "gate.open", "resource.start"]
DOWN = ["drain", "hand_over", "resource.stop", "unbind"]


def test_a_failover_is_one_trace_that_the_new_holder_makes(world: TracedWorld, receiver: OtlpReceiver):
    """The old holder is dead and says nothing; what it would have said needs no root of its own."""
    world.kill("a")
    world.settle()
    spans = trace_of_last_move(world, receiver)

    assert broken(spans) == ""
    assert names_by_node(spans) == {"b": sorted([*UP, "detect", "leaseha.failover"])}
    attributes = root(spans).attributes
    assert attributes["leaseha.from_node"] == "a"
    assert attributes["leaseha.to_node"] == "b"
    assert attributes["leaseha.lease"] == "l"
    assert attributes["leaseha.kind"] == "failover"
    assert attributes["leaseha.token"] == world.state("b").token
    assert "silent" in str(attributes["leaseha.reason"])
    assert [event.name for event in root(spans).span.events] == ["S-silent", "C-won", "P-up"]


def test_a_holder_that_was_only_cut_off_adds_its_part_to_the_same_trace(
    world: TracedWorld, receiver: OtlpReceiver
):
    """It never hears of the takeover, and still hangs its spans on the root that the other node emits."""
    world.cut.add("a")
    world.run(8)
    spans = trace_of_last_move(world, receiver)

    assert broken(spans) == ""
    assert names_by_node(spans) == {
        "a": ["gate.close", "resource.stop", "unbind"],
        "b": sorted([*UP, "detect", "leaseha.failover"]),
    }


def test_a_switchover_is_one_trace_of_two_nodes_under_the_id_that_was_asked_with(
    world: TracedWorld, receiver: OtlpReceiver
):
    asked = world.next_trace()
    world.switchover("b")
    spans = trace_of_last_move(world, receiver)

    assert broken(spans) == ""
    assert {span.trace_id for span in spans} == {trace_id(asked)}
    assert root(spans).span_id == asked.split("-")[2]
    assert names_by_node(spans) == {"a": DOWN, "b": sorted([*UP, "leaseha.switchover"])}


def test_a_failback_and_a_release_are_one_trace_each(world: TracedWorld, receiver: OtlpReceiver):
    world.switchover("b")
    world.run(6)
    assert world.holders() == ["a"]
    world.give("a", events.StopAsked(world.now()))
    world.settle()
    world.close()

    kinds = {root(spans).span.name: spans for spans in receiver.traces().values()}
    assert [broken(spans) for spans in kinds.values()] == [""] * 4
    assert sorted(kinds) == ["leaseha.failback", "leaseha.first", "leaseha.release", "leaseha.switchover"]
    assert names_by_node(kinds["leaseha.failback"])["b"] == DOWN
    assert names_by_node(kinds["leaseha.release"])["a"] == DOWN


def test_a_holder_that_dies_while_handing_over_leaves_no_trace_without_a_root(
    world: TracedWorld, receiver: OtlpReceiver
):
    """The command line asks with the trace of the token that is to end, which a claimant finds as well."""
    world.held_back["a"] = lambda effect: type(effect).__name__ == "UnbindVip"
    world.switchover("b")
    world.kill("a")
    world.settle()
    spans = trace_of_last_move(world, receiver)

    assert broken(spans) == ""
    assert root(spans).span.name == "leaseha.failover"
    assert names_by_node(spans)["a"] == ["drain", "resource.stop"]


def test_a_takeover_that_never_served_has_its_root_all_the_same(world: TracedWorld, receiver: OtlpReceiver):
    """b gets the claim, cannot bind, and lets go; c serves. Two moves, two traces."""
    world.broken.add("b")
    world.kill("a")
    world.settle()
    world.close()

    assert world.holders() == ["c"]
    assert [broken(spans) for spans in receiver.traces().values()] == [""] * 3
    (failed,) = (r for r in map(root, receiver.traces().values()) if r.span.name == "leaseha.takeover")
    assert failed.span.status.code == failed.span.status.STATUS_CODE_ERROR
    (bind,) = (s for s in receiver.traces()[failed.trace_id] if s.span.name == "bind")
    assert bind.span.status.message == "no such device"


def test_an_agent_that_ends_in_the_middle_pays_the_root_that_it_owes(
    world: TracedWorld, receiver: OtlpReceiver
):
    world.held_back["b"] = lambda effect: type(effect).__name__ == "Announce"
    world.kill("a")
    world.run(8)
    world.close()

    assert [broken(spans) for spans in receiver.traces().values()] == ["", ""]
    assert sorted(root(spans).span.name for spans in receiver.traces().values()) == [
        "leaseha.first",
        "leaseha.takeover",
    ]


def test_a_lease_that_comes_back_where_it_was_is_a_trace_of_its_own(
    world: TracedWorld, receiver: OtlpReceiver
):
    """etcd was away past the deadline, for everybody, and nobody took over. The end that was feared comes later."""
    world.cut |= {"a", "b", "c"}
    world.run(5.5)
    assert world.holders() == []
    world.cut.clear()
    world.run(3)
    feared = world.next_trace()
    node, history = world.ended[-1]
    assert (node, history.kind, history.trace_id) == ("a", "resume", trace_id(feared))
    world.kill("a")
    world.settle()
    world.close()

    traces = receiver.traces()
    assert [broken(spans) for spans in traces.values()] == [""] * 3
    back = next(spans for spans in traces.values() if root(spans).span.name == "leaseha.resume")
    assert names_by_node(back) == {
        "a": ["announce", "bind", "first_answer", "gate.open", "leaseha.resume", "resource.start"]
    }
    assert [link.trace_id.hex() for link in root(back).span.links] == [trace_id(feared)]
    ended = traces[trace_id(feared)]
    assert root(ended).span.name == "leaseha.failover"
    assert names_by_node(ended)["a"] == ["gate.close", "resource.stop", "resume", "unbind"]
    (pointer,) = (span for span in ended if span.span.name == "resume")
    assert [link.trace_id.hex() for link in pointer.span.links] == [back[0].trace_id]


def test_a_claim_that_was_tried_in_vain_does_not_stretch_the_next_one(
    world: TracedWorld, receiver: OtlpReceiver
):
    """The first try is refused because the holder lives; a minute later the holder does die."""
    world.blind.add("b")
    world.run(8)
    assert "C-over" in world.rows("b")
    world.blind.clear()
    world.run(60)
    assert world.holders() == ["a"]
    world.kill("a")
    world.settle()
    spans = trace_of_last_move(world, receiver)

    (claim,) = (span.span for span in spans if span.span.name == "claim")
    assert claim.end_time_unix_nano - claim.start_time_unix_nano < 1000 * NS_PER_MS
    assert [event.name for event in root(spans).span.events] == ["S-silent", "C-won", "P-up"]


def test_the_spans_of_a_failover_laid_end_to_end_are_the_gap(world: TracedWorld, receiver: OtlpReceiver):
    world.kill("a")
    world.settle()
    spans = trace_of_last_move(world, receiver)

    total_ns = root(spans).span.end_time_unix_nano - root(spans).span.start_time_unix_nano
    laid = sorted((s.span.start_time_unix_nano, s.span.end_time_unix_nano) for s in spans if s.parent_id)
    covered_ns = sum(end - start for start, end in laid)
    assert total_ns == world.ended[-1][1].gap_ms * NS_PER_MS
    assert covered_ns == total_ns
    assert all(one[1] == other[0] for one, other in itertools.pairwise(laid))


FAULTS = ["kill", "cut", "stop", "switchover", "die handing over", "etcd away", "cannot bind"]


def move(world: TracedWorld, fault: str, chance: random.Random) -> None:
    """One move of the named kind, and everything well again after it."""
    holder = world.settle()
    other = chance.choice(sorted(set("abc") - {holder}))
    match fault:
        case "kill":
            world.kill(holder)
        case "cut":
            world.cut.add(holder)
        case "stop":
            world.give(holder, events.StopAsked(world.now()))
        case "switchover":
            world.switchover(other)
        case "die handing over":
            world.held_back[holder] = lambda effect: type(effect).__name__ == "UnbindVip"
            world.switchover(other)
            world.kill(holder)
        case "etcd away":
            world.cut |= set("abc")
            world.run(chance.uniform(1, 9))
        case _:
            world.broken.add(other)
            world.kill(holder)
    world.run(chance.uniform(0.1, 9))
    world.held_back.clear()
    world.broken.clear()
    world.cut.clear()
    world.settle()
    for name in "abc":
        if name in world.dead or world.nodes[name].stopped:
            world.restart(name)
    world.run(chance.uniform(0.5, 5))


def moves(world: TracedWorld, count: int, seed: int) -> None:
    """At least that many moves of all kinds; failbacks come by themselves in between."""
    chance = random.Random(seed)
    while len(world.ended) < count:
        move(world, chance.choice(FAULTS), chance)
    # A last end for the present token, in case it had seemed to end before.
    world.switchover(next(name for name in "abc" if name != world.settle()))


@pytest.mark.parametrize("seed", range(3))
def test_thirty_moves_are_thirty_connected_traces(receiver: OtlpReceiver, seed: int):
    world = TracedWorld(endpoint=receiver.endpoint, seed=seed)
    world.start()
    moves(world, 30, seed)
    world.close()

    traces = receiver.traces()
    verdicts = {trace: broken(spans) for trace, spans in traces.items()}
    assert set(verdicts.values()) == {""}, verdicts
    ended = [(node, history) for node, history in world.ended if history.kind != "resume"]
    assert len({history.trace_id for _, history in ended}) == len(ended)
    for node, history in ended:
        found = root(traces[history.trace_id])
        assert found.span.name == f"leaseha.{history.kind}"
        assert found.resource["leaseha.node"] == node
        assert found.attributes["leaseha.token"] == history.token
    named = {
        f"`{name}`" for span in receiver.spans for name in (span.span.name, *span.attributes, *span.resource)
    }
    documented = (TOP / "docs/telemetry.md").read_text()
    assert {name for name in named if name not in documented and not name.startswith("`leaseha.")} == set()
    assert {name for name in named if name not in documented} <= {f"`leaseha.{kind}`" for kind in KINDS}
    assert all(f"`{kind}`" in documented for kind in KINDS)
    returned = [root(spans).span.name for spans in traces.values()].count("leaseha.resume")
    assert returned == len(world.ended) - len(ended)


def black_hole() -> Iterator[str]:
    made = BlackHole()
    yield made.endpoint
    made.close()


@pytest.mark.parametrize(
    "collector", [lambda: iter([refused_endpoint()]), black_hole], ids=["refused", "black hole"]
)
def test_a_dead_collector_delays_no_move(collector: Callable[[], Iterator[str]]):
    """The same thirty moves take the same virtual time, and no call of a recorder takes long in the real one."""
    histories: list[list[records.HistoryRecord]] = []
    dead = collector()
    for endpoint in (None, next(dead)):
        world = TracedWorld(endpoint=endpoint)
        world.start()
        moves(world, 30, seed=7)
        histories.append([history for _, history in world.ended])
        took_s = sorted(world.took_s)
        print(json.dumps({"median_ms": took_s[len(took_s) // 2] * 1e3, "worst_ms": took_s[-1] * 1e3}))
        assert took_s[len(took_s) // 2] < 0.005
        world.close(0)
    assert histories[0] == histories[1]
    next(dead, None)
