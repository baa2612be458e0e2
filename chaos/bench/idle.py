"""What a node costs while nothing happens: no instrument runs meanwhile."""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from chaos.bench.figures import Idle
from chaos.bench.systems import FIRST, OTHER, System
from chaos.bench.trial import bring_up, reason
from leaseha.errors import LabError
from leaseha.lab.lab import Lab

SETTLE_S: Final = 5.0
"""What a start leaves behind (late imports, first checks, keepalived's second round of announcements) is over then."""
_CPU_CLOCK: Final = 2
ROLES: Final = ((FIRST, "holder"), (OTHER, "standby"))


@dataclass(frozen=True, slots=True)
class Cost:
    """Of a group of processes, up to now."""

    cpu_s: float = 0.0
    rss_kib: int = 0
    pss_kib: int = 0
    processes: int = 0


def cost_of(pids: tuple[int, ...]) -> Cost:
    """CPU of each with all its ended children. A process that has ended meanwhile counts nothing."""
    found = Cost()
    for pid in pids:
        with contextlib.suppress(OSError):
            one = _cost_of(pid)
            found = Cost(
                found.cpu_s + one.cpu_s,
                found.rss_kib + one.rss_kib,
                found.pss_kib + one.pss_kib,
                found.processes + 1,
            )
    return found


def _cost_of(pid: int) -> Cost:
    stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    ended_s = sum(int(field) for field in stat[13:15]) / os.sysconf("SC_CLK_TCK")  # cutime, cstime
    # The process's own CPU clock, in ns and with its ended threads; clock_getcpuclockid(3) makes this number. utime
    # and stime count samples instead, which short work may always miss.
    run_s = time.clock_gettime((~pid << 3) | _CPU_CLOCK)
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii", errors="replace")
    sizes = {
        parts[0]: int(parts[1])
        for parts in (line.split() for line in rollup.splitlines()[1:])
        if len(parts) >= 2 and parts[1].isdigit()
    }
    return Cost(run_s + ended_s, sizes.get("Rss:", 0), sizes.get("Pss:", 0), 1)


def measure_idle(system: System, seconds: float, settle_s: float = SETTLE_S) -> list[Idle]:
    """A lab with the system at rest: holder and standby. Errors are figures too."""
    try:
        with Lab(nodes=(FIRST, OTHER), settings=system.settings(fails_back=False)) as lab:
            bring_up(system.pair(lab))
            time.sleep(settle_s)
            return _watched(lab, system, seconds)
    except Exception as error:  # noqa: BLE001  (a campaign outlives any one failure; it is noted in its place)
        why = reason(error)
        return [Idle(system.name, role, 0, 0, 0.0, 0, 0.0, error=why) for _, role in ROLES]


def _etcd(lab: Lab) -> tuple[int, int]:
    """(revision, index of the log). Raises `LabError`, `OSError`."""
    status = lab.etcd.members[0].status()
    return int(status["header"]["revision"]), int(status["raftIndex"])


def _watched(lab: Lab, system: System, seconds: float) -> list[Idle]:
    pids = {name: lab.host(name).space.pids() for name, _ in ROLES}
    began, etcd_before = time.monotonic(), _etcd(lab)
    before = {name: cost_of(pids[name]) for name, _ in ROLES}
    time.sleep(seconds)
    after = {name: cost_of(pids[name]) for name, _ in ROLES}
    passed, etcd_after = time.monotonic() - began, _etcd(lab)
    rates = [(late - early) / passed for early, late in zip(etcd_before, etcd_after, strict=True)]
    found = []
    for name, role in ROLES:
        if after[name].processes < len(pids[name]):
            raise LabError(f"a process of {name} ended while it was measured")
        found.append(
            Idle(
                system.name,
                role,
                after[name].rss_kib,
                after[name].pss_kib,
                (after[name].cpu_s - before[name].cpu_s) / passed * 100,
                len(pids[name]),
                passed,
                rates[0] if system.uses_etcd else None,
                rates[1] if system.uses_etcd else None,
            )
        )
    return found
