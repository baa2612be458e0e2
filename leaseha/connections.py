"""TCP connections of this machine by their local address: found, and ended without a frame if a fence is closed.

For agent and guard alike, so of the standard library alone. A connection that was made to a VIP hangs once the VIP is
off: nothing that it sends leaves, nothing reaches it, and its process waits for time-outs of minutes. The kernel can
end it at once (SOCK_DESTROY): the process sees ECONNABORTED.

The kernel sends a reset for each connection that it ends so. It must not reach the wire, since the peer's connection is
the next holder's to answer: whoever calls `end` has seen the fence closed for that address before.

What listens is left alone: a service that waits for the VIP to come, bound to it beforehand, serves again when it does.

Layouts: linux/sock_diag.h, linux/inet_diag.h.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Collection, Sequence
from typing import Final, NamedTuple

NETLINK_SOCK_DIAG: Final = 4
ANSWER_S: Final = 2.0
_BY_FAMILY, _DESTROY, _ERROR, _DONE = 20, 21, 2, 3
_REQUEST, _ACK, _DUMP = 0x1, 0x4, 0x300
_HEADER: Final = struct.Struct("=IHHII")
_ASKED: Final = struct.Struct("=BBBBI48s")
_FOUND: Final = struct.Struct("=BBBB48s")
_BYTECODE: Final = 1
_JUMP, _SOURCE_IS = 1, 7
_MAPPED: Final = bytes(10) + b"\xff\xff"
STATES: Final = sum(1 << state for state in (1, 2, 3, 4, 5, 8, 9, 11))
"""Established, being opened, being closed; neither listening, nor what is closed and only kept in mind (TIME_WAIT)."""
FILTER_MOST: Final = 500
"""Addresses in one question: its program is at most 64 KiB of jumps."""
_BATCH: Final = 64
_RECEIVE_BYTES: Final = 65536


class Connection(NamedTuple):
    """One of them, as the kernel names it: ports, addresses, interface, and a cookie that is never used again."""

    family: int
    name: bytes


def open_diag() -> socket.socket:
    """A socket to ask through, in the network namespace of this thread. Raises OSError."""
    made = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_SOCK_DIAG)
    made.settimeout(ANSWER_S)
    return made


def unsupported() -> str:
    """Why the kernel cannot end connections; empty if it can. Changes nothing."""
    nobody = struct.pack("!HH", 1, 1) + bytes(44)
    try:
        with open_diag() as kernel:
            _dump(kernel, socket.AF_INET, 0, b"")
            code = _end_some(kernel, [Connection(socket.AF_INET, nobody)])[0]
    except OSError as error:
        return f"its sock_diag does not answer ({os.strerror(error.errno or 0)})"
    return _why(code) if code == errno.EOPNOTSUPP else ""


def found(kernel: socket.socket, vips: Collection[bytes]) -> list[Connection]:
    """All connections with one of these (packed) as their local address. Raises OSError."""
    wanted, connections = sorted(vips), list[Connection]()
    for at in range(0, len(wanted), FILTER_MOST):
        some = wanted[at : at + FILTER_MOST]
        four = [ip for ip in some if len(ip) == 4]
        for family, ips in ((socket.AF_INET, four), (socket.AF_INET6, some)):
            # An IPv4 address may also be that of an IPv6 socket (::ffff:...), of a server that listens for both.
            found_here = _dump(kernel, family, STATES, _filter(ips)) if ips else []
            connections += [one for one in found_here if local(one) in vips]
    return connections


def local(connection: Connection) -> bytes:
    """Its local address, packed."""
    if connection.family == socket.AF_INET:
        return connection.name[4:8]
    ip = connection.name[4:20]
    return ip[12:] if ip.startswith(_MAPPED) else ip


def end(kernel: socket.socket, connections: Sequence[Connection]) -> int:
    """End them at once; how many there still were. Raises OSError, with EOPNOTSUPP where the kernel cannot."""
    ended = 0
    for at in range(0, len(connections), _BATCH):
        for code in _end_some(kernel, connections[at : at + _BATCH]):
            if code not in (0, errno.ENOENT):
                raise OSError(code, _why(code))
            ended += code == 0
    return ended


def _why(code: int) -> str:
    if code == errno.EOPNOTSUPP:
        return "it was built without CONFIG_INET_DIAG_DESTROY"
    return os.strerror(code)


def _filter(ips: Sequence[bytes]) -> bytes:
    """A program of the kernel's for "the local address is one of these"; it passes what ends exactly at its end."""
    steps = []
    for ip in ips:
        family = socket.AF_INET if len(ip) == 4 else socket.AF_INET6
        condition = struct.pack("=BBxxi", family, 8 * len(ip), -1) + ip
        steps.append((4 + len(condition), condition))
    left = sum(size + 4 for size, _ in steps)
    program = b""
    for number, (size, condition) in enumerate(steps, 1):
        # Not this one: over the jump behind it, to the next; or, behind the last, past the end, which refuses.
        no = size + 4 if number < len(steps) else left + 4
        program += struct.pack("=BBH", _SOURCE_IS, size, no) + condition
        left -= size
        program += struct.pack("=BBH", _JUMP, 4, left)
        left -= 4
    return program


def _dump(kernel: socket.socket, family: int, states: int, program: bytes) -> list[Connection]:
    body = _ASKED.pack(family, socket.IPPROTO_TCP, 0, 0, states, bytes(48))
    if program:
        body += struct.pack("=HH", 4 + len(program), _BYTECODE) + program
    _send(kernel, [(_BY_FAMILY, _REQUEST | _DUMP, 0, body)])
    connections = list[Connection]()
    while True:
        for kind, _, data in _receive(kernel):
            if kind == _DONE:
                return connections
            if kind == _ERROR:
                code = -struct.unpack_from("=i", data)[0]
                raise OSError(code, os.strerror(code))
            _, _, _, _, name = _FOUND.unpack_from(data)
            connections.append(Connection(data[0], name))


def _end_some(kernel: socket.socket, connections: Sequence[Connection]) -> list[int]:
    """The errno of each, 0 for done."""
    _send(
        kernel,
        [
            (
                _DESTROY,
                _REQUEST | _ACK,
                number,
                _ASKED.pack(one.family, socket.IPPROTO_TCP, 0, 0, 0, one.name),
            )
            for number, one in enumerate(connections)
        ],
    )
    codes: dict[int, int] = {}
    while len(codes) < len(connections):
        for kind, number, data in _receive(kernel):
            if kind == _ERROR:
                codes[number] = -struct.unpack_from("=i", data)[0]
    return [codes[number] for number in range(len(connections))]


def _send(kernel: socket.socket, messages: Sequence[tuple[int, int, int, bytes]]) -> None:
    data = b""
    for kind, flags, number, body in messages:
        data += _HEADER.pack(_HEADER.size + len(body), kind, flags, number, 0) + body
    kernel.sendto(data, (0, 0))


def _receive(kernel: socket.socket) -> list[tuple[int, int, bytes]]:
    """(type, number, body) of each message of one datagram."""
    data, at, messages = kernel.recv(_RECEIVE_BYTES), 0, []
    while at + _HEADER.size <= len(data):
        length, kind, _, number, _ = _HEADER.unpack_from(data, at)
        messages.append((kind, number, data[at + _HEADER.size : at + length]))
        at += max(_HEADER.size, (length + 3) & ~3)
    return messages
