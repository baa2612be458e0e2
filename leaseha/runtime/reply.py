"""The answer to `leaseha reload`: its connection stays open while the program is replaced, and the new one answers."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from typing import Any


class Reply:
    """One answer, to whoever waits for it; `fd` -1: nobody does (a signal asked)."""

    def __init__(self, fd: int = -1) -> None:
        self.fd = fd

    def refuse(self, why: str, exit_code: int) -> None:
        """Nothing was changed."""
        self._send("409 Conflict", _refused(why, exit_code))

    def done(self, found: dict[str, Any]) -> None:
        """The new program is up."""
        self._send("200 OK", {"ok": True, **found})

    def failed(self, why: str) -> None:
        """The new program is up, but not all went well."""
        self._send("200 OK", {"ok": False, "exit": 1, "error": why})

    def _send(self, status: str, found: dict[str, Any]) -> None:
        fd, self.fd = self.fd, -1
        if fd < 0:
            return
        body = json.dumps(found).encode() + b"\n"
        head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        with contextlib.suppress(OSError), socket.socket(fileno=fd) as connection:
            connection.send(head.encode() + b"Connection: close\r\n\r\n" + body, socket.MSG_DONTWAIT)


def refusal(why: str, exit_code: int) -> tuple[int, str, bytes]:
    """The same for whoever answers at once: status, type, body."""
    return 409, "application/json", json.dumps(_refused(why, exit_code)).encode()


def _refused(why: str, exit_code: int) -> dict[str, Any]:
    return {"ok": False, "exit": exit_code, "error": why}


def kept(connection: socket.socket) -> Reply:
    """A reply on this connection, whoever closes its own end of it."""
    return Reply(os.dup(connection.fileno()))
