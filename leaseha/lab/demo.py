"""`leaseha demo`: three nodes and etcd on this machine, a backup through the VIP, and the holder killed in the middle.

Everything is real: processes, addresses, etcd, the backup client. Each step is verified; the exit code is 0
only if every one of them held.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from leaseha.core.records import HistoryRecord
from leaseha.errors import LabError
from leaseha.lab import picture
from leaseha.lab.backup import Backup, chosen_client
from leaseha.lab.lab import LEASE, REPOSITORY_PORT, Lab
from leaseha.lab.sandbox import ensure_sandbox

NODES: Final = ("node1", "node2", "node3")
SETTINGS: Final[dict[str, Any]] = {"session": {"ttl": "2s"}, "lease": {LEASE: {"hold_down": "2s"}}}
FILES_BYTES: Final = 48 << 20
UPLOAD_KIB_S: Final = 6 * 1024
STEP_S: Final = 45.0
AROUND_NS: Final = 500_000_000
"""A gap that touches this much around a move is that of the move."""


@dataclass(slots=True)
class Demo:
    """One run: what was done, what was seen."""

    lab: Lab
    backup: Backup
    began_ns: int = field(default_factory=time.monotonic_ns)
    failed: list[str] = field(default_factory=list)
    marks: list[tuple[int, str]] = field(default_factory=list)

    def say(self, text: str) -> None:
        """One line of progress, with the time since the start."""
        print(f"{(time.monotonic_ns() - self.began_ns) / 1e9:6.2f} s  {text}", flush=True)

    def mark(self, text: str) -> int:
        """Say something that the picture shows, too."""
        now_ns = time.monotonic_ns()
        self.marks.append((now_ns, text))
        self.say(text)
        return now_ns

    def verify(self, what: str, held: bool) -> None:
        """One step's verdict."""
        self.say(f"{'verified' if held else 'FAILED'}: {what}")
        if not held:
            self.failed.append(what)


def main(*, keep: bool) -> int:
    """Run the demo in a sandbox of its own; the exit code."""
    argv = [sys.executable, "-m", "leaseha", "demo", *(["--keep"] if keep else [])]
    ensure_sandbox(argv)
    client = chosen_client()
    print(
        f"leaseha demo: nodes {', '.join(NODES)}, one etcd, and a client that backs up with {client.describe()}"
    )
    with Lab(nodes=NODES, etcd_members=1, settings=SETTINGS, replicate=True) as lab:
        backup = Backup(client, lab.client, lab.directory, lab.vip, REPOSITORY_PORT)
        demo = Demo(lab, backup)
        try:
            _steps(demo)
        except LabError as error:
            demo.verify(f"{error}", held=False)
        moves = _history(demo)
        print()
        print(_table(demo, moves))
        print()
        print(picture.timeline(lab.prober.holders(demo.began_ns), demo.marks, demo.began_ns, NODES))
        print()
        if demo.failed:
            print(f"NOT as promised: {'; '.join(demo.failed)}")
            _keep_logs(lab)
        else:
            print(
                "Every step was verified: no file was lost, and no two nodes ever answered at the same time."
            )
        if keep:
            _hold(lab)
    return 1 if demo.failed else 0


def _steps(demo: Demo) -> None:
    lab = demo.lab
    lab.start_nodes(NODES[0])
    lab.start_nodes(*NODES[1:])
    lab.measure(service_port=REPOSITORY_PORT)
    holder, _ = lab.prober.wait_for_answer(timeout_s=STEP_S)
    demo.mark(f"{holder} holds {lab.vip}, and serves the repository there; each node has a disk of its own")
    demo.verify(f"the preferred node {NODES[0]} holds the lease", holder == NODES[0])
    _candidates(demo)
    files = demo.backup.make_files(FILES_BYTES)
    demo.say(
        f"the client has {files} files, {FILES_BYTES >> 20} MiB; the upload is slowed so that half-way is half-way"
    )
    _failover(demo)
    _failback(demo)
    _same_everywhere(demo)
    _switchover(demo)
    lab.settle()
    demo.verify("no two nodes answered on the VIP at the same time", not lab.two_answering(demo.began_ns))


def _candidates(demo: Demo) -> None:
    """Until both standbys may take over."""

    def both(status: dict[str, Any]) -> bool:
        return all(row["candidate"] for row in status["leases"][LEASE]["candidates"]) and len(
            status["nodes"]
        ) == len(NODES)

    demo.lab.nodes[NODES[0]].wait_for("all nodes are candidates", both, STEP_S)


def _failover(demo: Demo) -> None:
    lab, backup = demo.lab, demo.backup
    backup.prepare()
    demo.mark("backup begins")
    backup.start(UPLOAD_KIB_S)
    backup.wait_stored(lab.data(NODES[1]), FILES_BYTES // 2, STEP_S)
    holder = lab.prober.wait_for_answer(after_ns=time.monotonic_ns(), timeout_s=STEP_S)[0]
    killed_ns = demo.mark(f"half of it is stored: SIGKILL to {holder} and all its processes, guard and all")
    lab.nodes[holder].kill_tree()
    taker, taken_ns = lab.prober.wait_for_answer(by=NODES[1], after_ns=killed_ns, timeout_s=STEP_S)
    demo.mark(
        f"{taker} answers, {(taken_ns - killed_ns) / 1e6:.0f} ms after the kill; the client retries by itself"
    )
    code, output = backup.wait(STEP_S)
    demo.mark("backup complete" if code == 0 else f"backup FAILED:\n{output}")
    demo.verify("the backup went on over the failover and ended with exit code 0", code == 0)
    differences = backup.restore_and_compare(STEP_S)
    demo.verify(
        f"restored from {taker} and compared: {differences or 'every file is the same'}", not differences
    )


def _failback(demo: Demo) -> None:
    lab = demo.lab
    back_ns = demo.mark(f"{NODES[0]} comes back")
    lab.start_nodes(NODES[0])
    lab.prober.wait_for_answer(by=NODES[0], after_ns=back_ns, timeout_s=STEP_S)
    demo.mark(f"{NODES[0]} has its lease back, after {SETTINGS['lease'][LEASE]['hold_down']} of hold-down")
    demo.verify("the preferred node got the lease back", held=True)
    _candidates(demo)


def _same_everywhere(demo: Demo) -> None:
    """What came while the first node was dead is on its disk too, before anything is read from there."""
    disks = [_stored(demo.lab, name) for name in NODES]
    same = all(disk == disks[0] for disk in disks)
    demo.verify(f"each of the {len(NODES)} disks has the same {len(disks[0])} objects of the backup", same)


def _stored(lab: Lab, name: str) -> dict[str, int]:
    """The backup's objects on a node's disk, with their sizes; locks come and go."""
    root = lab.data(name) / "demo"
    paths = [path for kind in ("data", "index", "snapshots", "keys") for path in (root / kind).rglob("*")]
    return {str(path.relative_to(root)): path.stat().st_size for path in paths if path.is_file()}


def _switchover(demo: Demo) -> None:
    lab, target = demo.lab, NODES[2]
    asked_ns = demo.mark(f"switchover by hand: leaseha switchover --to {target}")
    config = str(lab.nodes[NODES[0]].config)
    command = [sys.executable, "-m", "leaseha", "switchover", "--config", config, "--to", target, "--json"]
    done = lab.host(NODES[0]).run(command, timeout_s=STEP_S)
    demo.verify(f"leaseha switchover: {_one_line(done.stdout)}", done.returncode == 0)
    lab.prober.wait_for_answer(by=target, after_ns=asked_ns, timeout_s=STEP_S)
    demo.mark(f"{target} holds it")


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _history(demo: Demo) -> list[HistoryRecord]:
    """`leaseha history --json`, as an operator would ask for it on a living node."""
    lab = demo.lab
    name = next((name for name in reversed(NODES) if name in lab.nodes and lab.nodes[name].running), None)
    if name is None:
        return []
    command = [sys.executable, "-m", "leaseha", "history", "--config", str(lab.nodes[name].config), "--json"]
    done = lab.host(name).run(command, timeout_s=STEP_S)
    try:
        return [HistoryRecord(**entry) for entry in json.loads(done.stdout)]
    except (ValueError, TypeError):
        demo.verify(f"leaseha history: {_one_line(done.stdout)}", held=False)
        return []


def _table(demo: Demo, moves: list[HistoryRecord]) -> str:
    """Each move: reason, how long the address and the service behind it did not answer the client, trace id."""
    wall_ns = time.time_ns() - time.monotonic_ns()
    rows = [("move", "from", "to", "address away", "service away", "reason", "trace id")]
    for move in moves:
        at_ns = move.at_ms * 1_000_000 - wall_ns
        address, service = (
            f"{one.longest_gap_ms(at_ns - AROUND_NS, at_ns + AROUND_NS):.0f} ms" if move.from_node else "-"
            for one in (demo.lab.prober, demo.lab.service)
        )
        nodes = (move.from_node or "-", move.to_node)
        rows.append((move.kind, *nodes, address, service, move.reason, move.trace_id))
    # On a slow machine the preferred node may have taken the lease back from the switchover by now.
    told = [move.kind for move in moves][1 : 1 + len(picture.MOVES)]
    demo.verify("each of the three moves is in the history", told == list(picture.MOVES))
    return "\n".join(picture.columns(rows))


def _keep_logs(lab: Lab) -> None:
    """After a failure: the agents' logs, where they outlive the lab."""
    kept = Path(f"{lab.directory}-logs")
    kept.mkdir(exist_ok=True)
    for log in lab.directory.glob("*.log"):
        shutil.copy(log, kept)
    print(f"the logs of the nodes are kept in {kept}")


def _hold(lab: Lab) -> None:
    """Leave the cluster up until Ctrl-C."""
    node = lab.nodes[NODES[2]]
    print("The cluster stays up until Ctrl-C. From another terminal, try:")
    print(f"  {sys.executable} -m leaseha status --config {node.config}")
    print(f"  tail -f {node.log}")
    if os.environ.get("LEASEHA_SANDBOX") == "1":
        print("and inside of a node (as root, or the account that runs the demo):")
        print(f"  nsenter --preserve-credentials -U -n -t $(pgrep -f {node.config} | head -n 1) ip address")
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        print("\nended")
