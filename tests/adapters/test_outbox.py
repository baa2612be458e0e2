import threading
from collections.abc import Sequence

from leaseha.adapters.outbox import Counts, Outbox


def collecting(into: list[list[int]], gate: threading.Event | None = None):
    """Delivers into a list, each batch after the gate is open."""

    def connect(_: threading.Event):
        def deliver(batch: Sequence[int]) -> None:
            if gate is not None:
                gate.wait(10)
            into.append(list(batch))

        return deliver

    return connect


def test_everything_arrives_in_order_and_in_batches_of_a_bounded_size():
    got: list[list[int]] = []
    outbox: Outbox[int] = Outbox("test", collecting(got), batch_max=7)
    for number in range(100):
        assert outbox.offer(number)
    assert outbox.close(10)
    assert [n for batch in got for n in batch] == list(range(100))
    assert max(map(len, got)) <= 7
    assert outbox.counts == Counts(100, 100, 0)


def test_a_full_outbox_refuses_at_once_and_counts():
    gate = threading.Event()
    got: list[list[int]] = []
    outbox: Outbox[int] = Outbox("test", collecting(got, gate), capacity=5, batch_max=1)
    taken = [outbox.offer(number) for number in range(50)]
    gate.set()
    assert outbox.close(10) is False
    assert 5 <= sum(taken) <= 6
    assert outbox.counts == Counts(50, sum(taken), 50 - sum(taken))


def test_what_hangs_is_left_behind_and_counted():
    gate = threading.Event()
    outbox: Outbox[int] = Outbox("test", collecting([], gate))
    for number in range(10):
        outbox.offer(number)
    assert outbox.close(0.05) is False
    assert outbox.counts.lost == 10
    gate.set()
    assert outbox.close(10) is False
    assert outbox.counts == Counts(10, 0, 10)
    assert outbox.offer(11) is False


def test_an_error_costs_its_batch_and_the_next_one_goes_on():
    got: list[list[int]] = []

    def connect(_: threading.Event):
        def deliver(batch: Sequence[int]) -> None:
            if 3 in batch:
                raise OSError("three")
            got.append(list(batch))

        return deliver

    outbox: Outbox[int] = Outbox("test", connect, batch_max=1)
    for number in range(6):
        outbox.offer(number)
    outbox.close(10)
    assert [n for batch in got for n in batch][:3] == [0, 1, 2]
    assert outbox.counts.lost >= 1
    assert outbox.counts.lost + outbox.counts.delivered == 6


def test_one_that_cannot_connect_takes_nothing_and_raises_nothing():
    def connect(_: threading.Event):
        raise ImportError("no such library")

    outbox: Outbox[int] = Outbox("test", connect)
    outbox.offer(1)
    assert outbox.close(10) is False
    outbox.offer(2)
    assert outbox.counts == Counts(2, 0, 2)
