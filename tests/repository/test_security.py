"""What was tried against the repository's port, and what it answered: the table of docs/repository.md, played."""

import base64
import hashlib
import re
import ssl
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from leaseha.adapters import pki
from leaseha.repository.door import Door, DoorOptions
from leaseha.repository.server import Limits
from leaseha.repository.tls import Renewed, TlsFiles
from leaseha.repository.users import User, hashed
from tests.repository.served import HOST, Served, name_of, read_all

SECRET = b"alice's own data"
NAME = name_of(SECRET)
KNOWN = hashed("x")
PAGE = Path(__file__).parents[2] / "docs/repository.md"


def basic(name: str, password: str = "x") -> str:
    return f"Authorization: Basic {base64.b64encode(f'{name}:{password}'.encode()).decode()}"


def ask(first: str, *lines: str, who: str = "bob", body: bytes = b"") -> bytes:
    proof = [basic(who)] if who else []
    return (
        "\r\n".join([first, "Host: h", *proof, "Connection: close", *lines, "", ""]).encode("latin-1") + body
    )


SMUGGLED = f"GET /alice/data/{NAME} HTTP/1.1\r\nHost: h\r\n{basic('bob')}\r\n\r\n".encode()
DIGEST = hashlib.sha256(b"x").hexdigest()

ASKED: list[tuple[str, bytes, set[int]]] = [
    ("`..` in the path", ask(f"GET /bob/../alice/data/{NAME} HTTP/1.1"), {404}),
    ("`%2e%2e` in the path", ask(f"GET /bob/%2e%2e/alice/data/{NAME} HTTP/1.1"), {404}),
    ("`%2f` within a name", ask(f"GET /bob/..%2falice/data/{NAME} HTTP/1.1"), {404}),
    ("`..` as an object's name", ask("GET /bob/data/../../alice/config HTTP/1.1"), {404}),
    ("our own folder", ask("GET /.leaseha/token/ HTTP/1.1"), {404}),
    ("our own folder as a repository", ask("POST /.leaseha/?create=true HTTP/1.1"), {404}),
    ("an absolute path", ask("GET //etc/passwd HTTP/1.1"), {404}),
    ("an absolute address", ask(f"GET http://h/alice/data/{NAME} HTTP/1.1"), {404}),
    ("a zero byte in the path", ask("GET /bob/config%00 HTTP/1.1"), {404}),
    ("bytes that are no UTF-8", ask("GET /bob/%ff/config HTTP/1.1"), {404}),
    ("a backslash", ask(f"GET /bob\\..\\alice/data/{NAME} HTTP/1.1"), {403}),
    ("another user's object", ask(f"GET /alice/data/{NAME} HTTP/1.1"), {403}),
    ("another user's listing", ask("GET /alice/data/ HTTP/1.1"), {403}),
    ("deleting another user's object", ask(f"DELETE /alice/data/{NAME} HTTP/1.1"), {403}),
    (
        "writing into another user's repository",
        ask("POST /alice/config HTTP/1.1", "Content-Length: 1", body=b"x"),
        {403},
    ),
    ("the top of the store", ask("GET /data/ HTTP/1.1"), {403}),
    ("nobody's password", ask("GET /alice/data/ HTTP/1.1", who=""), {401}),
    ("a wrong password", ask("GET /alice/data/ HTTP/1.1", basic("alice", "y"), who=""), {401}),
    ("two users at once", ask("GET /alice/data/ HTTP/1.1", basic("alice", "x")), {400}),
    (
        "a length beside chunks",
        ask(
            "POST /bob/config HTTP/1.1",
            "Content-Length: 5",
            "Transfer-Encoding: chunked",
            body=b"0\r\n\r\n" + SMUGGLED,
        ),
        {400},
    ),
    (
        "chunks beside a length",
        ask(
            "POST /bob/config HTTP/1.1",
            "Transfer-Encoding: chunked",
            "Content-Length: 5",
            body=b"0\r\n\r\n" + SMUGGLED,
        ),
        {400},
    ),
    (
        "two lengths",
        ask("POST /bob/config HTTP/1.1", "Content-Length: 1", "Content-Length: 300", body=b"x" + SMUGGLED),
        {400},
    ),
    (
        "a list of lengths",
        ask("POST /bob/config HTTP/1.1", "Content-Length: 1, 1", body=b"x" + SMUGGLED),
        {400},
    ),
    (
        "a length with a sign",
        ask("POST /bob/config HTTP/1.1", "Content-Length: +1", body=b"x" + SMUGGLED),
        {400},
    ),
    (
        "chunks under another name",
        ask("POST /bob/config HTTP/1.1", "Transfer-Encoding: xchunked", body=b"0\r\n\r\n" + SMUGGLED),
        {501},
    ),
    (
        "chunks in a folded line",
        ask("POST /bob/config HTTP/1.1", "Transfer-Encoding:", " chunked", body=SMUGGLED),
        {400},
    ),
    (
        "chunks behind a space",
        ask("POST /bob/config HTTP/1.1", "Transfer-Encoding : chunked", body=SMUGGLED),
        {400},
    ),
    (
        "a line that ends in LF alone",
        ask("GET /bob/config HTTP/1.1", f"X: y\nContent-Length: {len(SMUGGLED)}", body=SMUGGLED),
        {400},
    ),
    ("two hosts", ask("GET /bob/config HTTP/1.1", "Host: other"), {400}),
    ("two ranges", ask("GET /bob/config HTTP/1.1", "Range: bytes=0-1", "Range: bytes=0-9"), {400}),
    (
        "a chunk of a negative size",
        ask(f"POST /bob/data/{DIGEST} HTTP/1.1", "Transfer-Encoding: chunked", body=b"-1\r\nx\r\n0\r\n\r\n"),
        set(),
    ),
    (
        "a chunk longer than it says",
        ask(f"POST /bob/data/{DIGEST} HTTP/1.1", "Transfer-Encoding: chunked", body=b"1\r\nxx\r\n0\r\n\r\n"),
        set(),
    ),
    ("a head of 20 KB", ask("GET /bob/config HTTP/1.1", "X: " + "y" * 20_000), {431}),
    ("5000 header lines", ask("GET /bob/config HTTP/1.1", *(["X: y"] * 5000)), {431}),
    (
        "an object of 5 GB",
        ask(f"POST /bob/data/{DIGEST} HTTP/1.1", f"Content-Length: {5 << 30}", "Expect: 100-continue"),
        {413},
    ),
    (
        "bytes that are not what the name says",
        ask(f"POST /bob/data/{NAME} HTTP/1.1", "Content-Length: 1", body=b"x"),
        {400},
    ),
    ("CONNECT", ask("CONNECT alice:80 HTTP/1.1"), {405}),
    ("TRACE", ask("TRACE /alice/config HTTP/1.1"), {405}),
    ("an upgrade to HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", {400, 405, 505}),
]

IN_TIME = ("a head in crumbs, for ever", "a body that stops", "silence")
BY_TLS = ("TLS 1.0", "TLS 1.1", "plain HTTP on a TLS port", "renegotiation")


@pytest.fixture(scope="module")
def told() -> list[dict[str, str]]:
    return [{"name": name, "value": User(name, KNOWN).told()} for name in ("alice", "bob")]


@pytest.fixture
def fortress(serve, told) -> Served:
    """Two users, each with repositories of his own; alice has one object."""
    door = Door(DoorOptions(users=True, private=True))
    door.book.tell(told, first=True, last=True)
    served = serve(door=door, limits=Limits(head_s=1.0, body_s=1.0, idle_s=1.0))
    put = ask(f"POST /alice/data/{NAME} HTTP/1.1", f"Content-Length: {len(SECRET)}", who="alice", body=SECRET)
    assert served.raw(put).startswith(b"HTTP/1.1 200")
    return served


def unharmed(served: Served) -> None:
    """alice's object is there, and nothing else is that was not asked for."""
    files = [path for path in served.root.rglob("*") if path.is_file() and ".leaseha" not in path.parts]
    assert [path.relative_to(served.root).as_posix() for path in files] == [f"alice/data/{NAME[:2]}/{NAME}"]
    assert files[0].read_bytes() == SECRET
    assert served.temporaries() == []


@pytest.mark.parametrize(("raw", "wanted"), [row[1:] for row in ASKED], ids=[row[0] for row in ASKED])
def test_it_is_answered_once_gives_nothing_away_and_changes_nothing(fortress, raw, wanted):
    answer = fortress.raw(raw)

    found = [int(code) for code in re.findall(rb"HTTP/1\.1 (\d{3})", answer)]
    assert len(found) <= 1, "what was smuggled was answered"
    assert set(found) <= wanted
    assert bool(found) is bool(wanted)
    assert SECRET not in answer
    unharmed(fortress)


def test_who_is_slow_is_shown_out_and_keeps_nobody_waiting(fortress):
    """A head in crumbs, a body that stops, and silence."""
    body = f"POST /bob/data/{DIGEST} HTTP/1.1\r\nHost: h\r\n{basic('bob')}\r\nContent-Length: 9\r\n\r\nx".encode()
    fortress.raw(ask("GET /bob/config HTTP/1.1"))  # his password is proven now: nobody waits for that below
    slow = [fortress.dial() for _ in range(90)]
    for at, sock in enumerate(slow):
        sock.sendall((b"GET /bob/conf", body, b"")[at % 3])
    begun = time.monotonic()
    assert fortress.raw(ask("GET /bob/config HTTP/1.1")).startswith(b"HTTP/1.1 404")
    for sock in slow:
        assert read_all(sock) == b""
        sock.close()
    assert time.monotonic() - begun < 20
    unharmed(fortress)


def test_who_shows_no_password_is_not_waited_for_with_a_large_body(serve, told):
    door = Door(DoorOptions(users=True))
    door.book.tell(told, first=True, last=True)
    served = serve(door=door)  # with the usual patience: a minute
    head = f"POST /bob/data/{DIGEST} HTTP/1.1\r\nHost: h\r\nContent-Length: 300000000\r\n\r\n".encode()

    begun = time.monotonic()
    answer = served.raw(head + b"x" * 100_000)

    assert answer.startswith(b"HTTP/1.1 401")
    assert time.monotonic() - begun < 20


def test_a_head_that_never_ends_is_shown_out_however_steadily_it_comes(fortress):
    with fortress.dial() as sock:
        sock.settimeout(0.05)
        until = time.monotonic() + 15
        ended = False
        while not ended:
            assert time.monotonic() < until
            try:
                sock.sendall(b"X")
                ended = sock.recv(1) == b""
            except TimeoutError:
                continue
            except OSError:
                ended = True


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("what", BY_TLS)
def test_tls_cannot_be_talked_down(serve, tmp_path, what):
    pki.init(tmp_path / "pki", "x", datetime.now(UTC))
    made = pki.issue(tmp_path / "pki", pki.Wanted("vip", (HOST,), serves_clients=True), datetime.now(UTC))
    served = serve(tls=Renewed(TlsFiles(str(made.certificate), str(made.key))))
    context = ssl.create_default_context(cafile=str(tmp_path / "pki/ca.crt"))
    context.set_ciphers("DEFAULT:@SECLEVEL=0")

    def dial() -> ssl.SSLSocket:
        return context.wrap_socket(served.dial(), server_hostname=HOST)

    if what in {"TLS 1.0", "TLS 1.1"}:
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = {"TLS 1.0": ssl.TLSVersion.TLSv1, "TLS 1.1": ssl.TLSVersion.TLSv1_1}[what]
        with pytest.raises(OSError, match=r"(?i)alert|protocol|reset|EOF"):
            dial()
    elif what == "plain HTTP on a TLS port":
        assert b"HTTP" not in served.raw(ask("GET /bob/config HTTP/1.1"))
    else:
        assert renegotiated(made.certificate.parent, served.port) is False


def renegotiated(folder: Path, port: int) -> bool:
    """Whether openssl's own client gets the server to shake hands anew on one connection."""
    import shutil
    import subprocess

    if shutil.which("openssl") is None:
        pytest.skip("needs openssl (Debian: openssl)")
    client = [
        "openssl",
        "s_client",
        "-connect",
        f"{HOST}:{port}",
        "-tls1_2",
        "-CAfile",
        str(folder / "ca.crt"),
    ]
    done = subprocess.run(client, input=b"R\n", capture_output=True, timeout=20, check=False)
    assert b"RENEGOTIATING" in done.stdout + done.stderr
    return b"no renegotiation" not in done.stderr.lower()


def test_the_page_tells_what_was_tried():
    """Each row of the table is tried here, and each trial has its row."""
    told = re.findall(r"^\| (.+?) \| (.+?) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    rows = dict(told)
    tried: dict[str, set[int]] = {name: wanted for name, _, wanted in ASKED}

    for name, wanted in tried.items():
        assert name in rows, f"docs/repository.md has no row for: {name}"
        assert {int(code) for code in re.findall(r"\b[1-5]\d\d\b", rows[name])} == wanted, name
    for name in (*IN_TIME, *BY_TLS):
        assert name in rows, f"docs/repository.md has no row for: {name}"
