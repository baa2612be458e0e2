"""A repository served within the test's own process, and a client that says exactly what it is told to say."""

import hashlib
import http.client
import json
import logging
import os
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from leaseha.core.values import NS_PER_S, Instant
from leaseha.repository.app import V2, App
from leaseha.repository.door import Door, DoorOptions
from leaseha.repository.gate import Gate, Word, now
from leaseha.repository.replicate import SingleCopy
from leaseha.repository.server import Limits, Server
from leaseha.repository.store import OURS, DirectoryStore
from leaseha.repository.tokens import Mark, TokenLedger
from leaseha.repository.usage import Usage

HOST = "127.0.0.1"
LONG_NS = 300 * NS_PER_S
CHILD_ENV = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), *sys.path])),
}
"""What a child needs to import what the test imports."""


def free_port(host: str = HOST) -> int:
    """A port that nobody listens on at this moment."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as sock:
        sock.bind((host, 0))
        return sock.getsockname()[1]


def name_of(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def until(fact: Callable[[], bool], what: str, timeout_s: float = 20.0) -> None:
    """Wait for something that happens in another thread or process, with an end."""
    give_up = time.monotonic() + timeout_s
    while not fact():
        assert time.monotonic() < give_up, f"never happened: {what}"
        time.sleep(0.002)  # waits for a fact: the caller's


@dataclass
class Clock:
    """Time that the test moves by hand; `None` means the machine's."""

    at: Instant | None = None

    def __call__(self) -> Instant:
        return self.at or now()


@dataclass
class Reply:
    status: int
    body: bytes
    fields: dict[str, str]

    @property
    def json(self) -> object:
        return json.loads(self.body)


@dataclass
class Served:
    """Everything that stands between a socket and a directory, under token 7."""

    root: Path
    append_only: bool = False
    door: Door | None = None
    limits: Limits = field(default_factory=Limits)
    store: DirectoryStore | None = None
    open_gate: bool = True
    tls: Callable[[], ssl.SSLContext] | None = None

    def __post_init__(self) -> None:
        self.clock = Clock()
        self.faults: list[str] = []
        self.ledger = TokenLedger(self.root / OURS / "token")
        self.gate = Gate(self.ledger, self.clock)
        self.door = self.door or Door(DoorOptions(append_only=self.append_only))
        self.store = self.store or DirectoryStore(self.root)
        self.usage = Usage(self.root, 2, rest=lambda: None)
        self.app = App(
            self.gate,
            self.store,
            SingleCopy(),
            door=self.door,
            usage=self.usage,
            disk_fault=self.faults.append,
        )
        self.server = Server(self.app.handle, self.limits, tls=self.tls)
        self.port = free_port()
        self.server.listen([HOST], self.port)
        if self.open_gate:
            self.gate.open(self.word())
        logging.getLogger("leaseha.repository.access").setLevel(logging.INFO)

    def word(self, token: int = 7) -> Word:
        return Word(Mark(0, token), now().plus(LONG_NS))

    def ask(self, method: str, path: str, body: bytes | None = None, **fields: str) -> Reply:
        """One request on a connection of its own."""
        with Client(self.port) as client:
            return client.ask(method, path, body, **fields)

    def raw(self, *pieces: bytes) -> bytes:
        """Everything that the server answers to these bytes, until it closes the connection."""
        with self.dial() as sock:
            for piece in pieces:
                sock.sendall(piece)
            return read_all(sock)

    def dial(self) -> socket.socket:
        return socket.create_connection((HOST, self.port), timeout=20)

    def temporaries(self) -> list[str]:
        return [entry.name for entry in (self.root / OURS / "tmp").iterdir()]

    def close(self) -> None:
        self.server.end()


class Client:
    """Keeps its connection, as restic does."""

    def __init__(self, port: int, host: str = HOST, timeout_s: float = 20.0) -> None:
        self.connection = http.client.HTTPConnection(host, port, timeout=timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *unused: object) -> None:
        self.connection.close()

    def ask(self, method: str, path: str, body: bytes | None = None, **fields: str) -> Reply:
        headers = {name.replace("_", "-"): value for name, value in fields.items()}
        self.connection.request(method, path, body, headers)
        response = self.connection.getresponse()
        answer = response.read()
        return Reply(response.status, answer, {name.lower(): value for name, value in response.getheaders()})

    def post(self, path: str, body: bytes) -> int:
        return self.ask("POST", path, body).status

    def list(self, path: str) -> object:
        return self.ask("GET", path, Accept=V2).json


def read_all(sock: socket.socket) -> bytes:
    """To the end of the connection; a reset counts as the end."""
    answer = bytearray()
    try:
        while piece := sock.recv(65536):
            answer += piece
    except ConnectionResetError:
        pass
    return bytes(answer)


def post_head(path: str, length: int, *lines: str) -> bytes:
    return "\r\n".join(
        [f"POST {path} HTTP/1.1", "Host: here", f"Content-Length: {length}", *lines, "", ""]
    ).encode()


def in_thread(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread
