"""A data directory that is not there costs its own lease and no other; an empty mount point is never served."""

import http.client
from collections.abc import Iterator
from pathlib import Path

import pytest

from leaseha.lab.lab import LEASE, Lab
from tests.e2e.cluster import (
    FIRST,
    SECOND,
    SOON_S,
    cluster,
    holding,
    log_of,
    run_cli,
    standing_by,
    wait_logged,
    wait_until,
)

pytestmark = [pytest.mark.netns, pytest.mark.lab]

PORT, BARE = 8000, "bare"
VIPS = ("10.77.0.50/24", "10.77.0.51/24")
NAMES = (FIRST, SECOND)


@pytest.fixture(scope="module")
def lab(tmp_path_factory) -> Iterator[Lab]:
    """Two nodes, each with a data directory of its own; one lease with a repository, one without."""
    folder = tmp_path_factory.mktemp("directory")
    priority = {FIRST: 100, SECOND: 90}
    common = {"hold_down": "1s", "flap_budget": 60, "drain_timeout": "1s", "priority": priority}
    leases = {LEASE: {**common, "vips": [VIPS[0]]}, BARE: {**common, "vips": [VIPS[1]]}}
    settings = {"session": {"ttl": "1s"}, "lease": leases}
    with cluster(folder, nodes=NAMES, vips=VIPS, settings=settings, start=False) as lab:
        for name in NAMES:
            repository = {"port": PORT, "path": str(data(lab, name))}
            lab.node(name, lease={LEASE: {"repository": repository}})
        data(lab, FIRST).mkdir()
        yield lab


def data(lab: Lab, name: str) -> Path:
    """The node's data directory."""
    return lab.directory / f"data-{name}"


def why_not(lab: Lab, name: str, *, by: str) -> str:
    """Why a node is no candidate for the lease with the repository; empty if it is one, or not known yet."""
    rows = lab.nodes[by].status()["leases"][LEASE]["candidates"]
    return next((row["why"] for row in rows if row["node"] == name and not row["candidate"]), "")


def answer(lab: Lab) -> int:
    """The status of a GET that an empty store answers with 404; 0: no answer."""

    def exchange() -> int:
        connection = http.client.HTTPConnection(lab.vip, PORT, timeout=3)
        try:
            connection.request("GET", "/none/config")
            return connection.getresponse().status
        except OSError:
            return 0
        finally:
            connection.close()

    return lab.client.call(exchange)


def test_a_missing_directory_costs_its_own_lease_until_somebody_makes_it(lab: Lab):
    lab.start_nodes(FIRST)
    holding(lab, FIRST)
    missing = f"repository.path = {data(lab, SECOND)}: there is no such directory: create it, or mount it"
    checked = run_cli(lab, SECOND, "check", "--offline")
    assert checked.returncode == 1
    assert missing in checked.stdout

    lab.start_nodes(SECOND)
    standing_by(lab, FIRST, SECOND, lease=BARE)
    for by in NAMES:
        wait_until("the other node says why", lambda by=by: missing in why_not(lab, SECOND, by=by))
    assert log_of(lab, SECOND).count(missing) == 1, "said once"
    assert not data(lab, SECOND).exists(), "and never made"

    data(lab, SECOND).mkdir()
    standing_by(lab, FIRST, SECOND)
    wait_logged(lab, SECOND, "the repository can serve again")
    wait_logged(lab, FIRST, f"INFO    {FIRST} {LEASE}: serving on")


def test_a_directory_that_is_unmounted_moves_its_lease_and_never_looks_like_an_empty_store(lab: Lab):
    lab.nodes[FIRST].wait_for("it serves", lambda s: s["leases"][LEASE]["role"] == "HOLDER", SOON_S)
    standing_by(lab, FIRST, SECOND)
    wait_until("the repository answers", lambda: answer(lab) == 404)
    away = data(lab, FIRST).with_name("away")

    data(lab, FIRST).rename(away)
    data(lab, FIRST).mkdir()
    assert answer(lab) == 503
    holding(lab, SECOND)
    said = "is not the one that this node served before (is it mounted?); if it is meant, remove"
    wait_until("the candidates' list says why", lambda: said in why_not(lab, FIRST, by=SECOND))
    assert lab.nodes[FIRST].status()["leases"][BARE]["role"] == "HOLDER", "the other lease stays"

    lab.nodes[SECOND].stop()
    assert answer(lab) in (0, 503), "nobody is left who may serve"
    assert list(data(lab, FIRST).iterdir()) == [], "nothing was written into the mount point"

    data(lab, FIRST).rmdir()
    away.rename(data(lab, FIRST))
    wait_until("it is served again", lambda: answer(lab) == 404)
    lab.start_nodes(SECOND)
    standing_by(lab, FIRST, SECOND)


def test_a_file_in_the_place_of_a_directory_does_not_end_the_agent(lab: Lab):
    lab.nodes[SECOND].stop()
    away = data(lab, SECOND).with_name("second")
    data(lab, SECOND).rename(away)
    data(lab, SECOND).write_text("")

    lab.start_nodes(SECOND)

    wait_until("it says why", lambda: "is no directory" in why_not(lab, SECOND, by=FIRST))
    standing_by(lab, FIRST, SECOND, lease=BARE)
    data(lab, SECOND).unlink()
    away.rename(data(lab, SECOND))
    standing_by(lab, FIRST, SECOND)
