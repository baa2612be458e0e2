"""Real restic backups over every fault of the holder, with every acknowledged object looked for afterwards.

    scripts/newer_restic build/restic
    python -m leaseha.lab.sandbox -- python -m chaos.backups --restic build/restic/restic --out docs/benchmarks/backups

Each run is a lab of its own: two nodes, etcd on a third, restic behind a recording proxy on the client. In the midst of
the backup the fault comes. Then: restic must end with exit code 0 by itself; every object that was acknowledged must
be in the new holder's own directory with the same bytes; `restic check --read-data` must be clean there; and when the
old holder is a member again, its directory must have all of it too.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import random
import shutil
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from chaos.backups.faults import ALL, FAULTS
from chaos.backups.report import line, page
from chaos.backups.restic import version_of
from chaos.backups.trial import Size, trial
from chaos.bench.quiet import LOCK_HELP, alone
from chaos.moves import versions


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=3, help="of each fault with each restic")
    parser.add_argument("--fault", action="append", choices=[one.name for one in ALL])
    parser.add_argument(
        "--restic", action="append", default=[], help="one more program beside that of the PATH"
    )
    parser.add_argument("--only-given", action="store_true", help="not that of the PATH")
    parser.add_argument("--mib", type=int, default=128)
    parser.add_argument("--limit-mib-s", type=int, default=16)
    parser.add_argument("--ttl", default="2s")
    parser.add_argument("--shared", action="store_true", help="one directory that both nodes see; no copies")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="a folder for configurations, logs and records, which stay")
    parser.add_argument("--lock", type=Path, help=LOCK_HELP)
    parser.add_argument("--out", type=Path, help="path without suffix; .json and .md are written")
    parser.add_argument("--join", action="store_true", help="add to the runs that --out has already")
    parser.add_argument("--resume", action="store_true", help="--join, without what it has done already")
    parser.add_argument("--within-s", type=float, default=math.inf, help="no run begins later than this")
    return parser.parse_args()


def main() -> int:
    """Run and write the results; 1 if anything was not as promised."""
    asked = _asked()
    installed = shutil.which("restic")
    found = [] if asked.only_given or installed is None else [installed]
    clients = [version_of(path) for path in [*found, *asked.restic]]
    if not clients:
        print("restic is not installed: apt-get install restic", file=sys.stderr)
        return 2
    size = Size(asked.mib, asked.limit_mib_s * 1024, asked.ttl, not asked.shared)
    rows = _rows(asked.out) if asked.join or asked.resume else []
    done = {_of(row) for row in rows} if asked.resume else set()
    good, end = True, time.monotonic() + asked.within_s
    chosen = [one for one in ALL if one.name in asked.fault] if asked.fault else FAULTS
    for number, fault, client in itertools.product(range(1, asked.runs + 1), chosen, clients):
        if (fault.name, client.name, number) in done or time.monotonic() > end:
            continue
        chance = random.Random(f"{asked.seed}/{fault.name}/{number}")
        keep = asked.keep and asked.keep / f"{fault.name}-{number}-{client.name.replace(' ', '-')}"
        with alone(asked.lock):
            outcome = trial(fault, client, number, chance, size, keep)
        print(line(outcome), flush=True)
        rows.append(asdict(outcome))
        good = good and outcome.good
        if asked.out:
            _write(asked.out, rows, size)
    return 0 if good else 1


def _rows(out: Path | None) -> list[dict[str, Any]]:
    """Those that are there already."""
    place = out.with_suffix(".json") if out else None
    return json.loads(place.read_text())["runs"] if place and place.exists() else []


def _of(row: dict[str, Any]) -> tuple[str, str, int]:
    return row["fault"], row["client"], row["number"]


def _write(out: Path, rows: list[dict[str, Any]], size: Size) -> None:
    """After each run: whatever ends the campaign, what there is stays."""
    out.parent.mkdir(parents=True, exist_ok=True)
    facts = {"versions": versions(), "size": row_of_size(size), "runs": rows}
    out.with_suffix(".json").write_text(json.dumps(facts, indent=1) + "\n")
    out.with_suffix(".md").write_text(page(facts))


def row_of_size(size: Size) -> dict[str, Any]:
    """For JSON."""
    return {
        "mib": size.mib,
        "limit_kib_s": size.limit_kib_s,
        "ttl": size.ttl,
        "copies": "a directory for each node"
        if size.replicate
        else "one shared directory (so no tickle ACKs)",
    }


if __name__ == "__main__":
    sys.exit(main())
