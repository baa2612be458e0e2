"""The fence as nftables text: which packets and frames pass only while a VIP's elements live.

Closed means that this node does not act as the VIP; that it talks, as a client or as a router, to a VIP held
elsewhere is none of the fence's business. So each rule looks at what only the bearer of an address does:

    packets to it that are delivered here      prerouting, input     also from local processes, over lo
    packets from it that were made here        output, postrouting   also answers of what it is redirected to
    ARP with it as sender                      arp output            replies, requests, announcements
    the same, and neighbour advertisements,    netdev egress         frames of packet sockets pass by the other
    as frames on the interface                                       hooks

Received ARP and advertisements pass: they tell of the VIP elsewhere, which a standby wants to know too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from leaseha.adapters.nfset import NFPROTO_ARP, NFPROTO_INET, NFPROTO_NETDEV, SetName
from leaseha.adapters.rtnl import IPAddress

RANKS: Final = ("one", "two")
"""A VIP passes only while it is in both of these sets, which are armed one after the other."""
FAMILIES: Final = {"inet": NFPROTO_INET, "arp": NFPROTO_ARP, "netdev": NFPROTO_NETDEV}

_INET: Final = """\
chain before_nat {{
type filter hook prerouting priority -300; policy accept;
ip daddr @vips4 fib daddr type local jump to4
ip6 daddr @vips6 fib daddr type local jump to6
}}
chain in {{
type filter hook input priority 0; policy accept;
ip daddr @vips4 jump to4
ip6 daddr @vips6 jump to6
}}
chain out {{
type filter hook output priority 0; policy accept;
ip saddr @vips4 jump from4
ip6 saddr @vips6 jump from6
{advertised}
}}
chain after_nat {{
type filter hook postrouting priority 300; policy accept;
ip saddr @vips4 fib saddr type local jump from4
ip6 saddr @vips6 fib saddr type local jump from6
}}
"""
_ARP: Final = """\
chain out {
type filter hook output priority 0; policy accept;
arp saddr ip @vips4 arp saddr ip != @one4 drop
arp saddr ip @vips4 arp saddr ip != @two4 drop
}
"""
_NETDEV: Final = """\
chain egress_{number} {{
type filter hook egress device "{interface}" priority 0; policy accept;
arp saddr ip @vips4 arp saddr ip != @one4 drop
arp saddr ip @vips4 arp saddr ip != @two4 drop
icmpv6 type nd-neighbor-advert ip6 saddr @vips6 jump from6
{advertised}
ip saddr @vips4 fib saddr type local jump from4
ip6 saddr @vips6 fib saddr type local jump from6
}}
"""


def table_name(tag: int) -> str:
    """The name of the tables (one in each family) of the cluster with this tag."""
    return f"leaseha_{tag:08x}"


def places(table: str, rank: str, version: int) -> tuple[SetName, ...]:
    """The sets in which an address of this IP version must be, to be in the set `rank` of each table."""
    families = FAMILIES if version == 4 else ("inet", "netdev")
    return tuple(SetName(FAMILIES[family], table, f"{rank}{version}") for family in families)


def standing(
    table: str,
    cluster: str,
    interfaces: Sequence[str],
    vips: Iterable[IPAddress],
    opened: Mapping[IPAddress, int] | None = None,
) -> str:
    """Commands that put the fence up in one transaction and instead of whatever stood there.

    It is closed but for `opened`: VIP to timeout in ms.
    """
    guarded = sorted(set(vips), key=lambda ip: (ip.version, int(ip)))
    four = [ip for ip in guarded if isinstance(ip, IPv4Address)]
    six = [ip for ip in guarded if isinstance(ip, IPv6Address)]
    note = f'comment "leaseha, cluster {cluster}"\n'
    advertised = _advertised(six)
    from_it = _drops(4, "from", "saddr") + _drops(6, "from", "saddr")
    to_it = _drops(4, "to", "daddr") + _drops(6, "to", "daddr")
    hooks = "".join(
        _NETDEV.format(number=number, interface=interface, advertised=advertised)
        for number, interface in enumerate(interfaces)
    )
    four_sets, six_sets = _sets(4, four, opened or {}), _sets(6, six, opened or {})
    # The library wants what is jumped to before the jump.
    bodies = {
        "inet": four_sets + six_sets + from_it + to_it + _INET.format(advertised=advertised),
        "arp": four_sets + _ARP,
        "netdev": four_sets + six_sets + from_it + hooks,
    }
    text = removing(table)
    for family, body in bodies.items():
        text += f"table {family} {table} {{\n{note}{body}}}\n"
    return text


def closing(table: str) -> tuple[str, ...]:
    """Commands that close every VIP of a fence that stands."""
    sets = {
        (place.family, place.name)
        for rank in RANKS
        for version in (4, 6)
        for place in places(table, rank, version)
    }
    names = {number: family for family, number in FAMILIES.items()}
    return tuple(f"flush set {names[family]} {table} {name}" for family, name in sorted(sets))


def removing(table: str) -> str:
    """Commands that take the fence away, there or not."""
    return "".join(f"add table {family} {table}\ndelete table {family} {table}\n" for family in FAMILIES)


def trial(table: str) -> str:
    """Commands that try everything that a fence needs of the kernel, and leave nothing behind."""
    return standing(
        table, "trial", ("lo",), (IPv4Address("192.0.2.1"), IPv6Address("2001:db8::1"))
    ) + removing(table)


def _sets(version: int, vips: Sequence[IPAddress], opened: Mapping[IPAddress, int]) -> str:
    kind = f"ipv{version}_addr"
    listed = _elements([str(ip) for ip in vips])
    living = _elements([f"{ip} timeout {opened[ip]}ms" for ip in vips if ip in opened])
    live = (f"set {rank}{version} {{\ntype {kind}\nflags timeout\n{living}}}\n" for rank in RANKS)
    return f"set vips{version} {{\ntype {kind}\n{listed}}}\n" + "".join(live)


def _elements(listed: Sequence[str]) -> str:
    return f"elements = {{ {', '.join(listed)} }}\n" if listed else ""


def _drops(version: int, name: str, field: str) -> str:
    protocol = "ip" if version == 4 else "ip6"
    rules = "".join(f"{protocol} {field} != @{rank}{version} drop\n" for rank in RANKS)
    return f"chain {name}{version} {{\n{rules}}}\n"


def _advertised(six: Sequence[IPv6Address]) -> str:
    """An advertisement of a VIP from another address than the VIP: the kernel and leaseha send none, ever.

    As constants, since nft 1.0.6 knows no `icmpv6 taddr` and lets the field be looked up in no set of addresses.
    """
    if not six:
        return ""
    targets = ", ".join(f"0x{int(ip):032x}" for ip in six)
    return f"icmpv6 type nd-neighbor-advert @th,64,128 {{ {targets} }} ip6 saddr != @vips6 drop"
