"""Drops on one side of a switch port, by classic BPF filters in tc's clsact hooks, packed by hand.

The port stays up and the host keeps its carrier: a cut that nobody is told of. Filters are replaced
in one message each. Needs sch_ingress and cls_bpf of the kernel, no program, no privilege outside the
network namespace.

Why not nftables: it may be missing. Why not pyroute2: it has no classic programs for cls_bpf.
Layouts: linux/rtnetlink.h, linux/pkt_sched.h, linux/pkt_cls.h, linux/bpf_common.h.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterable
from enum import IntEnum
from typing import Final

from leaseha.errors import LabError

_RTM_NEWQDISC, _RTM_DELQDISC, _RTM_NEWTFILTER, _RTM_DELTFILTER = 36, 37, 44, 45
_REQUEST_ACK, _REPLACE, _EXCL, _CREATE = 0x5, 0x100, 0x200, 0x400
_TC_H_CLSACT: Final = 0xFFFFFFF1
_CLSACT_HANDLE: Final = 0xFFFF0000
_PRIORITY: Final = 1
_ETH_P_ALL: Final = 3
_TCA_KIND, _TCA_OPTIONS = 1, 2
_TCA_BPF_OPS_LEN, _TCA_BPF_OPS, _TCA_BPF_FLAGS = 4, 5, 8
_NESTED: Final = 0x8000
_ACT_DIRECT: Final = 1
_LOAD_WORD, _LOAD_HALF, _JUMP_EQUAL, _RETURN = 0x20, 0x28, 0x15, 0x06
_SHOT, _CONTINUE = 2, 0xFFFFFFFF
_SOURCE_MAC: Final = 6


class Hook(IntEnum):
    """Which frames, seen from the switch: `FROM_HOST` enter it at this port, `TO_HOST` leave it there."""

    FROM_HOST = 0xFFFFFFF2
    TO_HOST = 0xFFFFFFF3


def program(sources: Iterable[bytes] | None) -> bytes:
    """Classic BPF: drop all frames (None), or those from these MAC addresses; leave the others alone."""
    if sources is None:
        return _operation(_RETURN, _SHOT)
    code = b""
    for mac in sources:
        code += _operation(_LOAD_WORD, _SOURCE_MAC + 2)
        code += _operation(_JUMP_EQUAL, int.from_bytes(mac[2:], "big"), no=3)
        code += _operation(_LOAD_HALF, _SOURCE_MAC)
        code += _operation(_JUMP_EQUAL, int.from_bytes(mac[:2], "big"), no=1)
        code += _operation(_RETURN, _SHOT)
    return code + _operation(_RETURN, _CONTINUE)


def _operation(code: int, value: int, yes: int = 0, no: int = 0) -> bytes:
    return struct.pack("=HBBI", code, yes, no, value)


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


class Wire:
    """A rtnetlink socket in the network namespace of the thread that made it; use it from any one thread."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._socket.settimeout(2.0)
        self._socket.bind((0, 0))
        self._sequence = 0

    def close(self) -> None:
        """End the socket."""
        self._socket.close()

    def prepare(self, index: int) -> None:
        """Give a port the hooks. Raises `LabError` if the kernel has none."""
        body = _attribute(_TCA_KIND, b"clsact\0")
        flags = _REQUEST_ACK | _CREATE | _EXCL
        code = self._ask(_RTM_NEWQDISC, flags, index, (_CLSACT_HANDLE, _TC_H_CLSACT, 0), body)
        if code not in {0, errno.EEXIST}:
            raise LabError(
                f"the kernel has no clsact hook ({os.strerror(code)}): as root, `modprobe sch_ingress cls_bpf`"
            )

    def drop(self, index: int, hook: Hook, sources: Iterable[bytes] | None = None) -> None:
        """Drop from now on what these MAC addresses send, or everything; replaces what was dropped before."""
        code_bytes = program(sources)
        options = _attribute(_TCA_BPF_OPS_LEN, struct.pack("=H", len(code_bytes) // 8))
        options += _attribute(_TCA_BPF_OPS, code_bytes)
        options += _attribute(_TCA_BPF_FLAGS, struct.pack("=I", _ACT_DIRECT))
        body = _attribute(_TCA_KIND, b"bpf\0") + _attribute(_TCA_OPTIONS | _NESTED, options)
        info = _PRIORITY << 16 | socket.htons(_ETH_P_ALL)
        code = self._ask(_RTM_NEWTFILTER, _REQUEST_ACK | _CREATE | _REPLACE, index, (1, hook, info), body)
        if code != 0:
            raise LabError(f"the kernel takes no filter ({os.strerror(code)}): as root, `modprobe cls_bpf`")

    def pass_all(self, index: int, hook: Hook) -> None:
        """Drop nothing any more."""
        info = _PRIORITY << 16 | socket.htons(_ETH_P_ALL)
        code = self._ask(
            _RTM_DELTFILTER, _REQUEST_ACK, index, (0, hook, info), _attribute(_TCA_KIND, b"bpf\0")
        )
        if code not in {0, errno.ENOENT, errno.EINVAL}:
            raise LabError(f"a filter could not be removed: {os.strerror(code)}")

    def _ask(self, kind: int, flags: int, index: int, place: tuple[int, int, int], body: bytes) -> int:
        """Send one request; its errno, 0 for done."""
        self._sequence += 1
        handle, parent, info = place
        head = struct.pack("=BxxxiIII", socket.AF_UNSPEC, index, handle, parent, info) + body
        self._socket.sendto(
            struct.pack("=IHHII", 16 + len(head), kind, flags, self._sequence, 0) + head, (0, 0)
        )
        while True:
            data = self._socket.recv(65536)
            _, answer, _, sequence, _ = struct.unpack_from("=IHHII", data)
            if answer == 2 and sequence == self._sequence:
                return -int(struct.unpack_from("=i", data, 16)[0])
