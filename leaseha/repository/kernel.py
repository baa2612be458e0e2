"""Three things that Linux does and Python's standard library does not offer."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import socket
import struct
from typing import Final

_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
_fallocate: Final = getattr(_libc, "fallocate64", _libc.fallocate)
_fallocate.argtypes = _libc.fallocate.argtypes
_PR_SET_PDEATHSIG: Final = 1
_UNSPECIFIED: Final = struct.pack("=H14x", socket.AF_UNSPEC)
_CANNOT_RESERVE: Final = frozenset({errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL})
_LINGER_NONE: Final = struct.pack("=ii", 1, 0)


def die_with_parent(parent: int) -> bool:
    """SIGKILL this process when the thread that started it ends. False: `parent` is gone already."""
    if _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    return os.getppid() == parent


def reset_connection(sock: socket.socket) -> None:
    """Send RST now and drop what was not sent yet, also while other threads wait in calls on the socket.

    They hear of it at once; the descriptor stays theirs to close. Never raises.
    """
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NONE)
        # Linux 6.4 to 6.6 refuses this while a thread waits; what follows wakes it, and its close then sends the RST.
        _libc.connect(sock.fileno(), _UNSPECIFIED, len(_UNSPECIFIED))
        # To OpenSSL "not connected" means "not yet": it would ask on and on. Now it reads an end. (Not the TLS
        # object's own shutdown, which would have a thread go on in plain text.)
        socket.socket.shutdown(sock, socket.SHUT_RDWR)
    except OSError:
        return  # it is no longer connected, which is what was wanted


def reserve(fd: int, size: int) -> None:
    """Take `size` bytes on the disk for an empty file; nothing where the file system cannot.

    Unlike posix_fallocate this never writes zeros instead. Raises OSError, ENOSPC above all.
    """
    if _fallocate(fd, 0, 0, size) != 0:
        number = ctypes.get_errno()
        if number not in _CANNOT_RESERVE:
            raise OSError(number, os.strerror(number))
