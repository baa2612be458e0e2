"""Users: what stands in etcd, what a password proves, and how rarely bcrypt is asked."""

import base64
import threading
import time

import pytest

from leaseha.repository.users import (
    COST,
    WAITING,
    BusyError,
    PasswordCheck,
    User,
    UserBook,
    credentials,
    hashed,
    is_hash,
    read,
)

HASH = hashed("correct horse")
ALICE = User("alice", HASH)


def test_a_user_comes_back_as_he_was_written():
    for user in (ALICE, User("bob@example.org", HASH, append_only=True, quota_bytes=5 << 30, monitor=True)):
        assert read(user.name, user.told()) == user
    assert "quota" not in ALICE.told()


def test_what_a_newer_version_writes_beside_is_passed_over():
    assert read("alice", ALICE.told()[:-1] + ',"colour":"red"}') == ALICE


@pytest.mark.parametrize("name", ["", ".hidden", "..", "a/b", "a:b", "a b", "ä", "x" * 65])
def test_a_name_that_could_be_another_folder_is_no_user(name):
    assert read(name, ALICE.told()) is None


@pytest.mark.parametrize(
    "value",
    [
        *("", "[]", "null", "{", "{}", '{"hash":1}', '{"hash":"{SHA}abc"}'),
        ALICE.told().replace("$10$", "$31$"),
        ALICE.told()[:-1] + ',"quota_bytes":-1}',
        ALICE.told()[:-1] + ',"quota_bytes":true}',
        ALICE.told()[:-1] + ',"append_only":"yes"}',
    ],
)
def test_a_value_that_is_not_understood_is_no_user(value):
    assert read("alice", value) is None


def test_hashes_are_those_of_htpasswd_and_take_bounded_time():
    assert is_hash(HASH)
    assert f"$2b${COST}$" in HASH
    assert is_hash("$2y$05$" + "a" * 53)  # htpasswd -B
    assert not is_hash("$2y$15$" + "a" * 53)
    assert not is_hash("$apr1$abc$def")


@pytest.mark.parametrize("password", ["", "x" * 73, "a\0b", "a\nb"])
def test_a_password_that_bcrypt_would_not_take_whole_is_refused(password):
    with pytest.raises(ValueError, match="a password has"):
        hashed(password)


@pytest.mark.parametrize(
    ("field", "found"),
    [
        (b"Basic " + base64.b64encode(b"a:b:c"), ("a", b"b:c")),
        (b"basic " + base64.b64encode(b":"), ("", b"")),
        (None, None),
        (b"", None),
        (b"Bearer YTpi", None),
        (b"Basic", None),
        (b"Basic YTpi!", None),
        (b"Basic " + base64.b64encode(b"nocolon"), None),
        (b"Basic " + base64.b64encode(b"\xff:x"), None),
    ],
)
def test_credentials_are_basic_and_well_formed(field, found):
    assert credentials(field) == found


def test_a_book_changes_as_a_whole_with_its_last_piece():
    book = UserBook()
    assert not book.known

    book.tell([{"name": "alice", "value": ALICE.told()}], first=True, last=False)
    assert (book.known, book.find("alice")) == (False, None)
    book.tell([{"name": "bob", "value": ALICE.told()}, {"name": "x", "value": "?"}], first=False, last=True)
    assert (book.known, len(book)) == (True, 2)

    book.tell([{"name": "carol", "value": ALICE.told()}], first=True, last=False)
    assert book.find("alice") == ALICE
    book.tell([], first=False, last=True)
    assert [book.find(name) is None for name in ("alice", "bob", "carol")] == [True, True, False]


def test_a_password_is_proven_once_and_anew_when_the_entry_changes():
    check = PasswordCheck()

    assert [check.good(ALICE, b"correct horse") for _ in range(50)] == [True] * 50
    assert check.proven == 1
    assert [check.good(ALICE, b"wrong") for _ in range(50)] == [False] * 50
    assert check.proven == 2
    assert not check.good(User("alice", hashed("other")), b"correct horse")
    assert check.good(User("bob", HASH), b"correct horse")
    assert check.proven == 4


def test_nobody_has_no_password_and_takes_as_long_as_a_user():
    check = PasswordCheck()

    assert [check.good(None, word) for word in (b"nobody", b"", b"a\0b")] == [False] * 3
    assert check.proven == 3
    begun = time.perf_counter()
    check.good(None, b"x")
    assert time.perf_counter() - begun > 0.01  # a real hash was computed


def test_five_connections_that_come_at_once_cost_one_proof():
    check, found = PasswordCheck(), []
    threads = [
        threading.Thread(target=lambda: found.append(check.good(ALICE, b"correct horse"))) for _ in range(5)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)

    assert (found, check.proven) == ([True] * 5, 1)


def test_a_known_user_gets_in_while_somebody_guesses():
    check = PasswordCheck(wait_s=0.01)
    assert check.good(ALICE, b"correct horse")

    with check._proving:  # somebody guesses, and takes long
        assert check.good(ALICE, b"correct horse")
        with pytest.raises(BusyError):
            check.good(ALICE, b"guess")


def test_only_so_many_wait_for_their_turn():
    check = PasswordCheck(wait_s=20.0)
    found: list[bool] = []

    def guess(number: int) -> None:
        found.append(check.good(ALICE, b"guess %d" % number))

    threads = [threading.Thread(target=guess, args=(number,)) for number in range(WAITING)]
    with check._proving:
        for thread in threads:
            thread.start()
        give_up = time.monotonic() + 20
        while check._waiting._value:
            assert time.monotonic() < give_up
            time.sleep(0.001)  # waits for a fact: all of them wait
        with pytest.raises(BusyError):
            check.good(ALICE, b"one more")
    for thread in threads:
        thread.join(20)
    assert found == [False] * WAITING


def test_old_proofs_make_room():
    import leaseha.repository.users as module

    check = PasswordCheck()
    for number in range(module.REMEMBERED + 5):
        check._remember(number.to_bytes(4, "big"), True)

    assert len(check._remembered) == module.REMEMBERED
