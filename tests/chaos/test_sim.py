"""The simulator itself: seeds pass, replay exactly, and planted bugs are found."""

import pytest

from chaos.sim import __main__ as command
from chaos.sim import hunt
from chaos.sim.bug import planted
from chaos.sim.bugs import BUGS, BY_NAME
from chaos.sim.options import PROFILES, drawn
from chaos.sim.run import Run, run_seed
from leaseha.core import deadline, session, taking

SEEDS = range(1, 61)


@pytest.mark.parametrize("tens", range(6))
def test_a_small_campaign_finds_nothing(tens):
    for seed in SEEDS[10 * tens : 10 * tens + 10]:
        assert run_seed(seed).violations == [], f"python -m chaos.sim --seed {seed} -v"


@pytest.mark.parametrize("profile", PROFILES)
def test_the_same_seed_is_the_same_run(profile):
    first = run_seed(7, profile)
    assert first.options.profile == profile
    assert run_seed(7, profile) == first


def test_another_seed_is_another_run():
    assert run_seed(3).digest != run_seed(4).digest


def test_something_happens_in_the_runs():
    """A world in which nothing moves would pass everything."""
    run = Run(drawn(14))
    run.run()
    happened = {entry.what for entry in run.world.history.entries}
    assert {"present", "absent", "claim", "record", "told", "write", "registered", "ended"} <= happened


# The seeds that the hunt found; should one be without effect after a change, hunt again: --bugs NAME.
@pytest.mark.parametrize(
    "name",
    [
        "response",
        "waits-twice",
        "margin",
        "session-compare",
        "gone-no-wait",
        "late-t9",
        "stale-intent",
        "guard-early",
        "ack-too-soon",
        "gate-too-soon",
    ],
)
def test_a_planted_bug_is_found(name):
    found = next((catch for seed in range(1, 41) if (catch := hunt.caught(name, seed))), None)
    assert found is not None, f"{name}: {BY_NAME[name].story}"


def test_a_planted_bug_is_there_only_for_its_run():
    before = session.committed, deadline.waited_ns, taking.gone_at
    for bug in BUGS:
        with pytest.raises(ZeroDivisionError), planted(bug):
            raise ZeroDivisionError
    assert (session.committed, deadline.waited_ns, taking.gone_at) == before


def test_bugs_have_names_of_their_own_and_known_profiles():
    assert len({bug.name for bug in BUGS}) == len(BUGS)
    assert {bug.profile for bug in BUGS} <= set(PROFILES)


class InThisProcess:
    """A pool of one, here, where the bug is planted."""

    def __init__(self, jobs):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def imap_unordered(self, do, jobs, chunksize):
        return map(do, jobs)


class TestCommand:
    def run(self, *arguments, **others):
        return command.main(list(arguments), **others)

    def test_one_seed_again_tells_its_history(self, capsys):
        assert self.run("--seed", "3", "-v") == 0
        told = capsys.readouterr().out
        assert "present" in told
        assert f"history {run_seed(3).digest[:16]}" in told

    def test_a_campaign_sums_up(self, capsys):
        assert self.run("--seeds", "4", "--jobs", "1", "--profile", "crash") == 0
        told = capsys.readouterr().out
        assert "4 seeds" in told
        assert "0 with violations" in told
        assert "profiles: crash 4" in told

    def test_a_core_that_stops_itself_is_told_with_its_seed(self, capsys):
        with planted(BY_NAME["free-while-on"]):
            seeds = ("--seeds", "3", "--start", "7", "--profile", "calm")
            assert self.run(*seeds, pool=InThisProcess) == 1
        told = capsys.readouterr().out
        assert "InvariantBroken" in told
        assert "again: python -m chaos.sim --seed" in told

    def test_a_bug_that_is_none_is_named(self, capsys):
        assert self.run("--bugs", "nonsense") == 2
        assert "no such bug: nonsense" in capsys.readouterr().out

    def test_a_hunt_tells_what_found_the_bug(self, capsys):
        assert self.run("--bugs", "response", "--jobs", "1") == 0
        assert "G5 longer than proven" in capsys.readouterr().out
