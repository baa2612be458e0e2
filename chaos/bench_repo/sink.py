"""What the client of this bench can do at most: beside a server that stores nothing, hashes nothing and checks nothing.

    python -m chaos.bench_repo.sink --objects 16 --mib 16

The server is a process of its own: it throws away what comes, and sends what lies in memory. On the same cores it
takes its part of them too, so the client could do somewhat more.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import re
import socket
import sys
import threading
from multiprocessing.connection import Connection as Pipe
from typing import Final

from chaos.bench_repo.client import HOST, RANGE, Body, make_bodies, share

MIB: Final = 1 << 20
_LENGTH: Final = re.compile(rb"content-length: ([0-9]+)", re.IGNORECASE)
_MOST: Final = 64


def main(argv: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--objects", type=int, default=16)
    parser.add_argument("--mib", type=int, default=16)
    parser.add_argument("--ranges", type=int, default=3000)
    asked = parser.parse_args(argv)
    bodies = make_bodies(asked.objects, asked.mib * MIB, 1)
    ours, theirs = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(
        target=serve, args=(theirs, asked.mib * MIB), daemon=True
    )
    server.start()
    port = ours.recv()
    try:
        for connections in (1, 4):
            _measure(port, connections, bodies, asked.ranges)
    finally:
        server.kill()
        server.join()
    return 0


def _measure(port: int, connections: int, bodies: list[Body], ranges: int) -> None:
    size_mib = sum(body.size for body in bodies) / MIB
    posts = [lambda one, body=body: one.post(f"/r/data/{body.name}", body) for body in bodies]
    gets = [lambda one, body=body: one.get(f"/r/data/{body.name}", body.size) for body in bodies]
    chance = random.Random(1)
    fields = [f"Range: bytes={at}-{at + RANGE - 1}\r\n" for at in chance.choices(range(MIB), k=ranges)]
    parts = [lambda one, field=field: one.get("/r/data/x", RANGE, field, 206) for field in fields]
    print(f"c={connections} POST  {size_mib / share(port, connections, posts):8.0f} MiB/s")
    print(f"c={connections} GET   {size_mib / share(port, connections, gets):8.0f} MiB/s")
    print(f"c={connections} range {ranges / share(port, connections, parts):8.0f} 1/s", flush=True)


def serve(told: Pipe, size: int) -> None:
    """Says its port, and answers a bounded number of connections until it is ended. Its objects have `size` bytes."""
    content = os.memfd_create("content")
    os.ftruncate(content, max(size, RANGE))
    with socket.create_server((HOST, 0)) as listener:
        told.send(listener.getsockname()[1])
        for _ in range(_MOST):
            sock, _address = listener.accept()
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=_answer, args=(sock, content, size), daemon=True).start()


def _answer(sock: socket.socket, content: int, size: int) -> None:
    buffer = memoryview(bytearray(MIB))
    with sock:
        while head := sock.recv(65536):
            at = head.index(b"\r\n\r\n") + 4
            length = _LENGTH.search(head, 0, at)
            left = int(length[1]) - (len(head) - at) if length else 0
            while left > 0:
                left -= sock.recv_into(buffer, min(left, MIB)) or left
            if head.startswith(b"POST"):
                sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                continue
            status, count = (b"206", RANGE) if b"Range:" in head else (b"200", size)
            sock.sendall(b"HTTP/1.1 %s OK\r\nContent-Length: %d\r\n\r\n" % (status, count), socket.MSG_MORE)
            sent = 0
            while sent < count:
                sent += os.sendfile(sock.fileno(), content, sent, count - sent)


if __name__ == "__main__":
    sys.exit(main())
