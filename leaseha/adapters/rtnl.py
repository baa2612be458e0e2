"""Addresses of the kernel over a rtnetlink socket, packed by hand, many in one system call.

What it does not do: anything but IPv4 and IPv6 addresses. Links, routes and the watch go through pyroute2.

Why not pyroute2 here: each renewal of a lease refreshes the lifetime of each VIP, several times a second,
in the process whose lateness costs the lease. Through pyroute2 an address costs 0.2 to 0.3 ms, so that 1,000
VIPs would stall each renewal for 0.2 s; hand-packed, 64 of them in one `sendto` cost 0.5 ms, 1,000 cost 8 ms.

Layouts: linux/netlink.h, linux/rtnetlink.h, linux/if_addr.h.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import struct
import sys
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

RTM_NEWADDR: Final = 20
RTM_DELADDR: Final = 21
RTM_GETADDR: Final = 22
NLMSG_ERROR: Final = 2
NLMSG_DONE: Final = 3
NLM_F_REQUEST: Final = 0x1
NLM_F_ACK: Final = 0x4
NLM_F_DUMP_INTR: Final = 0x10
NLM_F_REPLACE: Final = 0x100
NLM_F_DUMP: Final = 0x300
NLM_F_CREATE: Final = 0x400
SOL_NETLINK: Final = 270
NETLINK_CAP_ACK: Final = 10

IFA_ADDRESS: Final = 1
IFA_LOCAL: Final = 2
IFA_LABEL: Final = 3
IFA_CACHEINFO: Final = 6
IFA_FLAGS: Final = 8
IFA_RT_PRIORITY: Final = 9
IFA_PROTO: Final = 11
"""Who put the address there, one byte; kept by kernels since 5.18, ignored by older ones."""

IFA_F_NODAD: Final = 0x02
IFA_F_DADFAILED: Final = 0x08
IFA_F_DEPRECATED: Final = 0x20
IFA_F_TENTATIVE: Final = 0x40
IFA_F_NOPREFIXROUTE: Final = 0x200

SCOPE_GLOBAL: Final = 0
SCOPE_HOST: Final = 254
FOREVER_S: Final = 0xFFFFFFFF

_HEADER: Final = struct.Struct("=IHHII")
_IFADDR: Final = struct.Struct("=BBBBI")
_ATTRIBUTE: Final = struct.Struct("=HH")
_CACHEINFO: Final = struct.Struct("=IIII")
# The acknowledgements of one batch must fit into the socket's default receive buffer (some 200 of them do).
_BATCH: Final = 64
_RECEIVE_BYTES: Final = 65536
_DUMP_TRIES: Final = 5


class RtnlError(OSError):
    """The kernel could not be asked, or its answer was cut off: nothing is known about what was done."""


@dataclass(frozen=True, slots=True)
class Address:
    """One address on one interface. Lifetimes in s, `FOREVER_S` for no end."""

    ip: IPAddress
    prefix_length: int
    index: int
    scope: int = SCOPE_GLOBAL
    flags: int = 0
    label: str = ""
    proto: int = 0
    priority: int = 0
    preferred_s: int = FOREVER_S
    valid_s: int = FOREVER_S

    @property
    def whole(self) -> bool:
        """A /32 or /128: it stands for itself alone and makes no network reachable."""
        return self.prefix_length == self.ip.max_prefixlen


def _attribute(kind: int, value: bytes) -> bytes:
    padding = bytes(-len(value) % 4)
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value + padding


def _message(kind: int, flags: int, sequence: int, body: bytes) -> bytes:
    return _HEADER.pack(_HEADER.size + len(body), kind, flags, sequence, 0) + body


def _unanswered(request: bytes) -> bytes:
    """The same, of which only a refusal is told."""
    length, kind, flags, sequence, port = _HEADER.unpack_from(request)
    return _HEADER.pack(length, kind, flags & ~NLM_F_ACK, sequence, port) + request[_HEADER.size :]


def _head(address: Address) -> bytes:
    family = socket.AF_INET if address.ip.version == 4 else socket.AF_INET6
    fixed = _IFADDR.pack(family, address.prefix_length, address.flags & 0xFF, address.scope, address.index)
    return fixed + _attribute(IFA_LOCAL, address.ip.packed) + _attribute(IFA_ADDRESS, address.ip.packed)


def replace_request(address: Address, sequence: int) -> bytes:
    """Add the address, or refresh the lifetimes of the one that is there. Of an IPv4 address that is there
    the kernel changes the lifetimes, `priority` and `proto` only, not scope, flags or label.
    """
    body = _head(address)
    if address.label:
        body += _attribute(IFA_LABEL, address.label.encode() + b"\0")
    body += _attribute(IFA_FLAGS, struct.pack("=I", address.flags))
    body += _attribute(IFA_CACHEINFO, _CACHEINFO.pack(address.preferred_s, address.valid_s, 0, 0))
    if address.priority:
        body += _attribute(IFA_RT_PRIORITY, struct.pack("=I", address.priority))
    if address.proto:
        body += _attribute(IFA_PROTO, bytes((address.proto,)))
    return _message(RTM_NEWADDR, NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE, sequence, body)


def delete_request(address: Address, sequence: int) -> bytes:
    """Remove exactly this address with this prefix length from this interface."""
    return _message(RTM_DELADDR, NLM_F_REQUEST | NLM_F_ACK, sequence, _head(address))


def attributes(data: bytes, start: int, end: int) -> Iterator[tuple[int, bytes]]:
    """(type, value) of each netlink attribute in `data[start:end]`; stops at a malformed one."""
    while start + _ATTRIBUTE.size <= end:
        length, kind = _ATTRIBUTE.unpack_from(data, start)
        if length < _ATTRIBUTE.size or start + length > end:
            return
        yield kind & 0x3FFF, data[start + _ATTRIBUTE.size : start + length]
        start += (length + 3) & ~3


def parse_address(data: bytes, start: int, end: int) -> Address | None:
    """The address of the RTM_NEWADDR or RTM_DELADDR body in `data[start:end]`; None for other families."""
    family, prefix_length, flags, scope, index = _IFADDR.unpack_from(data, start)
    if family not in {socket.AF_INET, socket.AF_INET6}:
        return None
    found = dict(attributes(data, start + _IFADDR.size, end))
    # IPv6 gives IFA_LOCAL only for point-to-point addresses; there, as in IPv4, IFA_ADDRESS is the far end.
    packed = found.get(IFA_LOCAL) or found.get(IFA_ADDRESS)
    if packed is None:
        return None
    preferred_s, valid_s, _, _ = _CACHEINFO.unpack(found.get(IFA_CACHEINFO, b"\xff" * _CACHEINFO.size))
    return Address(
        ip=ipaddress.IPv4Address(packed) if family == socket.AF_INET else ipaddress.IPv6Address(packed),
        prefix_length=prefix_length,
        index=index,
        scope=scope,
        flags=_number(found[IFA_FLAGS]) if IFA_FLAGS in found else flags,
        label=found.get(IFA_LABEL, b"").rstrip(b"\0").decode(errors="replace"),
        proto=found.get(IFA_PROTO, b"\0")[0],
        priority=_number(found.get(IFA_RT_PRIORITY, bytes(4))),
        preferred_s=preferred_s,
        valid_s=valid_s,
    )


def packed_address(data: bytes, start: int, end: int) -> bytes:
    """The address alone, of the same body: a tenth of the work where most of a thousand are somebody else's."""
    found = b""
    for kind, value in attributes(data, start + _IFADDR.size, end):
        if kind == IFA_LOCAL:
            return value
        found = value if kind == IFA_ADDRESS else found
    return found


def _number(value: bytes) -> int:
    return int.from_bytes(value, sys.byteorder)


class AddressSocket:
    """A rtnetlink socket in the network namespace of the thread that made it. Calls block until the kernel
    has done the work (it takes one lock for the whole machine, usually free). Use by one thread at a time.
    """

    def __init__(self, timeout_s: float = 2.0) -> None:
        self._sequence = 0
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._socket.settimeout(timeout_s)
        # Errors come back without the request that caused them: smaller, so that a batch always fits.
        self._socket.setsockopt(SOL_NETLINK, NETLINK_CAP_ACK, 1)
        self._socket.bind((0, 0))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the socket."""
        self._socket.close()

    def replace(self, addresses: Sequence[Address]) -> tuple[int, ...]:
        """Add or refresh; the errno of each in order, 0 for done. Raises `RtnlError` when that is unknown."""
        return self._change([replace_request(one, self._next()) for one in addresses])

    def delete(self, addresses: Sequence[Address]) -> tuple[int, ...]:
        """Remove; the errno of each in order, 0 for done. Raises `RtnlError` when that is unknown."""
        return self._change([delete_request(one, self._next()) for one in addresses])

    def addresses(self, only: Container[bytes] | None = None) -> tuple[Address, ...]:
        """All addresses of all interfaces, or those of them that are (packed) in `only`, as one consistent answer.

        Raises `RtnlError`.
        """
        for _ in range(_DUMP_TRIES):
            found = self._dump(only)
            if found is not None:
                return tuple(found)
        raise RtnlError("the list of addresses changed under each of the attempts to read it")

    def _next(self) -> int:
        self._sequence = self._sequence % 0x7FFFFFFF + 1
        return self._sequence

    def _change(self, requests: Sequence[bytes]) -> tuple[int, ...]:
        """The kernel answers for what it refuses, and for the last of a batch: each answer is a system call, after
        which this thread waits for its turn among those that compute.
        """
        codes: list[int] = []
        for at in range(0, len(requests), _BATCH):
            batch = requests[at : at + _BATCH]
            order = [_HEADER.unpack_from(one)[3] for one in batch]
            answers: dict[int, int] = {}
            self._send(b"".join([*(_unanswered(one) for one in batch[:-1]), batch[-1]]))
            while order[-1] not in answers:
                for kind, _, sequence, data, start, _ in self._receive():
                    if kind == NLMSG_ERROR and sequence in order:
                        answers[sequence] = -struct.unpack_from("=i", data, start)[0]
            codes += [answers.get(sequence, 0) for sequence in order]
        return tuple(codes)

    def _dump(self, only: Container[bytes] | None) -> list[Address] | None:
        """One attempt; None when the kernel says that the list changed meanwhile."""
        sequence = self._next()
        body = _IFADDR.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
        self._send(_message(RTM_GETADDR, NLM_F_REQUEST | NLM_F_DUMP, sequence, body))
        found: list[Address] = []
        torn = False
        while True:
            for kind, flags, answered, data, start, end in self._receive():
                if answered != sequence:
                    continue
                torn = torn or bool(flags & NLM_F_DUMP_INTR)
                if kind == NLMSG_DONE:
                    return None if torn else found
                if kind == NLMSG_ERROR:
                    code = -struct.unpack_from("=i", data, start)[0]
                    raise RtnlError(code, f"cannot list addresses: {os.strerror(code)}")
                if kind != RTM_NEWADDR or (only is not None and packed_address(data, start, end) not in only):
                    continue
                address = parse_address(data, start, end)
                if address is not None:
                    found.append(address)

    def _send(self, data: bytes) -> None:
        try:
            self._socket.sendto(data, (0, 0))
        except OSError as error:
            raise RtnlError(error.errno, f"cannot ask the kernel: {error.strerror}") from error

    def _receive(self) -> list[tuple[int, int, int, bytes, int, int]]:
        """(type, flags, sequence, data, start, end of the body) of each message of one datagram."""
        try:
            data = self._socket.recv(_RECEIVE_BYTES)
        except OSError as error:
            raise RtnlError(error.errno, f"the kernel does not answer: {error.strerror or error}") from error
        messages: list[tuple[int, int, int, bytes, int, int]] = []
        at = 0
        while at + _HEADER.size <= len(data):
            length, kind, flags, sequence, _ = _HEADER.unpack_from(data, at)
            if length < _HEADER.size or at + length > len(data):
                raise RtnlError("the kernel's answer is cut off")
            messages.append((kind, flags, sequence, data, at + _HEADER.size, at + length))
            at += (length + 3) & ~3
        return messages
