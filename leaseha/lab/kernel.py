"""The handful of system calls that Python 3.11 does not offer: namespaces, mounts, host names.

Each acts on the calling thread alone where the kernel allows it (network, mount and UTS namespaces are
a thread's own), which is what lets one process work in many hosts at once.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
from typing import Final

CLONE_NEWNS: Final = 0x00020000
CLONE_NEWUTS: Final = 0x04000000
CLONE_NEWUSER: Final = 0x10000000
CLONE_NEWPID: Final = 0x20000000
CLONE_NEWNET: Final = 0x40000000

MS_NOSUID: Final = 0x2
MS_NODEV: Final = 0x4
MS_NOEXEC: Final = 0x8
MS_BIND: Final = 0x1000
MS_REC: Final = 0x4000
MS_PRIVATE: Final = 0x40000
MS_SLAVE: Final = 0x80000
_MNT_DETACH: Final = 2

_PR_SET_PDEATHSIG: Final = 1
_SIOCGIFFLAGS: Final = 0x8913
_SIOCSIFFLAGS: Final = 0x8914
_IFF_UP: Final = 1

_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")


def unshare(flags: int) -> None:
    """Give the calling thread namespaces of its own. Raises `OSError`."""
    _checked(_libc.unshare(ctypes.c_int(flags)), f"unshare({flags:#x})")


def mount(source: str, target: str, kind: str = "", flags: int = 0) -> None:
    """Mount in the mount namespace of the calling thread. Raises `OSError`."""
    arguments = (source.encode(), target.encode(), kind.encode() or None, ctypes.c_ulong(flags), None)
    _checked(_libc.mount(*arguments), f"mount {kind or 'bind'} on {target}")


def unmount(target: str) -> None:
    """Unmount lazily. Raises `OSError`."""
    _checked(_libc.umount2(target.encode(), _MNT_DETACH), f"umount {target}")


def set_hostname(name: str) -> None:
    """Host name of the calling thread's UTS namespace. Raises `OSError`."""
    encoded = name.encode()
    _checked(_libc.sethostname(encoded, ctypes.c_size_t(len(encoded))), "sethostname")


def die_with_parent(signal_number: int) -> None:
    """Be sent this signal when the thread that started this process ends. Raises `OSError`."""
    unused = ctypes.c_ulong(0)
    _checked(
        _libc.prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal_number), unused, unused, unused),
        "prctl(PDEATHSIG)",
    )


def loopback_up() -> None:
    """Bring `lo` up in the network namespace of the calling thread. Raises `OSError`."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        asked = struct.pack("16sh22x", b"lo", 0)
        flags = struct.unpack_from("16sh", fcntl.ioctl(control, _SIOCGIFFLAGS, asked))[1]
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", flags | _IFF_UP))


def real_time(priority: int = 1) -> bool:
    """Ask for real-time scheduling of the calling process; whether it was granted."""
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(priority))
    except OSError:
        return False
    return True
