"""The commands of an operator on a running cluster, and the agent's read-only endpoint."""

import http.client
import json
import re
from collections.abc import Iterator

import pytest

from leaseha import __version__
from leaseha.adapters.etcd import diverges
from leaseha.core.transitions import ROWS
from leaseha.lab.lab import LEASE, Lab
from tests.e2e.cluster import FIRST, NODES, SECOND, cluster, holding, run_cli, standing_by, told, whole

pytestmark = [pytest.mark.netns, pytest.mark.lab]

LISTEN = ("127.0.0.1", 8080)


@pytest.fixture(scope="module")
def lab(tmp_path_factory) -> Iterator[Lab]:
    settings = {
        "session": {"ttl": "1s"},
        "lease": {LEASE: {"failback": "off"}},
        "status": {"listen": f"{LISTEN[0]}:{LISTEN[1]}"},
    }
    folder = tmp_path_factory.mktemp("commands")
    with cluster(folder, nodes=NODES[:2], settings=settings, extra_hosts=("gateway",)) as made:
        whole(made)
        yield made


def loopback(lab: Lab, name: str, path: str, method: str = "GET") -> tuple[int, str]:
    """What the endpoint on the node's loopback answers."""

    def ask() -> tuple[int, str]:
        connection = http.client.HTTPConnection(*LISTEN, timeout=5)
        try:
            connection.request(method, path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    return lab.host(name).call(ask)


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/livez", 200, "the pump advanced"),
        ("/readyz", 200, "the session is proven"),
        (f"/holder/{LEASE}", 200, FIRST),
        ("/holder/nolease", 404, "no such lease"),
        ("/", 404, "ask for /status, /livez, /readyz or /holder/LEASE"),
    ],
)
def test_the_endpoint_says_the_same_on_the_socket_and_on_loopback(lab: Lab, path, status, words):
    for name in NODES[:2]:
        on_socket, on_loopback = lab.nodes[name].get(path), loopback(lab, name, path)

        assert (on_socket[0], on_loopback[0]) == (status, status)
        assert words in on_socket[1]
        assert words in on_loopback[1]


def test_the_endpoint_changes_nothing_and_is_closed_to_other_hosts(lab: Lab):
    for method in ("POST", "PUT", "DELETE"):
        assert loopback(lab, FIRST, "/status", method)[0] == 405
    with pytest.raises(ConnectionRefusedError):
        lab.client.call(lambda: http.client.HTTPConnection(lab.host(FIRST).ipv4, 8080, timeout=1).connect())
    status = json.loads(loopback(lab, FIRST, "/status")[1])
    assert (status["node"], status["leases"][LEASE]["role"]) == (FIRST, "HOLDER")


def test_garbage_on_the_endpoint_disturbs_nobody(lab: Lab):
    for garbage in (b"\0" * 5000, b"GET /status\r\n\r\n", b"GET / HTTP/1.1\r\n" + b"x" * 70_000):
        with lab.host(FIRST).socket() as line:
            line.settimeout(5)
            line.connect(LISTEN)
            line.sendall(garbage)
            line.recv(1)
    assert loopback(lab, FIRST, "/livez")[0] == 200


def test_the_history_tells_each_move_in_one_line_and_as_json(lab: Lab):
    told(lab, FIRST, "switchover", "--to", SECOND)
    told(lab, FIRST, "switchover", "--to", FIRST)
    moves = told(lab, SECOND, "history")
    text = run_cli(lab, SECOND, "history").stdout.splitlines()
    last = run_cli(lab, SECOND, "history", "-n", "1").stdout.splitlines()

    assert [move["kind"] for move in moves] == ["first", "switchover", "switchover"]
    assert len(text) == 1 + len(moves)
    assert last[1] == text[-1] or last[1].split() == text[-1].split()
    for line, move in zip(text[1:], moves, strict=True):
        assert move["trace_id"] in line
        assert move["reason"] in line
        assert str(move["token"]) in line
    assert run_cli(lab, SECOND, "history", "-n", "0").returncode == 2
    assert run_cli(lab, SECOND, "history", "nolease").returncode == 2
    holding(lab, FIRST)
    standing_by(lab, FIRST, SECOND)


def test_the_version_is_printed_for_people_and_for_programs(lab: Lab):
    assert run_cli(lab, FIRST, "version").stdout == f"leaseha {__version__}\n"
    assert json.loads(run_cli(lab, FIRST, "version", "--json").stdout)["version"] == __version__


def test_the_transition_table_is_printed_in_three_forms(lab: Lab):
    text = run_cli(lab, FIRST, "fsm").stdout
    rows = json.loads(run_cli(lab, FIRST, "fsm", "--json").stdout)
    diagram = run_cli(lab, FIRST, "fsm", "--mermaid").stdout

    assert len(rows) == len(ROWS)
    for row in ROWS:
        assert row.id in text
        assert row.reason in text
    assert diagram.startswith("stateDiagram-v2")
    assert len(re.findall(r"-->", diagram)) >= 10


def test_a_good_configuration_is_called_good(lab: Lab):
    done = run_cli(lab, FIRST, "check")
    as_json = told(lab, FIRST, "check", "--offline")
    # The etcd of the wheel, where there is no other, is a release that is refused for more than a lab.
    refused = any(diverges(member["version"] or "") for member in told(lab, FIRST, "status")["etcd"])

    assert done.returncode == refused
    assert done.stdout.splitlines()[-1].endswith(": not good" if refused else ": good")
    assert as_json["ok"]
    assert not any(finding["grave"] for finding in as_json["findings"])


def test_a_file_that_differs_from_the_other_nodes_is_named_by_check(lab: Lab):
    config = lab.nodes[FIRST].config
    good = config.read_text()
    config.write_text(good.replace("10.77.0.50/24", "10.77.0.60/24"))
    try:
        done = run_cli(lab, FIRST, "check", "--json")
    finally:
        config.write_text(good)

    found = json.loads(done.stdout)
    assert (done.returncode, found["ok"]) == (1, False)
    assert any(one["grave"] and "vips differ from those on" in one["text"] for one in found["findings"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [((), "COMMAND"), (("frobnicate",), "invalid choice"), (("status", "--jason"), "unrecognized arguments")],
)
def test_a_wrong_command_line_is_refused_in_one_line(lab: Lab, arguments, words):
    import sys

    done = lab.host(FIRST).run([sys.executable, "-m", "leaseha", *arguments])

    assert done.returncode == 2
    assert words in done.stdout
    assert done.stdout.startswith("leaseha: ")
    assert done.stdout.count("\n") == 1
