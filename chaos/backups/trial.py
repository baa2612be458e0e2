"""One backup over one fault, in a lab of its own, and what came of it."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from chaos.backups.faults import FIRST, OTHER, Fault
from chaos.backups.record import Audit, Pause, audit, expected, flying, pause, read
from chaos.backups.restic import Restic, Version
from chaos.moves import candidate, holding
from leaseha.errors import LabError
from leaseha.lab.lab import LEASE, REPOSITORY_PORT, Lab

PROXY_PORT: Final = 8100
_MIB: Final = 1 << 20
_STEP_S: Final = 60.0
_BACKUP_S: Final = 150.0
_PHASE_S: Final = 0.3
_EARLIEST, _LATEST = 0.2, 0.5
"""When the fault comes: after this share of the bytes, at random between."""


@dataclass(frozen=True, slots=True)
class Size:
    """Of one backup."""

    mib: int = 128
    limit_kib_s: int = 16 * 1024
    ttl: str = "2s"
    replicate: bool = True
    """A directory for each node, and copies; else one that both see."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of it; ms count from the fault."""

    fault: str
    client: str
    number: int
    error: str = ""
    """The lab's, if there is no outcome: the rest says nothing then."""
    backup_exit: int | None = None
    """None: it did not end."""
    backup_s: float = 0.0
    taken_ms: float = 0.0
    """Until the new holder answered on the address."""
    retries: int = 0
    check: str = ""
    """Of `restic check --read-data` on the new holder; empty: clean."""
    held: Audit = field(default_factory=lambda: Audit(0, 0))
    """The new holder's own directory."""
    later: Audit = field(default_factory=lambda: Audit(0, 0))
    """The old holder's own directory, when it was a member again; nothing promised: it was not looked at."""
    not_back: str = ""
    """Why the old holder did not become a member again; empty: it did, or was not asked to."""
    client_view: Pause = field(default_factory=lambda: Pause(0, 0, 0.0, 0.0, 0.0))
    answering_ms: float = 0.0
    """For how long two nodes answered on the address."""
    mib: int = 0
    """Of the backup."""

    @property
    def good(self) -> bool:
        """As promised."""
        clean = self.held.clean and self.later.clean and self.held.promised > 0
        well = self.backup_exit == 0 and not self.check and not self.answering_ms
        return not self.error and well and clean and not self.not_back


def settings(size: Size) -> Mapping[str, Any]:
    """No failback, so that who has taken over is looked at in peace."""
    return {
        "session": {"ttl": size.ttl},
        "lease": {LEASE: {"hold_down": "1s", "flap_budget": 60, "failback": "off"}},
    }


def directory_of(lab: Lab, name: str, size: Size) -> Path:
    """Its own, or the shared one."""
    return lab.data(name) if size.replicate else lab.directory / "data"


def trial(
    fault: Fault, version: Version, number: int, chance: random.Random, size: Size, keep: Path | None
) -> Outcome:
    """Never raises for what the lab meets: `error` says it then."""
    try:
        with Lab(
            nodes=(FIRST, OTHER), settings=settings(size), directory=keep, replicate=size.replicate
        ) as lab:
            return _in_lab(lab, fault, version, number, chance, size)
    except LabError as error:
        return Outcome(fault.name, version.name, number, error=str(error)[:2000])


def _in_lab(
    lab: Lab, fault: Fault, version: Version, number: int, chance: random.Random, size: Size
) -> Outcome:
    shared = {"port": REPOSITORY_PORT, "path": str(lab.directory / "data")}
    overrides = {} if size.replicate else {"lease": {LEASE: {"repository": shared}}}
    for name in (FIRST, OTHER):
        directory_of(lab, name, size).mkdir(exist_ok=True)
        lab.start_nodes(name, **overrides)
    lab.measure(period_ms=4.0, direct_ms=20.0, arp_ms=20.0)
    holding(lab, FIRST)
    candidate(lab, OTHER)
    restic, record = _client(lab, version, size)
    restic.init()
    began_ns = time.monotonic_ns()
    restic.start(size.limit_kib_s)
    enough = int(chance.uniform(_EARLIEST, _LATEST) * size.mib * _MIB)
    restic.wait_for(f"{enough} bytes acknowledged", lambda: _acknowledged(record) >= enough, _STEP_S)
    time.sleep(chance.uniform(0, _PHASE_S))  # waits for a fact: the random phase is what is wanted
    fault.before(lab)
    what = "an upload awaits its answer" if fault.waiting else "an upload is on its way"
    restic.wait_for(what, lambda: flying(record, sent=fault.waiting) > 0, _STEP_S)
    fault_ns = time.monotonic_ns()
    fault.begin(lab)
    _, taken_ns = lab.prober.wait_for_answer(by=OTHER, after_ns=fault_ns, timeout_s=_STEP_S)
    fault.taken(lab)
    code = restic.wait(_BACKUP_S)
    ended_ns = time.monotonic_ns()
    holding(lab, OTHER)
    requests = read(record)
    view = pause(requests, fault_ns)
    promise = expected(requests)
    held = audit(promise, directory_of(lab, OTHER, size))
    check = restic.check()
    fault.end(lab)
    later, not_back = _later(lab, size, record)
    settled_ns = lab.settle()
    return Outcome(
        fault.name,
        version.name,
        number,
        backup_exit=code,
        backup_s=(ended_ns - began_ns) / 1e9,
        taken_ms=(taken_ns - fault_ns) / 1e6,
        retries=restic.output().count("retrying after"),
        check=check,
        held=held,
        later=later,
        not_back=not_back,
        client_view=view,
        answering_ms=sum(one.ms for one in lab.two_answering(began_ns, settled_ns)),
        mib=size.mib,
    )


def _client(lab: Lab, version: Version, size: Size) -> tuple[Restic, Path]:
    """restic behind the proxy, with something to back up, and the proxy's record."""
    record = lab.directory / "record.jsonl"
    record.touch()
    command = [sys.executable, "-m", "chaos.backups.proxy", "--port", str(PROXY_PORT)]
    command += ["--to", f"{lab.vip}:{REPOSITORY_PORT}", "--record", str(record)]
    log = lab.directory / "proxy.log"
    lab.client.popen(command, log=log)
    end = time.monotonic() + _STEP_S
    while not log.read_text(encoding="utf-8"):
        if time.monotonic() > end:
            raise LabError("the proxy does not start")
        time.sleep(0.01)  # waits for a fact: its first line
    restic = Restic(version, lab.client, lab.directory, f"http://127.0.0.1:{PROXY_PORT}")
    restic.make_files(size.mib * _MIB)
    return restic, record


def _acknowledged(record: Path) -> int:
    return sum(one.bytes for one in read(record) if one.method == "POST" and one.acknowledged)


def _later(lab: Lab, size: Size, record: Path) -> tuple[Audit, str]:
    """The old holder's directory once it is a member again, or why it is not; not asked where it is shared, or off."""
    if not size.replicate or not lab.host(FIRST).running:
        return Audit(0, 0), ""
    try:
        if not lab.nodes[FIRST].running:
            lab.nodes[FIRST].wait()
            lab.nodes[FIRST].start()
        _member_again(lab)
    except LabError as error:
        return Audit(0, 0), str(error)[:1000]
    return audit(expected(read(record)), directory_of(lab, FIRST, size)), ""


def _member_again(lab: Lab) -> None:
    """By the new holder's word: one that has just been woken up still believes what was before."""

    def admitted(status: dict[str, Any]) -> bool:
        rows = status["leases"][LEASE]["candidates"]
        return any(row["node"] == FIRST and row["candidate"] for row in rows)

    lab.nodes[OTHER].wait_for(f"{FIRST} is a candidate again", admitted, _STEP_S)
