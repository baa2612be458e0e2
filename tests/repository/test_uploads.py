"""Uploads that go wrong, meet each other, or find no room."""

import contextlib
import errno
import os
import shutil
import socket
import struct
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from leaseha.repository.server import Limits
from leaseha.repository.store import DirectoryStore
from leaseha.repository.temporary import Temporaries, Temporary
from tests.repository.served import CHILD_ENV, Client, Served, in_thread, name_of, post_head, read_all, until

BODY = os.urandom(3_000_000)
NAME = name_of(BODY)
TOP = Path(__file__).parents[2]
URL = f"/r/data/{NAME}"


def stored(served: Served) -> bytes | None:
    path = served.root / "r/data" / NAME[:2] / NAME
    return path.read_bytes() if path.exists() else None


def chunks(body: bytes, size: int) -> bytes:
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


@pytest.mark.parametrize("size", [1000, 65536, 3_000_000])
def test_a_chunked_upload_without_a_length_is_stored(served: Served, size):
    """As rustic sends it."""
    answer = served.raw(
        f"POST {URL} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n".encode(),
        chunks(BODY, size),
    )

    assert answer.startswith(b"HTTP/1.1 200 ")
    assert stored(served) == BODY


def test_an_upload_that_breaks_off_leaves_nothing_behind(served: Served):
    with served.dial() as sock:
        sock.sendall(post_head(URL, len(BODY)) + BODY[:1_000_000])
        until(lambda: served.temporaries() != [], "the upload has begun")
    until(lambda: served.temporaries() == [], "the temporary is removed")

    assert None is stored(served)
    assert served.ask("HEAD", URL).status == 404


def test_an_upload_that_is_reset_leaves_nothing_behind(served: Served):
    with served.dial() as sock:
        sock.sendall(post_head(URL, len(BODY)) + BODY[:1_000_000])
        until(lambda: served.temporaries() != [], "the upload has begun")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    until(lambda: served.temporaries() == [], "the temporary is removed")

    assert None is stored(served)


def test_an_aborted_upload_does_not_take_the_later_one_of_its_name_along(served: Served):
    """rest-server's TestAbortedRequest: this race lost data there before 0.11."""
    with served.dial() as stalled:
        stalled.sendall(post_head(URL, len(BODY)) + b"invalid data from aborted request\n")
        until(lambda: len(served.temporaries()) == 1, "the first upload has begun")

        assert served.ask("DELETE", URL).status == 200
        assert served.ask("POST", URL, BODY).status == 200
    until(lambda: served.temporaries() == [], "the first upload has failed")

    assert served.ask("GET", URL).body == BODY


def test_the_same_object_may_arrive_on_several_connections_at_once(served: Served):
    statuses: list[int] = []

    def post() -> None:
        statuses.append(served.ask("POST", URL, BODY).status)

    threads = [in_thread(post) for _ in range(6)]
    for thread in threads:
        thread.join(20)

    assert statuses == [200] * 6
    assert stored(served) == BODY
    assert served.temporaries() == []


def test_two_different_configs_at_once_leave_exactly_one(served: Served):
    statuses: list[int] = []

    def post(body: bytes) -> None:
        statuses.append(served.ask("POST", "/r/config", body).status)

    threads = [in_thread(lambda body=b"config %d" % number: post(body)) for number in range(6)]
    for thread in threads:
        thread.join(20)

    assert sorted(statuses) == [200, 403, 403, 403, 403, 403]
    assert served.temporaries() == []


def test_an_upload_heals_an_object_that_the_disk_has_spoilt(served: Served):
    served.ask("POST", URL, BODY)
    path = served.root / "r/data" / NAME[:2] / NAME
    path.write_bytes(BODY[:-1] + b"?")

    assert served.ask("POST", URL, BODY).status == 200
    assert stored(served) == BODY


def test_a_body_is_read_to_its_end_before_an_error_is_told(served: Served):
    """Else the client sees a reset instead of the status, and tries for fifteen minutes."""
    large = os.urandom(20_000_000)
    with served.dial() as sock:
        sock.sendall(post_head("/r/data/not-a-hash", len(large)) + large)
        assert sock.recv(12) == b"HTTP/1.1 404"

    with Client(served.port) as client:
        assert [client.post("/r/data/not-a-hash", large), client.post(URL, BODY)] == [404, 200]


def test_a_config_that_is_none_is_refused(served: Served):
    assert served.ask("POST", "/r/config", b"x" * 100_000).status == 413
    answer = served.raw(
        b"POST /r/config HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n",
        chunks(b"x" * 100_000, 50_000),
    )
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert served.ask("GET", "/r/config").status == 404


class NoRoom(Temporaries):
    """Temporaries on a device that is always full; the error is the kernel's own."""

    def make(self, mark, size):
        temporary = super().make(mark, size)
        full = os.open("/dev/full", os.O_WRONLY)
        made = Temporary(temporary.path, full)
        temporary.close(remove=False)
        return made


def test_a_full_disk_is_507_and_the_temporary_is_gone(serve, tmp_path: Path):
    store = DirectoryStore(tmp_path / "data")
    store.temporaries = NoRoom(tmp_path / "data/.leaseha/tmp")
    served = serve(store=store)

    with Client(served.port) as client:
        assert [client.post(URL, BODY), client.ask("GET", "/r/data/").status] == [507, 200]
    assert served.temporaries() == []
    assert served.faults == []
    assert served.app.counters.faults == 1


SMALL_DISK = """
    import os, sys
    from pathlib import Path
    from tests.repository.served import Client, Served, name_of

    served = Served(Path(sys.argv[1]))
    small, large = os.urandom(200_000), os.urandom(3_000_000)
    chunked = iter([large])
    with Client(served.port) as client:
        print(client.post("/r/data/" + name_of(small), small))
        print(client.post("/r/data/" + name_of(large), large))
        client.connection.request("POST", "/r/data/" + name_of(large), chunked, encode_chunked=True)
        print(client.connection.getresponse().status)
    with Client(served.port) as client:
        print(client.ask("DELETE", "/r/data/" + name_of(small)).status)
    print(served.temporaries(), served.faults)
"""


def test_a_disk_that_is_really_full_says_so_with_and_without_a_length(tmp_path: Path):
    """A file system of 2 MiB in a mount namespace of its own."""
    unshare = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])]
    if (
        shutil.which("unshare") is None
        or subprocess.run([*unshare, "true"], check=False, timeout=20).returncode
    ):
        pytest.skip("needs a mount namespace (Debian package util-linux, and user namespaces allowed)")
    mount = 'mount -t tmpfs -o size=2m none "$1" && exec "$2" -c "$3" "$1"'
    done = subprocess.run(
        [*unshare, "sh", "-c", mount, "sh", str(tmp_path), sys.executable, textwrap.dedent(SMALL_DISK)],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        cwd=TOP,
        env=CHILD_ENV,
    )

    assert done.stdout.split("\n") == ["200", "507", "507", "200", "[] []", ""], done.stderr


class Broken(DirectoryStore):
    """A disk that fails, and code that does."""

    def delete(self, address):
        raise OSError(errno.EIO, "Input/output error")

    def entries(self, address):
        raise ZeroDivisionError("a defect")


def test_a_failing_disk_is_500_and_the_node_hears_of_it(serve, tmp_path: Path):
    served = serve(store=Broken(tmp_path / "data"))

    assert served.ask("DELETE", URL).status == 500
    assert served.faults == ["EIO: Input/output error"]


def test_a_defect_is_500_with_one_log_line_and_the_server_goes_on(serve, tmp_path: Path, caplog):
    served = serve(store=Broken(tmp_path / "data"))

    assert served.ask("GET", "/r/data/").status == 500
    assert served.ask("POST", URL, BODY).status == 200
    lines = [record.getMessage() for record in caplog.records if "defect" in record.getMessage()]
    assert len(lines) == 1
    assert "ZeroDivisionError: a defect" in lines[0]
    assert all(record.exc_info is None for record in caplog.records)


def test_each_request_is_one_line_in_the_access_log(served: Served, caplog):
    caplog.set_level("INFO", "leaseha.repository.access")
    served.ask("POST", URL, BODY)
    served.ask("POST", f"/r/data/{'0' * 64}", b"x")
    until(lambda: len(caplog.records) == 2, "both lines are written")

    lines = [record.getMessage() for record in caplog.records]
    assert f'"POST {URL}" 200 in=3000000 out=0' in lines[0]
    assert " 400 in=1 " in lines[1]
    assert "SHA-256" in lines[1]


def test_a_client_that_is_slow_with_its_head_is_let_go(serve):
    served = serve(limits=Limits(head_s=0.2))
    with served.dial() as sock:
        sock.sendall(b"GET / HTTP/1.1\r\n")
        assert read_all(sock) == b""


def test_a_client_that_stalls_in_its_body_is_let_go(serve):
    served = serve(limits=Limits(body_s=1))
    with served.dial() as sock:
        sock.sendall(post_head(URL, len(BODY)) + BODY[:1000])
        assert read_all(sock) == b""
    until(lambda: served.temporaries() == [], "the temporary is removed")


def test_more_clients_than_allowed_push_out_the_idle_or_wait(serve):
    served = serve(limits=Limits(connections=3, workers=2))
    body = os.urandom(20_000)
    with contextlib.ExitStack() as stack:
        idle = [stack.enter_context(served.dial()) for _ in range(3)]
        until(lambda: served.server.counts()[0] == 3, "as many as allowed are accepted")
        assert served.ask("GET", "/r/data/").body == b"[]"
        busy = [stack.enter_context(served.dial()) for _ in range(3)]
        for sock in busy:
            sock.sendall(post_head(f"/r/data/{name_of(body)}", len(body)) + body[:-1])
        until(lambda: len(served.temporaries()) == 2, "both workers are busy")
        last = stack.enter_context(served.dial())
        last.sendall(b"GET /r/data/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        for sock in busy:
            sock.sendall(body[-1:])
        assert read_all(last).endswith(b"]")
        assert len(idle) == 3
