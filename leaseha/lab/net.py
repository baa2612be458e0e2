"""The lab's networks: one bridge each, in a namespace of their own, and what can be cut of them.

| fault | carrier of the host | frames |
|---|---|---|
| `carrier` | lost, as with a pulled cable | none in either direction |
| `silent` | kept | none in either direction |
| `in`, `out` | kept | those to the host, those from it, are lost |
| between two hosts | kept | only theirs are lost, in one or both directions |

Faults add up; `heal` of a port takes back all of its own.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from typing import Final, Literal

from leaseha.lab.namespace import Namespace
from leaseha.lab.wire import Hook, Wire

Direction = Literal["in", "out"]
MAIN: Final = "main"
ETCD: Final = "etcd"


@dataclass(frozen=True, slots=True)
class Network:
    """A layer 2 segment with an IPv4 and an IPv6 prefix, of which host number n has the n-th addresses."""

    name: str
    ipv4: ipaddress.IPv4Network
    ipv6: ipaddress.IPv6Network

    def ipv4_of(self, number: int) -> str:
        """Host address without the prefix length."""
        return str(self.ipv4[number])

    def ipv6_of(self, number: int) -> str:
        """Host address without the prefix length; the digits look like those of IPv4."""
        return str(self.ipv6[int(str(number), 16)])

    def mac_of(self, number: int) -> str:
        """A locally administered MAC address that tells network and host."""
        return "02:" + ":".join(f"{byte:02x}" for byte in (0, *self.ipv4[number].packed))


MAIN_NETWORK: Final = Network(MAIN, ipaddress.IPv4Network("10.77.0.0/24"), ipaddress.IPv6Network("fd77::/64"))
ETCD_NETWORK: Final = Network(ETCD, ipaddress.IPv4Network("10.78.0.0/24"), ipaddress.IPv6Network("fd78::/64"))


@dataclass(slots=True)
class Port:
    """Where one interface of one host is plugged in, and what is cut there. Mutable: the faults."""

    host: str
    network: Network
    number: int
    interface: str
    index: int
    mute: bool = False
    deaf: bool = False
    deaf_to: set[bytes] = field(default_factory=set)

    @property
    def mac(self) -> str:
        """Of the host's interface."""
        return self.network.mac_of(self.number)

    @property
    def mac_bytes(self) -> bytes:
        """The same as six bytes."""
        return bytes.fromhex(self.mac.replace(":", ""))

    @property
    def ipv4(self) -> str:
        """The host's own address here."""
        return self.network.ipv4_of(self.number)

    @property
    def ipv6(self) -> str:
        """The host's own global address here."""
        return self.network.ipv6_of(self.number)


class Switch:
    """One bridge for each network. Every frame of the lab goes through it."""

    def __init__(self, name: str, networks: tuple[Network, ...]) -> None:
        self._space = Namespace(name, "switch")
        self._bridges: dict[str, int] = {}
        self._ports: list[Port] = []
        self._plugged = 0
        try:
            self._wire = self._space.call(Wire)
            for network in networks:
                self._bridges[network.name] = self._add_bridge(f"br-{network.name}")
        except BaseException:
            self._space.close()
            raise

    def _add_bridge(self, name: str) -> int:
        self._space.route("link", "add", ifname=name, kind="bridge", br_mcast_snooping=0, br_stp_state=0)
        index = self._index(name)
        self._space.route("link", "set", index=index, state="up")
        return index

    def _index(self, name: str) -> int:
        return int(self._space.route("link_lookup", ifname=name)[0])

    def plug(self, host: str, network: Network, number: int, interface: str, space: Namespace) -> Port:
        """A cable from this network into the host's namespace; the host's end is down and without addresses."""
        self._plugged += 1
        name = f"port{self._plugged}"
        peer = {"ifname": interface, "net_ns_fd": space.path, "address": network.mac_of(number)}
        self._space.route("link", "add", ifname=name, kind="veth", peer=peer)
        index = self._index(name)
        self._wire.prepare(index)
        self._space.route("link", "set", index=index, master=self._bridges[network.name], state="up")
        port = Port(host, network, number, interface, index)
        self._ports.append(port)
        return port

    def unplug(self, port: Port) -> None:
        """Remove the cable, and with it the host's interface and all its addresses."""
        if port in self._ports:
            self._ports.remove(port)
            self._space.route("link", "del", index=port.index)

    def set_carrier(self, port: Port, *, up: bool) -> None:
        """Pull the cable out, or put it in."""
        self._space.route("link", "set", index=port.index, state="up" if up else "down")

    def cut(self, port: Port, direction: Direction) -> None:
        """Lose, unseen, what goes to the host (`in`) or comes from it (`out`)."""
        if direction == "in":
            port.deaf = True
            self._wire.drop(port.index, Hook.TO_HOST)
        else:
            port.mute = True
            self._wire.drop(port.index, Hook.FROM_HOST)

    def cut_between(self, source: Port, target: Port) -> None:
        """Lose, unseen, what `source` sends to `target` (and its broadcasts there), in this direction only."""
        target.deaf_to.add(source.mac_bytes)
        if not target.deaf:
            self._wire.drop(target.index, Hook.TO_HOST, sorted(target.deaf_to))

    def heal(self, port: Port) -> None:
        """Put the port, and what others lose of this host's frames, back in order; carrier last."""
        port.mute = port.deaf = False
        port.deaf_to.clear()
        self._wire.pass_all(port.index, Hook.TO_HOST)
        self._wire.pass_all(port.index, Hook.FROM_HOST)
        for other in self._ports:
            if port.mac_bytes in other.deaf_to:
                other.deaf_to.remove(port.mac_bytes)
                self._renew(other)
        self.set_carrier(port, up=True)

    def _renew(self, port: Port) -> None:
        if port.deaf:
            return
        if port.deaf_to:
            self._wire.drop(port.index, Hook.TO_HOST, sorted(port.deaf_to))
        else:
            self._wire.pass_all(port.index, Hook.TO_HOST)

    def close(self) -> None:
        """Remove the bridges and all cables."""
        self._wire.close()
        self._space.close()
