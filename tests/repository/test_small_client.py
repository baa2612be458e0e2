"""The project's own small client: what the demo uses where there is no restic."""

import asyncio
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from leaseha.lab.small_client import PIECE_BYTES, Progress, SmallClient, main
from leaseha.lab.small_wire import ClientError, Wire
from leaseha.repository.control import RepositoryProcess
from tests.repository.served import HOST, LONG_NS, Served, free_port, name_of, now


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    (folder / "deep/er").mkdir(parents=True)
    (folder / "large").write_bytes(os.urandom(PIECE_BYTES * 2 + 17))
    (folder / "deep/text").write_text("text\n")
    (folder / "deep/empty").touch()
    (folder / "deep/text").chmod(0o640)
    (folder / "link").symlink_to("deep/text")
    return folder


def wire(port: int, **options) -> Wire:
    return Wire(f"http://{HOST}:{port}/demo", **{"retry_s": 20.0, **options})


def same_tree(one: Path, other: Path) -> bool:
    return (
        subprocess.run(["diff", "-r", "--no-dereference", one, other], check=False, timeout=60).returncode
        == 0
    )


def test_what_was_backed_up_comes_back(served: Served, source: Path, tmp_path: Path):
    client = SmallClient(wire(served.port))
    seen: list[Progress] = []
    name = client.backup(source, seen.append)

    assert [name] == client.snapshots()
    assert seen[-1].done_bytes == seen[-1].total_bytes
    assert client.restore(tmp_path / "out") == 4
    assert same_tree(source, tmp_path / "out")
    assert (tmp_path / "out/deep/text").stat().st_mode & 0o777 == 0o640
    assert client.compare(source) == []


def test_a_second_backup_sends_only_what_is_new(served: Served, source: Path):
    client = SmallClient(wire(served.port))
    client.backup(source)
    before = served.app.counters.bytes_in
    (source / "new").write_bytes(b"n" * 1000)
    client.backup(source)

    assert served.app.counters.bytes_in - before < 10_000
    assert len(client.snapshots()) == 2


def test_differences_are_named(served: Served, source: Path):
    client = SmallClient(wire(served.port))
    client.backup(source)
    (source / "deep/text").write_text("changed")
    (source / "new").touch()
    (source / "link").unlink()

    assert client.compare(source) == [
        "new: not in the snapshot",
        "deep/text: differs",
        "link: only in the snapshot",
    ]


def test_a_repository_of_restic_is_left_alone(served: Served, source: Path):
    served.ask("POST", "/demo/config", b"an encrypted config of restic")

    with pytest.raises(ClientError, match="another program"):
        SmallClient(wire(served.port)).backup(source)
    assert served.ask("GET", "/demo/config").body == b"an encrypted config of restic"


def test_bytes_that_the_server_got_wrong_are_noticed(served: Served, source: Path, tmp_path: Path):
    client = SmallClient(wire(served.port))
    client.backup(source)
    for path in (served.root / "demo/data").rglob("*"):
        if path.is_file() and path.stat().st_size == 17:
            path.write_bytes(b"x" * 17)

    with pytest.raises(ClientError, match="not those that were stored"):
        client.restore(tmp_path / "out")


def test_a_snapshot_cannot_write_outside_of_the_target(served: Served, tmp_path: Path):
    client = SmallClient(wire(served.port))
    client._initialise()
    files = [{"path": "../evil", "kind": "file", "mode": 0o600, "pieces": []}]
    client._put_json("snapshots", {"format": "leaseha-small-1", "number": 0, "index": "", "files": files})

    with pytest.raises(ClientError, match="outside"):
        client.restore(tmp_path / "out")
    assert not (tmp_path / "evil").exists()


def test_an_upload_is_no_faster_than_its_limit(served: Served):
    slow = wire(served.port, limit_bytes_s=1_000_000)
    slow.create()
    begun = time.monotonic()
    body = os.urandom(500_000)
    slow.put(f"data/{name_of(body)}", body)

    assert time.monotonic() - begun > 0.3


def test_it_gives_up_in_bounded_time_and_says_why():
    with pytest.raises(ClientError, match=r"no success in 0\.3 s, last: .*refused"):
        wire(free_port(), retry_s=0.3).names("data")


def test_it_waits_through_503(serve, source: Path):
    served = serve(open_gate=False)
    said: list[str] = []

    def retrying(why: str) -> None:
        said.append(why)
        served.gate.open(served.word())

    SmallClient(wire(served.port, retrying=retrying)).backup(source)

    assert len(said) == 1
    assert "503 Service Unavailable" in said[0]


async def test_a_backup_goes_on_when_another_process_takes_over(source: Path, tmp_path: Path):
    port = free_port()
    (tmp_path / "data").mkdir()
    first, second = (RepositoryProcess(tmp_path / "data", lambda notice: None) for _ in range(2))
    await first.start()
    await second.start()
    assert (await first.serve([HOST], port, 7, 0, now().plus(LONG_NS))).ok
    sender = wire(port, limit_bytes_s=8_000_000)
    backup = asyncio.create_task(asyncio.to_thread(SmallClient(sender).backup, source))
    async with asyncio.timeout(20):
        while (await first.status()).uploads < 3:
            await asyncio.sleep(0.005)  # waits for a fact: the backup is half-way
    first.kill()
    await first.close()
    assert (await second.serve([HOST], port, 8, 0, now().plus(LONG_NS))).ok
    await backup

    assert await asyncio.to_thread(SmallClient(wire(port)).compare, source) == []
    assert sender.retries > 0
    await first.close()
    await second.close()


def test_the_command_line_backs_up_verifies_and_restores(
    served: Served, source: Path, tmp_path: Path, capsys
):
    repo = f"http://{HOST}:{served.port}/demo"

    assert main(["backup", "--repo", repo, "--source", str(source)]) == 0
    assert "not restic, not encrypted" in capsys.readouterr().out
    assert main(["verify", "--repo", repo, "--source", str(source)]) == 0
    assert main(["restore", "--repo", repo, "--target", str(tmp_path / "out")]) == 0
    assert same_tree(source, tmp_path / "out")
    shutil.rmtree(source / "deep")
    assert main(["verify", "--repo", repo, "--source", str(source)]) == 1
    assert "deep/text: only in the snapshot" in capsys.readouterr().out
    assert main(["backup", "--repo", repo, "--source", str(tmp_path / "nowhere")]) == 2
    assert main(["verify", "--repo", "ftp://x", "--source", str(source)]) == 1
    assert "not a repository URL" in capsys.readouterr().err


def test_its_help_says_what_it_is_not():
    done = subprocess.run(
        [sys.executable, "-m", "leaseha.lab.small_client", "--help"],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert done.returncode == 0
    assert "It is not restic" in done.stdout
    assert "does not encrypt" in done.stdout
