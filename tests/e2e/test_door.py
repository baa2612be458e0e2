"""The repository's door with whole agents: TLS, and users that change on both nodes without a restart."""

import base64
import http.client
import ssl
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from leaseha.adapters import pki
from leaseha.lab.lab import LEASE, Lab
from tests.e2e.cluster import FIRST, SECOND, SOON_S, cluster, holding, log_of, run_cli, wait_until, whole

pytestmark = [pytest.mark.netns, pytest.mark.lab]

PORT = 8000


@pytest.fixture(scope="module")
def certificates(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("certificates") / "pki"
    pki.init(folder, "lab", datetime.now(UTC))
    return folder


@pytest.fixture(scope="module")
def lab(tmp_path_factory, certificates) -> Iterator[Lab]:
    folder = tmp_path_factory.mktemp("door")
    (folder / "data").mkdir()
    made = pki.issue(certificates, pki.Wanted("backup.example", serves_clients=True), datetime.now(UTC))
    repository = {
        "port": PORT,
        "path": str(folder / "data"),
        "auth": "users",
        "private": True,
        "cert": str(made.certificate),
        "key": str(made.key),
    }
    lease = {"hold_down": "1s", "flap_budget": 60, "repository": repository}
    settings = {"session": {"ttl": "1s"}, "lease": {LEASE: lease}}
    with cluster(folder, nodes=(FIRST, SECOND), settings=settings) as lab:
        whole(lab)
        yield lab


def user(lab: Lab, *words: str, told: str = "") -> str:
    command = [sys.executable, "-m", "leaseha", "user", *words, "--config", str(lab.nodes[FIRST].config)]
    return lab.host(FIRST).call(
        lambda: (
            subprocess.run(
                command, input=told, capture_output=True, text=True, check=True, timeout=SOON_S
            ).stdout
        )
    )


def asks(lab: Lab, certificates: Path, name: str, password: str, path: str = "/alice/config") -> int:
    """The status that a client gets over TLS, with the authority's certificate alone; 0: no answer."""
    token = base64.b64encode(f"{name}:{password}".encode()).decode()

    def exchange() -> int:
        context = ssl.create_default_context(cafile=str(certificates / "ca.crt"))
        context.check_hostname = False  # the lab has no names; that of the certificate is compared elsewhere
        connection = http.client.HTTPSConnection(lab.vip, PORT, timeout=3, context=context)
        try:
            connection.request("GET", path, headers={"Authorization": f"Basic {token}"})
            return connection.getresponse().status
        except OSError:
            return 0
        finally:
            connection.close()

    return lab.client.call(exchange)


def test_users_and_tls_follow_the_lease_and_change_without_a_restart(lab, certificates):
    def becomes(status: int, name: str, password: str) -> None:
        wait_until(
            f"{name} with {password}: {status}",
            lambda: asks(lab, certificates, name, password) == status,
            SOON_S,
        )

    holding(lab, FIRST)
    becomes(401, "alice", "one")
    user(lab, "add", "alice", told="one\n")
    becomes(404, "alice", "one")
    assert asks(lab, certificates, "alice", "one", "/bob/config") == 403

    done = run_cli(lab, FIRST, "switchover", LEASE, "--to", SECOND)
    assert done.returncode == 0, done.stdout
    assert asks(lab, certificates, "alice", "one") == 404  # the new holder knew her before

    user(lab, "passwd", "alice", told="two\n")
    becomes(401, "alice", "one")
    becomes(404, "alice", "two")
    assert "one" not in user(lab, "list")
    for name in (FIRST, SECOND):
        assert "$2b$" not in log_of(lab, name)
