"""What reads a stranger's bytes, fed with all kinds of them: heads, paths, ranges, credentials, bodies in chunks.

    python -m chaos.fuzz --seconds 60            by chance, from what is known to be interesting
    python -m chaos.fuzz --seconds 600 --guided  guided by coverage (needs the package atheris)

It ends with an error at the first input that breaks a rule, and prints that input.
"""

from __future__ import annotations

import argparse
import base64
import importlib
import random
import select
import sys
import time
from pathlib import PurePosixPath
from typing import Any, Final

from leaseha.repository import paths, users
from leaseha.repository.connection import ClientGoneError
from leaseha.repository.exchange import BadBodyError, Body
from leaseha.repository.http import END_OF_HEAD, HeadError, Request, parse_head, parse_range

NAME: Final = b"0123456789abcdef" * 4
HEADS: Final = (
    b"GET /a/b/data/" + NAME + b" HTTP/1.1\r\nHost: h\r\nRange: bytes=0-99\r\n\r\n",
    b"POST /a/?create=true HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    b"POST /%2e%2e/config HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\nhello",
    b"DELETE /locks/" + NAME + b" HTTP/1.0\r\nConnection: keep-alive, close\r\n\r\n",
    b"HEAD /config HTTP/1.1\r\nHost: h\r\nAuthorization: Basic "
    + base64.b64encode(b"a:b")
    + b"\r\nX:\r\n\r\n",
)
PIECES: Final = (
    *(
        b"\r\n",
        b"\n",
        b"\r",
        b"\0",
        b" ",
        b"\t",
        b":",
        b"/",
        b"..",
        b"%2f",
        b"%00",
        b"%",
        b"?",
        b"#",
        b",",
        b"+",
        b"-1",
    ),
    *(
        b"Content-Length: 5\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: xchunked\r\n",
        b"Host: x\r\n",
    ),
    *(
        b"Content-Length: 0x5\r\n",
        b" folded\r\n",
        b"\r\n\r\n",
        b"0\r\n\r\n",
        b"ffffffffffffffff\r\n",
        b"\xff\xfe",
        NAME,
    ),
    *(
        b"data",
        b"config",
        b"locks/",
        b".leaseha",
        b"bytes=",
        b"bytes=-5",
        b"bytes=9-",
        b"Basic ",
        b"HTTP/1.1",
        b"PRI *",
    ),
)


class BrokenRuleError(Exception):
    """An input was read in a way that it must not be."""


def _must(fact: object, rule: str) -> None:
    if not fact:
        raise BrokenRuleError(rule)


def try_one(raw: bytes) -> None:
    """Feed one input to everything. Raises BrokenRuleError, or whatever escapes a reader that should not."""
    end = raw.find(END_OF_HEAD)
    if end >= 0:
        try:
            request = parse_head(raw[: end + len(END_OF_HEAD)])
        except HeadError as refused:
            _must(400 <= refused.status < 600, "a refusal has a status")
        else:
            _read(request, raw[end + len(END_OF_HEAD) :])
    _path(raw)
    _range(raw)
    found = users.credentials(raw)
    _must(found is None or ":" not in found[0], "a user's name has no colon")


def _read(request: Request, rest: bytes) -> None:
    framed = request.fields.keys() & {b"content-length", b"transfer-encoding"}
    _must(len(framed) < 2, "one framing only")
    _must(request.chunked is (b"transfer-encoding" in framed), "chunked only where it says so")
    _must(0 <= request.length < 10**15, "a length has bounds")
    _must(not any(set(name) & set(b"\r\n\0 :") for name in request.fields), "names are names")
    _must(
        not any(set(value) & set(b"\r\n\0") for value in request.fields.values()),
        "values end with their line",
    )
    _path(request.target)
    users.credentials(request.fields.get(b"authorization"))
    _body(request, rest)


def _path(target: bytes) -> None:
    address = paths.parse(target)
    if address is None:
        return
    for segment in address.repo:
        _must(
            segment not in {"", ".", ".."} and not segment.startswith("."), "nothing hidden, nothing upwards"
        )
        _must("/" not in segment and "\0" not in segment, "one folder is one folder")
    _must(len(address.repo) <= paths.DEPTH, "no deeper than that")
    _must(not address.name or paths.is_name(address.name), "names are hashes")
    place = PurePosixPath("/root").joinpath(*address.repo, address.kind or "", address.name)
    _must(place.is_relative_to("/root") and ".." not in place.parts, "within the directory")


def _range(raw: bytes) -> None:
    for size in (0, 1, 100):
        found = parse_range(raw, size)
        if found is not None:
            offset, count = found
            _must(offset >= 0 and count >= 0 and offset + count <= size, "a range is within its object")


class _Wire:
    """A connection on which this much came, and then no more."""

    def __init__(self, raw: bytes) -> None:
        self.pending = bytearray(raw)
        self.poll = select.poll()

    def receive_into(self, view: memoryview) -> int:
        if not self.pending:
            raise ClientGoneError("over")
        count = min(len(view), len(self.pending))
        view[:count] = self.pending[:count]
        del self.pending[:count]
        return count

    def receive_some(self) -> None:
        raise ClientGoneError("over")


def _body(request: Request, rest: bytes) -> None:
    wire: Any = _Wire(rest)
    body = Body(wire, request)
    view = memoryview(bytearray(4096))
    try:
        while body.read_into(view):
            _must(body.received <= len(rest), "no more than came")
    except (ClientGoneError, BadBodyError):
        return
    _must(request.chunked or body.received == request.length, "a body is as long as it said")


def mutated(chance: random.Random) -> bytes:
    """One input, from something known and some changes to it."""
    raw = bytearray(chance.choice(HEADS))
    for _ in range(chance.randrange(1, 8)):
        at = chance.randrange(len(raw) + 1)
        match chance.randrange(5):
            case 0:
                raw[at:at] = chance.choice(PIECES)
            case 1:
                del raw[at : at + chance.randrange(1, 20)]
            case 2:
                raw[at : at + 1] = bytes([chance.randrange(256)])
            case 3:
                begin = chance.randrange(len(raw) + 1)
                raw[at:at] = raw[begin : begin + chance.randrange(40)]
            case _:
                raw[at : at + chance.randrange(4)] = chance.choice(PIECES)
    return bytes(raw)


def _by_chance(seconds: float, seed: int) -> int:
    chance = random.Random(seed)
    until = time.monotonic() + seconds
    tried = 0
    while time.monotonic() < until:
        for _ in range(500):
            raw = mutated(chance)
            tried += 1
            try:
                try_one(raw)
            except Exception as broken:
                print(f"seed {seed}, input {tried}: {raw!r}\n{type(broken).__name__}: {broken}")
                raise
    return tried


def _guided(seconds: float, corpus: str) -> None:
    atheris: Any = importlib.import_module("atheris")  # whoever asks for it has it; nothing else needs it
    atheris.instrument_all()
    options = [f"-max_total_time={int(seconds)}", "-max_len=4096", "-print_final_stats=1", "-verbosity=0"]
    atheris.Setup([sys.argv[0], *options, *([corpus] if corpus else [])], try_one)
    atheris.Fuzz()


def main() -> int:
    """Exit status 0: nothing broke."""
    parser = argparse.ArgumentParser(prog="python -m chaos.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--guided", action="store_true", help="by coverage; needs atheris")
    parser.add_argument("--corpus", default="", help="a folder in which a guided run keeps what it has found")
    arguments = parser.parse_args()
    if arguments.guided:
        _guided(arguments.seconds, arguments.corpus)
        return 0
    print(f"{_by_chance(arguments.seconds, arguments.seed)} inputs, none broke a rule")
    return 0


if __name__ == "__main__":
    sys.exit(main())
