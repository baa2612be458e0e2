"""Real restic through the door: over TLS, with a password, in its own folder, and where it may delete nothing."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from leaseha.adapters import pki
from leaseha.repository.control import RepositoryProcess
from leaseha.repository.door import DoorOptions
from leaseha.repository.users import User, hashed
from tests.repository.served import HOST, LONG_NS, free_port, now
from tests.repository.test_restic import Restic, make_source

pytestmark = pytest.mark.skipif(shutil.which("restic") is None, reason="needs restic (Debian package restic)")


@pytest.fixture
async def port(tmp_path: Path) -> AsyncIterator[int]:
    (tmp_path / "data").mkdir()
    pki.init(tmp_path / "pki", "x", datetime.now(UTC))
    made = pki.issue(tmp_path / "pki", pki.Wanted("vip", (HOST,), serves_clients=True), datetime.now(UTC))
    door = DoorOptions(users=True, private=True, cert=str(made.certificate), key=str(made.key))
    process = RepositoryProcess(tmp_path / "data", lambda notice: None, door=door)
    await process.start()
    port = free_port()
    assert (await process.serve([HOST], port, 7, 0, now().plus(LONG_NS))).ok
    users = [User("alice", hashed("wonder")), User("bob", hashed("builder"), append_only=True)]
    await process.tell_users([(one.name, one.told()) for one in users])
    yield port
    await process.close()


async def test_restic_works_over_tls_with_a_password_and_only_in_its_own_folder(port: int, tmp_path: Path):
    def restic(who: str, repo: str, *arguments: str, fails: bool = False) -> str:
        run = Restic(f"rest:https://{who}@{HOST}:{port}/{repo}/", tmp_path)
        return run("--cacert", str(tmp_path / "pki/ca.crt"), *arguments, fails=fails)

    def work() -> None:
        source = make_source(tmp_path / "source")
        restic("alice:wonder", "alice/laptop", "init")
        restic("alice:wonder", "alice/laptop", "backup", str(source))
        assert "no errors" in restic("alice:wonder", "alice/laptop", "check", "--read-data")
        restic("alice:wonder", "alice/laptop", "forget", "--keep-last", "1", "--prune")
        for who in ("alice:guess", "bob:builder"):
            assert "unable to open config" in restic(who, "alice/laptop", "snapshots", fails=True)

        # bob may delete nothing but locks: backups and their checks work, forgetting does not.
        restic("bob:builder", "bob", "init")
        restic("bob:builder", "bob", "backup", str(source))
        assert "no errors" in restic("bob:builder", "bob", "check")

    await asyncio.to_thread(work)
    snapshots = tmp_path / "data/bob/snapshots"
    assert len(list(snapshots.iterdir())) == 1
    assert list((tmp_path / "data/bob/locks").iterdir()) == []
