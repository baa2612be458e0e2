"""The campaign's own instruments: the proxy, its record, and what is concluded from them."""

import hashlib
import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from chaos.backups.proxy import Proxy, Record
from chaos.backups.record import Request, audit, expected, flying, pause, read
from chaos.backups.report import line, page
from chaos.backups.trial import Outcome
from tests.repository.served import Client, Served, name_of, post_head, until

BODY = b"an object" * 50_000
NAME = name_of(BODY)
URL = f"/r/data/{NAME}"
MS = 1_000_000


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    (tmp_path / "data").mkdir()
    served = Served(tmp_path / "data")
    yield served
    served.close()


@pytest.fixture
def proxied(served: Served, tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """(port of a proxy before `served`, its record)."""
    record = tmp_path / "record.jsonl"
    proxy = Proxy(("127.0.0.1", served.port), Record(record))
    thread = threading.Thread(target=proxy.serve, daemon=True)
    thread.start()
    yield proxy.port, record
    proxy.close()
    thread.join(20)


def done(method: str, path: str, ended_ms: int, **more) -> Request:
    """A request that took 10 ms."""
    known = {"begun_ns": (ended_ms - 10) * MS, "sent_ns": (ended_ms - 5) * MS, "ended_ns": ended_ms * MS}
    known |= {"status": 200, "error": "", "sha256": "", "bytes": 0}
    return Request(method=method, path=path, **(known | more))


def test_the_proxy_passes_everything_on_and_writes_it_down(proxied, served):
    port, record = proxied
    chunked = b"POST /r/?create=true HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=20) as sock:
        sock.sendall(chunked)
        assert sock.recv(1000).startswith(b"HTTP/1.1 200 ")
    with Client(port) as client:
        assert client.post(URL, BODY) == 200
        assert client.ask("HEAD", URL).fields["content-length"] == str(len(BODY))
        assert client.ask("GET", URL, Range="bytes=0-").body == BODY
        assert client.ask("GET", "/r/config").status == 404
        assert client.ask("DELETE", URL).status == 200

    until(lambda: len(read(record)) == 6, "everything is written down")
    assert [(one.method, one.status) for one in read(record)] == [
        ("POST", 200),
        ("POST", 200),
        ("HEAD", 200),
        ("GET", 206),
        ("GET", 404),
        ("DELETE", 200),
    ]
    assert (hashlib.sha256(BODY).hexdigest(), len(BODY)) == (read(record)[1].sha256, read(record)[1].bytes)
    assert flying(record) == flying(record, sent=True) == 0


def test_an_upload_on_its_way_is_seen_and_its_end_is_passed_to_the_client(proxied, served):
    port, record = proxied
    with socket.create_connection(("127.0.0.1", port), timeout=20) as sock:
        sock.sendall(post_head(URL, len(BODY)) + BODY[:1000])
        until(lambda: flying(record) == 1 and bool(served.temporaries()), "the upload is on its way")
        assert flying(record, sent=True) == 0
        served.server.reset_all()
        with pytest.raises(ConnectionResetError):
            sock.recv(1000)
    until(lambda: bool(read(record)), "its end is written down")

    (broken,) = read(record)
    assert (broken.status, broken.acknowledged, broken.undecided) == (0, False, True)
    assert broken.error.startswith("server: ")
    assert flying(record) == 0


def test_a_client_that_goes_takes_its_upload_along(proxied, served):
    port, record = proxied
    with socket.create_connection(("127.0.0.1", port), timeout=20) as sock:
        sock.sendall(post_head(URL, len(BODY)) + BODY[:1000])
        until(lambda: bool(served.temporaries()), "the upload has begun")
    until(lambda: not served.temporaries(), "the server has heard of the end")

    until(lambda: bool(read(record)), "it is written down")
    assert read(record)[0].error.startswith("client: ")


def test_what_was_acknowledged_is_expected_until_a_deletion_takes_it_away():
    found = expected(
        [
            done("POST", "/r/?create=true", 1),
            done("POST", "/r/keys/a", 100, sha256="A"),
            done("POST", "/r/locks/b", 100, sha256="B"),
            done("DELETE", "/r/locks/b", 200),
            done("POST", "/r/data/c", 100, status=0),
            done("DELETE", "/r/data/c", 200),
            done("POST", "/r/data/c", 300, sha256="C"),
            done("POST", "/r/data/d", 100, status=503),
            done("POST", "/r/data/e", 100, sha256="E"),
            done("DELETE", "/r/data/e", 200, status=403),
            done("POST", "/r/data/f", 100, sha256="F"),
            done("DELETE", "/r/data/f", 200, status=0),
        ]
    )

    assert found.objects == {"/r/keys/a": "A", "/r/data/c": "C", "/r/data/e": "E"}
    assert found.deleted == {"/r/locks/b"}
    assert found.undecided == {"/r/data/f"}


def test_a_directory_is_compared_byte_for_byte(tmp_path: Path):
    bodies = [b"kept", b"spoilt", b"lost", b"gone", b"risen"]
    paths = [f"/r/data/{name_of(body)}" for body in bodies]
    requests = [
        done("POST", path, 100, sha256=name_of(body)) for path, body in zip(paths, bodies, strict=True)
    ]
    requests += [done("DELETE", path, 200) for path in paths[3:]]
    for body in (b"kept", b"spoilt", b"risen"):
        place = tmp_path / "r/data" / name_of(body)[:2] / name_of(body)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(b"other bytes" if body == b"spoilt" else body)

    found = audit(expected(requests), tmp_path)

    assert (found.promised, found.clean) == (3, False)
    assert (found.different, found.missing, found.undeleted) == ((paths[1],), (paths[2],), (paths[4],))


def test_the_pause_is_told_from_the_fault_on():
    view = pause(
        [
            done("POST", "/r/data/a", 100, bytes=1),
            done(
                "POST", "/r/data/b", 900, begun_ns=110 * MS, sent_ns=120 * MS, status=0, error="server: reset"
            ),
            done("POST", "/r/data/c", 700, begun_ns=110 * MS, sent_ns=0, status=0, error="server: reset"),
            done("POST", "/r/data/b", 1000, status=503),
            done("POST", "/r/data/b", 1200, bytes=1),
        ],
        150 * MS,
    )

    assert (view.in_flight, view.waiting, view.refused) == (2, 1, 1)
    assert (view.noticed_ms, view.served_ms, view.pause_ms) == (750.0, 1050.0, 1100.0)


def test_the_page_has_a_row_for_each_fault_and_client_and_names_what_failed():
    good = Outcome("death", "restic 1.0", 1, backup_exit=0)
    lab_failed = Outcome("death", "restic 1.0", 2, error="no etcd")
    facts = {
        "versions": {"leaseha": "0"},
        "size": {"mib": 1, "limit_kib_s": 1024, "ttl": "2s", "copies": "two"},
    }
    facts["runs"] = json.loads(json.dumps([asdict(one) for one in (good, lab_failed)]))

    text = page(facts)

    assert "| death | restic 1.0 | 1 | 1 of 1 | 1 of 1 clean |" in text
    assert "Runs that the lab could not do: 1" in text
    assert not good.good, "nothing was promised, so nothing was shown"
    assert "no etcd" in line(lab_failed)
