"""All that restic does, through the VIP, to two copies: both generations of it, by TLS and not, append-only and not."""

import contextlib
import filecmp
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from leaseha.lab.lab import LEASE, REPOSITORY_PORT, VIP, Lab
from tests.e2e.cluster import FIRST, SECOND, SOON_S, cluster, holding, wait_until, whole
from tests.e2e.test_copies import level, objects
from tests.e2e.test_door import asks

pytestmark = [pytest.mark.netns, pytest.mark.lab]

USER, USERS_PASSWORD = "alice", "hers"
KEYS_PASSWORD = "only for this test"


@contextlib.contextmanager
def pair(folder: Path, repository: dict[str, Any]) -> Iterator[Lab]:
    """Two nodes in sync; the first holds."""
    lease = {"hold_down": "1s", "flap_budget": 60, "failback": "off", "repository": repository}
    settings = {"session": {"ttl": "1s"}, "lease": {LEASE: lease}}
    with cluster(folder, nodes=(FIRST, SECOND), settings=settings, replicate=True, start=False) as lab:
        for name in (FIRST, SECOND):
            lab.data(name).mkdir(exist_ok=True)
            lab.start_nodes(name)
            holding(lab, FIRST)
        whole(lab)
        level(lab, FIRST)
        yield lab


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Iterator[Lab]:
    """Without TLS and users; nothing can be deleted but locks."""
    with pair(tmp_path_factory.mktemp("plain"), {"append_only": True}) as lab:
        yield lab


@pytest.fixture(scope="module")
def authority(tmp_path_factory) -> Path:
    """Where `leaseha pki` has made a certificate that names the VIP."""
    folder = tmp_path_factory.mktemp("authority") / "pki"
    for verb in (("init",), ("issue", "backup.example", "--also", VIP.partition("/")[0], "--public")):
        command = [sys.executable, "-m", "leaseha", "pki", *verb, "--dir", str(folder)]
        subprocess.run(command, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def closed(tmp_path_factory, authority: Path) -> Iterator[Lab]:
    """TLS, and each user has repositories of her own."""
    files = {"cert": str(authority / "backup.example.crt"), "key": str(authority / "backup.example.key")}
    repository = {"auth": "users", "private": True, **files}
    with pair(tmp_path_factory.mktemp("closed"), repository) as lab:
        command = [sys.executable, "-m", "leaseha", "user", "add", USER]
        command += ["--config", str(lab.nodes[FIRST].config)]

        def add() -> None:
            told = f"{USERS_PASSWORD}\n"
            subprocess.run(command, input=told, text=True, check=True, capture_output=True, timeout=SOON_S)

        lab.host(FIRST).call(add)
        wait_until("she is known", lambda: asks(lab, authority, USER, USERS_PASSWORD) == 404)
        yield lab


@dataclass(frozen=True)
class Client:
    """One restic, on the client's host; in `folder`: what it backs up, its cache, and what it restores."""

    lab: Lab
    program: str
    url: str
    folder: Path
    more: tuple[str, ...] = ()

    @property
    def source(self) -> Path:
        return self.folder / "source"

    def make_files(self) -> None:
        self.source.mkdir()
        for number in range(20):
            (self.source / f"file-{number}").write_bytes(os.urandom(64 << 10))

    def ask(self, *arguments: str, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
        # From inside of the folder: its parents' owners cannot be restored in a user namespace.
        inside = ["sh", "-c", 'cd "$1" && shift && exec "$@"', "sh", str(self.source)]
        command = [self.program, "-r", self.url, "--cache-dir", str(self.folder / "cache"), *self.more]
        environment = {**os.environ, "RESTIC_PASSWORD": KEYS_PASSWORD}
        return self.lab.client.run([*inside, *command, *arguments], timeout_s=timeout_s, env=environment)

    def run(self, *arguments: str) -> str:
        done = self.ask(*arguments)
        assert done.returncode == 0, f"restic {arguments}: {done.stdout}"
        return done.stdout

    def is_sound(self) -> None:
        assert "no errors were found" in self.run("check", "--read-data")

    def restores(self) -> None:
        again = self.folder / "again"
        self.run("restore", "latest", "--target", str(again))
        names = [path.name for path in self.source.iterdir()]
        equal, differ, missing = filecmp.cmpfiles(self.source, again, names, shallow=False)
        assert (len(equal), differ, missing) == (len(names), [], [])

    def lists(self, snapshots: int) -> None:
        """All of it without a mount."""
        assert f"{snapshots} snapshots" in self.run("snapshots")
        assert "/file-7" in self.run("ls", "latest")
        assert len(self.ids("snapshots")) == snapshots
        assert self.ids("packs")

    def ids(self, kind: str) -> list[str]:
        return re.findall("^[0-9a-f]{64}$", self.run("list", kind), re.MULTILINE)

    def two_keys(self) -> None:
        password = self.folder / "password"
        password.write_text("another one\n")
        self.run("key", "add", "--new-password-file", str(password))
        assert len(self.ids("keys")) == 2
        self.run("snapshots", "--password-file", str(password))


def packs(lab: Lab, repository: str) -> set[str]:
    return {path for path in objects(lab, FIRST) if path.startswith(f"{repository}/data/")}


def test_restic_does_all_its_work_by_tls_as_a_user(closed: Lab, authority: Path, any_restic: str, tmp_path):
    name = f"{USER}/{Path(any_restic).parent.name}"
    url = f"rest:https://{USER}:{USERS_PASSWORD}@{closed.vip}:{REPOSITORY_PORT}/{name}/"
    client = Client(closed, any_restic, url, tmp_path, ("--cacert", str(authority / "ca.crt")))
    client.make_files()
    client.run("init")
    client.run("backup", ".")
    (client.source / "file-0").write_bytes(os.urandom(64 << 10))
    client.run("backup", ".")
    client.lists(snapshots=2)
    client.two_keys()
    client.is_sound()
    before = packs(closed, name)
    client.run("forget", "--keep-last", "1", "--prune", "--max-unused", "0")
    assert before - packs(closed, name), "something was deleted"
    client.lists(snapshots=1)
    client.is_sound()
    client.restores()
    assert objects(closed, SECOND) == objects(closed, FIRST)


def test_append_only_keeps_what_restic_would_delete(plain: Lab, any_restic: str, tmp_path: Path):
    name = Path(any_restic).parent.name
    url = f"rest:http://{plain.vip}:{REPOSITORY_PORT}/{name}/"
    client = Client(plain, any_restic, url, tmp_path)
    client.make_files()
    client.run("init")
    client.run("backup", ".")
    (client.source / "file-0").write_bytes(os.urandom(64 << 10))
    client.run("backup", ".")
    before = objects(plain, FIRST)

    try:
        refused = client.ask("forget", "--keep-last", "1", "--prune", timeout_s=6)
    except subprocess.TimeoutExpired:  # 0.14 tries what is refused for a minute
        refused = None
    assert refused is None or refused.returncode != 0 or "403" in refused.stdout

    client.run("unlock", "--remove-all")
    assert {path: digest for path, digest in before.items() if "/locks/" not in path}.items() <= objects(
        plain, FIRST
    ).items()
    client.run("backup", ".")
    client.lists(snapshots=3)
    client.two_keys()
    client.is_sound()
    client.restores()
    assert objects(plain, SECOND) == objects(plain, FIRST)
