"""Quotas and metrics: what is refused, what never is, and what the figures say."""

import base64
import os
import threading

import pytest
from prometheus_client.parser import text_string_to_metric_families

from leaseha.repository.door import Door, DoorOptions
from leaseha.repository.paths import Address, Kind
from leaseha.repository.usage import MARGIN_BYTES, Usage, allowance
from leaseha.repository.users import User, hashed
from tests.repository.served import Client, name_of, post_head, until

KNOWN = hashed("x")
HUNDRED = [os.urandom(100) for _ in range(20)]


def basic(name: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{name}:x".encode()).decode()}


def post(served, repo: str, kind: str, body: bytes, **headers) -> int:
    return served.ask("POST", f"{repo}{kind}/{name_of(body)}", body, **headers).status


@pytest.fixture
def limited(serve):
    """Each repository may hold 1000 bytes."""
    return serve(door=Door(DoorOptions(quota_bytes=1000, metrics=True)))


def test_beyond_its_quota_a_repository_takes_no_data_and_another_one_does(limited):
    found = [post(limited, "/r/", "data", body) for body in HUNDRED[:12]]

    assert found == [200] * 10 + [507] * 2
    assert post(limited, "/other/", "data", HUNDRED[11]) == 200
    assert len(limited.ask("GET", "/r/data/").json) == 10


def test_what_is_there_already_is_confirmed_however_full_it_is(limited):
    """The retry after a lost acknowledgement, which brings no new byte."""
    for body in HUNDRED[:10]:
        post(limited, "/r/", "data", body)

    assert post(limited, "/r/", "data", HUNDRED[0]) == 200


@pytest.mark.parametrize("kind", ["index", "snapshots", "locks", "keys"])
def test_prune_can_write_what_it_needs_to_free_something(limited, kind):
    for body in HUNDRED[:10]:
        post(limited, "/r/", "data", body)

    assert post(limited, "/r/", kind, HUNDRED[11]) == 200
    assert limited.ask("DELETE", f"/r/data/{name_of(HUNDRED[0])}").status == 200
    assert post(limited, "/r/", "data", HUNDRED[12]) == 507  # the index takes that room
    assert limited.ask("DELETE", f"/r/data/{name_of(HUNDRED[1])}").status == 200
    assert post(limited, "/r/", "data", HUNDRED[12]) == 200


def test_the_margin_has_an_end_too(limited):
    limited.usage.written(Address(("r",), Kind.INDEX, "0" * 64), 1000 + MARGIN_BYTES, was=None)

    assert post(limited, "/r/", "locks", HUNDRED[0]) == 507
    assert allowance(Kind.DATA, 1000) == 1000
    assert allowance(Kind.LOCKS, 1000) == 1050 + MARGIN_BYTES


def test_a_body_that_tells_no_length_is_cut_off_where_the_quota_ends(limited):
    body = os.urandom(3000)
    chunks = b"".join(b"3e8\r\n" + body[at : at + 1000] + b"\r\n" for at in range(0, 3000, 1000))
    head = f"POST /r/data/{name_of(body)} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"

    answer = limited.raw(head.encode() + b"Connection: close\r\n\r\n" + chunks + b"0\r\n\r\n")

    assert answer.startswith(b"HTTP/1.1 507")
    assert limited.temporaries() == []


def test_uploads_on_their_way_count(limited):
    bodies = [os.urandom(600), os.urandom(600)]
    with limited.dial() as first:
        first.sendall(post_head(f"/r/data/{name_of(bodies[0])}", 600) + bodies[0][:10])
        until(lambda: limited.usage.left(("r",), Kind.DATA, 1000) == 400, "the first is expected")
        assert post(limited, "/r/", "data", bodies[1]) == 507
        first.sendall(bodies[0][10:])
        assert first.recv(100).startswith(b"HTTP/1.1 200")
    assert limited.usage.left(("r",), Kind.DATA, 1000) == 400


def test_an_upload_that_broke_off_gives_its_room_back(limited):
    body = os.urandom(900)
    with limited.dial() as sock:
        sock.sendall(post_head(f"/r/data/{name_of(body)}", 900) + body[:10])
        until(lambda: limited.usage.left(("r",), Kind.DATA, 1000) == 100, "it is expected")
    until(lambda: limited.usage.left(("r",), Kind.DATA, 1000) == 1000, "it is given up")


def test_a_users_quota_counts_all_repositories_below_his_name(serve):
    door = Door(DoorOptions(users=True))
    users = [User("alice", KNOWN, quota_bytes=500), User("bob", KNOWN)]
    door.book.tell([{"name": one.name, "value": one.told()} for one in users], first=True, last=True)
    served = serve(door=door)
    alice = basic("alice")

    found = [post(served, f"/alice/{at % 2}/", "data", HUNDRED[at], **alice) for at in range(6)]

    assert found == [200] * 5 + [507]
    assert post(served, "/bob/", "data", HUNDRED[6], **basic("bob")) == 200
    assert post(served, "/alice/0/", "locks", HUNDRED[7], **alice) == 200


def test_the_directory_is_counted_as_it_is(served, tmp_path):
    for kind in ("data", "index", "snapshots"):
        for body in HUNDRED[:3]:
            post(served, "/a/b/", kind, body)
    served.ask("POST", "/a/b/config", b"config")
    post(served, "/", "data", HUNDRED[5])
    (served.root / "a/b/data/stray").write_text("not ours")
    (served.root / "elsewhere/deep/er").mkdir(parents=True)

    fresh = Usage(served.root, 2, rest=lambda: None)
    fresh.count()

    assert set(fresh.uses()) == {("a", "b"), ()}
    use = fresh.uses()["a", "b"]
    assert dict(use.sizes) == {"data": 300, "index": 300, "snapshots": 300, "config": 6}
    assert dict(use.objects) == {"data": 3, "index": 3, "snapshots": 3, "config": 1}
    counted_along = served.usage.uses()["a", "b"]
    assert (counted_along.sizes, counted_along.objects) == (use.sizes, use.objects)
    assert abs(counted_along.last_snapshot_s - use.last_snapshot_s) < 60


def test_counting_goes_on_beside_and_can_be_asked_for(tmp_path):
    usage = Usage(tmp_path, 2, rest=lambda: None)
    usage.begin()
    until(lambda: usage.counted, "counted once")

    (tmp_path / "r/locks").mkdir(parents=True)
    (tmp_path / "r/locks" / ("0" * 64)).write_bytes(b"lock")
    usage.count_soon()

    until(lambda: ("r",) in usage.uses(), "counted again")


def test_many_that_come_and_go_at_once_leave_the_figures_right(limited):
    def work(number: int) -> None:
        with Client(limited.port) as client:
            for at in range(10):
                body = b"%d-%d" % (number, at)
                assert client.post(f"/m/index/{name_of(body)}", body) == 200
                assert client.ask("DELETE", f"/m/index/{name_of(body)}").status == 200

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert limited.usage.uses()["m",].total_bytes == 0


def test_metrics_tell_sizes_the_last_snapshot_and_what_was_done(limited):
    post(limited, "/laptop/", "data", HUNDRED[0])
    post(limited, "/laptop/", "snapshots", HUNDRED[1])
    post(limited, "/we%22ird/", "data", HUNDRED[2])
    limited.ask("GET", f"/laptop/data/{name_of(HUNDRED[0])}")
    limited.ask("DELETE", f"/laptop/data/{name_of(HUNDRED[0])}")

    answer = limited.ask("GET", "/metrics")
    lines = answer.body.decode().splitlines()

    assert answer.fields["content-type"].startswith("text/plain; version=0.0.4")
    assert 'leaseha_repository_bytes{repo="laptop",type="snapshots"} 100' in lines
    assert 'leaseha_repository_bytes{repo="we\\"ird",type="data"} 100' in lines
    assert 'leaseha_repository_objects{repo="laptop",type="data"} 0' in lines
    for what in ("read", "write", "delete"):
        done = f'leaseha_repository_operations_total{{repo="laptop",type="data",operation="{what}"}} 1'
        assert done in lines
    snapshot = next(line for line in lines if line.startswith("leaseha_repository_last_snapshot"))
    assert float(snapshot.rpartition(" ")[2]) > 1_600_000_000
    assert "leaseha_repository_quota_bytes 1000" in lines
    assert any(line.startswith("leaseha_repository_server_requests_total ") for line in lines)


def test_metrics_are_for_those_who_may_see_them(serve):
    door = Door(DoorOptions(users=True, metrics=True))
    users = [User("alice", KNOWN), User("prom", KNOWN, monitor=True)]
    door.book.tell([{"name": one.name, "value": one.told()} for one in users], first=True, last=True)
    served = serve(door=door)

    assert served.ask("GET", "/metrics").status == 401
    assert served.ask("GET", "/metrics", **basic("alice")).status == 403
    assert served.ask("GET", "/metrics", **basic("prom")).status == 200
    assert served.ask("GET", "/alice/config", **basic("prom")).status == 403


def test_without_the_key_there_are_no_metrics(served):
    assert served.ask("GET", "/metrics").status == 404


def test_the_client_library_of_prometheus_reads_them(limited):
    post(limited, "/laptop/", "snapshots", HUNDRED[1])
    text = limited.ask("GET", "/metrics").body.decode()

    families = {family.name: family for family in text_string_to_metric_families(text)}

    assert all(family.documentation and family.type != "unknown" for family in families.values())
    assert {"laptop"} == {
        s.labels["repo"] for f in families.values() for s in f.samples if "repo" in s.labels
    }
