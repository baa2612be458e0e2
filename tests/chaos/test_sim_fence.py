"""The simulated kernel fence: when a node answers, what a freeze or a kill leaves open, what is on the wire."""

import pytest

from chaos.sim import hunt
from chaos.sim.bug import planted
from chaos.sim.bugs import BY_NAME
from chaos.sim.clock import Clock
from chaos.sim.kernel import RANKS, Kernel
from chaos.sim.options import Options, drawn
from chaos.sim.run import Run
from chaos.sim.world import World

MS = 1_000_000
S = 1000 * MS


def happened(world):
    return [(entry.at_ns // MS, entry.what) for entry in world.history.entries]


@pytest.fixture
def world():
    return World(Options(1, "mixed", margin_ns=0))


def kernel(world, *, fenced=True, boot_ppm=0):
    return Kernel(
        world, "a", Clock(0, boot_ppm, 0, 0), fenced=fenced, margin_ns=0, gone=lambda lease, why: None
    )


class TestKernel:
    def test_an_address_behind_a_closed_fence_is_not_answered_for(self, world):
        kernel(world).bind("l0", 5 * S)
        assert happened(world) == [(0, "bound")]

    def test_one_set_is_not_enough_and_the_earlier_end_counts(self, world):
        a = kernel(world)
        a.bind("l0", 5 * S)
        a.put(RANKS[0], {"l0": 300 * MS})
        assert not a.answers("l0")
        a.put(RANKS[1], {"l0": 200 * MS})
        assert a.answers("l0")
        world.run_until(S)
        assert [what for _, what in happened(world)] == ["bound", "present", "absent"]
        assert 190 <= happened(world)[-1][0] <= 200

    def test_a_timeout_is_of_the_kernels_own_clock(self, world):
        a = kernel(world, boot_ppm=-100_000)
        a.bind("l0", 5 * S)
        for rank in RANKS:
            a.put(rank, {"l0": 900 * MS})
        world.run_until(2 * S)
        assert 990 <= happened(world)[-1][0] <= 1000

    def test_frames_pass_only_an_open_fence(self, world):
        a = kernel(world)
        a.send("l0")
        assert happened(world) == []
        for rank in RANKS:
            a.put(rank, {"l0": 300 * MS})
        a.send("l0")
        assert happened(world) == [(0, "frame")]

    def test_without_a_fence_the_lifetime_of_the_address_ends_it(self, world):
        kernel(world, fenced=False).bind("l0", 200 * MS)
        world.run_until(S)
        assert happened(world) == [(0, "bound"), (0, "present"), (200, "unbound"), (200, "absent")]


def test_seeds_have_fences_none_and_both_kinds_of_nodes():
    kinds = {drawn(seed).unfenced for seed in range(1, 60)}
    assert kinds == {frozenset(), frozenset("bd"), frozenset("abcd")}


def test_fences_announcements_and_reloads_happen():
    """A model in which none of it occurs would pass everything."""
    options = drawn(3, "guard")
    options.faults, options.unfenced = {"reload": 4}, frozenset()
    run = Run(options)
    assert run.run().violations == []
    entries = run.world.history.entries
    assert {"bound", "unbound", "present", "absent", "frame"} <= {entry.what for entry in entries}
    assert any(node.starts > 1 for node in run.nodes.values())
    assert not any(entry.what == "died" for entry in entries)


@pytest.mark.parametrize(
    "name", ["fence-one-reading", "fence-add", "frame-egress", "guard-closes", "claim-moved"]
)
def test_a_planted_bug_is_found(name):
    found = next((catch for seed in range(1, 21) if (catch := hunt.caught(name, seed))), None)
    assert found is not None, f"{name}: {BY_NAME[name].story}"


def test_planted_fences_are_whole_again_afterwards():
    with planted(BY_NAME["fence-one-set"]):
        assert Kernel.wanted == RANKS[:1]
    assert Kernel.wanted == RANKS
