import time

from leaseha.adapters import clock


def test_now_is_read_from_the_boot_clock_and_the_raw_clock():
    before = (time.clock_gettime_ns(time.CLOCK_BOOTTIME), time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW))
    now = clock.now()
    after = (time.clock_gettime_ns(time.CLOCK_BOOTTIME), time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW))
    assert before[0] <= now.boot_ns <= after[0]
    assert before[1] <= now.raw_ns <= after[1]


def test_neither_clock_ever_goes_back():
    seen = [clock.now() for _ in range(1000)]
    assert [i.boot_ns for i in seen] == sorted(i.boot_ns for i in seen)
    assert [i.raw_ns for i in seen] == sorted(i.raw_ns for i in seen)


def test_the_time_of_day_is_in_milliseconds():
    assert abs(clock.wall_ms() - time.time() * 1000) < 5000
