"""What the guard asks of the kernel: addresses off, the fence closed, processes gone; each proven, or Unknown.

Of the standard library alone, as all of the guard, and by hand where that saves an import: rtnetlink as in
leaseha.adapters.rtnl, nftables through libnftables, processes through /proc and pidfds.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import sys
from collections.abc import Sequence
from typing import Final

NS_PER_S: Final = 1_000_000_000
DEATH_S: Final = 10.0
"""How long killed processes may take to be gone; past this nothing is known of them."""


class Unknown(Exception):
    """It was asked for, and nothing proves that it was done. The text says why."""


class Settled(Unknown):
    """The same, and nothing will change it: there is no use in trying again."""


_HEADER: Final = struct.Struct("=IHHII")
_IFADDR: Final = struct.Struct("=BBBBI")
_NEWADDR, _DELADDR, _GETADDR, _ERROR, _DONE = 20, 21, 22, 2, 3
_REQUEST, _ACK, _DUMP, _INTERRUPTED = 0x1, 0x4, 0x300, 0x10
_ADDRESS, _LOCAL, _PRIORITY = 1, 2, 9

Address = tuple[bytes, int, int, int]
"""The packed address, its prefix length, the interface's index, and its metric (the cluster's tag on ours)."""


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def _ask(kernel: socket.socket, kind: int, flags: int, body: bytes) -> list[tuple[int, bytes]]:
    """(type, body) of all messages that answer a request. Raises Unknown."""
    kernel.send(_HEADER.pack(_HEADER.size + len(body), kind, _REQUEST | flags, 1, 0) + body)
    found: list[tuple[int, bytes]] = []
    while True:
        data, at = kernel.recv(65536), 0
        while at + _HEADER.size <= len(data):
            length, said, bits, _, _ = _HEADER.unpack_from(data, at)
            found.append((said, data[at + _HEADER.size : at + length]))
            if bits & _INTERRUPTED:
                raise Unknown("the list of addresses changed while it was read")
            if said in (_DONE, _ERROR):
                return found
            at += (length + 3) & ~3


def addresses(kernel: socket.socket) -> list[Address]:
    """All addresses of all interfaces. Raises Unknown, OSError."""
    found = []
    for said, body in _ask(kernel, _GETADDR, _DUMP, _IFADDR.pack(0, 0, 0, 0, 0)):
        if said != _NEWADDR:
            continue
        _, prefix, _, _, index = _IFADDR.unpack_from(body)
        fields, at = {}, _IFADDR.size
        while at + 4 <= len(body):
            length, kind = struct.unpack_from("=HH", body, at)
            fields[kind & 0x3FFF] = body[at + 4 : at + length]
            at += max(4, (length + 3) & ~3)
        packed = fields.get(_LOCAL) or fields.get(_ADDRESS) or b""
        found.append((packed, prefix, index, int.from_bytes(fields.get(_PRIORITY, b""), sys.byteorder)))
    return found


def unbind(vips: dict[bytes, str], tag: int) -> None:
    """Take every VIP off that is ours; `vips`: packed address to interface.

    When this returns they were read back and are on no interface any more. Raises Unknown, OSError.
    """
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as kernel:
        kernel.settimeout(2.0)
        kernel.bind((0, 0))
        for packed, prefix, index, metric in addresses(kernel):
            whole = prefix == 8 * len(packed) and vips.get(packed) == _interface(index)
            if packed in vips and (metric == tag or whole):
                family = socket.AF_INET if len(packed) == 4 else socket.AF_INET6
                body = _IFADDR.pack(family, prefix, 0, 0, index)
                body += _attribute(_LOCAL, packed) + _attribute(_ADDRESS, packed)
                _ask(kernel, _DELADDR, _ACK, body)
        for packed, _, index, _ in addresses(kernel):
            if packed in vips:
                family = socket.AF_INET if len(packed) == 4 else socket.AF_INET6
                raise Unknown(f"{socket.inet_ntop(family, packed)} is still on {_interface(index)}")


def _interface(index: int) -> str:
    try:
        return socket.if_indextoname(index)
    except OSError:
        return f"interface {index}"


def close_fence(commands: Sequence[str]) -> None:
    """Run nft commands through libnftables, as one batch. Raises Unknown, OSError."""
    import ctypes

    library = ctypes.CDLL("libnftables.so.1")
    library.nft_ctx_new.restype = ctypes.c_void_p
    library.nft_ctx_get_error_buffer.restype = ctypes.c_char_p
    context = ctypes.c_void_p(library.nft_ctx_new(0))
    library.nft_ctx_buffer_error(context)
    if library.nft_run_cmd_from_buffer(context, "\n".join(commands).encode()) != 0:
        said = library.nft_ctx_get_error_buffer(context) or b""
        raise Unknown(f"nftables: {said.decode(errors='replace').strip()[:200]}")


def marked(mark: str) -> list[int]:
    """Every living process that has the mark in its environment, or descends from one that has.

    A process keeps it whatever group, session or parent it moved to. The guard itself is not among them.
    """
    parents: dict[int, int] = {}
    found = set()
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                state, parent = file.read().rpartition(b")")[2].split()[:2]
            with open(f"/proc/{name}/environ", "rb") as file:
                carries = mark.encode() in file.read().split(b"\0")
        except OSError:
            continue  # gone meanwhile, or another account's
        if state not in (b"Z", b"X"):
            parents[int(name)] = int(parent)
            found |= {int(name)} if carries else set()
    while more := {pid for pid, parent in parents.items() if parent in found and pid not in found}:
        found |= more
    return sorted(found)


def wait_gone(pidfd: int, timeout_s: float) -> bool:
    """True when the process has ended: nothing of it runs any more."""
    waiting = select.poll()
    waiting.register(pidfd, select.POLLIN)
    return bool(waiting.poll(timeout_s * 1000))
