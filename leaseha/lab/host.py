"""One machine of the lab: a network namespace with cables to one or more networks, and its processes."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, ParamSpec, TypeVar

from leaseha.errors import LabError
from leaseha.lab.namespace import Namespace
from leaseha.lab.net import Direction, Network, Port, Switch

P = ParamSpec("P")
R = TypeVar("R")

_IFA_F_NODAD: Final = 0x02
_NO_LINK_LOCAL: Final = "1"
_DEATH_S: Final = 5.0


class Host:
    """A machine with one interface (`eth0`, `eth1` ...) for each network, in their order.

    ARP, routing and duplicate address detection are the kernel's defaults; only the host's own addresses
    skip the detection, so that they are there at once. IPv6 is left out where the machine has none.
    """

    def __init__(
        self, name: str, number: int, networks: Sequence[Network], switch: Switch, prefix: str
    ) -> None:
        self.name = name
        self.number = number
        self.networks = tuple(networks)
        self._switch = switch
        self._prefix = prefix
        self._space: Namespace | None = None
        self._ports: dict[str, Port] = {}
        self.boot()

    def boot(self) -> None:
        """Power on: a kernel that knows nothing of what was before, with the same addresses."""
        if self._space is not None:
            raise LabError(f"{self.name} is running")
        self._space = Namespace(f"{self._prefix}{self.name}", self.name)
        for at, network in enumerate(self.networks):
            port = self._switch.plug(self.name, network, self.number, f"eth{at}", self._space)
            self._ports[network.name] = port
            self._configure(port)

    def _configure(self, port: Port) -> None:
        ipv6 = Path("/proc/sys/net/ipv6").exists()
        # Otherwise the kernel makes the link-local address, and looks for a second for its duplicates.
        with contextlib.suppress(OSError):
            path = Path(f"/proc/sys/net/ipv6/conf/{port.interface}/addr_gen_mode")
            self.space.call(path.write_text, _NO_LINK_LOCAL, encoding="ascii")
        self.space.route("link", "set", index=self.index(port.interface), state="up")
        self.add_address(f"{port.ipv4}/{port.network.ipv4.prefixlen}", port.interface)
        if ipv6:
            self.add_address(f"{port.ipv6}/{port.network.ipv6.prefixlen}", port.interface)
            self.add_address(f"fe80::{self.number:x}/64", port.interface)

    def power_off(self) -> None:
        """Dead at once: no frame leaves any more, then every process is killed, then the carrier is gone."""
        for port in self._ports.values():
            self._switch.cut(port, "out")
        self.kill_all()
        for port in self._ports.values():
            self._switch.unplug(port)
        self._ports.clear()
        self.space.close()
        self._space = None

    @property
    def running(self) -> bool:
        """Not powered off."""
        return self._space is not None

    @property
    def space(self) -> Namespace:
        """Its namespace. Raises `LabError` when it is powered off."""
        if self._space is None:
            raise LabError(f"{self.name} is powered off")
        return self._space

    # Addresses and links

    def port(self, network: str = "main") -> Port:
        """Its cable to this network."""
        return self._ports[network]

    @property
    def ipv4(self) -> str:
        """Its address in its first network."""
        return self.networks[0].ipv4_of(self.number)

    @property
    def ipv6(self) -> str:
        """Its global address in its first network."""
        return self.networks[0].ipv6_of(self.number)

    @property
    def mac(self) -> str:
        """Of `eth0`."""
        return self.networks[0].mac_of(self.number)

    def index(self, interface: str = "eth0") -> int:
        """The kernel's number of the interface."""
        return int(self.space.call(socket.if_nametoindex, interface))

    def carrier(self, interface: str = "eth0") -> bool:
        """What the host's own kernel says of the cable."""
        (link,) = self.space.route("get_links", self.index(interface))
        return bool(link.get("carrier"))

    def add_address(self, cidr: str, interface: str = "eth0", *, nodad: bool = True, **more: Any) -> None:
        """By hand, as an administrator would; `more` goes to pyroute2's `addr("add", ...)`."""
        address = ipaddress.ip_interface(cidr)
        flags = {"flags": _IFA_F_NODAD} if nodad and address.version == 6 else {}
        arguments = {"address": str(address.ip), "prefixlen": address.network.prefixlen} | flags | more
        self.space.route("addr", "add", index=self.index(interface), **arguments)

    def remove_address(self, cidr: str, interface: str = "eth0") -> None:
        """By hand, as an administrator would."""
        address = ipaddress.ip_interface(cidr)
        where = {"index": self.index(interface), "prefixlen": address.network.prefixlen}
        self.space.route("addr", "del", address=str(address.ip), **where)

    def addresses(self, interface: str = "eth0") -> tuple[str, ...]:
        """All addresses of the interface, with prefix length."""
        found = self.space.route("get_addr", index=self.index(interface))
        return tuple(f"{one.get('local') or one.get('address')}/{one['prefixlen']}" for one in found)

    def announce(self, vip: str, interface: str = "eth0") -> None:
        """Send one gratuitous ARP request for an IPv4 address, by hand."""
        mac, ip = bytes.fromhex(self.mac.replace(":", "")), ipaddress.IPv4Address(vip).packed
        frame = (
            b"\xff" * 6 + mac + b"\x08\x06" + b"\x00\x01\x08\x00\x06\x04\x00\x01" + mac + ip + bytes(6) + ip
        )
        with self.space.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender:
            sender.bind((interface, 0x0806))
            sender.send(frame)

    # Faults

    def cut_carrier(self, network: str = "main") -> None:
        """Pull the cable."""
        self._switch.set_carrier(self._ports[network], up=False)

    def cut_silent(self, network: str = "main") -> None:
        """Lose every frame in both directions, and keep the carrier."""
        self._switch.cut(self._ports[network], "out")
        self._switch.cut(self._ports[network], "in")

    def cut_one_way(self, direction: Direction, network: str = "main") -> None:
        """Lose what goes to the host (`in`) or comes from it (`out`), and keep the carrier."""
        self._switch.cut(self._ports[network], direction)

    def cut_from(self, other: Host, network: str = "main") -> None:
        """Lose what `other` sends to this host; the rest goes on."""
        self._switch.cut_between(other.port(network), self._ports[network])

    def heal(self, network: str | None = None) -> None:
        """Take back all faults of one of its cables, or of all."""
        for name, port in self._ports.items():
            if network in {None, name}:
                self._switch.heal(port)

    # Processes

    def call(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run a short Python function in the host's network."""
        return self.space.call(function, *args, **kwargs)

    def socket(
        self, family: int = socket.AF_INET, kind: int = socket.SOCK_STREAM, protocol: int = 0
    ) -> socket.socket:
        """A socket of this host, for use in any thread."""
        return self.space.socket(family, kind, protocol)

    def popen(self, command: Sequence[str], **options: Any) -> subprocess.Popen[str]:
        """Start a process on the host; see `Namespace.popen`."""
        return self.space.popen(command, **options)

    def run(
        self, command: Sequence[str], *, timeout_s: float = 30.0, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on the host to its end; see `Namespace.run`."""
        return self.space.run(command, timeout_s=timeout_s, env=env)

    def kill_all(self) -> None:
        """SIGKILL every process of the host and wait until they are gone. Raises `LabError` after 5 s."""
        end = time.monotonic() + _DEATH_S
        while living := [pid for pid in self.space.pids() if not _zombie(pid)]:
            if time.monotonic() > end:
                raise LabError(f"processes of {self.name} do not end: {living}")
            for pid in living:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.002)

    def close(self) -> None:
        """Kill its processes and let it go."""
        if self._space is not None:
            self.power_off()


def _zombie(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return True
    return stat.rpartition(")")[2].split()[0] == "Z"
