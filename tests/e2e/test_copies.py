"""Each node has its own disk: what a backup client was told is stored is on the standby's when the holder dies."""

import base64
import contextlib
import hashlib
import http.client
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from leaseha.core import records
from leaseha.lab.backup import Backup, chosen_client
from leaseha.lab.lab import LEASE, REPOSITORY_PORT, Lab
from tests.e2e.cluster import (
    FIRST,
    SECOND,
    SOON_S,
    cluster,
    log_of,
    run_cli,
    told,
    wait_logged,
    wait_until,
)

pytestmark = [pytest.mark.netns, pytest.mark.lab]

MIB = 1 << 20
NAMES = (FIRST, SECOND)
SETTINGS: dict[str, Any] = {
    "session": {"ttl": "1s"},
    "lease": {LEASE: {"hold_down": "1s", "flap_budget": 60, "drain_timeout": "2s", "failback": "off"}},
}


@contextlib.contextmanager
def pair(folder: Path, *, tls: bool = False, **session: str) -> Iterator[Lab]:
    """The first holds, the other is in sync; with `tls`, each knows the other by its certificate."""
    settings = {**SETTINGS, "session": {**SETTINGS["session"], **session}}
    files = certificates(folder.with_name(f"{folder.name}-pki")) if tls else {}
    with cluster(folder, nodes=NAMES, settings=settings, replicate=True, measure=False, start=False) as lab:
        for name in NAMES:
            lab.node(name, lease={LEASE: {"repository": files.get(name, {})}})
            lab.start_nodes(name)
            lab.nodes[FIRST].wait_for("it holds", lambda s: s["leases"][LEASE]["role"] == "HOLDER", SOON_S)
        level(lab, FIRST)
        create(lab)
        yield lab


def certificates(folder: Path) -> dict[str, dict[str, str]]:
    """As `leaseha pki` makes them; what each node's configuration says of them."""
    for verb in (("init",), *(("issue", name) for name in NAMES)):
        command = [sys.executable, "-m", "leaseha", "pki", *verb, "--dir", str(folder)]
        subprocess.run(command, check=True, capture_output=True)
    return {
        name: {
            "peer_ca": str(folder / "ca.crt"),
            "peer_cert": str(folder / f"{name}.crt"),
            "peer_key": str(folder / f"{name}.key"),
        }
        for name in NAMES
    }


@pytest.fixture(scope="module")
def lab(tmp_path_factory) -> Iterator[Lab]:
    """For the tests that end nobody, one after the other."""
    with pair(tmp_path_factory.mktemp("copies"), tls=True) as lab:
        yield lab


def of_lease(lab: Lab, by: str) -> dict[str, Any]:
    return lab.nodes[by].status()["leases"][LEASE]


def stores(lab: Lab, by: str) -> dict[str, str]:
    """Each node's store for the lease, as they tell."""
    rows = lab.nodes[by].status()["nodes"]
    return {row["node"]: row["stores"][LEASE] for row in rows if LEASE in row["stores"]}


def level(lab: Lab, holder: str) -> None:
    """Until the other node has everything, and is admitted."""
    wait_until("both are in sync", lambda: in_sync(lab, holder) == list(NAMES), more=lab.nodes[holder].tail)
    wait_until("the other is in touch", lambda: states(lab, holder) == ["member"])


def in_sync(lab: Lab, by: str) -> list[str]:
    return of_lease(lab, by)["in_sync"]


def states(lab: Lab, by: str) -> list[str]:
    """How the holder's process stands with the other nodes."""
    return [peer["state"] for peer in of_lease(lab, by)["replication"]["peers"]]


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def written_set(lab: Lab) -> set[str]:
    """The in-sync set as it stands in etcd."""
    key = _base64(f"/leaseha/lab/{records.insync_key(LEASE)}")
    found = lab.etcd.member("etcd1").gateway("/v3/kv/range", {"key": key})
    return set(json.loads(base64.b64decode(found["kvs"][0]["value"]))["stores"])


def put(lab: Lab, content: bytes) -> tuple[int, str]:
    """Upload one pack through the VIP: the answer's status, and the pack's name."""
    name = hashlib.sha256(content).hexdigest()

    def exchange() -> int:
        connection = http.client.HTTPConnection(lab.vip, REPOSITORY_PORT, timeout=20)
        try:
            connection.request("POST", f"/one/data/{name}", content)
            return connection.getresponse().status
        finally:
            connection.close()

    return lab.client.call(exchange), name


def create(lab: Lab) -> None:
    assert ask(lab, "POST", "/one/?create=true") == 200


def delete(lab: Lab, name: str) -> int:
    return ask(lab, "DELETE", f"/one/data/{name}")


def ask(lab: Lab, method: str, path: str) -> int:
    """The answer's status."""

    def exchange() -> int:
        connection = http.client.HTTPConnection(lab.vip, REPOSITORY_PORT, timeout=20)
        try:
            connection.request(method, path)
            return connection.getresponse().status
        finally:
            connection.close()

    return lab.client.call(exchange)


def pack(lab: Lab, node: str, name: str) -> Path:
    return lab.data(node) / "one" / "data" / name[:2] / name


def objects(lab: Lab, node: str) -> dict[str, str]:
    """What a node has on its disk, each with its hash; locks come and go."""
    root = lab.data(node)
    paths = [
        path for path in root.rglob("*") if path.is_file() and path.relative_to(root).parts[0] != ".leaseha"
    ]
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def serves(lab: Lab, name: str) -> None:
    lab.nodes[name].wait_for(f"{name} serves", lambda s: s["leases"][LEASE]["role"] == "HOLDER", SOON_S)


def repositories(lab: Lab, node: str) -> list[int]:
    found = []
    for pid in lab.nodes[node].pids():
        command = Path(f"/proc/{pid}/cmdline")
        if command.exists() and b"leaseha.repository" in command.read_bytes():
            found.append(pid)
    return found


def test_a_reload_keeps_the_process_and_its_copies(lab: Lab):
    pids = repositories(lab, FIRST)
    done = run_cli(lab, FIRST, "reload", "--exec")
    assert done.returncode == 0, done.stdout

    status, name = put(lab, os.urandom(1000))

    assert status == 200
    assert pack(lab, SECOND, name).exists()
    assert repositories(lab, FIRST) == pids
    level(lab, FIRST)


def test_what_was_deleted_comes_back_on_both_nodes_by_a_command_on_the_holder(lab: Lab):
    status, name = put(lab, os.urandom(1000))
    assert status == 200
    assert delete(lab, name) == 200
    assert not any(pack(lab, node, name).exists() for node in NAMES)

    refused = run_cli(lab, SECOND, "repo", "undelete", "--all")
    done = run_cli(lab, FIRST, "repo", "undelete", name[:10])

    assert (refused.returncode, f"(the holder is {FIRST})" in refused.stdout) == (1, True), refused.stdout
    assert done.returncode == 0, done.stdout
    assert all(pack(lab, node, name).exists() for node in NAMES)
    found = told(lab, FIRST, "repo", "sync-status")
    assert {one["node"]: one["state"] for one in found["stores"]} == {FIRST: "holder", SECOND: "member"}


def test_nothing_is_acknowledged_without_a_member_before_it_is_out_of_the_set(lab: Lab):
    """The standby freezes: the upload waits until it is removed in etcd, then there is one copy, and it is told."""
    status, first = put(lab, os.urandom(1000))
    assert status == 200
    assert pack(lab, SECOND, first).exists()

    before = stores(lab, FIRST)
    lab.nodes[SECOND].freeze(tree=True)
    status, second = put(lab, os.urandom(1000))

    assert status == 200
    assert not pack(lab, SECOND, second).exists()
    assert written_set(lab) == {before[FIRST]}
    lab.nodes[SECOND].thaw(tree=True)
    level(lab, FIRST)
    assert pack(lab, SECOND, second).exists()


def test_another_disk_in_the_place_of_a_members_is_not_that_member(lab: Lab):
    old = stores(lab, FIRST)[SECOND]
    lab.nodes[SECOND].stop()
    lab.data(SECOND).rename(lab.data(SECOND).with_suffix(".old"))
    lab.data(SECOND).mkdir()
    after = len(log_of(lab, SECOND))
    lab.start_node(SECOND)
    line = wait_logged(lab, SECOND, "is not the one that this node served before", after=after)
    assert "as another store it is filled by the holder before it counts" in line

    (lab.directory / f"{SECOND}.state" / "stores" / LEASE).unlink()
    wait_until("the new disk is told of", lambda: stores(lab, FIRST).get(SECOND, old) != old)

    level(lab, FIRST)
    assert written_set(lab) == set(stores(lab, FIRST).values())
    assert old not in written_set(lab)
    assert objects(lab, SECOND) == objects(lab, FIRST)


def test_a_backup_ends_well_on_the_disk_of_the_standby_when_the_holder_dies(restic: str, tmp_path: Path):
    size = 30 * MIB
    with pair(tmp_path / "lab") as lab:
        backup = Backup(chosen_client(), lab.client, tmp_path, lab.vip, REPOSITORY_PORT)
        backup.make_files(size)
        backup.prepare()
        backup.start(20 * 1024)
        backup.wait_stored(lab.data(SECOND), size // 2, 60)
        before = stores(lab, SECOND)
        lab.kill_host(FIRST)
        code, output = backup.wait(90)

        assert code == 0, output
        serves(lab, SECOND)
        assert written_set(lab) == {before[SECOND]}
        assert "ONE COPY" in run_cli(lab, SECOND, "status").stdout

        shutil.rmtree(lab.data(FIRST) / "demo" / "index")  # what is read now is on another disk
        assert backup.check(60) == ""

        lab.boot_host(FIRST)
        lab.start_node(FIRST)
        level(lab, SECOND)
        assert written_set(lab) == set(before.values())
        assert objects(lab, FIRST) == objects(lab, SECOND)
