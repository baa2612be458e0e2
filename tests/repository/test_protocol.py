"""The protocol as clients speak it: rest-server's own behaviours, and the edge cases where servers differ."""

import json
import os

import pytest

from leaseha.repository.app import V1, V2
from tests.repository.served import Client, Served, name_of, post_head, read_all

DATA = b"random data file 1"
NAME = name_of(DATA)
KINDS = ["data", "index", "keys", "locks", "snapshots"]


def test_creating_a_repository_makes_resticss_own_folders_and_may_be_repeated(served: Served):
    assert [served.ask("POST", "/a/b/?create=true").status for _ in range(2)] == [200, 200]

    made = sorted(path.relative_to(served.root).as_posix() for path in served.root.rglob("a/b/*"))
    assert [f"a/b/{kind}" for kind in KINDS] == made
    assert len([entry.name for entry in (served.root / "a/b/data").iterdir()]) == 256


def test_creating_takes_an_empty_chunked_body_as_new_clients_send_it(served: Served):
    answer = served.raw(
        b"POST /r/?create=true HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n0\r\n\r\n"
    )

    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize("repo", ["/", "/parent1/sub1/", "/parent1/", "/parent2/"])
@pytest.mark.parametrize("append_only", [False, True])
@pytest.mark.parametrize("path", ["config", *(f"{kind}/{NAME}" for kind in KINDS)])
def test_an_object_is_created_not_overwritten_and_deleted(serve, repo, append_only, path):
    """rest-server's create-overwrite-delete sequence, with and without append-only; locks can always go."""
    served = serve(append_only=append_only)
    url = repo + path
    deletable = not append_only or path.startswith("locks")
    with Client(served.port) as client:
        assert client.ask("GET", url).status == 404
        assert client.ask("HEAD", url).status == 404
        if path != "config":
            assert client.post(url, DATA + b"broken") == 400
            assert client.ask("GET", url).status == 404
        assert client.post(url, DATA) == 200
        assert client.ask("GET", url).body == DATA
        assert (403 if path == "config" else 400) == client.post(url, DATA + b"other stuff")
        assert client.post(url, DATA) == 200
        assert client.ask("GET", url).body == DATA
        assert (200 if deletable else 403) == client.ask("DELETE", url).status
        assert (404 if deletable else 200) == client.ask("GET", url).status
    assert served.temporaries() == []


def test_a_lost_acknowledgement_is_repaired_in_append_only_mode(serve):
    """The retry of a client that never saw its 200: DELETE (refused), POST again, confirmed (rest-server #196)."""
    served = serve(append_only=True)

    assert [
        served.ask("POST", f"/r/data/{NAME}", DATA).status,
        served.ask("DELETE", f"/r/data/{NAME}").status,
        served.ask("POST", f"/r/data/{NAME}", DATA).status,
    ] == [200, 403, 200]


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_list_is_brackets_and_never_null(served: Served, kind):
    served.ask("POST", "/r/?create=true")

    for repo in ("r", "missing"):
        assert served.ask("GET", f"/{repo}/{kind}/").body == b"[]"
        assert served.ask("GET", f"/{repo}/{kind}/", Accept=V2).body == b"[]"


@pytest.mark.parametrize("kind", KINDS)
def test_lists_have_names_in_version_1_and_sizes_too_in_version_2(served: Served, kind):
    bodies = [b"a" * size for size in (1, 20, 300)]
    for body in bodies:
        served.ask("POST", f"/r/{kind}/{name_of(body)}", body)

    old, new = served.ask("GET", f"/r/{kind}/"), served.ask("GET", f"/r/{kind}/", Accept=V2)

    assert (old.fields["content-type"], new.fields["content-type"]) == (V1, V2)
    assert sorted(name_of(body) for body in bodies) == sorted(old.json)
    assert sorted((name_of(body), len(body)) for body in bodies) == sorted(
        (e["name"], e["size"]) for e in new.json
    )


def test_files_that_are_no_objects_are_not_listed(served: Served):
    served.ask("POST", "/r/?create=true")
    served.ask("POST", f"/r/data/{NAME}", DATA)
    data = served.root / "r/data"
    (data / "README").write_text("x")
    (data / NAME[:2] / "tmp-1234").write_text("x")
    (data / NAME[:2] / ("0" * 64)).write_text("in another one's folder")
    (data / NAME[:2] / (NAME[:2] + "0" * 62)).mkdir()
    (data / "not-a-prefix").mkdir()
    (data / "not-a-prefix" / NAME).write_text("x")
    (served.root / "r/index" / (NAME + ".tmp")).write_text("x")

    assert served.ask("GET", "/r/data/").json == [NAME]
    assert served.ask("GET", "/r/index/").json == []


def test_a_file_that_cannot_be_read_is_an_error_and_not_absent(served: Served):
    """A client that hears 404 believes that its pack or config is gone."""
    served.ask("POST", "/r/?create=true")
    (served.root / "r/config").mkdir()
    (served.root / "r/index" / NAME).symlink_to("elsewhere")

    for method in ("GET", "HEAD"):
        assert served.ask(method, "/r/config").status == 500
        assert served.ask(method, f"/r/index/{NAME}").status == 500


EDGES = [
    ("config again, the same", "POST", "/r/config", b"C", {}, 200),
    ("config again, different", "POST", "/r/config", b"D", {}, 403),
    ("object again", "POST", f"/r/data/{NAME}", DATA, {}, 200),
    ("wrong hash", "POST", f"/r/data/{'0' * 64}", DATA, {}, 400),
    ("bad name", "POST", "/r/data/not-a-hash", DATA, {}, 404),
    ("list of a missing repository", "GET", "/none/data/", None, {}, 200),
    ("list in version 1", "GET", "/r/data/", None, {}, 200),
    ("range beyond the end", "GET", f"/r/data/{NAME}", None, {"Range": "bytes=18-20"}, 416),
    ("bad range", "GET", f"/r/data/{NAME}", None, {"Range": "bytes=x-"}, 416),
    ("two ranges", "GET", f"/r/data/{NAME}", None, {"Range": "bytes=0-1,3-4"}, 416),
    ("delete what is absent", "DELETE", f"/r/data/{'1' * 64}", None, {}, 200),
    ("delete in a missing repository", "DELETE", f"/none/data/{'1' * 64}", None, {}, 200),
    ("a repository too deep", "GET", "/a/b/c/data/", None, {}, 404),
    ("upload to a missing repository", "POST", f"/new/data/{NAME}", DATA, {}, 200),
    ("delete a repository", "DELETE", "/r/", None, {}, 405),
    ("read a repository", "GET", "/r/", None, {}, 405),
    ("head of a folder", "HEAD", "/r/data/", None, {}, 405),
    ("post to a folder", "POST", "/r/data/", b"", {}, 405),
    ("a repository with another query", "POST", "/r/?create=maybe", None, {}, 400),
    ("climbing out", "GET", "/../etc/config", None, {}, 404),
    ("climbing out, hidden", "GET", "/%2e%2e/config", None, {}, 404),
    ("our own folder", "GET", "/.leaseha/data/", None, {}, 404),
]


@pytest.mark.parametrize(
    ("method", "path", "body", "fields", "status"), [e[1:] for e in EDGES], ids=[e[0] for e in EDGES]
)
def test_an_edge_case_is_answered_as_decided(served: Served, method, path, body, fields, status):
    served.ask("POST", "/r/config", b"C")
    served.ask("POST", f"/r/data/{NAME}", DATA)

    reply = served.ask(method, path, body, **fields)

    assert status == reply.status
    if status == 416:
        assert f"bytes */{len(DATA)}" == reply.fields["content-range"]
    assert served.ask("GET", f"/r/data/{NAME}").body == DATA


@pytest.mark.parametrize("size", [1, 1000, 128 * 1024, 128 * 1024 + 1, 1_000_000])
def test_ranges_are_exact_for_small_and_large_pieces(served: Served, size):
    body = os.urandom(size)
    url = f"/r/data/{name_of(body)}"
    with Client(served.port) as client:
        client.post(url, body)

        whole = client.ask("GET", url)
        all_of_it = client.ask("GET", url, Range="bytes=0-")
        tail = client.ask("GET", url, Range=f"bytes={size // 2}-{size + 5}")
        head = client.ask("HEAD", url)

    assert (200, body) == (whole.status, whole.body)
    assert (206, body, f"bytes 0-{size - 1}/{size}") == (
        all_of_it.status,
        all_of_it.body,
        all_of_it.fields["content-range"],
    )
    assert (206, body[size // 2 :]) == (tail.status, tail.body)
    assert (200, b"", str(size)) == (head.status, head.body, head.fields["content-length"])


def test_an_empty_object_is_given_whole_to_whoever_asks_for_a_range(served: Served):
    url = f"/r/index/{name_of(b'')}"
    served.ask("POST", url, b"")

    reply = served.ask("GET", url, Range="bytes=0-")

    assert (reply.status, reply.body) == (200, b"")


def test_many_requests_share_one_connection_also_sent_together(served: Served):
    piece = post_head(f"/r/data/{NAME}", len(DATA)) + DATA
    with served.dial() as sock:
        sock.sendall(piece * 3 + b"GET /r/data/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        answer = read_all(sock)

    assert answer.count(b"HTTP/1.1 200 OK") == 4
    assert json.loads(answer.rpartition(b"\r\n\r\n")[2]) == [NAME]


def test_a_head_that_smuggles_is_refused_and_nothing_after_it_is_read(served: Served):
    answer = served.raw(
        b"POST /r/config HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
        b"GET /r/data/ HTTP/1.1\r\nHost: x\r\n\r\n"
    )

    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.count(b"HTTP/1.1") == 1
    assert not (served.root / "r").exists()


def test_an_oversize_head_is_refused(served: Served):
    answer = served.raw(b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 20_000 + b"\r\n\r\n")

    assert answer.startswith(b"HTTP/1.1 431 ")


def test_a_head_may_come_byte_by_byte(served: Served):
    with served.dial() as sock:
        for byte in b"GET /r/data/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n":
            sock.sendall(bytes((byte,)))
        assert read_all(sock).endswith(b"[]")


def test_a_client_that_asks_for_leave_gets_it_when_its_body_is_wanted(served: Served):
    with served.dial() as sock:
        sock.sendall(post_head(f"/r/data/{NAME}", len(DATA), "Expect: 100-continue", "Connection: close"))
        assert sock.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(DATA)
        assert read_all(sock).startswith(b"HTTP/1.1 200 OK")

    answer = served.raw(post_head("/r/data/bad", 10**12, "Expect: 100-continue"))
    assert answer.startswith(b"HTTP/1.1 404 ")
