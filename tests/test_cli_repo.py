"""`leaseha repo`: what it reads, what it asks for, and in which words it refuses. With a real process."""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from leaseha.cli import main
from leaseha.repository.chores import Chores
from leaseha.repository.control import RepositoryProcess
from leaseha.runtime.chores import Desk
from leaseha.runtime.status import STATUS_SOCKET, Answers, StatusServer
from tests.repository.agent import in_s
from tests.repository.served import HOST, Client, free_port, name_of, until

LEASE = "backups"
BODIES = {kind: os.urandom(3000) for kind in ("config", "data", "index", "snapshots", "locks")}


def where(kind: str) -> str:
    return "/laptop/config" if kind == "config" else f"/laptop/{kind}/{name_of(BODIES[kind])}"


class Standing:
    """One node without etcd: its repository's process, and the socket that its agent would have."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "data"
        self.root.mkdir()
        self.file = folder / "leaseha.toml"
        self.file.write_text(
            f'cluster = "backup"\nruntime_dir = "{folder}"\n[node]\nname = "node1"\n'
            '[etcd]\nendpoints = ["http://127.0.0.1:1"]\n'
            f'[lease.{LEASE}]\nvips = ["192.0.2.50/24"]\npriority = {{ node1 = 100, node2 = 90 }}\n'
            f'[lease.{LEASE}.repository]\npath = "{self.root}"\n'
        )
        self.process = RepositoryProcess(self.root, lambda notice: None)
        self.port = free_port()
        self.holder = "node1"
        self.status: dict = {}
        self.tasks: set[asyncio.Task] = set()
        answers = Answers(
            lambda: self.status, lambda: (True, ""), lambda: (True, ""), lambda lease: self.holder
        )
        self.server = StatusServer(answers, chore=self._chore)

    async def chore(self, what, arguments):
        return await self.process.chore(what, arguments)

    async def inside(self):
        return await self.process.status()

    def _chore(self, reply, asked) -> None:
        desk = Desk("node1", {LEASE: self}, lambda lease: self.holder)
        self.tasks.add(asyncio.ensure_future(desk.answer(reply, asked)))

    async def begin(self) -> None:
        await self.process.start()
        await self.server.listen_unix(self.file.parent / STATUS_SOCKET)

    async def serve(self) -> None:
        assert (await self.process.serve([HOST], self.port, 7, 0, in_s(300))).ok

    async def store(self) -> None:
        await self.serve()
        await self.ask(*(("POST", where(kind), body) for kind, body in BODIES.items()))

    async def ask(self, *requests) -> None:
        def talk() -> None:
            with Client(self.port) as client:
                assert {client.ask(*request).status for request in requests} == {200}

        await asyncio.to_thread(talk)

    async def say(self, *words: str) -> int:
        """`leaseha repo WORDS`, as from a shell."""
        return await asyncio.to_thread(main, ["repo", *words, "--config", str(self.file)])


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Standing]:
    made = Standing(tmp_path)
    await made.begin()
    yield made
    made.server.close()
    await made.process.close()


async def test_what_is_stored_is_told_from_the_directory_also_when_nothing_runs(node: Standing, capsys):
    await node.store()
    await node.process.close()

    assert await node.say("list") == 0
    assert "/laptop/: 1 snapshots, 14.6 KiB, last 20" in capsys.readouterr().out
    assert await node.say("usage", "--json") == 0
    usage = json.loads(capsys.readouterr().out)
    assert usage["repositories"][0]["kinds"]["data"] == {"objects": 1, "bytes": 3000}
    assert usage["trash"] == {"objects": 0, "bytes": 0}
    assert await node.say("locks", "--json") == 0
    (lock,) = json.loads(capsys.readouterr().out)
    assert (lock["repository"], lock["name"]) == ("/laptop/", name_of(BODIES["locks"]))


async def test_what_was_deleted_is_listed_and_brought_back(node: Standing, capsys):
    await node.store()
    kinds = ("data", "index", "snapshots")
    await node.ask(*(("DELETE", where(kind)) for kind in kinds))

    assert await node.say("trash") == 0
    assert "/laptop/ snapshots: 1 objects, 2.9 KiB" in capsys.readouterr().out
    pack = name_of(BODIES["data"])
    assert await node.say("undelete", "--list", pack[:8], "--json") == 0
    assert [row["name"] for row in json.loads(capsys.readouterr().out)] == [pack]
    assert await node.say("undelete", pack[:8]) == 0
    assert "undelete: ok True, restored 1, bytes 3000" in capsys.readouterr().out
    assert await node.say("undelete", "--all", "--repository", "/laptop/", "--json") == 0
    assert json.loads(capsys.readouterr().out)["result"]["restored"] == 2

    await node.ask(*(("GET", where(kind)) for kind in kinds))
    assert await node.say("trash") == 0
    assert capsys.readouterr().out == "nothing is kept\n"


async def test_what_could_not_come_back_is_said_and_the_exit_is_1(node: Standing, capsys):
    await node.store()
    await node.ask(("DELETE", where("data")))
    (kept,) = (path for path in (node.root / ".leaseha/trash").rglob("*") if path.is_file())
    kept.write_bytes(b"spoilt")

    assert await node.say("undelete", "--all") == 1
    assert "its bytes are not what its name says" in capsys.readouterr().out


async def test_a_standby_names_the_holder(node: Standing, capsys):
    node.holder = "node2"

    assert await node.say("undelete", "--all") == 1
    said = capsys.readouterr().err
    assert said.startswith("leaseha: only the holder brings objects back, and this node does not serve (")
    assert said.endswith("(the holder is node2)\n")


async def test_scrub_reads_everything_and_names_what_is_spoilt(node: Standing, capsys):
    await node.store()
    assert await node.say("scrub", "--rate", "100M") == 0
    assert capsys.readouterr().out.startswith("scrub: ok True, objects ")

    name = name_of(BODIES["data"])
    (node.root / "laptop/data" / name[:2] / name).write_bytes(b"spoilt")
    assert await node.say("scrub") == 1
    assert f"/laptop/data/{name}: spoilt or unreadable\n" in capsys.readouterr().out
    assert await node.say("verify", "node2") == 1  # one copy: nobody to compare with
    assert "this version knows no chore 'verify'" in capsys.readouterr().err


async def test_an_agent_that_does_not_run_is_said(node: Standing, capsys):
    node.server.close()
    (node.file.parent / STATUS_SOCKET).unlink()

    for verb in (("undelete", "--all"), ("scrub",), ("verify", "node2"), ("sync-status",)):
        assert await node.say(*verb) == 1
        assert capsys.readouterr().err.startswith("leaseha: no agent answers on ")


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ((), "repo: "),
        (("undelete",), "NAME is missing: "),
        (("undelete", "xyz"), "NAME = xyz: "),
        (("undelete", "abcdef", "--all"), "NAME and --all: "),
        (("undelete", "--all", "--since", "yesterday"), "--since = yesterday: "),
        (("trash", "--repository", "/../x/"), "--repository = /../x/: "),
        (("trash", "--lease", "other"), "--lease = other: "),
        (("verify",), "repo: verify: "),
        (("scrub", "--rate", "1K"), "repo: scrub: "),
    ],
)
async def test_bad_input_is_exit_2_and_names_the_field(node: Standing, capsys, words, complaint: str):
    # Without a command the parser would not know --config.
    done = await (node.say(*words) if words else asyncio.to_thread(main, ["repo"]))

    assert done == 2
    assert capsys.readouterr().err.startswith(f"leaseha: {complaint}")


async def test_more_names_than_fit_are_refused_before_they_reach_the_process(node: Standing, capsys):
    assert await node.say("undelete", *[f"{number:064x}" for number in range(101)]) == 2

    assert capsys.readouterr().err.startswith("leaseha: NAME: at most 100 at once")


async def test_how_far_the_others_are_is_told_from_the_status(node: Standing, capsys):
    def candidate(name: str, why: str) -> dict:
        return {"node": name, "priority": 100, "why": why, "in_sync": name == "node1"}

    peer = {"node": "node2", "store": "s2", "state": "catching-up", "why": "", "sent_bytes": 25 << 20}
    peer |= {"total_bytes": 100 << 20, "rate": 5 << 20, "eta_s": 15.0}
    lease = {"holder": "node1", "in_sync": ["node1"], "candidates": []}
    lease["candidates"] = [candidate("node1", "healthy"), candidate("node2", "not in-sync")]
    lease["replication"] = {"copies": 1, "min_copies": 1, "warning": "ONE COPY: ...", "peers": [peer]}
    node.status = {"leases": {LEASE: lease}}

    assert await node.say("sync-status") == 1
    assert capsys.readouterr().out == (
        "backups: copies 1, at least 1 needed; in sync: node1\nONE COPY: ...\n  node1: holder\n"
        "  node2: catching-up, 25% of 100 MiB, 5.0 MiB/s, 15 s left (not in-sync)\n"
    )
    lease["in_sync"], peer["state"] = ["node1", "node2"], "member"
    assert await node.say("sync-status", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["level"], [store["state"] for store in found["stores"]]) == (True, ["holder", "member"])


async def test_nobody_can_ask_for_work_over_tcp(node: Standing):
    port = free_port()
    await node.server.listen_tcp("127.0.0.1", port)

    def talk() -> int:
        with Client(port) as client:
            return client.ask("POST", "/repository", b'{"lease":"backups","do":"undelete"}').status

    assert await asyncio.to_thread(talk) == 405


def test_a_chore_tells_how_far_it_is_what_it_found_and_why_it_failed():
    chores = Chores()
    waiting, leaving = [], []

    def work(arguments, progress):
        progress.total = 2
        for number in range(30):
            progress.note(f"{number} " + "x" * 1000)
        waiting.append(1)
        while not leaving:
            progress.rest(0.001)
        raise OSError(5, "Input/output error")

    chores.register("scrub", work)
    assert chores.begin("scrub", {}) == ""
    until(lambda: bool(waiting), "it runs")
    assert "runs already" in chores.begin("scrub", {})
    running = chores.status()["scrub"]
    leaving.append(1)
    until(lambda: chores.status()["scrub"]["state"] != "running", "it ended")

    assert (running["state"], running["total"], len(running["found"]), running["found_more"]) == (
        "running", 2, 20, 10,
    )  # fmt: skip
    told = chores.status()["scrub"]
    assert (told["state"], told["error"]) == ("failed", "OSError: [Errno 5] Input/output error")
    assert told["ended"] >= told["began"] > 0
    assert len(json.dumps(told)) < 8000
