"""The bench on real nodes: it measures both systems, and sees what it claims to see."""

import itertools
import json
import random
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from chaos.bench import __main__ as command
from chaos.bench.agents import Leaseha
from chaos.bench.figures import Outcome
from chaos.bench.idle import measure_idle
from chaos.bench.keepalived import Keepalived, find_keepalived
from chaos.bench.report import from_json
from chaos.bench.scenarios import INSIDE, Phase, Scenario, scenario_of
from chaos.bench.systems import FIRST, OTHER
from chaos.bench.trial import bring_up, trial
from leaseha.errors import LabError
from leaseha.lab.lab import Lab

pytestmark = [pytest.mark.netns, pytest.mark.lab]
SVG = "{http://www.w3.org/2000/svg}"


def keepalived_here() -> bool:
    try:
        find_keepalived()
    except LabError:
        return False
    return True


needs_keepalived = pytest.mark.skipif(
    not keepalived_here(), reason="needs keepalived: apt-get install keepalived"
)


@needs_keepalived
def test_keepalived_itself_finds_no_fault_in_its_configuration(tmp_path: Path):
    planned_file, config = tmp_path / "planned", tmp_path / "keepalived.conf"
    planned_file.write_text("0\n")
    with Lab(nodes=(FIRST,), etcd_members=0) as lab:
        for advert_s, node in itertools.product((1.0, 0.1, 0.03), (FIRST, OTHER)):
            config.write_text(Keepalived(advert_s).config(node, lab.vips[0], planned_file))
            config.chmod(0o644)
            done = lab.host(FIRST).run([find_keepalived(), "-t", "-f", str(config)])
            assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.slow
@needs_keepalived
def test_one_run_of_each_system_is_measured_and_written(tmp_path: Path, capsys):
    given = [
        "--runs",
        "1",
        "--scenarios",
        "term",
        "--adverts",
        "0.1",
        "--idle",
        "0",
        "--out",
        str(tmp_path / "b"),
    ]

    code = command.main(given)

    said = capsys.readouterr().out
    assert code == 0, said
    results, about = from_json((tmp_path / "b.json").read_text())
    assert [(one.system, one.outcome, one.holder) for one in results.runs] == [
        ("leaseha 2s", Outcome.MOVED, OTHER),
        ("keepalived 0.1 s", Outcome.MOVED, OTHER),
    ], said
    assert [one.answering_count for one in results.runs] == [0, 0]
    assert all(0 <= one.gap_ms < 5000 for one in results.runs)
    assert {"leaseha", "keepalived", "etcd", "kernel", "cores"} <= set(about.machine)
    assert json.loads((tmp_path / "b.json").read_text())["command"].endswith(str(tmp_path / "b"))
    assert "| SIGTERM | leaseha 2s | 1 |" in (tmp_path / "b.md").read_text()
    assert ET.parse(tmp_path / "b.svg").getroot().tag == f"{SVG}svg"


def test_at_rest_both_nodes_cost_something_and_etcd_is_written_to():
    found = measure_idle(Leaseha("2s"), 1.0, settle_s=0.2)

    assert [(row.role, row.error) for row in found] == [("holder", ""), ("standby", "")]
    assert all(row.rss_kib > 10_000 and row.processes >= 1 and row.cpu_percent > 0 for row in found)
    assert all(row.etcd_revisions_s > 0 for row in found)


@pytest.mark.slow
@needs_keepalived
def test_a_partition_in_which_both_answer_is_seen_from_its_inner_side_alone():
    """keepalived makes two masters of a partition, by design; the client's side cannot see the other one."""
    (silent, heal) = trial(Keepalived(0.1), scenario_of("silent"), 1, random.Random(1))

    assert (silent.outcome, silent.holder) == (Outcome.MOVED, OTHER), silent.error
    assert silent.answering_inside_ms > 1000 > silent.answering_ms
    assert silent.bound_ms > 1000
    assert silent.bound_at_end
    assert silent.phase_ms < 8000
    assert heal.outcome is not Outcome.ERROR, heal.error


@needs_keepalived
def test_a_run_that_fails_is_noted_for_each_of_its_phases():
    def broken(_lab: Lab, _pair: object) -> None:
        raise LabError("the cable\nis missing")

    phases = (Phase("silent", "", broken), Phase("heal", "", broken))

    found = trial(Keepalived(0.1), Scenario(phases), 7, random.Random(1))

    assert [(one.scenario, one.number, one.outcome) for one in found] == [
        ("silent", 7, Outcome.ERROR),
        ("heal", 7, Outcome.ERROR),
    ]
    assert {one.error for one in found} == {"the cable is missing"}


@needs_keepalived
def test_killing_all_of_keepalived_leaves_it_no_instant_to_clean_up():
    with Lab(nodes=(FIRST, OTHER), etcd_members=0, extra_hosts=(INSIDE,)) as lab:
        pair = Keepalived(0.1).pair(lab)
        bring_up(pair)
        lab.measure()
        lab.prober.wait_for_answer(by=FIRST)

        pair.kill_all(FIRST)
        pair.wait_ended(FIRST)

        assert "10.77.0.50/24" in lab.host(FIRST).addresses()
        lab.prober.wait_for_answer(by=OTHER)
