"""Leases of 300 ms under the kernel fence: whoever is frozen or killed is silent by the millisecond."""

import sys
from collections.abc import Iterator

import pytest

from leaseha.lab.lab import LEASE, Lab
from tests.e2e.cluster import (
    FIRST,
    SECOND,
    cluster,
    holding,
    never_two,
    only_one_answers,
    standing_by,
    told,
    wait_until,
    whole,
)

pytestmark = [pytest.mark.netns, pytest.mark.lab]

SHORT = {
    "session": {"ttl": "300ms", "renew_every": "60ms"},
    "lease": {LEASE: {"hold_down": "1s", "flap_budget": 60}},
}
TABLES = "import sys; from leaseha.adapters.nft import Nft; sys.stdout.write(Nft().run('list tables'))"
LIBRARY = (
    "import sys; from leaseha.adapters.nft import LIBRARY, load_library; load_library(LIBRARY); "
    "sys.stdout.write(next(line.split()[-1] for line in open('/proc/self/maps') if 'libnftables' in line))"
)
LOADED_MS = 1000
"""Added to each bound: these machines do other things as well."""


@pytest.fixture(scope="module")
def _lab(tmp_path_factory) -> Iterator[Lab]:
    with cluster(tmp_path_factory.mktemp("fence"), settings=SHORT, nodes=(FIRST, SECOND)) as lab:
        yield lab


@pytest.fixture
def lab(_lab: Lab) -> Lab:
    """Both are up, and the preferred one holds."""
    whole(_lab)
    return _lab


def tables(lab: Lab, name: str) -> str:
    return lab.host(name).run([sys.executable, "-c", TABLES]).stdout


def test_the_fence_is_in_force_and_standbys_add_its_lateness_only(lab: Lab):
    found = lab.nodes[FIRST].status()
    assert "kernel: nftables" in found["fence_layers"]
    assert found["session"]["margin_s"] == 0.02
    assert tables(lab, FIRST).count("leaseha_") == tables(lab, SECOND).count("leaseha_") == 3


@pytest.mark.parametrize("fault", ["frozen", "killed", "power"])
def test_a_holder_of_which_nothing_can_act_any_more_is_silent_before_the_next_one_answers(
    lab: Lab, fault: str
):
    with never_two(lab) as began_ns:
        if fault == "frozen":
            lab.nodes[FIRST].freeze(tree=True)
        elif fault == "killed":
            lab.nodes[FIRST].kill_tree()
        else:
            lab.kill_host(FIRST)
        lab.prober.wait_for_answer(by=SECOND, after_ns=began_ns)
        lab.settle()
        gap_ms = lab.prober.longest_gap_ms(began_ns)
        print(f"{fault}: the client saw a gap of {gap_ms:.0f} ms")
        assert gap_ms < 450 + LOADED_MS
        only_one_answers(lab, SECOND)
        if fault == "frozen":
            lab.nodes[FIRST].thaw(tree=True)
        elif fault == "power":
            lab.boot_host(FIRST)
        if not lab.nodes[FIRST].running:
            lab.start_node(FIRST)
        holding(lab, FIRST)


def test_a_standby_reaches_the_vip_of_the_other_node_past_its_own_fence(lab: Lab):
    code = "import socket,sys; s=socket.socket(socket.AF_INET,socket.SOCK_RAW,1); s.settimeout(5); "
    code += f"s.connect(('{lab.vip}',0)); s.send(bytes.fromhex('0800f7ff00000000')); s.recv(99); sys.stdout.write('ok')"
    assert lab.host(SECOND).run([sys.executable, "-c", code]).stdout == "ok"


def test_an_orderly_stop_takes_the_fence_away_and_a_killed_agent_leaves_it(lab: Lab):
    lab.nodes[FIRST].stop()
    assert "leaseha_" not in tables(lab, FIRST)
    lab.nodes[SECOND].kill_tree()
    assert tables(lab, SECOND).count("leaseha_") == 3


def test_a_fence_that_someone_flushed_stands_again_and_the_service_goes_on(lab: Lab):
    since_ns = lab.settle()
    flush = TABLES.replace("list tables", "flush ruleset")
    lab.host(FIRST).run([sys.executable, "-c", flush])
    wait_until("the fence stands again", lambda: tables(lab, FIRST).count("leaseha_") == 3)
    lab.settle()
    assert lab.prober.longest_gap_ms(since_ns) < LOADED_MS
    assert told(lab, SECOND, "status")["leases"][LEASE]["holder"] == FIRST


def test_a_node_without_the_library_goes_by_address_lifetimes_and_its_standby_waits_for_them(lab: Lab):
    library = lab.host(FIRST).run([sys.executable, "-c", LIBRARY]).stdout
    agent = lab.nodes[FIRST]
    agent.stop()
    hide = f"mount --bind /dev/null {library} && exec {sys.executable} -m leaseha run --config {agent.config}"
    agent.start(program=("unshare", "--mount", "sh", "-c", hide))
    holding(lab, FIRST)
    standing_by(lab, FIRST, SECOND)
    found = agent.status()
    assert found["fence_layers"][-1].startswith(
        "kernel: address lifetimes alone (libnftables.so.1 is missing"
    )
    assert found["session"]["margin_s"] == 2.3
    assert "leaseha_" not in tables(lab, FIRST)
    with never_two(lab) as began_ns:
        agent.kill_tree()
        lab.prober.wait_for_answer(by=SECOND, after_ns=began_ns)
        only_one_answers(lab, SECOND)
