"""Readers of what has an address in it: VIPs, hosts, endpoints, listeners, URLs."""

from __future__ import annotations

import re
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, ip_address, ip_interface
from typing import Final, TypeVar
from urllib.parse import SplitResult, urlsplit

from leaseha.config.faults import Wrong, show
from leaseha.config.model import Carrier, Endpoint, HostPort, IPAddress, Ping, Tcp, Vip

T = TypeVar("T")

MOST_VIPS: Final = 64
MOST_ENDPOINTS: Final = 16
_HOST_LABEL: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
_INTERFACE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,14}")


def list_of(one: Callable[[object], T], most: int, example: str) -> Callable[[object], tuple[T, ...]]:
    """1 to `most` values of one kind, none twice; `example` is the list that the remedy shows."""

    def read(value: object) -> tuple[T, ...]:
        if not isinstance(value, list) or not value:
            raise Wrong(f"write a list with at least one entry: {example}")
        if len(value) > most:
            raise Wrong(f"write at most {most} entries", f"{len(value)} entries")
        found: list[T] = []
        wrong: list[tuple[str, str | None, str]] = []
        for index, item in enumerate(value):
            try:
                new = one(item)
            except Wrong as e:
                wrong.append((f"[{index}]", show(item), e.parts[0][2]))
                continue
            if new in found:
                wrong.append(
                    (f"[{index}]", show(item), f"stands here already as {found.index(new)}; take it out")
                )
            found.append(new)
        if wrong:
            raise Wrong.of_many(wrong)
        return tuple(found)

    return read


def vip(value: object) -> Vip:
    """An address with the length of its network's prefix: "192.168.0.50/24"."""
    if not isinstance(value, str) or not value.isascii() or "%" in value:
        raise Wrong('write an address with its prefix length, such as "192.168.0.50/24" or "fd00::50/64"')
    address, slash, prefix = value.partition("/")
    try:
        ip = ip_address(address)
    except ValueError:
        raise Wrong('not an address: write one such as "192.168.0.50/24" or "fd00::50/64"') from None
    width = ip.max_prefixlen
    if not slash:
        example = 24 if ip.version == 4 else 64
        raise Wrong(
            f'the prefix length of its network is missing: write "{ip}/{example}" if it is a /{example}'
        )
    if re.fullmatch(r"[0-9]{1,3}", prefix) is None or not 1 <= int(prefix) <= width:
        raise Wrong(f"write a prefix length from 1 to {width} behind the slash")
    if why := _no_vip(ip, int(prefix)):
        raise Wrong(why)
    return Vip(ip, int(prefix))


def _no_vip(ip: IPAddress, prefix_len: int) -> str:
    """Why an address cannot be one that a node binds and others reach; empty if it can."""
    own = "write an address of the network that clients are on"
    if ip.is_loopback:
        return f"a loopback address is reached by its own host alone; {own}"
    if ip.is_multicast or ip == IPv4Address("255.255.255.255"):
        return f"a multicast or broadcast address belongs to nobody; {own}"
    if ip.is_unspecified or (isinstance(ip, IPv4Address) and (ip.is_reserved or int(ip) < 1 << 24)):
        return f"no host may have this address; {own}"
    if isinstance(ip, IPv6Address):
        if ip.ipv4_mapped is not None:
            return f'write it as IPv4: "{ip.ipv4_mapped}/24"'
        if ip.is_link_local:
            return f"a link-local address needs an interface to be reached; {own}, global or fd00::/8"
    network = ip_interface(f"{ip}/{prefix_len}").network
    if ip.max_prefixlen - prefix_len < 2:
        return ""
    if ip == network.network_address:
        return f"this is the network {network} itself; write a host's address in it, such as {network[1]}"
    if isinstance(ip, IPv4Address) and ip == network.broadcast_address:
        last = IPv4Interface((int(ip) - 1, prefix_len)).ip
        return f"this is the broadcast address of {network}; write a host's address in it, such as {last}"
    return ""


def node_address(value: object) -> IPAddress:
    """An address of a node, without a prefix length."""
    found = _plain_ip(value)
    if found is None:
        raise Wrong('write an address without prefix length, such as "192.168.0.2"')
    if found.is_multicast or found.is_unspecified:
        raise Wrong("write an address that the node has and that the other nodes reach")
    return found


def interface(value: object) -> str:
    """The name of a network interface."""
    if not isinstance(value, str) or _INTERFACE.fullmatch(value) is None:
        raise Wrong(
            'write the name of an interface, 15 characters at most, such as "eth0" (`ip link` lists them)'
        )
    return value


def carrier(value: object) -> Carrier:
    """`true` for the lease's own interface, or the name of another."""
    if value is True:
        return Carrier(None)
    try:
        return Carrier(interface(value))
    except Wrong:
        raise Wrong(
            'write true for the interface of the lease, or the name of another one, such as "eth1"'
        ) from None


def ping(value: object) -> Ping:
    """The host that a check pings."""
    if not isinstance(value, str) or not is_host(value):
        raise Wrong('write an address or a host name, such as "192.168.0.1"')
    return Ping(value)


def tcp(value: object) -> Tcp:
    """Host and port to which a check connects."""
    return Tcp(host_port(value, '"192.168.0.1:53" or "[fd00::1]:53"'))


def loopback(value: object) -> HostPort:
    """Where the status endpoint listens: a loopback address and a port."""
    found = host_port(value, '"127.0.0.1:9470" or "[::1]:9470"')
    ip = _plain_ip(found.host)
    if ip is None or not ip.is_loopback:
        raise Wrong(
            f'it is open to everyone who reaches it, so loopback only: write "127.0.0.1:{found.port}"'
        )
    return found


def host_port(value: object, example: str) -> HostPort:
    """`host:port`, IPv6 in brackets."""
    shape = (
        re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[^\[\]:]+):([0-9]{1,5})", value)
        if isinstance(value, str)
        else None
    )
    if shape is None:
        raise Wrong(f"write host and port, such as {example}")
    host, port = shape[1], int(shape[2])
    if host.startswith("["):
        host = host[1:-1]
        if ":" not in host or not is_host(host):
            raise Wrong(f"not an IPv6 address in the brackets: write one such as {example}")
    elif not is_host(host):
        raise Wrong(f"not a host name or address: write one such as {example}")
    if not 1 <= port <= 65535:
        raise Wrong("write a port from 1 to 65535")
    return HostPort(host, port)


def endpoint(value: object) -> Endpoint:
    """The client URL of an etcd member."""
    example = '"https://192.168.0.2:2379"'
    parts = _split(value, example)
    if parts.path not in ("", "/"):
        raise Wrong(f"write the URL without a path: {example}; the prefix of the keys is etcd.prefix")
    if parts.port is None:
        raise Wrong(
            f'the port is missing: etcd\'s own is 2379, so write "{parts.scheme}://{parts.netloc}:2379"'
        )
    at = host_port(parts.netloc, example)
    ip = _plain_ip(at.host)
    if ip is not None and (ip.is_unspecified or ip.is_multicast):
        raise Wrong(
            f"etcd may listen there, but no client reaches it: write the member's own address, as in {example}"
        )
    return Endpoint(parts.scheme == "https", at)


def collector(value: object) -> str:
    """The base URL of an OTLP collector."""
    parts = _split(value, '"http://127.0.0.1:4318"')
    if parts.port is not None and not 1 <= parts.port <= 65535:
        raise Wrong("write a port from 1 to 65535")
    if not is_host((parts.hostname or "").strip("[]")):
        raise Wrong('not a host name or address: write one such as "http://127.0.0.1:4318"')
    return str(value).rstrip("/")


def _split(value: object, example: str) -> SplitResult:
    if not isinstance(value, str) or not value.isascii() or not value.isprintable() or " " in value:
        raise Wrong(f"write a URL such as {example}")
    try:
        parts = urlsplit(value)
        _ = parts.port
    except ValueError:
        raise Wrong(f"not a URL: write one such as {example}, with a port from 1 to 65535") from None
    if parts.scheme not in ("http", "https") or not parts.netloc or not parts.hostname:
        raise Wrong(f"write a URL that begins with http:// or https://, such as {example}")
    if "@" in parts.netloc:
        raise Wrong(f"write the URL without user and password, such as {example}: secrets stand in files")
    if parts.query or parts.fragment or "?" in value or "#" in value:
        raise Wrong(f'write the URL without "?" and "#", such as {example}')
    return parts


def is_host(text: str) -> bool:
    """An address without brackets, or a host name."""
    if _plain_ip(text) is not None:
        return True
    labels = text.removesuffix(".").split(".")
    named = len(text) <= 253 and all(_HOST_LABEL.fullmatch(label) for label in labels)
    return named and not labels[-1].isdigit()


def _plain_ip(value: object) -> IPAddress | None:
    if not isinstance(value, str) or "%" in value:
        return None
    try:
        return ip_address(value)
    except ValueError:
        return None
