"""Users on their way: from the command line into etcd, and from there to a repository that runs already."""

import asyncio
import base64
import contextlib
import json
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from leaseha.adapters.etcd import EtcdClient
from leaseha.core.values import NS_PER_S, Put, Txn
from leaseha.repository.control import RepositoryProcess
from leaseha.repository.door import DoorOptions
from leaseha.repository.gate import now
from leaseha.repository.users import User, hashed
from leaseha.runtime.accounts import parse_htpasswd
from leaseha.runtime.reach import Reach
from leaseha.runtime.stores import EtcdStore
from leaseha.runtime.users import DoorTeller, UserFeed
from tests.repository.served import HOST, Client, free_port

FILE = """
cluster = "users"
[node]
name = "node1"
[etcd]
endpoints = [{endpoints}]
[lease.backups]
vips = ["192.168.0.50/24"]
priority = {{ node1 = 100 }}
"""


@pytest.fixture
def config(members, tmp_path: Path) -> Path:
    path = tmp_path / "leaseha.toml"
    path.write_text(
        FILE.format(
            endpoints=", ".join(
                f'"http://{one}"' if "://" not in one else f'"{one}"' for one in members.endpoints
            )
        )
    )
    return path


@pytest.fixture
async def store(members):
    client = EtcdClient(members.endpoints, "/leaseha/users/")
    await client.wait_ready(20)
    store = EtcdStore(client, Reach("etcd"))
    yield store
    await store.close()


class Commands:
    """The command line, as an operator has it."""

    def __init__(self, config: Path) -> None:
        self._config = config

    async def __call__(self, *words: str, told: str = "", fails: bool = False) -> str:
        done = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", "leaseha", "user", *words, "--config", str(self._config)],
            input=told,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (done.returncode != 0) is fails, done.stderr
        assert "Traceback" not in done.stderr
        return done.stderr if fails else done.stdout


async def becomes(what: str, fact: Callable[[], Awaitable[object]], wanted: object) -> None:
    async with asyncio.timeout(20):
        while (found := await fact()) != wanted:
            await asyncio.sleep(0.01)  # waits for a fact: what etcd's watch brings
    assert found == wanted, what


async def test_a_user_of_the_command_line_may_use_a_repository_that_runs_already(config, store, tmp_path):
    (tmp_path / "data").mkdir()
    options = DoorOptions(users=True, private=True)
    process = RepositoryProcess(tmp_path / "data", lambda notice: None, door=options)
    port = free_port()

    async def serve() -> None:
        await process.start()
        answer = await process.serve([HOST], port, 1, 0, now().plus(100 * NS_PER_S))
        assert answer.ok, answer.why

    def asked(name: str, password: str, path: str = "/alice/config") -> Callable[[], Awaitable[int]]:
        token = base64.b64encode(f"{name}:{password}".encode()).decode()

        def ask() -> int:
            with Client(port) as client:
                return client.ask("GET", path, Authorization=f"Basic {token}").status

        return lambda: asyncio.to_thread(ask)

    user = Commands(config)
    await serve()
    assert await asked("alice", "one")() == 503  # nobody has said who there is

    head, _ = await store.read_all(5.0)
    store.watch(head.revision + 1, lambda head, changes: None, lambda head, keys: None)
    teller = DoorTeller("backups", options, process)
    feeding = asyncio.create_task(teller.feed(store, [teller]))
    try:
        await becomes("known: nobody", asked("alice", "one"), 401)
        await user("add", "alice", told="one\n")
        await becomes("alice is told", asked("alice", "one"), 404)
        assert await asked("alice", "one", "/bob/config")() == 403

        await user("passwd", "alice", told="two\n")
        await becomes("the old password ends", asked("alice", "one"), 401)
        assert await asked("alice", "two")() == 404

        await process.close()
        await serve()
        assert await asked("alice", "two")() == 503
        teller.tell_soon()
        await becomes("told to the next process", asked("alice", "two"), 404)

        await user("del", "alice")
        await becomes("gone", asked("alice", "two"), 401)
    finally:
        feeding.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await feeding
        await process.close()


async def test_what_the_command_line_says_of_users(config, tmp_path):
    user = Commands(config)
    (tmp_path / "htpasswd").write_text(
        f"dora:{hashed('x')}\n\n# none\nold:$apr1$x$y\nbad name:z\ncarl:{hashed('x')}\n"
    )

    assert (
        await user("add", "carl", "--append-only", "--quota", "2G", told="c\n")
        == "carl: append-only, quota 2048 MiB\n"
    )
    assert "exists" in await user("add", "carl", told="x\n", fails=True)
    assert "72 bytes" in await user("add", "eva", told="x" * 73, fails=True)
    assert "72 bytes" in await user("add", "eva", told="\n", fails=True)
    assert "letters, digits" in await user("add", "../eva", told="x\n", fails=True)
    assert "no user" in await user("del", "eva", fails=True)

    imported = subprocess.run(
        [
            sys.executable,
            "-m",
            "leaseha",
            "user",
            "import",
            tmp_path / "htpasswd",
            "--config",
            config,
            "--json",
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert imported.returncode == 1  # two lines were refused
    told = json.loads(imported.stdout)
    assert (told["written"], told["there"], len(told["refused"])) == (["dora"], ["carl"], 2)

    assert await user("set", "carl", "--append-only", "no", "--quota", "off") == "carl\n"
    listed = json.loads(await user("list", "--json"))
    assert [one["name"] for one in listed] == ["carl", "dora"]
    assert "hash" not in listed[0]


def test_an_htpasswd_is_read_line_by_line_and_the_last_of_a_name_counts():
    first, second = hashed("a"), hashed("b")

    users, refused = parse_htpasswd(f" a:{first}\na:{second}\nb:plain\n:x\nc\n")

    assert [(one.name, one.hash) for one in users] == [("a", second)]
    assert [line.split(":")[0] for line in refused] == ["line 3", "line 4", "line 5"]


async def test_what_is_no_user_does_not_harm_those_that_are(config, store, members):
    """Somebody wrote megabytes, and what JSON makes longer, below `users/`."""
    puts = [Put(f"users/big{at}", one) for at, one in enumerate(("x" * 1_000_000, '"' * 301, "ä" * 200))]
    for put in (
        *puts,
        Put("users/" + "n" * 400, "{}"),
        Put("users/alice", User("alice", hashed("x")).told()),
    ):
        await store.client.commit(Txn((), (put,), ()), 0, 5 * NS_PER_S)
    told: list[tuple[str, ...]] = []

    class Door:
        wants_users = True

        def users_are(self, users) -> None:
            told.append(tuple(name for name, _ in users))

    feeding = asyncio.create_task(UserFeed(store.client, [Door()]).run())
    async with asyncio.timeout(20):
        while not told:
            await asyncio.sleep(0.01)  # waits for a fact: they are read
    feeding.cancel()

    assert "alice" in told[0]
    assert not [name for name in told[0] if name.startswith(("big", "n"))]


async def test_many_users_are_told_in_pieces_that_leave_room_for_deadlines(tmp_path):
    (tmp_path / "data").mkdir()
    process = RepositoryProcess(tmp_path / "data", lambda notice: None, door=DoorOptions(users=True))
    port, known = free_port(), hashed("x")
    users = [(f"user{number}", json.dumps({"hash": known})) for number in range(5000)]
    await process.start()
    try:
        await process.serve([HOST], port, 1, 0, now().plus(100 * NS_PER_S))
        telling = asyncio.create_task(process.tell_users(users))
        most = 0
        while not telling.done():
            assert process._writer is not None
            most = max(most, process._writer.transport.get_write_buffer_size())
            await asyncio.sleep(0)  # waits for a fact: all are told
        assert most < 32 * 1024

        token = base64.b64encode(b"user4999:x").decode()
        with Client(port) as client:
            assert (await process.status()).gate_open
            assert client.ask("GET", "/r/config", Authorization=f"Basic {token}").status == 404
    finally:
        await process.close()


async def test_what_a_repository_lets_in_changes_while_it_serves(tmp_path):
    """A reload: the process serves on, and hears the new settings."""
    (tmp_path / "data").mkdir()
    process = RepositoryProcess(tmp_path / "data", lambda notice: None)
    port = free_port()
    await process.start()
    try:
        await process.serve([HOST], port, 1, 0, now().plus(100 * NS_PER_S))
        with Client(port) as client:  # one connection through all of it
            assert client.ask("GET", "/r/config").status == 404
            teller = DoorTeller("backups", DoorOptions(users=True), process)
            teller.users_are((("alice", User("alice", hashed("x")).told()),))
            teller.tell_soon(options=True)
            await becomes(
                "asked for a password",
                lambda: asyncio.to_thread(lambda: client.ask("GET", "/r/config").status),
                401,
            )

            refused = await process.change_door(DoorOptions(cert=str(tmp_path / "none.pem"), key="/none"))
            assert not refused.ok
            assert "certificate" in refused.why
            assert client.ask("GET", "/r/config").status == 401
            assert (await process.status()).gate_open
    finally:
        await process.close()
