"""Real restic against a real repository process, over HTTP and then directly on the directory."""

import asyncio
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from leaseha.repository.control import RepositoryProcess
from tests.repository.served import HOST, LONG_NS, free_port, now

pytestmark = pytest.mark.skipif(shutil.which("restic") is None, reason="needs restic (Debian package restic)")


class Restic:
    """The command, with a password and caches of its own."""

    def __init__(self, repo: str, home: Path) -> None:
        self._repo = repo
        self._env = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "XDG_CACHE_HOME": str(home / "cache"),
            "RESTIC_PASSWORD": "open sesame",
            "RESTIC_PROGRESS_FPS": "0.01",
        }

    def __call__(self, *arguments: str, fails: bool = False, inside: Path | None = None) -> str:
        done = subprocess.run(
            ["restic", "-r", self._repo, *arguments],
            check=False,
            # A folder is backed up from inside: its parents' owners cannot be restored in a user namespace.
            cwd=inside,
            env=self._env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=100,
        )
        assert (done.returncode != 0) == fails, done.stdout
        return done.stdout


@pytest.fixture
async def process(tmp_path: Path):
    (tmp_path / "data").mkdir()
    process = RepositoryProcess(tmp_path / "data", lambda notice: None)
    await process.start()
    yield process
    await process.close()


@pytest.fixture
async def port(process: RepositoryProcess) -> int:
    port = free_port()
    assert (await process.serve([HOST], port, 7, 0, now().plus(LONG_NS))).ok
    return port


def make_source(folder: Path, extra: int = 0) -> Path:
    (folder / "deep/er").mkdir(parents=True, exist_ok=True)
    for number in range(8 + extra):
        (folder / f"deep/file{number}").write_bytes(os.urandom(1_500_000 + number))
    (folder / "deep/er/empty").touch()
    (folder / "deep/er/text").write_text("the same text\n" * 5000)
    (folder / "link").unlink(missing_ok=True)
    (folder / "link").symlink_to("deep/er/text")
    return folder


def same_tree(one: Path, other: Path) -> bool:
    return (
        subprocess.run(["diff", "-r", "--no-dereference", one, other], check=False, timeout=60).returncode
        == 0
    )


async def test_restic_does_all_its_work_here_and_on_the_bare_directory(port: int, tmp_path: Path):
    restic = Restic(f"rest:http://{HOST}:{port}/user/laptop", tmp_path)
    source = make_source(tmp_path / "source")

    assert "unable to open config file" in restic("snapshots", fails=True)
    restic("init")
    assert "already" in restic("init", fails=True)
    restic("backup", ".", inside=source)
    make_source(source, extra=3)
    restic("backup", ".", inside=source)
    assert "2 snapshots" in restic("snapshots")
    assert "no errors were found" in restic("check", "--read-data")
    restic("forget", "--keep-last", "1", "--prune")
    assert "1 snapshots" in restic("snapshots")
    assert "no errors were found" in restic("check", "--read-data")
    restic("restore", "latest", "--target", str(tmp_path / "out"))
    assert same_tree(source, tmp_path / "out")

    # The way out: the same directory, without us.
    direct = Restic(str(tmp_path / "data/user/laptop"), tmp_path)
    assert "no errors were found" in direct("check", "--read-data")
    direct("backup", ".", inside=source)
    direct("restore", "latest", "--target", str(tmp_path / "out2"))
    assert same_tree(source, tmp_path / "out2")

    # And back in.
    assert "2 snapshots" in restic("snapshots")
    assert [entry.name for entry in (tmp_path / "data/.leaseha/tmp").iterdir()] == []


async def test_a_backup_survives_that_another_process_takes_over(tmp_path: Path):
    """Killed in mid-upload, another with a higher token on the same directory and address; restic retries."""
    port = free_port()
    (tmp_path / "data").mkdir()
    first, second = (RepositoryProcess(tmp_path / "data", lambda notice: None) for _ in range(2))
    await first.start()
    await second.start()
    assert (await first.serve([HOST], port, 7, 0, now().plus(LONG_NS))).ok
    restic = Restic(f"rest:http://{HOST}:{port}/r", tmp_path)
    source = make_source(tmp_path / "source", extra=12)
    restic("init")

    backup = asyncio.create_task(asyncio.to_thread(restic, "--limit-upload", "20000", "backup", str(source)))
    async with asyncio.timeout(60):
        while (await first.status()).bytes_in < 6_000_000:
            await asyncio.sleep(0.01)  # waits for a fact: the backup is half-way
    first.kill()
    await first.close()
    assert (await second.serve([HOST], port, 8, 0, now().plus(LONG_NS))).ok
    await backup

    assert "no errors were found" in await asyncio.to_thread(restic, "check", "--read-data")
    assert (await second.status()).uploads > 0
    await first.close()
    await second.close()


async def test_what_a_bad_forget_and_prune_took_away_comes_back_whole(
    process: RepositoryProcess, port: int, tmp_path: Path
):
    restic = Restic(f"rest:http://{HOST}:{port}/laptop", tmp_path)
    source = make_source(tmp_path / "source")
    shutil.copytree(source, tmp_path / "before", symlinks=True)

    def lose() -> None:
        restic("init")
        restic("backup", ".", inside=source)
        for path in (source / "deep").glob("file[0-5]"):
            path.write_bytes(os.urandom(1_000_000))
        restic("backup", ".", inside=source)
        restic("forget", "--keep-last", "1", "--prune", "--max-unused", "0")
        assert "1 snapshots" in restic("snapshots")

    await asyncio.to_thread(lose)
    trash = {path.parent.name for path in (tmp_path / "data/.leaseha/trash").rglob("*") if path.is_file()}
    assert {"data", "index", "snapshots"} <= trash
    assert (await process.chore("undelete", {"repository": "laptop", "since": "", "names": []})).ok
    async with asyncio.timeout(60):
        while (told := (await process.status()).chores["undelete"])["state"] == "running":
            await asyncio.sleep(0.05)  # waits for a fact: it has ended
    assert told["result"]["ok"], told

    def look() -> None:
        assert "2 snapshots" in restic("snapshots")
        assert "no errors were found" in restic("check", "--read-data")
        first = restic("snapshots", "--json").split('"short_id":"')[1][:8]
        restic("restore", first, "--target", str(tmp_path / "out"))
        assert same_tree(tmp_path / "before", tmp_path / "out")

    await asyncio.to_thread(look)
