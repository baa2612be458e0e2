"""A backup of half a gigabyte that goes on over the death of the holder: a campaign, not a test.

    python -m leaseha.lab.sandbox -- python -m chaos.big_backup --mib 512 --out docs/benchmarks/big-backup

restic backs up through the VIP into one directory that both nodes see; half-way the holder is SIGKILLed with its
host alive. The backup must end with exit code 0, `restic check --read-data` must find nothing, and the restored
files must be the same.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from chaos.moves import FIRST, OTHER, candidate, holding, versions
from leaseha.errors import LabError
from leaseha.lab.backup import PASSWORD, Backup, chosen_client
from leaseha.lab.lab import LEASE, Lab

PORT: Final = 8000
MIB: Final = 1 << 20
LIMIT_KIB_S: Final = 48 * 1024
STEP_S: Final = 300.0


@dataclass(frozen=True, slots=True)
class Result:
    """What came of it."""

    client: str
    mib: int
    ttl: str
    taken_ms: float
    """From the kill to the first answer of the other node."""
    gap_ms: float
    """For how long nobody answered on the VIP at all: a killed agent's address outlives it, its repository does not."""
    backup_s: float
    backup_exit: int
    retries: int
    """Lines in which the client said that it tries again."""
    check: str
    differences: str
    answering_ms: float

    @property
    def good(self) -> bool:
        """As promised."""
        return (
            self.backup_exit == 0
            and not self.differences
            and not self.answering_ms
            and self.check == "no errors"
        )


def run(mib: int, ttl: str, directory: Path | None = None) -> Result:
    """One backup. Raises `LabError` if restic is not installed, or the lease does not move."""
    client = chosen_client()
    if not client.path:
        raise LabError("restic is not installed: apt-get install restic")
    settings: dict[str, Any] = {
        "session": {"ttl": ttl},
        "lease": {LEASE: {"hold_down": "1s", "flap_budget": 60, "failback": "off"}},
    }
    with Lab(nodes=(FIRST, OTHER), settings=settings, directory=directory) as lab:
        data = lab.directory / "data"
        data.mkdir()
        for name in (FIRST, OTHER):
            lab.node(name, lease={LEASE: {"repository": {"port": PORT, "path": str(data)}}})
            lab.start_nodes(name)
        lab.measure()
        holding(lab, FIRST)
        candidate(lab, OTHER)
        backup = Backup(client, lab.client, lab.directory, lab.vip, PORT)
        backup.make_files(mib * MIB)
        backup.prepare()
        return _killed_half_way(lab, backup, data, mib, ttl)


def _killed_half_way(lab: Lab, backup: Backup, data: Path, mib: int, ttl: str) -> Result:
    began_ns = lab.settle()
    backup.start(LIMIT_KIB_S)
    backup.wait_stored(data, mib * MIB // 2, STEP_S)
    killed_ns = time.monotonic_ns()
    lab.nodes[FIRST].kill()
    _, taken_ns = lab.prober.wait_for_answer(by=OTHER, after_ns=killed_ns, timeout_s=STEP_S)
    holding(lab, OTHER)
    code, output = backup.wait(STEP_S)
    took_s = (time.monotonic_ns() - began_ns) / 1e9
    ended_ns = lab.settle()
    return Result(
        client=backup.client.describe(),
        mib=mib,
        ttl=ttl,
        taken_ms=(taken_ns - killed_ns) / 1e6,
        gap_ms=lab.prober.longest_gap_ms(killed_ns, ended_ns),
        backup_s=took_s,
        backup_exit=code,
        retries=output.count("retrying after"),
        check=_check(lab, backup),
        differences=backup.restore_and_compare(STEP_S),
        answering_ms=sum(one.ms for one in lab.two_answering(began_ns, ended_ns)),
    )


def _check(lab: Lab, backup: Backup) -> str:
    """`restic check --read-data` through the VIP: `no errors`, or the end of what it said."""
    command = [backup.client.path, "-r", f"rest:{backup.url}/", "--no-cache", "check", "--read-data"]
    try:
        done = lab.client.run(command, timeout_s=STEP_S, env={**os.environ, "RESTIC_PASSWORD": PASSWORD})
    except subprocess.TimeoutExpired:
        return f"no end within {STEP_S:g} s"
    good = done.returncode == 0 and "no errors were found" in done.stdout
    return "no errors" if good else done.stdout.strip()[-300:]


def table(results: list[Result]) -> str:
    """Markdown."""
    head = (
        "client",
        "MiB",
        "ttl",
        "taken over after, ms",
        "VIP silent, ms",
        "backup, s",
        "its exit",
        "tried again",
    )
    rows: list[tuple[object, ...]] = [(*head, "check --read-data", "restored"), ("---",) * (len(head) + 2)]
    for one in results:
        timing = (f"{one.taken_ms:.0f}", f"{one.gap_ms:.0f}", f"{one.backup_s:.1f}", one.backup_exit)
        seen = (f"{one.retries} times", one.check, one.differences or "every file the same")
        rows.append((one.client, one.mib, one.ttl, *timing, *seen))
    lines = [f"| {' | '.join(map(str, row))} |" for row in rows]
    return "\n".join(lines)


def main() -> int:
    """Run and write the results; 1 if anything was lost."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mib", type=int, default=512)
    parser.add_argument("--ttl", default="2s")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--out", type=Path, help="path without suffix; .json and .md are written")
    asked = parser.parse_args()
    results = []
    for number in range(1, asked.runs + 1):
        results.append(run(asked.mib, asked.ttl))
        print(f"{number}/{asked.runs}: {json.dumps(asdict(results[-1]))}", flush=True)
    text = table(results)
    print(text)
    if asked.out:
        asked.out.parent.mkdir(parents=True, exist_ok=True)
        command = f"python -m chaos.big_backup --mib {asked.mib} --ttl {asked.ttl} --runs {asked.runs}"
        facts = {"command": command, "versions": versions(), "runs": [asdict(one) for one in results]}
        asked.out.with_suffix(".json").write_text(json.dumps(facts, indent=1) + "\n")
        known = ", ".join(f"{name} {value}" for name, value in versions().items())
        head = f"# A backup over the death of the holder\n\n`{command}`; {known}.\n\n"
        asked.out.with_suffix(".md").write_text(f"{head}{text}\n")
    return 0 if all(one.good for one in results) else 1


if __name__ == "__main__":
    sys.exit(main())
