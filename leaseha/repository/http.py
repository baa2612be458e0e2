"""One HTTP/1.1 exchange on a blocking socket: a strict head, a body in pieces, one answer.

The head is parsed by h11. Before it, what h11 forgives is refused, because two readers that forgive
differently make smuggling: bare line feeds, folded lines, a length beside chunks, a field given twice.
A client's reads differ in path and range alone: what is around those is parsed once, and remembered.
Bodies bypass the parser: they go by `recv_into` and `sendfile`, which let other threads run.

Not done: compression (the data is encrypted), HTTP/2, pipelining ahead of the answer.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Final

import h11

MAX_HEAD: Final = 16 * 1024
END_OF_HEAD: Final = b"\r\n\r\n"
_ONCE: Final = frozenset(
    {b"authorization", b"content-length", b"expect", b"host", b"range", b"transfer-encoding"}
)
_LENGTH: Final = re.compile(rb"[0-9]{1,15}")
_STRAY: Final = re.compile(rb"\r(?!\n)|(?<!\r)\n|\x00")
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "DELETE"})


class HeadError(Exception):
    """The head is not acceptable. `status` is the answer; the connection is closed after it."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


@dataclass(frozen=True, slots=True)
class Request:
    """What a head says."""

    method: str
    target: bytes
    fields: dict[bytes, bytes]
    """Names in lower case."""
    length: int
    """Bytes of the body; 0 when it is chunked."""
    chunked: bool
    keep_alive: bool
    expects_continue: bool


def parse_head(raw: bytes) -> Request:
    """`raw` from the request line to the empty line, both included. Raises HeadError."""
    read = _READ.match(raw)
    if read is None:
        return _parse_whole(raw)
    target, start = read[1], read.end()
    ranged = _RANGE_LINE.search(raw, start)
    if ranged is None:
        return replace(_parse_around(raw[start:]), target=target)
    around = _parse_around(raw[start : ranged.start()] + raw[ranged.end() :])
    if b"range" in around.fields:
        raise HeadError(400, "given twice: range")
    return replace(around, target=target, fields={**around.fields, b"range": ranged[1]})


_READ: Final = re.compile(rb"GET (/[0-9A-Za-z/_.-]*) HTTP/1\.1(?=\r\n)")
"""No character in the path that a parser could take for anything else."""
_RANGE_LINE: Final = re.compile(rb"\r\n[Rr]ange: (bytes=[0-9]{0,18}-[0-9]{0,18})(?=\r\n)")


@functools.lru_cache(maxsize=64)
def _parse_around(rest: bytes) -> Request:
    """A GET for "/" with these header lines, from the end of the request line on. Raises HeadError."""
    return _parse_whole(b"GET / HTTP/1.1" + rest)


def _parse_whole(raw: bytes) -> Request:
    fields = _strict_fields(raw)
    parser = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)
    try:
        parser.receive_data(raw)
        event = parser.next_event()
    except h11.RemoteProtocolError as wrong:
        raise HeadError(wrong.error_status_hint, str(wrong)) from wrong
    if not isinstance(event, h11.Request):
        raise HeadError(400, "not a request")
    if event.http_version not in {b"1.1", b"1.0"}:
        raise HeadError(505, "only HTTP/1.1 is spoken here")
    method = event.method.decode("ascii")
    if method not in _METHODS:
        raise HeadError(405, f"no such method here: {method}")
    modern = event.http_version == b"1.1"
    length, chunked = _framing(fields, modern=modern)
    wants = fields.get(b"expect")
    if wants is not None and wants.lower() != b"100-continue":
        raise HeadError(417, "nothing but 100-continue can be expected")
    connection = {word.strip().lower() for word in fields.get(b"connection", b"").split(b",")}
    return Request(
        method=method,
        target=event.target,
        fields=fields,
        length=length,
        chunked=chunked,
        keep_alive=modern and b"close" not in connection,
        expects_continue=modern and wants is not None,
    )


def _strict_fields(raw: bytes) -> dict[bytes, bytes]:
    """The header fields by lower-case name, values joined. Raises HeadError for what h11 would mend."""
    if _STRAY.search(raw):
        raise HeadError(400, "a line must end in CR LF")
    fields: dict[bytes, bytes] = {}
    for line in raw.split(b"\r\n")[1:-2]:
        if line[:1] in {b" ", b"\t"}:
            raise HeadError(400, "folded header lines are not accepted")
        name, _, value = line.partition(b":")
        name = name.lower()
        value = value.strip(b" \t")
        if name in fields:
            if name in _ONCE:
                raise HeadError(400, f"given twice: {name.decode('latin-1')}")
            value = fields[name] + b", " + value
        fields[name] = value
    return fields


def _framing(fields: dict[bytes, bytes], *, modern: bool) -> tuple[int, bool]:
    """Length and whether it is chunked. Raises HeadError when two readers could differ about the end."""
    length = fields.get(b"content-length")
    coding = fields.get(b"transfer-encoding")
    if coding is not None:
        if length is not None:
            raise HeadError(400, "a length and chunks exclude each other")
        if not modern:
            raise HeadError(400, "chunks need HTTP/1.1")
        if coding.lower() != b"chunked":
            raise HeadError(501, "the only transfer coding here is chunked")
        return 0, True
    if length is None:
        return 0, False
    if not _LENGTH.fullmatch(length):
        raise HeadError(400, "not a length")
    return int(length), False


def parse_range(field: bytes, size: int) -> tuple[int, int] | None:
    """(offset, count) of one byte range in an object of `size` bytes; None: cannot be satisfied (416).

    Several ranges, and what is no range, cannot be satisfied either. An empty object is given whole, since
    some clients ask for `bytes=0-` always (Go's file server does the same).
    """
    match = _RANGE.fullmatch(field)
    if match is None or (match[1] == b"" and match[2] == b""):
        return None
    if size == 0:
        return 0, 0
    if match[1] == b"":
        count = min(int(match[2]), size)
        return (size - count, count) if count else None
    first = int(match[1])
    last = min(int(match[2]), size - 1) if match[2] else size - 1
    return (first, last - first + 1) if first <= last else None


_RANGE: Final = re.compile(rb"bytes=([0-9]{0,18})-([0-9]{0,18})")


def head_of_answer(status: int, length: int, fields: tuple[tuple[str, str], ...], *, close: bool) -> bytes:
    """Status line and header fields, with the empty line."""
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", f"Content-Length: {length}"]
    lines += [f"{name}: {value}" for name, value in fields]
    if close:
        lines.append("Connection: close")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
