"""keepalived, as the bench runs it: the daemon in the foreground, VRRP by multicast on the lab's network, its defaults
but for what is named here.

The preferred node has priority 150 and the other 100 (keepalived's default); it preempts, which is the default too.
`advert_int 1` is VRRP version 2, the default; shorter ones need version 3. A planned move is what its users do: a
tracked file that lowers the priority.

Of its two processes the child does the work (VRRP) and the parent restarts it; so `kill` is SIGKILL to the child. A
SIGKILL of the parent alone is an orderly stop: the child asks the kernel for SIGTERM at its parent's end.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from chaos.bench.systems import FIRST, OTHER
from leaseha.errors import LabError
from leaseha.lab.lab import Lab

PRIORITY: Final = {FIRST: 150, OTHER: 100}
LOWERED: Final = -100
_CURE: Final = "no keepalived on this machine: apt-get install keepalived"
_STEP_S: Final = 30.0
_POLL_S: Final = 0.01
_SBIN: Final = "/usr/sbin:/sbin"

CONFIG: Final = """\
global_defs {{
    router_id {node}
    vrrp_version {version}
}}
track_file planned {{
    file "{planned}"
    weight 1
}}
vrrp_instance bench {{
    state {state}
    interface eth0
    virtual_router_id 50
    priority {priority}
    advert_int {advert_s:g}
    track_file {{
        planned
    }}
    virtual_ipaddress {{
        {vip} dev eth0
    }}
}}
"""


def find_keepalived() -> str:
    """Its path. Raises `LabError` that names the package."""
    path = shutil.which("keepalived", path=os.pathsep.join((os.environ.get("PATH", os.defpath), _SBIN)))
    if path is None:
        raise LabError(_CURE)
    return path


@functools.cache
def version() -> str:
    """Such as `2.2.7`. Raises `LabError` if there is none."""
    done = subprocess.run([find_keepalived(), "--version"], capture_output=True, text=True, check=False)
    found = re.search(r"Keepalived v(\S+)", done.stdout + done.stderr)
    return found[1] if found else "unknown"


@dataclass(frozen=True, slots=True)
class Keepalived:
    """keepalived with one advertisement interval."""

    advert_s: float

    uses_etcd: bool = False

    @property
    def name(self) -> str:
        """Such as `keepalived 0.1 s`."""
        return f"keepalived {self.advert_s:g} s"

    @property
    def vrrp_version(self) -> int:
        """2 knows whole seconds alone."""
        return 2 if self.advert_s >= 1 else 3

    @property
    def patience_s(self) -> float:
        """Three adverts and the skew, twice, and some seconds for a child that is started again."""
        return 8 * self.advert_s + 5.0

    def facts(self) -> dict[str, str]:
        """Its settings and version."""
        return {
            "version": version(),
            "vrrp_version": str(self.vrrp_version),
            "advert_int": f"{self.advert_s:g}",
            "priority": ", ".join(f"{name} {value}" for name, value in PRIORITY.items()),
        }

    def settings(self, *, fails_back: bool) -> Mapping[str, Any]:
        """None of leaseha's. It always preempts, at once: it knows `preempt_delay`, but its default is 0."""
        del fails_back
        return {}

    def config(self, node: str, vip: str, planned: Path) -> str:
        """The configuration file of a node."""
        return CONFIG.format(
            node=node,
            version=self.vrrp_version,
            state="MASTER" if node == FIRST else "BACKUP",
            priority=PRIORITY[node],
            advert_s=self.advert_s,
            vip=vip,
            planned=planned,
        )

    def pair(self, lab: Lab) -> Daemons:
        """Of this lab."""
        return Daemons(self, lab)


class Daemons:
    """Two daemons; see `chaos.bench.systems.Pair`."""

    def __init__(self, system: Keepalived, lab: Lab) -> None:
        self._program = find_keepalived()
        self._system = system
        self._lab = lab
        self._processes: dict[str, subprocess.Popen[str]] = {}

    def _file(self, name: str, kind: str) -> Path:
        return self._lab.directory / f"{name}.keepalived.{kind}"

    def start(self, name: str) -> None:
        """In the foreground, with pid files of its own."""
        planned = self._file(name, "planned")
        planned.write_text("0\n", encoding="ascii")
        config = self._file(name, "conf")
        config.write_text(self._system.config(name, self._lab.vips[0], planned), encoding="ascii")
        config.chmod(0o644)
        files = {flag: str(self._file(name, kind)) for flag, kind in (("-p", "pid"), ("-r", "vrrp.pid"))}
        options = ["-n", "-l", "-G", "-P", "-f", str(config)]
        command = [self._program, *options, *(part for pair in files.items() for part in pair)]
        self._processes[name] = self._lab.host(name).popen(command, log=self._file(name, "log"))

    def wait_holding(self, name: str) -> None:
        """By its log."""
        self._wait_said(name, "Entering MASTER STATE")

    def wait_standing_by(self, name: str) -> None:
        """By its log."""
        self._wait_said(name, "Entering BACKUP STATE")

    def _wait_said(self, name: str, words: str) -> None:
        end = time.monotonic() + _STEP_S
        while words not in self._said(name):
            if time.monotonic() > end or self._processes[name].poll() is not None:
                tail = "\n".join(self._said(name).splitlines()[-5:])
                raise LabError(f"keepalived on {name} did not say {words!r}:\n{tail}")
            time.sleep(_POLL_S)  # waits for a fact: the log has the words

    def _said(self, name: str) -> str:
        with contextlib.suppress(FileNotFoundError):
            return self._file(name, "log").read_text(encoding="utf-8", errors="replace")
        return ""

    def _parent(self, name: str) -> int:
        return self._processes[name].pid

    def _pids(self, name: str) -> list[int]:
        """Children first. The processes of a node are all of this system."""
        parent = self._parent(name)
        return sorted(self._lab.host(name).space.pids(), key=lambda pid: pid == parent)

    def _signal(self, pids: list[int], number: int) -> None:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def term(self, name: str) -> None:
        """To the parent."""
        self._signal([self._parent(name)], signal.SIGTERM)

    def kill(self, name: str) -> None:
        """The child that does VRRP; the parent lives. Raises `LabError` if there is no such child."""
        workers = [pid for pid in self._pids(name) if pid != self._parent(name)]
        if not workers:
            raise LabError(f"keepalived on {name} has no child")
        self._signal(workers, signal.SIGKILL)

    def kill_all(self, name: str) -> None:
        """Frozen first: the child would use the instant between its parent's end and its own to clean up."""
        pids = self._pids(name)
        self._signal(pids, signal.SIGSTOP)
        self._signal(pids, signal.SIGKILL)

    def freeze(self, name: str) -> None:
        """Parent and child."""
        self._signal(self._pids(name), signal.SIGSTOP)

    def thaw(self, name: str) -> None:
        """Parent and child."""
        self._signal(self._pids(name), signal.SIGCONT)

    def wait_ended(self, name: str) -> None:
        """Parent and child."""
        try:
            self._processes[name].wait(_STEP_S)
        except subprocess.TimeoutExpired:
            raise LabError(f"keepalived on {name} does not end") from None

    def switch_to_other(self) -> None:
        """Lower the preferred node's priority below the other's."""
        self._file(FIRST, "planned").write_text(f"{LOWERED}\n", encoding="ascii")
