"""nftables in this process: rulesets as text through libnftables, many commands as one transaction.

What it does not do: renew elements of sets several times a second; that goes without text and without the
library (leaseha.adapters.nfset). The library is loaded when the first one is made, not when this is imported.

libnftables ends the whole process where the kernel gives it no netlink socket, so that is tried here first.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
from collections.abc import Callable
from typing import Final

from leaseha.errors import FenceError

LIBRARY: Final = "libnftables.so.1"
NETLINK_NETFILTER: Final = 12
_TEXT_LIMIT: Final = 200

Load = Callable[[str], ctypes.CDLL]


def load_library(name: str) -> ctypes.CDLL:
    """The shared library `name`, its functions described. Raises `FenceError` naming what cures its absence."""
    try:
        library = ctypes.CDLL(name)
    except OSError as error:
        raise FenceError(f"{name} is missing (Debian package libnftables1): {error}") from error
    context = ctypes.c_void_p
    library.nft_ctx_new.argtypes, library.nft_ctx_new.restype = [ctypes.c_uint32], context
    library.nft_ctx_free.argtypes, library.nft_ctx_free.restype = [context], None
    for text in (library.nft_ctx_get_output_buffer, library.nft_ctx_get_error_buffer):
        text.argtypes, text.restype = [context], ctypes.c_char_p
    for buffer in (library.nft_ctx_buffer_output, library.nft_ctx_buffer_error):
        buffer.argtypes = [context]
    library.nft_run_cmd_from_buffer.argtypes = [context, ctypes.c_char_p]
    return library


class Nft:
    """libnftables in the network namespace of the thread that made it. Use by one thread at a time."""

    def __init__(self, load: Load = load_library) -> None:
        _try_netlink()
        self._library = load(LIBRARY)
        context = self._library.nft_ctx_new(0)
        if not context:
            raise FenceError(f"{LIBRARY} gives no context")
        self._context: int | None = context
        self._library.nft_ctx_buffer_output(context)
        self._library.nft_ctx_buffer_error(context)

    def run(self, commands: str) -> str:
        """All of `commands` in one transaction: done when this returns, or nothing of it. Raises `FenceError`.

        What they print (`list ...`) is returned.
        """
        if self._context is None:
            raise FenceError("nftables was closed")
        code = self._library.nft_run_cmd_from_buffer(self._context, commands.encode())
        said = self._library.nft_ctx_get_error_buffer(self._context) or b""
        if code:
            raise FenceError(f"nftables refuses: {first_error(said.decode(errors='replace'))}")
        printed = self._library.nft_ctx_get_output_buffer(self._context) or b""
        return str(printed, errors="replace")

    def close(self) -> None:
        """End the library's context. What was made in the kernel stays."""
        if self._context is not None:
            self._library.nft_ctx_free(self._context)
            self._context = None


def first_error(said: str) -> str:
    """The sentence of the first error in what libnftables said, without place and without the command."""
    line = next((line for line in said.splitlines() if "Error: " in line), said.strip() or "no reason given")
    return line.partition("Error: ")[2][:_TEXT_LIMIT] or line[:_TEXT_LIMIT]


def _try_netlink() -> None:
    try:
        socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER).close()
    except OSError as error:
        why = os.strerror(error.errno or errno.EIO)
        raise FenceError(f"this kernel has no nfnetlink, which nf_tables needs: {why}") from error
