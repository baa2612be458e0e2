"""Heads that are accepted, heads that are refused, bodies in chunks, byte ranges."""

import socket
import threading

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leaseha.repository.exchange import BadBodyError, Body, ClientGoneError, Connection
from leaseha.repository.http import HeadError, Request, _parse_whole, parse_head, parse_range


def head(*lines: str, first: str = "POST /config HTTP/1.1", host: bool = True) -> bytes:
    return "\r\n".join([first, *(["Host: here"] if host else []), *lines, "", ""]).encode("latin-1")


REFUSED = [
    ("length and chunks", head("Content-Length: 5", "Transfer-Encoding: chunked"), 400),
    ("chunks and length", head("Transfer-Encoding: chunked", "Content-Length: 5"), 400),
    ("length twice, the same", head("Content-Length: 5", "Content-Length: 5"), 400),
    ("length twice, different", head("Content-Length: 5", "Content-Length: 6"), 400),
    ("length as a list", head("Content-Length: 5, 5"), 400),
    ("length with a sign", head("Content-Length: +5"), 400),
    ("negative length", head("Content-Length: -5"), 400),
    ("length in hex", head("Content-Length: 0x5"), 400),
    ("empty length", head("Content-Length:"), 400),
    ("endless length", head("Content-Length: 9999999999999999999"), 400),
    ("chunked twice", head("Transfer-Encoding: chunked", "Transfer-Encoding: chunked"), 400),
    ("another coding", head("Transfer-Encoding: gzip, chunked"), 501),
    ("identity", head("Transfer-Encoding: identity"), 501),
    ("chunks in HTTP/1.0", head("Transfer-Encoding: chunked", first="POST /config HTTP/1.0"), 400),
    ("folded line", head("X-Long: one", " two"), 400),
    ("folded framing", head("Transfer-Encoding:", " chunked"), 400),
    ("space before the colon", head("Content-Length : 5"), 400),
    ("no colon", head("Content-Length 5"), 400),
    ("bare line feeds", b"GET /config HTTP/1.1\nHost: here\r\n\r\n", 400),
    ("bare carriage return", head("X: a\rContent-Length: 5"), 400),
    ("a zero byte", head("X: a\0b"), 400),
    ("two hosts", head("Host: there"), 400),
    ("no host", head(host=False), 400),
    ("two ranges", head("Range: bytes=0-1", "Range: bytes=2-3"), 400),
    ("two authorizations", head("Authorization: Basic eA==", "Authorization: Basic eQ=="), 400),
    ("a space in the path", head(first="POST /a b HTTP/1.1"), 400),
    ("no version", head(first="POST /config"), 400),
    ("HTTP/2", head(first="POST /config HTTP/2.0"), 505),
    ("an unknown method", head(first="PUT /config HTTP/1.1"), 405),
    ("CONNECT", head(first="CONNECT here:80 HTTP/1.1"), 405),
    ("another expectation", head("Expect: 200-maybe"), 417),
]


@pytest.mark.parametrize(("raw", "status"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_a_head_that_two_readers_could_understand_differently_is_refused(raw, status):
    with pytest.raises(HeadError) as refused:
        parse_head(raw)

    assert status == refused.value.status


def test_a_head_as_restic_sends_it_is_understood():
    request = parse_head(
        head(
            "Accept: application/vnd.x.restic.rest.v2",
            "Content-Length: 155",
            "User-Agent: Go-http-client/1.1",
        )
    )

    assert (
        request.method,
        request.target,
        request.length,
        request.chunked,
        request.keep_alive,
    ) == ("POST", b"/config", 155, False, True)
    assert request.fields[b"accept"] == b"application/vnd.x.restic.rest.v2"


def test_chunks_close_and_expectation_are_understood():
    request = parse_head(
        head("Transfer-Encoding: chunked", "Connection: keep-alive, close", "Expect: 100-continue")
    )

    assert (request.chunked, request.keep_alive, request.expects_continue) == (True, False, True)


@given(st.binary(max_size=300))
def test_any_bytes_as_a_head_are_accepted_or_refused_and_nothing_else(raw):
    status = 200
    try:
        parse_head(b"GET / HTTP/1.1\r\n" + raw + b"\r\n\r\n")
    except HeadError as refused:
        status = refused.status

    assert 200 <= status <= 505


RANGES = [
    (b"bytes=0-", 10, (0, 10)),
    (b"bytes=0-3", 10, (0, 4)),
    (b"bytes=9-9", 10, (9, 1)),
    (b"bytes=5-99", 10, (5, 5)),
    (b"bytes=-3", 10, (7, 3)),
    (b"bytes=-99", 10, (0, 10)),
    (b"bytes=0-", 0, (0, 0)),
    (b"bytes=10-", 10, None),
    (b"bytes=11-12", 10, None),
    (b"bytes=-0", 10, None),
    (b"bytes=4-3", 10, None),
    (b"bytes=-", 10, None),
    (b"bytes=a-b", 10, None),
    (b"bytes=0-1,3-4", 10, None),
    (b"lines=0-1", 10, None),
    (b"bytes=0-99999999999999999999", 10, None),
]


@pytest.mark.parametrize(("field", "size", "expected"), RANGES)
def test_a_range_is_exact_or_cannot_be_satisfied(field, size, expected):
    assert expected == parse_range(field, size)


def chunked_body(raw: bytes) -> bytes:
    """What our reader makes of these bytes. Raises what it raises."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        sender = threading.Thread(target=lambda: (theirs.sendall(raw), theirs.shutdown(socket.SHUT_WR)))
        sender.start()
        connection = Connection(ours, "test", body_timeout_s=20)
        body = Body(connection, Request("POST", b"/", {}, 0, True, True, False))
        taken, view = bytearray(), memoryview(bytearray(7))
        try:
            while count := body.read_into(view):
                taken += view[:count]
        finally:
            ours.close()
            sender.join(20)
        return bytes(taken)


def h11_body(raw: bytes) -> bytes:
    """What h11 makes of them."""
    parser = h11.Connection(h11.SERVER)
    parser.receive_data(head("Transfer-Encoding: chunked") + raw)
    taken = bytearray()
    while True:
        event = parser.next_event()
        if isinstance(event, h11.EndOfMessage):
            return bytes(taken)
        if isinstance(event, h11.Data):
            taken += event.data
        elif event is h11.NEED_DATA:
            raise h11.RemoteProtocolError("incomplete")


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=5), st.booleans())
def test_chunks_are_joined_to_the_body_that_was_sent(pieces, upper):
    sizes = [f"{len(piece):X}" if upper else f"{len(piece):x}" for piece in pieces]
    raw = b"".join(
        size.encode() + b"\r\n" + piece + b"\r\n" for size, piece in zip(sizes, pieces, strict=True)
    )

    assert b"".join(pieces) == chunked_body(raw + b"0\r\n\r\n")


@given(st.binary(max_size=30) | st.text("0123a \r\n;", max_size=20).map(str.encode))
def test_what_our_chunk_reader_accepts_h11_reads_the_same_way(raw):
    try:
        ours = chunked_body(raw)
    except (BadBodyError, ClientGoneError):
        return

    assert ours == h11_body(raw)


def test_trailers_are_read_and_forgotten():
    assert chunked_body(b"5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n") == b"hello"


@pytest.mark.parametrize(
    "raw",
    [
        b"5\nhello\r\n0\r\n\r\n",
        b"5\r\nhelloX\r\n0\r\n\r\n",
        b"-5\r\nhello\r\n",
        b"5;a=b\r\nhello\r\n0\r\n\r\n",
        b"1" * 300,
        b"0\r\n" + b"X: 1\r\n" * 40 + b"\r\n",
        b"0x5\r\nhello\r\n0\r\n\r\n",
        b"\r\n",
    ],
)
def test_broken_chunks_are_refused(raw):
    with pytest.raises(BadBodyError):
        chunked_body(raw)


LINES = st.sampled_from(
    [
        b"Host: backup",
        b"Range: bytes=0-9",
        b"range: bytes=5-",
        b"RANGE: bytes=5-6",
        b"Range: bytes=a-b",
        b"Range: bytes=0-1,5-6",
        b"X-Note: a",
        b" folded",
        b"Content-Length: 3",
        b"Transfer-Encoding: chunked",
        b"Connection: close",
        b"Expect: 100-continue",
        b"Bad Name: x",
        b"Accept: a\nRange: bytes=1-2",
    ]
)
TARGETS = st.sampled_from(
    [b"/", b"/r/data/ab", b"//x", b"/r/%41", b"/a?create=true", b"x", b"/a b", b"http://h/a"]
)


def outcome(parse, raw: bytes) -> Request | int:
    try:
        return parse(raw)
    except HeadError as refused:
        return refused.status


@given(
    st.sampled_from([b"GET", b"POST", b"get"]), TARGETS, st.sampled_from([b"1.1", b"1.0"]), st.lists(LINES)
)
def test_what_is_remembered_of_a_head_makes_no_difference(method, target, version, lines):
    """A head whose other lines came before is read as the parser alone reads it."""
    raw = b"\r\n".join([method + b" " + target + b" HTTP/" + version, *lines, b"", b""])
    expected = outcome(_parse_whole, raw)
    assert outcome(parse_head, raw) == expected
    assert outcome(parse_head, raw) == expected
