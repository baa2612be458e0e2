"""leaseha's repository, rest-server and rclone under the same clients, interleaved: measured, tabled, drawn.

    PACKAGE=restic-rest-server scripts/newer_restic build/rest-server
    python -m chaos.bench_repo --rest-server build/rest-server/restic-rest-server --out docs/benchmarks/repository

In each round every system, in another order, gets an empty directory on the same disk and does all cases; the ratios
are those of systems in the same round. Writes OUT.json (every figure), OUT.md and OUT.svg.
"""

from __future__ import annotations

import argparse
import mmap
import os
import random
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from chaos.bench.idle import cost_of
from chaos.bench.quiet import LOCK_HELP, alone
from chaos.bench_repo import report
from chaos.bench_repo.client import RANGE, Body, Connection, listed, make_bodies, share
from chaos.bench_repo.layout import fill
from chaos.bench_repo.servers import WITH_STANDBY, Programs, Running, find, served
from chaos.moves import versions
from leaseha.errors import LeasehaError

MIB = 1 << 20
Note = Callable[[str, int, float, str], None]


def _asked(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--objects", type=int, default=16, help="of --mib each, for each case")
    parser.add_argument("--mib", type=int, default=16)
    parser.add_argument("--ranges", type=int, default=3000, help="of 64 KiB, for each case")
    parser.add_argument("--listing", type=int, default=100_000, help="objects that are listed; 0: none")
    parser.add_argument("--uploads", type=int, default=64, help="at once, for the memory; 0: none")
    parser.add_argument("--rest-server", default="rest-server")
    parser.add_argument("--rclone", default="rclone")
    parser.add_argument("--folder", type=Path, default=Path(), help="on the disk that is measured")
    parser.add_argument(
        "--touch", type=int, default=4096, help="MiB of memory that are touched before each system; 0: none"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--lock", type=Path, help=LOCK_HELP)
    parser.add_argument("--out", type=Path, help="path without suffix; .json, .md and .svg are written")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Run and write; 1 if something went wrong on the way."""
    given = sys.argv[1:] if argv is None else argv
    asked = _asked(given)
    programs = find(asked.rest_server, asked.rclone)
    chance = random.Random(asked.seed)
    rows: list[dict[str, Any]] = []
    bodies = make_bodies(max(asked.objects, asked.uploads), asked.mib * MIB, asked.seed)
    began = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    folder = Path(tempfile.mkdtemp(prefix="leaseha-bench-", dir=asked.folder))
    try:
        for number in range(1, asked.rounds + 1):
            systems = programs.systems()
            chance.shuffle(systems)
            for system in systems:
                with alone(asked.lock):
                    _system(system, number, programs, folder, bodies[: asked.objects], asked, rows)
        if asked.listing:
            with alone(asked.lock):
                _listings(programs, folder, asked, rows)
        if asked.uploads:
            with alone(asked.lock):
                _memory(programs, folder, bodies, asked, rows)
    except LeasehaError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    facts = {
        "command": shlex.join(["python", "-m", "chaos.bench_repo", *given]),
        "began": began,
        "versions": versions(),
        "systems": programs.versions(),
        "rows": rows,
    }
    if asked.out:
        report.write(asked.out, facts)
    return 0


def _system(
    system: str,
    number: int,
    programs: Programs,
    folder: Path,
    bodies: list[Body],
    asked: argparse.Namespace,
    rows: list[dict[str, Any]],
) -> None:
    """All cases of one system in one round."""
    root = folder / f"{number}-{len(rows)}"
    root.mkdir()
    _touch_memory(asked.touch * MIB)
    os.sync()

    def note(case: str, connections: int, value: float, unit: str) -> None:
        row = {"round": number, "system": system, "case": case, "connections": connections}
        rows.append({**row, "value": round(value, 2), "unit": unit})
        print(f"{number} {system:24} {case:8} c={connections} {value:10.1f} {unit}", flush=True)

    with served(system, programs, root) as running:
        for connections in (1, 4):
            _cases(running, connections, bodies, asked.ranges, random.Random(number), note)
    shutil.rmtree(root, ignore_errors=True)
    shutil.rmtree(root.with_name(root.name + "-standby"), ignore_errors=True)


def _touch_memory(size: int) -> None:
    """A virtual machine's memory may have to be found first by its host: not while somebody is measured."""
    if not size:
        return
    with mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE):
        pass


def _cases(
    running: Running, connections: int, bodies: list[Body], ranges: int, chance: random.Random, note: Note
) -> None:
    repo = f"/c{connections}/"
    _create(running, repo)
    size_mib = sum(body.size for body in bodies) / MIB
    before = cost_of(running.pids).cpu_s
    work = [lambda one, body=body: one.post(f"{repo}data/{body.name}", body) for body in bodies]
    note("POST", connections, size_mib / share(running.port, connections, work), "MiB/s")
    cpu_s = cost_of(running.pids).cpu_s - before
    note("POST CPU", connections, cpu_s / (size_mib / 1024), "s/GiB")
    work = [lambda one, body=body: one.get(f"{repo}data/{body.name}", body.size) for body in bodies]
    note("GET", connections, size_mib / share(running.port, connections, work), "MiB/s")
    work = [_range(repo, bodies, chance) for _ in range(ranges)]
    note("range", connections, ranges / share(running.port, connections, work), "1/s")


def _create(running: Running, repo: str) -> None:
    connection = Connection(running.port)
    connection.post(f"{repo}?create=true")
    connection.close()


def _range(repo: str, bodies: list[Body], chance: random.Random) -> Any:
    body = chance.choice(bodies)
    at = chance.randrange(max(1, body.size - RANGE))
    fields = f"Range: bytes={at}-{at + RANGE - 1}\r\n"
    return lambda one: one.get(f"{repo}data/{body.name}", RANGE, fields, 206)


def _listings(
    programs: Programs, folder: Path, asked: argparse.Namespace, rows: list[dict[str, Any]]
) -> None:
    """One directory for all; each system lists it in each round."""
    root = folder / "listing"
    fill(root, "r", asked.listing, random.Random(asked.seed))
    for number in range(1, asked.rounds + 1):
        for system in programs.systems():
            if system == WITH_STANDBY:
                continue  # reads are the same
            with served(system, programs, root) as running:
                listed(running.port, "/r/data/")  # the first one fills the kernel's caches
                began = time.monotonic()
                count = listed(running.port, "/r/data/")
                took_s = time.monotonic() - began
            row = {"round": number, "system": system, "case": "listing", "connections": 1}
            rows.append({**row, "value": round(took_s, 3), "unit": "s", "objects": count})
            print(f"{number} {system:24} listing {count} objects {took_s:.2f} s", flush=True)
    shutil.rmtree(root)


def _memory(
    programs: Programs,
    folder: Path,
    bodies: list[Body],
    asked: argparse.Namespace,
    rows: list[dict[str, Any]],
) -> None:
    """The most memory of each system's processes together over so many uploads at once."""
    for system in programs.systems():
        root = folder / f"memory-{system.partition(',')[0]}-{len(rows)}"
        root.mkdir()
        with served(system, programs, root) as running:
            _create(running, "/m/")
            work = [
                lambda one, body=body: one.post(f"/m/data/{body.name}", body)
                for body in bodies[: asked.uploads]
            ]
            share(running.port, asked.uploads, work)
            peak_kib = sum(_peak_kib(pid) for pid in running.pids)
        row = {"round": 0, "system": system, "case": "memory", "connections": asked.uploads}
        rows.append({**row, "value": round(peak_kib / 1024, 1), "unit": "MiB"})
        print(f"{system:24} {asked.uploads} uploads at once: {peak_kib / 1024:.0f} MiB", flush=True)
        shutil.rmtree(root, ignore_errors=True)
        shutil.rmtree(root.with_name(root.name + "-standby"), ignore_errors=True)


def _peak_kib(pid: int) -> int:
    text = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("VmHWM:"))


if __name__ == "__main__":
    sys.exit(main())
