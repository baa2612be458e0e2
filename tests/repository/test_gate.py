"""The gate: who may enter, until when, under which token; and what is answered while it is closed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leaseha.core.values import Instant
from leaseha.repository.gate import Gate, GateClosedError, Word
from leaseha.repository.tokens import NOTHING, Mark, TokenLedger, TokenTooOldError
from tests.repository.served import Served, name_of, now, post_head, until

BODY = b"body"
NAME = name_of(BODY)
DEADLINE = Instant(1000, 2000)


class Bench:
    """A gate under a clock that stands where it is put."""

    def __init__(self, folder):
        self.at = Instant(0, 0)
        self.lost = 0
        self.ledger = TokenLedger(folder / "token")
        self.gate = Gate(self.ledger, lambda: self.at, self.lose)

    def lose(self):
        self.lost += 1

    def open(self, token: int = 7, epoch: int = 0):
        self.gate.open(Word(Mark(epoch, token), DEADLINE))


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


def test_nobody_enters_before_it_is_opened(bench):
    with pytest.raises(GateClosedError, match="not serving"):
        bench.gate.enter()


@pytest.mark.parametrize("late", [Instant(1000, 0), Instant(0, 2000), Instant(5000, 5000)])
def test_a_pass_is_good_until_either_clock_reaches_the_deadline(bench, late):
    bench.open()
    admitted = bench.gate.enter()
    bench.at = Instant(999, 1999)
    admitted.check_directory()
    bench.at = late

    with pytest.raises(GateClosedError, match="deadline"):
        admitted.check()
    with pytest.raises(GateClosedError):
        bench.gate.enter()


def test_a_deadline_moves_both_ways_but_never_back_to_life(bench):
    bench.open()
    admitted = bench.gate.enter()

    assert bench.gate.extend(7, Instant(3000, 3000))
    bench.at = Instant(2500, 2500)
    admitted.check()

    assert bench.gate.extend(7, Instant(2400, 2400))
    assert not bench.gate.extend(7, Instant(9000, 9000))
    with pytest.raises(GateClosedError):
        admitted.check()


def test_a_word_of_another_token_extends_nothing(bench):
    bench.open(7)

    assert not bench.gate.extend(8, Instant(9000, 9000))
    assert not bench.gate.extend(6, Instant(9000, 9000))
    assert bench.gate.word.deadline == DEADLINE


def test_a_pass_of_an_earlier_token_is_no_pass_under_a_later_one(bench):
    bench.open(7)
    admitted = bench.gate.enter()
    bench.open(9)

    with pytest.raises(GateClosedError):
        admitted.check()


def test_who_is_in_may_finish_a_drain_and_nobody_else_enters(bench):
    bench.open()
    admitted = bench.gate.enter()
    bench.gate.drain("moving")

    admitted.check_directory()
    with pytest.raises(GateClosedError, match="moving"):
        bench.gate.enter()

    bench.gate.close("moved")
    with pytest.raises(GateClosedError, match="moved"):
        admitted.check()


def test_opening_stores_the_token_before_anything_is_let_in(bench):
    bench.open(7)

    assert Mark(0, 7) == bench.ledger.highest()


def test_opening_under_a_lower_token_is_refused_and_leaves_it_closed(bench):
    bench.open(7)
    with pytest.raises(TokenTooOldError, match=r"token 6 .* older than token 7"):
        bench.open(6)
    with pytest.raises(GateClosedError):
        bench.gate.enter()


def test_opening_after_the_deadline_is_refused(bench):
    bench.at = Instant(1000, 2000)
    with pytest.raises(GateClosedError, match="deadline"):
        bench.open()


def test_a_higher_token_in_the_directory_closes_the_gate_of_the_stale_one(bench, tmp_path):
    """Another node's process has stored it: this one may rename and acknowledge nothing (G6)."""
    bench.open(7)
    admitted = bench.gate.enter()
    TokenLedger(tmp_path / "token").store(Mark(0, 8))

    with pytest.raises(GateClosedError, match="older than token 8"):
        admitted.check_directory()
    with pytest.raises(GateClosedError):
        admitted.check()
    assert bench.lost == 1


def test_a_late_request_of_an_old_token_does_not_close_the_gate_under_the_new_one(bench):
    bench.open(7)
    late = bench.gate.enter()
    bench.open(9)
    with pytest.raises(GateClosedError):
        late.check_directory()

    bench.gate.enter().check_directory()
    assert bench.lost == 0


def test_a_higher_epoch_outranks_every_token(bench):
    """After a restored etcd revisions begin anew; `recover` raises the epoch."""
    bench.open(900, epoch=0)
    bench.open(3, epoch=1)

    assert Mark(1, 3) == bench.ledger.highest()
    with pytest.raises(TokenTooOldError):
        bench.open(901, epoch=0)


@given(marks=st.lists(st.builds(Mark, st.integers(0, 3), st.integers(1, 20)), min_size=1, max_size=12))
def test_the_ledger_only_rises(tmp_path_factory, marks):
    folder = tmp_path_factory.mktemp("ledger") / "token"
    highest = NOTHING
    for mark in marks:
        try:
            TokenLedger(folder).store(mark)
            stored = True
        except TokenTooOldError:
            stored = False

        assert stored == (mark >= highest)
        highest = max(highest, mark)
        assert highest == TokenLedger(folder).highest()
    assert [highest.name] == [path.name for path in folder.iterdir()]


def test_a_writer_that_wakes_late_cannot_lower_what_is_stored(tmp_path):
    """The file of a late, lower token changes nothing: the highest name counts."""
    ledger = TokenLedger(tmp_path / "token")
    ledger.store(Mark(0, 9))
    (tmp_path / "token" / Mark(0, 5).name).touch()
    (tmp_path / "token" / "99999").touch()

    assert Mark(0, 9) == ledger.highest()


EVERYTHING = [
    ("HEAD", "/r/config"),
    ("GET", "/r/config"),
    ("GET", "/r/data/"),
    ("GET", f"/r/data/{'0' * 64}"),
    ("POST", "/r/?create=true"),
    ("POST", "/r/config"),
    ("POST", f"/r/data/{NAME}"),
    ("POST", "/r/data/not-a-hash"),
    ("DELETE", f"/r/data/{NAME}"),
    ("DELETE", "/r/"),
    ("GET", "/"),
    ("GET", "/a/b/c/d/e"),
]


@pytest.mark.parametrize(("method", "path"), EVERYTHING)
def test_while_the_gate_is_closed_everything_is_503(serve, method, path):
    """Never 404, 403 or 401: a client takes those for the truth about its repository."""
    served = serve(open_gate=False, append_only=True)

    assert served.ask(method, path, BODY if method == "POST" else None).status == 503
    assert not (served.root / "r").exists()


def test_a_large_body_is_drained_before_the_503(serve):
    served = serve(open_gate=False)

    assert served.ask("POST", f"/r/data/{NAME}", bytes(10_000_000)).status == 503
    assert served.temporaries() == []


def test_an_upload_that_ends_after_the_deadline_is_not_acknowledged_and_not_stored(served: Served):
    """The gate itself, without the process that would reset the connection: the clock is looked at again."""
    with served.dial() as sock:
        sock.sendall(post_head(f"/r/data/{NAME}", len(BODY)) + BODY[:-1])
        until(lambda: served.temporaries() != [], "the upload has begun")
        served.clock.at = served.gate.word.deadline
        sock.sendall(BODY[-1:])
        assert sock.recv(12) == b"HTTP/1.1 503"

    assert not (served.root / "r/data" / NAME[:2] / NAME).exists()
    assert served.temporaries() == []


def test_an_upload_is_refused_when_the_directory_has_seen_a_higher_token_meanwhile(served: Served):
    with served.dial() as sock:
        sock.sendall(post_head(f"/r/data/{NAME}", len(BODY)) + BODY[:-1])
        until(lambda: served.temporaries() != [], "the upload has begun")
        TokenLedger(served.root / ".leaseha/token").store(Mark(0, 8))
        sock.sendall(BODY[-1:])
        assert sock.recv(12) == b"HTTP/1.1 503"

    assert not (served.root / "r/data" / NAME[:2] / NAME).exists()
    assert served.ask("GET", "/r/data/").status == 503


def test_a_delete_is_refused_when_the_directory_has_seen_a_higher_token(served: Served):
    served.ask("POST", f"/r/data/{NAME}", BODY)
    TokenLedger(served.root / ".leaseha/token").store(Mark(0, 8))

    assert served.ask("DELETE", f"/r/data/{NAME}").status == 503
    assert (served.root / "r/data" / NAME[:2] / NAME).exists()


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/r/config"),
        ("HEAD", f"/r/data/{NAME}"),
        ("GET", "/r/locks/"),
        ("POST", "/r/?create=true"),
        ("POST", f"/r/data/{NAME}"),
        ("DELETE", f"/r/data/{NAME}"),
    ],
)
def test_a_directory_that_was_unmounted_is_503_and_never_an_empty_store(served: Served, method, path):
    """What is left is the mount point: empty. A client that believes it would begin a new repository there."""
    served.ask("POST", "/r/?create=true")
    served.root.rename(served.root.with_name("elsewhere"))
    served.root.mkdir()

    reply = served.ask(method, path, BODY if method == "POST" else None)

    assert reply.status == 503
    assert list(served.root.iterdir()) == []


def test_the_moment_is_read_from_both_clocks():
    first, second = now(), now()

    assert first.boot_ns <= second.boot_ns
    assert first.raw_ns <= second.raw_ns
