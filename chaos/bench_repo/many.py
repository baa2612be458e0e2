"""200,000 small objects on the disk: what a start, a listing, a takeover and a comparison of the copies then cost.

    python -m chaos.bench_repo.many --out docs/benchmarks/many-objects

Two real repository processes, each with a directory that holds the same objects, beside the same with a thousandth of
them: a takeover must not take longer for what is stored. *Cold*: the kernel's caches were dropped before (root only).
"""

from __future__ import annotations

import argparse
import json
import random
import shlex
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from chaos.bench.idle import cost_of
from chaos.bench.quiet import LOCK_HELP, alone
from chaos.bench_repo.client import listed
from chaos.bench_repo.layout import fill
from chaos.bench_repo.servers import Ours
from chaos.moves import versions
from leaseha.errors import LabError, LeasehaError
from leaseha.repository.door import DoorOptions

TAKES = 5
COMPARED_S = 300.0


def main(argv: list[str] | None = None) -> int:
    """Run and write; 1 if something went wrong on the way."""
    given = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--objects", type=int, default=200_000)
    parser.add_argument("--bytes", type=int, default=1500, help="of each")
    parser.add_argument("--folder", type=Path, default=Path(), help="on the disk that is measured")
    parser.add_argument("--lock", type=Path, help=LOCK_HELP)
    parser.add_argument("--out", type=Path, help="path without suffix; .json and .md are written")
    asked = parser.parse_args(given)
    folder = Path(tempfile.mkdtemp(prefix="leaseha-many-", dir=asked.folder))
    rows = []
    try:
        for count in (max(1, asked.objects // 1000), asked.objects):
            with alone(asked.lock):
                rows.append(_one(folder / str(count), count, asked.bytes))
                print(json.dumps(rows[-1]), flush=True)
    except LeasehaError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if asked.out:
        command = shlex.join(["python", "-m", "chaos.bench_repo.many", *given])
        facts = {"command": command, "versions": versions(), "rows": rows}
        asked.out.with_suffix(".json").write_text(json.dumps(facts, indent=1) + "\n")
        asked.out.with_suffix(".md").write_text(_page(facts))
    return 0


def _one(folder: Path, count: int, size: int) -> dict[str, Any]:
    root, other = folder / "a", folder / "b"
    for one in (root, other):
        fill(one, "r", count, random.Random(1), size)
    cold = _drop_caches()
    found: dict[str, Any] = {"objects": count, "caches_dropped": cold}
    began = time.monotonic()
    # Both are in the set and neither process knows its tail: the first takeover compares everything before the
    # standby counts again, and does not wait for that.
    with Ours(root, other, replicate=True, door=DoorOptions(compare_every_s=0.1)) as ours:
        found["start_s"] = round(ours.timed.start_s, 3)
        found["first_takeover_s"] = round(ours.timed.take_s, 3)
        found["level_again_s"] = round(time.monotonic() - began - ours.timed.start_s, 3)
        takes = []
        for _ in range(TAKES):
            ours.call(ours.take())
            takes.append(round(ours.timed.take_s, 4))
        found["takeovers_s"] = sorted(takes)
        for name in ("listing_cold_s", "listing_s") if cold else ("listing_s",):
            if name == "listing_cold_s":
                _drop_caches()
            began = time.monotonic()
            found["listed"] = listed(ours.running.port, "/r/data/")
            found[name] = round(time.monotonic() - began, 3)
        found["compare_s"] = _compared(ours)
        if _drop_caches():
            found["compare_cold_s"] = _compared(ours)
        found["rss_mib"] = round(cost_of(ours.running.pids[:1]).rss_kib / 1024, 1)
    shutil.rmtree(folder, ignore_errors=True)
    return found


def _compared(ours: Ours) -> float:
    """How long the next comparison of both directories takes, s."""
    before = ours.call(ours.upkeep_status())["compare"]["compared"]
    until = time.monotonic() + COMPARED_S
    while time.monotonic() < until:
        said = ours.call(ours.upkeep_status())["compare"]
        if said["compared"] > before:
            return float(said["took_s"])
    raise LabError("no comparison within its time")


def _drop_caches() -> bool:
    """Whether that could be done."""
    try:
        Path("/proc/sys/vm/drop_caches").write_text("3\n", encoding="ascii")
    except OSError:
        return False
    return True


def _page(facts: dict[str, Any]) -> str:
    about = ", ".join(f"{name} {value}" for name, value in facts["versions"].items())
    few, many = facts["rows"]
    lines = [
        "# Many objects",
        "",
        f"`{facts['command']}`; {about}. Two nodes on one machine, each with a directory of its own on the same disk.",
        "",
        f"| | {few['objects']:,} objects | {many['objects']:,} objects |",
        "| --- | --- | --- |",
    ]
    texts = {
        "start_s": "start of a process until it is ready, s (caches cold)",
        "first_takeover_s": "takeover by processes that have just started, s",
        "level_again_s": "until the standby, compared with, counts again, s",
        "takeovers_s": "takeover with a standby that is level, s (all of them)",
        "listing_cold_s": "listing, caches cold, s",
        "listing_s": "listing, s",
        "compare_s": "comparing both directories, s",
        "compare_cold_s": "comparing both directories, caches cold, s",
        "rss_mib": "memory of the holder's process afterwards, MiB",
    }
    for key, text in texts.items():
        if key in many:
            shown = [
                ", ".join(f"{one:g}" for one in row[key]) if isinstance(row[key], list) else f"{row[key]:g}"
                for row in (few, many)
            ]
            lines.append(f"| {text} | {shown[0]} | {shown[1]} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
