"""Who may do what: a table of users, paths and methods, asked over real sockets."""

import base64

import pytest

from leaseha.repository.door import Door, DoorOptions
from leaseha.repository.users import User, hashed
from tests.repository.served import Client, name_of

DATA = b"some data"
NAME = name_of(DATA)
USERS = {
    "alice": User("alice", hashed("wonder")),
    "bob": User("bob", hashed("builder"), append_only=True),
    "prom": User("prom", hashed("theus"), monitor=True),
}
PASSWORDS = {"alice": "wonder", "bob": "builder", "prom": "theus"}


def door(**options) -> Door:
    made = Door(DoorOptions(users=True, **options))
    told = [{"name": one.name, "value": one.told()} for one in USERS.values()]
    made.book.tell(told, first=True, last=True)
    return made


def basic(name: str, password: str | None = None) -> dict[str, str]:
    told = f"{name}:{PASSWORDS.get(name, '') if password is None else password}"
    return {"Authorization": "Basic " + base64.b64encode(told.encode()).decode()}


@pytest.fixture
def private(serve):
    served = serve(door=door(private=True))
    assert served.ask("POST", "/alice/?create=true", **basic("alice")).status == 200
    assert served.ask("POST", f"/alice/data/{NAME}", DATA, **basic("alice")).status == 200
    return served


@pytest.mark.parametrize(
    "headers",
    [
        {},
        basic("alice", "wrong"),
        basic("alice", ""),
        basic("mallory", "wonder"),
        basic("Alice", "wonder"),
        basic("alice ", "wonder"),
        basic("", "wonder"),
        {"Authorization": "Bearer wonder"},
        {"Authorization": "Basic ====="},
    ],
)
@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/alice/data/"), ("POST", "/alice/config"), ("GET", "/x"), ("DELETE", "/alice/config")],
)
def test_who_shows_no_good_password_is_asked_for_one_whatever_he_wants(private, headers, method, path):
    answer = private.ask(method, path, b"x" if method == "POST" else None, **headers)

    assert answer.status == 401
    assert answer.fields["www-authenticate"].startswith('Basic realm="')


@pytest.mark.parametrize(
    "path",
    [
        "/alice/data/",
        "/alice/config",
        "/alice/sub/data/",
        f"/alice/data/{NAME}",
        "/",
        "/data/",
        "/config",
        "/bobby/data/",
        "/ALICE/data/",
        "/%61lice/data/",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_another_users_repository_is_closed_however_it_is_written(private, path, method):
    answer = private.ask(method, path, b"x" if method == "POST" else None, **basic("bob"))

    assert answer.status == 403
    assert private.ask("GET", f"/alice/data/{NAME}", **basic("alice")).body == DATA


@pytest.mark.parametrize(
    "path",
    [
        "/bob/../alice/data/",
        "/bob/%2e%2e/alice/data/",
        "/bob%2f..%2falice/data/",
        "//alice/data/",
        "/bob//alice/data/",
        "/bob/alice/../../alice/data/",
    ],
)
def test_no_detour_leads_to_another_users_repository(private, path):
    assert private.ask("GET", path, **basic("bob")).status in {403, 404}


def test_each_user_has_the_repositories_below_his_name(private):
    with Client(private.port) as client:
        for path in ("/bob/", "/bob/laptop/"):
            assert client.ask("POST", f"{path}?create=true", **basic("bob")).status == 200
            assert client.ask("POST", f"{path}data/{NAME}", DATA, **basic("bob")).status == 200
            assert client.ask("GET", f"{path}data/{NAME}", **basic("bob")).body == DATA


def test_without_private_every_user_sees_every_repository(serve):
    served = serve(door=door())

    assert served.ask("POST", f"/alice/data/{NAME}", DATA, **basic("alice")).status == 200
    assert served.ask("GET", f"/alice/data/{NAME}", **basic("bob")).body == DATA


def test_an_append_only_user_deletes_locks_alone_and_the_others_what_they_like(serve):
    served = serve(door=door())
    for kind in ("data", "locks"):
        served.ask("POST", f"/r/{kind}/{NAME}", DATA, **basic("alice"))

    assert served.ask("DELETE", f"/r/data/{NAME}", **basic("bob")).status == 403
    assert served.ask("DELETE", f"/r/locks/{NAME}", **basic("bob")).status == 200
    assert served.ask("DELETE", f"/r/data/{NAME}", **basic("alice")).status == 200


def test_a_lease_that_is_append_only_is_so_for_everybody(serve):
    served = serve(door=door(append_only=True))
    served.ask("POST", f"/r/data/{NAME}", DATA, **basic("alice"))

    assert served.ask("DELETE", f"/r/data/{NAME}", **basic("alice")).status == 403


def test_while_the_gate_is_closed_nobody_is_asked_for_a_password(serve):
    served = serve(door=door(private=True), open_gate=False)

    for headers in ({}, basic("alice", "wrong"), basic("bob")):
        assert served.ask("GET", "/alice/config", **headers).status == 503


def test_while_the_users_are_not_known_nobody_is_told_that_he_is_none(serve):
    served = serve(door=Door(DoorOptions(users=True)))
    assert served.ask("GET", "/alice/config", **basic("alice")).status == 503

    told = [{"name": "alice", "value": USERS["alice"].told()}]
    served.door.book.tell(told, first=True, last=True)
    assert served.ask("GET", "/alice/config", **basic("alice")).status == 404

    served.door.book.tell([], first=True, last=True)
    assert served.ask("GET", "/alice/config", **basic("alice")).status == 401


def test_a_new_password_counts_at_once_and_the_old_one_no_more(serve):
    served = serve(door=door())
    assert served.ask("GET", "/r/config", **basic("alice")).status == 404

    told = [{"name": "alice", "value": User("alice", hashed("new")).told()}]
    served.door.book.tell(told, first=True, last=True)

    assert served.ask("GET", "/r/config", **basic("alice")).status == 401
    assert served.ask("GET", "/r/config", **basic("alice", "new")).status == 404


def test_a_hundred_requests_ask_bcrypt_once(serve):
    served = serve(door=door())
    with Client(served.port) as client:
        for _ in range(100):
            client.ask("GET", "/r/config", **basic("alice"))

    assert served.door.passwords.proven == 1


def test_health_is_told_to_everybody_and_only_by_who_serves(serve):
    served = serve(door=door(), open_gate=False)
    assert served.ask("GET", "/health").status == 503

    served.gate.open(served.word())
    assert served.ask("GET", "/health").body == b"serving\n"
    assert served.ask("HEAD", "/health").status == 200
    assert served.ask("POST", "/health", b"").status == 405
    assert served.ask("GET", "/health/").status == 401


def test_options_come_back_as_they_were_told():
    options = DoorOptions(users=True, private=True, quota_bytes=7, cert="/c", key="/k")

    assert DoorOptions.of(options.told()) == options
    assert DoorOptions.of('{"append_only":true,"of_a_newer_version":1}') == DoorOptions(append_only=True)
