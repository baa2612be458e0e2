"""Listens to the frames of one kind that come to an interface, as a small program in the kernel lets them pass.

The kernel filters (a classic BPF program per socket), so that other traffic costs this process nothing. To close such a
socket may take the kernel some 10 ms: listen for as long as the agent runs.
"""

from __future__ import annotations

import asyncio
import ctypes
import socket
import struct
from collections.abc import Callable
from typing import Final

_SO_ATTACH_FILTER: Final = 26
_PACKET_HOST: Final = 0
_PACKET_OUTGOING: Final = 4
FRAME_BYTES: Final = 256
_FRAMES_A_WAKE: Final = 16
"""Then whatever else is due comes first: what is made of a frame may cost a line of the log."""
_LD_WORD, _LD_HALF, _LD_BYTE, _JUMP_EQUAL, _RETURN = 0x20, 0x28, 0x30, 0x15, 0x06
_FILTER_VALUES: Final = 2000
"""A filter has room for 4,096 instructions, two for each value; above that it lets every one pass."""


def byte_is(offset: int, value: int) -> bytes:
    """Part of a filter: go on if the byte there is this, else refuse."""
    return _step(_LD_BYTE, offset) + _step(_JUMP_EQUAL, value, 1, 0) + _step(_RETURN, 0)


def half_is(offset: int, value: int) -> bytes:
    """The same with two bytes."""
    return _step(_LD_HALF, offset) + _step(_JUMP_EQUAL, value, 1, 0) + _step(_RETURN, 0)


def word_is_one_of(offset: int, values: list[int]) -> bytes:
    """End of a filter: pass if the four bytes there are one of these."""
    if len(values) > _FILTER_VALUES:
        return passed()
    program = _step(_LD_WORD, offset)
    for value in values:
        program += _step(_JUMP_EQUAL, value, 0, 1) + passed()
    return program + _step(_RETURN, 0)


def passed() -> bytes:
    """End of a filter: pass."""
    return _step(_RETURN, FRAME_BYTES)


def _step(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)


class Ear:
    """Calls `heard(frame, to_us)` in the event loop for each frame of an Ethernet protocol, until closed.

    `frame` is cut after `FRAME_BYTES`; `to_us`: it was sent to this interface alone. Raises OSError.
    """

    def __init__(
        self, interface: str, protocol: int, program: bytes, heard: Callable[[bytes, bool], None]
    ) -> None:
        self._heard = heard
        self._closed = False
        # Nothing is received before bind() names a protocol, so that no frame passes the filter by.
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        try:
            self._socket.setblocking(False)
            code = ctypes.create_string_buffer(program, len(program))
            self._socket.setsockopt(
                socket.SOL_SOCKET,
                _SO_ATTACH_FILTER,
                struct.pack("@HP", len(program) // 8, ctypes.addressof(code)),
            )
            self._socket.bind((interface, protocol))
        except OSError:
            self._socket.close()
            raise
        asyncio.get_running_loop().add_reader(self._socket, self._read)

    @property
    def mac(self) -> bytes:
        """Of the interface, as it is now. Raises OSError."""
        found: bytes = self._socket.getsockname()[4]
        return found

    def close(self) -> None:
        """Listen no more; may be called twice."""
        if not self._closed:
            self._closed = True
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()

    def _read(self) -> None:
        for _ in range(_FRAMES_A_WAKE):
            try:
                frame, where = self._socket.recvfrom(FRAME_BYTES)
            except BlockingIOError:
                return
            except OSError:
                # Told once when the interface goes down or away; after "down" the socket goes on.
                return
            if where[2] != _PACKET_OUTGOING:
                self._heard(frame, where[2] == _PACKET_HOST)
            if self._closed:
                return  # by whoever heard it
