"""What rest-server's own tests ask of it, and what its clients rely on, asked of a real process."""

import socket
from collections.abc import Iterator

import pytest

from leaseha.repository.app import V1, V2
from leaseha.repository.door import DoorOptions
from tests.repository.in_background import InBackground
from tests.repository.served import Client, Reply, name_of, post_head, until

DATA = b"random data file 1"
NAME = name_of(DATA)
KINDS = ["data", "index", "keys", "locks", "snapshots"]
ABSENT = "1" * 64


@pytest.fixture(scope="module", params=[False, True], ids=["deletes", "append-only"])
def mode(request, tmp_path_factory) -> Iterator[tuple[InBackground, bool]]:
    """(a process, whether it is append-only)."""
    with InBackground(
        tmp_path_factory.mktemp("repository"), door=DoorOptions(append_only=request.param)
    ) as process:
        yield process, request.param


@pytest.fixture(scope="module")
def process(tmp_path_factory) -> Iterator[InBackground]:
    """With one repository, `r`: a config and one object of each kind."""
    with InBackground(tmp_path_factory.mktemp("repository")) as process:
        assert process.ask("POST", "/r/?create=true").status == 200
        assert process.ask("POST", "/r/config", b"a config").status == 200
        for kind in KINDS:
            assert process.ask("POST", f"/r/{kind}/{NAME}", DATA).status == 200
        yield process


@pytest.mark.parametrize("repo", ["/", "/parent1/sub1/", "/parent1/", "/parent2/"])
@pytest.mark.parametrize("path", ["config", *(f"{kind}/{NAME}" for kind in KINDS)])
def test_what_is_created_is_not_overwritten_and_goes_if_it_may(mode, repo, path):
    """createOverwriteDeleteSeq and createIdempotentDeleteSeq; a retry of what was acknowledged is no overwriting."""
    process, append_only = mode
    url = repo + path
    hashed = path != "config"
    kept = append_only and not path.startswith("locks")
    gone = (403, 403, 200) if kept else (200, 200, 404)
    with Client(process.port) as client:
        assert client.ask("GET", url).status == 404
        if hashed:
            assert client.post(url, DATA + b"_broken") == 400
            assert client.ask("GET", url).status == 404
        assert client.post(url, DATA) == 200
        assert client.ask("GET", url).body == DATA
        assert (400 if hashed else 403) == client.post(url, DATA + b"other")
        assert client.post(url, DATA) == 200
        assert client.ask("GET", url).body == DATA
        assert gone == tuple(client.ask(method, url).status for method in ("DELETE", "DELETE", "GET"))


def test_what_a_client_does_after_a_lost_answer_ends_well(mode):
    """restic deletes before it tries again, rustic does not; both must end with the object, in both modes."""
    process, append_only = mode
    for number, sequence in enumerate((("POST", "DELETE", "POST", "GET"), ("POST", "POST", "GET"))):
        body = b"lost answer %d" % number
        url = f"/lost/data/{name_of(body)}"
        with Client(process.port) as client:
            answers = [client.ask(method, url, body if method == "POST" else None) for method in sequence]

        assert [one.status for one in answers if one.status != 200] == (
            [403] if append_only and "DELETE" in sequence else []
        )
        assert answers[-1].body == body


def test_a_stalled_upload_that_fails_later_leaves_the_repeated_one_alone(process):
    """TestAbortedRequest: POST #1 stalls, DELETE, POST #2 succeeds, POST #1 fails, by its bytes or its end."""
    body = b"the object of two uploads" * 1000
    url = f"/race/data/{name_of(body)}"
    for rest in (b"x" * 1000, b""):
        with socket.create_connection(("127.0.0.1", process.port), timeout=20) as stalled:
            stalled.sendall(post_head(url, len(body)) + b"x" * (len(body) - 1000))
            until(lambda: len(process.temporaries()) == 1, "the first upload has begun")
            assert process.ask("DELETE", url).status == 200
            assert process.ask("POST", url, body).status == 200
            if rest:
                stalled.sendall(rest)
                assert stalled.recv(100).startswith(b"HTTP/1.1 400 ")
        until(lambda: process.temporaries() == [], "the first upload has failed")
        assert process.ask("GET", url).body == body


def test_an_upload_that_is_broken_off_is_not_listed(process):
    url = f"/broken/data/{NAME}"
    with socket.create_connection(("127.0.0.1", process.port), timeout=20) as sock:
        sock.sendall(post_head(url, len(DATA)) + DATA[:5])
        until(lambda: len(process.temporaries()) == 1, "the upload has begun")
    until(lambda: process.temporaries() == [], "it has failed")

    assert process.ask("GET", "/broken/data/").body == b"[]"
    assert process.ask("HEAD", url).status == 404


def test_unexpected_files_are_not_listed(process):
    process.ask("POST", "/odd/?create=true")
    for kind in KINDS:
        folder = process.root / "odd" / kind
        (folder / "temp-file").write_text("x")
        (folder / "temp").mkdir()
        assert process.ask("GET", f"/odd/{kind}/", Accept=V2).body == b"[]"


@pytest.mark.parametrize("path", ["config", f"index/{NAME}", "snapshots/", f"locks/{NAME}"])
def test_what_is_inaccessible_is_500_and_neither_absent_nor_empty(process, path):
    process.ask("POST", "/bad/?create=true")
    bad = process.root / "bad"
    (bad / "config").mkdir(exist_ok=True)
    for kind in ("index", "locks"):
        (bad / kind / NAME).unlink(missing_ok=True)
        (bad / kind / NAME).symlink_to(NAME)
    if (bad / "snapshots").is_dir():
        (bad / "snapshots").rmdir()
        (bad / "snapshots").symlink_to("snapshots")

    assert process.ask("GET", f"/bad/{path}").status == 500


OBJECT = f"/r/data/{NAME}"
# (what, method, path, body, header fields, status, what must be in the answer)
ANSWERS = [
    ("open", "HEAD", "/r/config", None, {}, 200, {"content-length": "8"}),
    ("open what is not there", "HEAD", "/none/config", None, {}, 404, {}),
    ("init", "POST", "/r/?create=true", b"", {}, 200, {}),
    ("init again, two levels", "POST", "/a/b/?create=true", b"", {}, 200, {}),
    ("list", "GET", "/r/data/", None, {"Accept": V2}, 200, {"content-type": V2}),
    ("list of old clients", "GET", "/r/data/", None, {}, 200, {"content-type": V1}),
    ("list, not quite v2", "GET", "/r/data/", None, {"Accept": f"{V2}, */*"}, 200, {"content-type": V1}),
    ("list of nothing", "GET", "/none/keys/", None, {"Accept": V2}, 200, {"body": "[]"}),
    ("config whole", "GET", "/r/config", None, {"Range": "bytes=0-"}, 206, {"body": "a config"}),
    ("key whole", "GET", f"/r/keys/{NAME}", None, {"Range": "bytes=0-"}, 206, {"body": DATA.decode()}),
    ("never packed", "GET", OBJECT, None, {"Accept-Encoding": "gzip"}, 200, {"body": DATA.decode()}),
    ("a piece", "GET", OBJECT, None, {"Range": "bytes=7-10"}, 206, {"body": "data", "content-length": "4"}),
    ("a piece over the end", "GET", OBJECT, None, {"Range": "bytes=17-99"}, 206, {"body": "1"}),
    ("beyond the end", "GET", OBJECT, None, {"Range": "bytes=18-"}, 416, {"content-range": "bytes */18"}),
    ("bad range", "GET", OBJECT, None, {"Range": "bytes=9-7"}, 416, {}),
    ("two ranges", "GET", OBJECT, None, {"Range": "bytes=0-1,3-4"}, 416, {}),
    ("an object again", "POST", OBJECT, DATA, {}, 200, {"body": ""}),
    ("wrong bytes", "POST", f"/r/data/{ABSENT}", DATA, {}, 400, {}),
    ("no hash for a name", "POST", "/r/data/temp-file", DATA, {}, 404, {}),
    ("another config", "POST", "/r/config", b"another", {}, 403, {}),
    ("the same config", "POST", "/r/config", b"a config", {}, 200, {}),
    ("without init", "POST", f"/fresh/data/{NAME}", DATA, {}, 200, {}),
    ("delete what is absent", "DELETE", f"/r/data/{ABSENT}", None, {}, 200, {}),
    ("size of what is absent", "HEAD", f"/r/data/{ABSENT}", None, {}, 404, {}),
    ("size", "HEAD", OBJECT, None, {}, 200, {"content-length": "18", "body": ""}),
    ("delete all", "DELETE", "/r/", None, {}, 405, {}),
    ("too deep", "GET", "/a/b/c/data/", None, {}, 404, {}),
    ("empty credentials", "HEAD", "/r/config", None, {"Authorization": "Basic Og=="}, 200, {}),
]


@pytest.mark.parametrize("case", ANSWERS, ids=[case[0] for case in ANSWERS])
def test_a_request_as_clients_send_it_is_answered_as_they_expect(process, case):
    _, method, path, body, fields, status, expected = case

    reply: Reply = process.ask(method, path, body, **fields)

    assert status == reply.status
    found = {**reply.fields, "body": reply.body.decode()}
    assert expected == {name: found[name] for name in expected}
    assert "content-encoding" not in reply.fields
    assert process.ask("GET", OBJECT).body == DATA
