"""The repository over TLS: what a client may rely on, and what it cannot talk the server into."""

import contextlib
import http.client
import os
import shutil
import socket
import ssl
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from leaseha.adapters import pki
from leaseha.adapters.pki import Wanted
from leaseha.repository.server import Limits
from leaseha.repository.tls import Renewed, TlsFiles, client_context, server_context
from tests.repository.served import HOST, Client, Served, in_thread, name_of, until

NOW = datetime.now(UTC).replace(microsecond=0)
BIG = os.urandom(3_000_000)


@pytest.fixture(scope="module")
def certs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pki")
    pki.init(folder, "test", NOW)
    pki.issue(folder, Wanted("a1", (HOST, "localhost")), NOW)
    pki.issue(folder, Wanted("b1", (HOST,)), NOW)
    pki.issue(folder, Wanted("vip", (HOST,), serves_clients=True), NOW)
    pki.init(folder / "other", "another", NOW)
    pki.issue(folder / "other", Wanted("b1", (HOST,)), NOW)
    return folder


def files(folder: Path, name: str, *, mutual: bool = True) -> TlsFiles:
    return TlsFiles(
        *(str(folder / f"{name}.{end}") for end in ("crt", "key")), str(folder / "ca.crt") if mutual else ""
    )


@pytest.fixture
def secure(serve, certs) -> Served:
    return serve(tls=Renewed(files(certs, "vip", mutual=False)))


def trusting(certs: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(certs / "ca.crt"))


def dial(served: Served, context: ssl.SSLContext, **options) -> ssl.SSLSocket:
    return context.wrap_socket(served.dial(), server_hostname=HOST, **options)


class TlsClient(Client):
    def __init__(self, port: int, context: ssl.SSLContext) -> None:
        self.connection = http.client.HTTPSConnection(HOST, port, timeout=20, context=context)


def test_objects_go_in_and_out_whole_on_one_connection(secure, certs):
    name = name_of(BIG)
    with TlsClient(secure.port, trusting(certs)) as client:
        assert client.post("/r/?create=true", b"") == 200
        assert client.post(f"/r/data/{name}", BIG) == 200
        assert client.ask("GET", f"/r/data/{name}").body == BIG
        assert client.ask("GET", f"/r/data/{name}", Range="bytes=7-99").body == BIG[7:100]
        assert client.list("/r/data/") == [{"name": name, "size": len(BIG)}]
        assert client.ask("HEAD", f"/r/data/{name}").fields["content-length"] == str(len(BIG))
        assert client.post(f"/r/data/{name}", BIG[:-1]) == 400
    assert secure.server.counts()[0] <= 1


def test_requests_that_share_a_record_are_all_answered(secure, certs):
    """The second head is decrypted with the first: no poll will ever tell that it is there."""
    one = b"HEAD /r/config HTTP/1.1\r\nHost: h\r\n\r\n"
    with dial(secure, trusting(certs)) as sock:
        sock.sendall(one * 40 + one[:9])
        seen = b""
        while seen.count(b"404") < 40:
            seen += sock.recv(65536)
        until(lambda: secure.server.counts() == (1, 0), "parked with a part of a head")
        sock.sendall(one[9:])
        assert sock.recv(65536).startswith(b"HTTP/1.1 404")


def test_a_body_that_comes_in_crumbs_and_with_the_next_request_is_taken_apart_rightly(secure, certs):
    body = b"x" * 20_000
    post = (
        f"POST /r/data/{name_of(body)} HTTP/1.1\r\nHost: h\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        + body
    )
    asked = post + b"HEAD /r/config HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
    with dial(secure, trusting(certs)) as sock:
        for at in range(0, len(asked), 1111):
            sock.sendall(asked[at : at + 1111])
        seen = b""
        while piece := sock.recv(65536):
            seen += piece
    assert [seen.count(b"HTTP/1.1 200"), seen.count(b"HTTP/1.1 404")] == [1, 1]


def test_only_http_1_1_is_offered(secure, certs):
    context = trusting(certs)
    context.set_alpn_protocols(["h2", "http/1.1"])
    with dial(secure, context) as sock:
        assert sock.selected_alpn_protocol() == "http/1.1"


@pytest.mark.parametrize(
    ("version", "good"), [("TLSv1", False), ("TLSv1_1", False), ("TLSv1_2", True), ("TLSv1_3", True)]
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_old_versions_of_tls_are_refused(secure, certs, version, good):
    context = trusting(certs)
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = ssl.TLSVersion[version]
    if good:
        with dial(secure, context) as sock:
            assert sock.version() == version.replace("_", ".")
    else:
        with pytest.raises(OSError, match=r"(?i)alert|protocol|reset|EOF"):
            dial(secure, context)


def test_plain_http_and_nonsense_get_no_answer(secure):
    assert b"HTTP/1.1" not in secure.raw(b"GET /r/config HTTP/1.1\r\nHost: h\r\n\r\n")
    assert b"HTTP/1.1" not in secure.raw(os.urandom(300))


def test_a_slow_handshake_takes_no_thread_and_has_an_end(serve, certs):
    served = serve(tls=Renewed(files(certs, "vip", mutual=False)), limits=Limits(workers=1, head_s=1.0))
    hello = ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        trusting(certs).wrap_bio(ssl.MemoryBIO(), hello, server_hostname=HOST).do_handshake()
    begun = hello.read()
    slow = [served.dial() for _ in range(8)]
    for sock in slow:
        sock.sendall(begun[:50])
    with TlsClient(served.port, trusting(certs)) as client:
        assert client.ask("GET", "/r/config").status == 404
    for sock in slow:
        assert sock.recv(10) == b""  # within the client's own timeout
        sock.close()


def test_a_request_in_crumbs_within_tls_takes_no_thread(serve, certs):
    served = serve(tls=Renewed(files(certs, "vip", mutual=False)), limits=Limits(workers=1, head_s=1.0))
    slow = [dial(served, trusting(certs)) for _ in range(4)]
    for sock in slow:
        sock.sendall(b"GET /r/config HT")
    with TlsClient(served.port, trusting(certs)) as client:
        assert client.ask("GET", "/r/config").status == 404
    for sock in slow:
        with _ended():
            assert sock.recv(10) == b""
        sock.close()


class _ended:  # noqa: N801 - a connection may end by close or by reset
    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        return kind is not None and issubclass(kind, (ConnectionError, ssl.SSLError))


def test_a_reset_ends_an_upload_in_mid_body_at_once(secure, certs):
    sock = dial(secure, trusting(certs))
    sock.sendall(
        f"POST /r/data/{name_of(BIG)} HTTP/1.1\r\nHost: h\r\nContent-Length: {len(BIG)}\r\n\r\n".encode()
    )
    sock.sendall(BIG[:70_000])
    until(lambda: secure.server.counts() == (1, 1), "the worker waits for the body")

    begun = time.monotonic()
    secure.server.reset_all()
    until(lambda: secure.server.counts() == (0, 0), "the worker let go", timeout_s=5)

    assert time.monotonic() - begun < 5
    assert secure.temporaries() == []
    sock.close()


def test_a_certificate_that_was_renewed_is_shown_to_the_next_client(serve, certs, tmp_path):
    for name in ("vip.crt", "vip.key", "ca.crt", "ca.key"):
        shutil.copy(certs / name, tmp_path / name)
    renewed = Renewed(files(tmp_path, "vip", mutual=False))
    served = serve(tls=renewed)

    def shown() -> bytes:
        with dial(served, trusting(certs)) as sock:
            return sock.getpeercert(binary_form=True)

    before = shown()
    (tmp_path / "vip.crt").write_text("broken")
    renewed.refresh()
    assert shown() == before
    shutil.copy(certs / "vip.crt", tmp_path / "vip.crt")
    pki.renew(tmp_path, "vip", NOW, days=5)
    renewed.refresh()
    assert shown() != before


def test_nodes_take_each_other_and_nobody_else(serve, certs):
    """The peers' port: a client without a certificate, with a public one or of another authority is not heard."""
    served = serve(tls=Renewed(files(certs, "a1")))

    def asks(context: ssl.SSLContext) -> int:
        with TlsClient(served.port, context) as client:
            return client.ask("GET", "/r/config").status

    assert asks(client_context(files(certs, "b1"))) == 404
    stranger = client_context(files(certs / "other", "b1"))
    stranger.load_verify_locations(str(certs / "ca.crt"))
    for context in (trusting(certs), client_context(files(certs, "vip")), stranger):
        with pytest.raises(OSError):  # noqa: PT011 - an alert or a reset, as it comes
            asks(context)


def test_a_node_takes_only_the_node_that_it_wanted(serve, certs):
    served = serve(tls=Renewed(files(certs, "a1")))
    context = client_context(files(certs, "b1"))

    with context.wrap_socket(served.dial(), server_hostname="a1") as sock:
        assert sock.version()
    with pytest.raises(ssl.SSLCertVerificationError):
        context.wrap_socket(served.dial(), server_hostname="c1")


def test_a_server_knows_the_names_of_a_node_that_asks(certs):
    from leaseha.repository.connection import Connection

    ours, theirs = socket.socketpair()
    ours.settimeout(10)
    connection = Connection(theirs, "b1", 10, server_context(files(certs, "a1")))
    context = client_context(files(certs, "b1"))
    sock = context.wrap_socket(ours, server_hostname="a1", do_handshake_on_connect=False)
    thread = in_thread(sock.do_handshake)
    until(lambda: connection.shake() and not connection.shaking, "shaken hands")
    thread.join(10)

    assert "b1" in connection.certificate()
    sock.close()
    theirs.close()


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl (Debian: curl)")
def test_curl_and_its_expectations(secure, certs, tmp_path):
    (tmp_path / "body").write_bytes(BIG)
    url = f"https://{HOST}:{secure.port}/r/data/{name_of(BIG)}"
    curl = ["curl", "-sS", "--fail", "--cacert", certs / "ca.crt"]

    subprocess.run([*curl, "--data-binary", f"@{tmp_path / 'body'}", url], check=True, timeout=30)
    got = subprocess.run([*curl, url], check=True, capture_output=True, timeout=30).stdout

    assert got == BIG


def test_a_client_that_asks_for_leave_and_does_not_wait_for_it_is_served(secure, certs):
    """Head and body in one record: what lies within the TLS object has come, though no poll says so."""
    body = b"z" * 3000
    head = f"POST /r/data/{name_of(body)} HTTP/1.1\r\nHost: h\r\nContent-Length: 3000\r\nExpect: 100-continue\r\n\r\n"
    with dial(secure, trusting(certs)) as sock:
        sock.sendall(head.encode() + body)
        assert sock.recv(100).startswith(b"HTTP/1.1 200")
        sock.sendall(head.replace("/r/data", "/r/other").encode() + body)  # refused, and its body drained
        assert sock.recv(65536).startswith(b"HTTP/1.1 404")
        sock.sendall(b"HEAD /r/config HTTP/1.1\r\nHost: h\r\n\r\n")
        assert sock.recv(100).startswith(b"HTTP/1.1 404")
