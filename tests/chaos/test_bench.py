"""The bench: what it computes and writes, and that it can measure both systems at all."""

import dataclasses
import itertools
import os
import random
import re
import statistics
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chaos.bench import __main__ as command
from chaos.bench.agents import Leaseha
from chaos.bench.figures import NOISE_MS, Idle, Outcome, Run, chosen, ratio, spread
from chaos.bench.idle import cost_of
from chaos.bench.keepalived import Keepalived, find_keepalived
from chaos.bench.plot import ZERO_X, Scale, strip_plot
from chaos.bench.report import About, as_json, as_markdown, from_json
from chaos.bench.runner import Plan, Results, campaign, rotated
from chaos.bench.scenarios import PHASES, SCENARIOS, Scenario, scenario_of
from chaos.bench.systems import FIRST, OTHER
from chaos.bench.trial import unanswered
from leaseha.config.durations import parse_duration
from leaseha.errors import LabError
from leaseha.lab.recording import Kind, Record

SVG = "{http://www.w3.org/2000/svg}"
ABOUT = About(
    "python -m chaos.bench", "2026-01-01 00:00 UTC", {"leaseha": "1"}, {"leaseha 2s": {"ttl": "2s"}}
)
SYSTEMS = ("leaseha 300ms/60ms", "leaseha 2s", "keepalived 1 s", "keepalived 0.1 s")

durations = st.floats(0, 60_000)
runs = st.builds(
    Run,
    system=st.sampled_from(SYSTEMS),
    scenario=st.sampled_from([phase.name for phase in PHASES]),
    number=st.integers(1, 30),
    outcome=st.sampled_from(Outcome),
    gap_ms=durations,
    answering_ms=durations,
    answering_count=st.integers(0, 3),
    bound_ms=durations,
    holder=st.sampled_from(["", FIRST, OTHER]),
    error=st.sampled_from(["", "the agent of node1 | has ended & <said> nothing"]),
)


def run(number: int, gap_ms: float, system: str = "leaseha 2s", outcome: Outcome = Outcome.MOVED) -> Run:
    return Run(system, "term", number, outcome, gap_ms)


def keepalived_here() -> bool:
    try:
        find_keepalived()
    except LabError:
        return False
    return True


needs_keepalived = pytest.mark.skipif(
    not keepalived_here(), reason="needs keepalived: apt-get install keepalived"
)


# Figures


@given(st.lists(durations, min_size=1, max_size=60))
def test_a_spread_lies_in_order_and_all_but_a_twentieth_are_not_above_its_p95(values):
    found = spread(values)

    assert found.low <= found.median <= found.high
    assert found.low <= found.p95 <= found.high
    assert found.p95 in values
    assert sum(value > found.p95 for value in values) <= len(values) / 20
    assert (found.count, found.median) == (len(values), statistics.median(values))


def test_nothing_has_no_spread():
    assert spread([]) is None


def test_of_fewer_than_twenty_runs_the_p95_is_the_worst():
    assert spread([1, 2, 3, 400]).p95 == 400
    assert spread(list(range(1, 21))).p95 == 19


def test_a_ratio_divides_medians_and_also_runs_that_followed_each_other():
    ours = [run(1, 100), run(2, 300), run(3, 500)]
    theirs = [run(number, gap, "keepalived 1 s") for number, gap in ((1, 1000), (2, 200), (3, 1000))]

    found = ratio(ours, theirs)

    assert (found.of_medians, found.of_pairs, found.pairs) == (0.3, 0.5, 3)


def test_a_run_that_ended_wrong_is_no_part_of_a_ratio():
    ours = [run(1, 100), run(2, 9000, outcome=Outcome.NO_TAKEOVER)]

    assert ratio(ours, [run(1, 200), run(2, 200)]).of_medians == 0.5
    assert ratio(ours[1:], [run(1, 200)]) is None


def test_nothing_is_divided_by_the_noise_of_the_prober():
    found = ratio([run(1, 100)], [run(1, NOISE_MS - 0.1)])

    assert (found.of_medians, found.of_pairs, found.pairs) == (None, None, 0)


def test_memory_and_cpu_of_processes_are_added_up_and_one_that_ended_counts_nothing():
    ended = subprocess.Popen(["true"])
    ended.wait()

    found = cost_of((os.getpid(), os.getpid(), ended.pid))

    assert found.processes == 2
    assert found.rss_kib >= found.pss_kib > 10_000
    assert found.cpu_s > 0.1


def test_a_late_answer_is_an_answer_and_none_is_none():
    sent = [Record(Kind.SENT, 255, 0, number, number * 10) for number in range(1, 7)]
    answers = [Record(Kind.ANSWER, 0, 0, 2, 21), Record(Kind.ANSWER, 1, 0, 3, 900)]

    assert unanswered([*sent, *answers], 20, 50) == 2


# What is written


@given(st.lists(runs, max_size=12), st.booleans())
def test_what_is_written_for_programs_can_be_read_again(found, interrupted):
    idle = [Idle("leaseha 2s", "holder", 1, 1, 0.5, 2, 20.0, 5.0, 5.0)]
    rounded = [dataclasses.replace(one, **_rounded(one)) for one in found]

    text = as_json(Results(found, idle, interrupted), ABOUT)

    assert from_json(text) == (Results(rounded, idle, interrupted), ABOUT)


def _rounded(one: Run) -> dict[str, float]:
    return {
        key: round(value, 3) for key, value in dataclasses.asdict(one).items() if isinstance(value, float)
    }


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 99}', '{"format": 1, "runs": [{"x": 1}]}'])
def test_what_is_no_result_of_the_bench_is_refused(text):
    with pytest.raises(LabError):
        from_json(text)


@given(st.lists(runs, min_size=1, max_size=12))
def test_the_page_counts_every_run_and_names_each_that_ended_wrong(found):
    page = as_markdown(Results(found), ABOUT, "bench.svg")

    gaps, _, rest = page.partition("## Two nodes at once")
    counts = [
        row.split(" | ")[2] for row in gaps.splitlines() if row.startswith("| ") and "system" not in row
    ][1:]
    assert sum(int(count.strip("*").split(" of ")[-1]) for count in counts) == len(found)
    wrong = re.search(r"## Runs that ended wrong\n\n(.*?)\n\n## ", rest, re.DOTALL)[1]
    bad = [one for one in found if not one.good]
    assert len(wrong.splitlines()) == (len(bad) + 2 if bad else 1)


def test_tables_keep_their_columns():
    idle = [
        Idle("leaseha 2s", "holder", 1, 1, 0.5, 2, 20.0, 5.0, 5.0),
        Idle("x", "standby", *[0] * 5, error="a|b"),
    ]
    some = [
        run(1, 10),
        run(1, 20, "keepalived 1 s"),
        Run("leaseha 2s", "heal", 1, Outcome.ERROR, error="a|b"),
    ]
    page = as_markdown(Results(some, idle), ABOUT)

    columns: set[int] = set()
    for line in page.splitlines():
        if line.startswith("| "):
            columns.add(len(re.findall(r"(?<!\\)\|", line)))
            assert len(columns) == 1, line
        else:
            columns.clear()


@given(st.lists(runs, max_size=12))
def test_the_picture_is_well_formed_and_has_a_mark_for_every_run(found):
    root = ET.fromstring(strip_plot(found))

    told = [one.findtext(f"{SVG}title") for one in root.iter() if one.find(f"{SVG}title") is not None]
    marks = [text for text in told if ", run " in text]
    assert len(marks) == len(found)
    crosses = [one for one in root.iter(f"{SVG}text") if one.find(f"{SVG}title") is not None]
    assert len(crosses) == sum(not one.good for one in found)
    width, height = (float(root.get(key)) for key in ("width", "height"))
    places = [(float(one.get("cx")), float(one.get("cy"))) for one in root.iter(f"{SVG}circle")]
    assert all(0 < x < width and 0 < y < height for x, y in places)


@given(st.lists(st.floats(0, 1e7), min_size=2, max_size=9))
def test_a_longer_gap_is_never_drawn_left_of_a_shorter_one(gaps):
    scale = Scale(100_000)
    places = [scale.x(gap) for gap in sorted(gaps)]

    assert places == sorted(places)
    assert scale.x(0) == ZERO_X < scale.x(0.001)


# The campaign


def fake(outcomes: Sequence[Outcome] = (Outcome.MOVED,), stop_at: int = 1000):
    """An attempt that does nothing, and is interrupted at its n-th call."""
    calls: list[tuple[str, int, float]] = []
    left = itertools.cycle(outcomes)

    def attempt(system, scenario: Scenario, number: int, chance: random.Random, *, keep) -> list[Run]:
        assert keep is None
        calls.append((system.name, number, chance.random()))
        if len(calls) == stop_at:
            raise KeyboardInterrupt
        return [Run(system.name, phase.name, number, next(left)) for phase in scenario.phases]

    return attempt, calls


def planned(runs_wanted: int = 3) -> Plan:
    systems = (Leaseha("2s"), Keepalived(1.0), Keepalived(0.1))
    return Plan(systems, (scenario_of("term"), scenario_of("heal")), runs_wanted, idle_s=0)


def test_systems_are_interleaved_and_meet_the_same_chance_in_the_same_run():
    attempt, calls = fake()

    results = campaign(planned(), lambda _: None, attempt)

    names = [one.name for one in planned().systems]
    first = calls[: 3 * 3]
    assert [name for name, _, _ in first] == [*names, *names[1:], *names[:1], *names[2:], *names[:2]]
    assert [number for _, number, _ in first] == [1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert len({(number, chance) for _, number, chance in first}) == 3
    assert len(results.runs) == 9 + 2 * 9
    assert {len(chosen(results.runs, "silent", name)) for name in names} == {3}


def test_an_interrupted_campaign_keeps_what_there_is():
    attempt, calls = fake(stop_at=5)
    said: list[str] = []

    results = campaign(planned(), said.append, attempt)

    assert results.interrupted
    assert len(results.runs) == len(calls) - 1 == 4
    assert "**Interrupted**" in as_markdown(results, ABOUT)
    assert len(said) == 4 + 1


def test_each_run_has_a_line_and_one_that_ended_wrong_says_so():
    attempt, _ = fake(tuple(Outcome))
    said: list[str] = []

    results = campaign(planned(4), said.append, attempt)

    assert len(said) == len(results.runs)
    assert [str(one.outcome) in line for one, line in zip(results.runs, said, strict=True)] == [True] * len(
        said
    )


@given(st.integers(0, 9), st.integers(0, 20))
def test_turning_the_order_loses_nobody(size, by):
    assert sorted(rotated(list(range(size)), by)) == list(range(size))  # type: ignore[arg-type]


# The command line


def test_every_scenario_is_found_by_the_names_of_its_phases():
    names = [phase.name for phase in PHASES]

    assert len(set(names)) == len(names)
    assert {scenario_of(name) for name in names} == set(SCENARIOS)
    assert command.scenarios_of("") == SCENARIOS
    assert command.scenarios_of("none") == ()
    assert command.scenarios_of("heal, silent,term") == (scenario_of("silent"), scenario_of("term"))


def test_a_scenario_may_have_a_number_of_runs_of_its_own():
    assert command.runs_in("3,death=30, heal=5") == (3, {"death": 30, "silent": 5})
    assert command.runs_in("silent=2") == (10, {"silent": 2})


def systems(*arguments: str) -> list[str]:
    return [one.name for one in command.systems_of(command.parser().parse_args(arguments))]


def test_each_ttl_is_a_system_of_its_own():
    given = ("--systems", "leaseha", "--ttl", "300ms,200ms,5s", "--renew-every", "60ms,40ms")

    assert systems(*given) == ["leaseha 300ms/60ms", "leaseha 200ms/40ms", "leaseha 5s"]


@needs_keepalived
def test_each_advert_is_a_system_of_its_own_and_short_ones_need_version_3():
    assert systems("--systems", "keepalived") == ["keepalived 1 s", "keepalived 0.1 s", "keepalived 0.03 s"]
    assert [Keepalived(advert).vrrp_version for advert in (2, 1, 0.1)] == [2, 2, 3]


@pytest.mark.parametrize(
    "given",
    [
        ["--systems", "pacemaker"],
        ["--systems", ""],
        ["--systems", "leaseha", "--ttl", "soon"],
        ["--systems", "leaseha", "--ttl", "2s", "--renew-every", "1s,1s"],
        ["--systems", "leaseha", "--scenarios", "earthquake"],
        ["--systems", "leaseha", "--runs", "0"],
        ["--systems", "leaseha", "--runs", "ten"],
        ["--systems", "leaseha", "--runs", "3,earthquake=2"],
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_line(given, capsys):
    assert command.main(given) == 2

    said = capsys.readouterr().err
    assert said.startswith("chaos.bench: ")
    assert said.count("\n") == 1


def test_leaseha_has_the_settings_that_it_is_named_by():
    system = Leaseha("300ms", "60ms")

    assert system.settings(fails_back=True)["session"] == {"ttl": "300ms", "renew_every": "60ms"}
    assert system.patience_s > 5
    holds = [system.settings(fails_back=back)["lease"]["backups"]["hold_down"] for back in (True, False)]
    assert parse_duration(holds[0]) < 60 * parse_duration("1s") < parse_duration(holds[1])
