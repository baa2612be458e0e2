"""Verdicts of health checks: counting, effects, and the runner on real scripts, ports and links."""

import asyncio
import itertools
import socket
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leaseha.adapters.health import (
    CheckReport,
    Checks,
    CheckSpec,
    Kind,
    RiseFall,
    Standing,
    probe_for,
    standing,
)
from leaseha.adapters.link import LinkWatch
from leaseha.adapters.probes import Resolver
from leaseha.errors import HealthError
from tests.adapters.wire import HERE, Wire


def verdicts(counter: RiseFall, answers: str) -> str:
    """`+-` answers in; for each the verdict after it (`?+-`), upper half of the story in one line."""
    told = []
    for answer in answers:
        before = counter.healthy
        changed = counter.count(good=answer == "+")
        assert changed == (counter.healthy != before)
        told.append({None: "?", True: "+", False: "-"}[counter.healthy])
    return "".join(told)


@pytest.mark.parametrize(
    ("rise", "fall", "answers", "expected"),
    [
        (2, 3, "++--+---+-++", "?++++++----+"),
        (2, 3, "---", "??-"),
        (2, 3, "+-+-+-+-", "????????"),
        (1, 1, "+-+-", "+-+-"),
        (1, 3, "-+--+---", "?++++++-"),
    ],
)
def test_a_verdict_needs_rise_successes_or_fall_failures_in_a_row(rise, fall, answers, expected):
    assert verdicts(RiseFall(rise, fall), answers) == expected


@given(st.integers(1, 5), st.integers(1, 5), st.lists(st.booleans(), max_size=60))
def test_a_verdict_always_agrees_with_the_last_full_row_of_answers(rise, fall, answers):
    counter = RiseFall(rise, fall)
    expected = None
    for at, answer in enumerate(answers, 1):
        need = rise if answer else fall
        if answers[max(0, at - need) : at] == [answer] * need:
            expected = answer
        counter.count(good=answer)
        assert counter.healthy is expected


def spec(name: str = "c", **more) -> CheckSpec:
    return CheckSpec(name, Kind.PING, ("192.0.2.1",), **more)


def report(name: str, healthy: bool | None) -> CheckReport:
    return CheckReport(name, Kind.PING, healthy, "no answer")


def test_a_negative_weight_counts_while_the_check_fails_and_a_positive_one_while_it_does_not():
    specs = [spec("gateway", weight=-60), spec("disk", weight=20)]
    good = {name: report(name, True) for name in ("gateway", "disk")}
    bad = {name: report(name, False) for name in ("gateway", "disk")}
    assert standing(specs, good) == Standing(20, "")
    assert standing(specs, bad) == Standing(-60, "")


def test_what_is_not_known_yet_counts_as_healthy():
    specs = [spec("gateway", weight=-60), spec("disk", ineligible=True)]
    assert standing(specs, {}) == Standing(0, "")
    assert standing(specs, {"gateway": report("gateway", None), "disk": report("disk", None)}) == Standing(
        0, ""
    )


def test_a_failing_check_that_makes_ineligible_says_why():
    assert standing([spec("disk", ineligible=True)], {"disk": report("disk", False)}) == Standing(
        0, "check disk fails: no answer"
    )


def test_a_target_that_does_not_fit_the_kind_is_an_error():
    for kind, target in (
        (Kind.TCP, ("h",)),
        (Kind.TCP, ("h", "x")),
        (Kind.SCRIPT, ()),
        (Kind.PING, ("a", "b")),
    ):
        with pytest.raises(HealthError, match="check c"):
            probe_for(CheckSpec("c", kind, target), Resolver())


class Told(list):
    """Changes in order, each as (lease, check, healthy, detail)."""

    def __init__(self) -> None:
        super().__init__()
        self.news = asyncio.Event()

    def __call__(self, *change) -> None:
        self.append(change)
        self.news.set()

    async def until(self, count: int) -> None:
        async with asyncio.timeout(20):
            while len(self) < count:
                self.news.clear()
                await self.news.wait()


@pytest.fixture
async def told():
    return Told()


def script(*argv: str, **more) -> CheckSpec:
    return CheckSpec("script", Kind.SCRIPT, argv, **({"every_s": 0.05, "timeout_s": 10} | more))


async def test_changes_are_told_and_nothing_else_is(told, tmp_path):
    flag = tmp_path / "flag"
    flag.touch()
    checks = Checks({"backups": [script("/usr/bin/test", "-e", str(flag))]}, told, warn=pytest.fail)
    assert [(r.healthy, r.detail) for r in checks.report("backups")] == [
        (None, "not known yet, counts as healthy")
    ]
    checks.start()
    await told.until(1)
    flag.unlink()
    await told.until(2)
    assert checks.report("backups")[0].detail == "exit 1"
    flag.touch()
    await told.until(3)
    await checks.stop()
    assert told == [("backups", "script", good, detail) for good, detail in
                    ((True, "exit 0"), (False, "exit 1"), (True, "exit 0"))]  # fmt: skip


async def test_the_standing_follows_the_verdicts(told):
    failing = script(
        sys.executable, "-c", "print('disk is read-only'); raise SystemExit(2)", weight=-60, fall=1
    )
    other = CheckSpec("other", Kind.SCRIPT, ("/usr/bin/false",), 0.05, 10, fall=1, ineligible=True)
    checks = Checks({"backups": [failing, other], "bare": []}, told, warn=pytest.fail)
    assert checks.standing("backups") == Standing(0, "")
    checks.start()
    await told.until(2)
    await checks.stop()
    assert checks.standing("backups") == Standing(-60, "check other fails: exit 1")
    assert checks.standing("bare") == checks.standing("unknown") == Standing(0, "")
    assert ("backups", "script", False, "exit 2: disk is read-only") in told


async def test_a_check_that_is_slower_than_its_period_never_overlaps_itself(told, tmp_path):
    code = (
        "import os, sys\n"
        "try: os.mkdir(sys.argv[1])\n"
        "except FileExistsError: raise SystemExit('overlap')\n"
        "import time; time.sleep(0.2)\n"
        "os.rmdir(sys.argv[1])\n"
    )
    slow = script(sys.executable, "-c", code, str(tmp_path / "running"), every_s=0.01, rise=4, fall=1)
    checks = Checks({"backups": [slow]}, told, warn=pytest.fail)
    checks.start()
    await told.until(1)
    await checks.stop()
    assert told == [("backups", "script", True, "exit 0")]


async def test_no_answer_in_time_is_a_failure_that_says_so(told):
    checks = Checks({"b": [script("/usr/bin/sleep", "60", timeout_s=0.1, fall=1)]}, told, warn=pytest.fail)
    checks.start()
    await told.until(1)
    await checks.stop()
    assert told == [("b", "script", False, "no answer from /usr/bin/sleep 60 within 0.1 s")]


async def test_stopping_ends_a_running_script(told, tmp_path):
    started = tmp_path / "started"
    argv = ("/bin/sh", "-c", f"echo $$ > {started}.new; mv {started}.new {started}; exec sleep 60")
    checks = Checks({"b": [script(*argv)]}, told, warn=pytest.fail)
    checks.start()
    async with asyncio.timeout(20):
        while not started.exists():
            # waits for a fact: the script runs
            await asyncio.sleep(0.01)
    await checks.stop()
    assert not Path("/proc", started.read_text().strip()).exists()
    assert told == []


async def test_a_check_that_cannot_be_asked_is_neither_good_nor_bad_and_warned_of_once(told):
    class Broken(Resolver):
        def _resolve(self, host: str, port: int):
            raise OSError(24, "Too many open files")

    warned: list[str] = []
    asked = itertools.count()
    enough = asyncio.Event()

    class Counting(Broken):
        async def addresses(self, host: str, port: int):
            if next(asked) > 5:
                enough.set()
            return await super().addresses(host, port)

    ping = CheckSpec("gateway", Kind.PING, ("router",), every_s=0.01, timeout_s=5)
    checks = Checks({"b": [ping]}, told, warn=warned.append, resolver=Counting())
    checks.start()
    async with asyncio.timeout(20):
        await enough.wait()
    await checks.stop()
    assert warned == ["check gateway of b: router: Too many open files"]
    assert checks.report("b")[0].healthy is None
    assert told == []


async def test_a_port_that_closes_and_opens_is_told(told):
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
        tcp = CheckSpec("db", Kind.TCP, ("127.0.0.1", str(port)), every_s=0.02, timeout_s=5)
        checks = Checks({"b": [tcp]}, told, warn=pytest.fail)
        checks.start()
        await told.until(1)
        server.listen()
        await told.until(2)
        await checks.stop()
    assert [change[2:] for change in told] == [
        (False, f"127.0.0.1 port {port}: Connection refused"),
        (True, f"127.0.0.1 port {port} accepts"),
    ]


@pytest.mark.netns
async def test_a_gateway_that_stops_answering_is_told(wire: Wire, told):
    ping = CheckSpec("gateway", Kind.PING, ("10.9.0.2",), every_s=0.1, timeout_s=1, fall=2)
    checks = Checks({"b": [ping]}, told, warn=pytest.fail)
    checks.start()
    await told.until(1)
    wire.there(lambda: Path("/proc/sys/net/ipv4/icmp_echo_ignore_all").write_text("1"))
    await told.until(2)
    wire.there(lambda: Path("/proc/sys/net/ipv4/icmp_echo_ignore_all").write_text("0"))
    await told.until(3)
    await checks.stop()
    assert [change[2:] for change in told] == [
        (True, "10.9.0.2 answers"),
        (False, "no answer from 10.9.0.2 within 1 s"),
        (True, "10.9.0.2 answers"),
    ]


class Nudger:
    """What the composition root does: a change of a link nudges the checks."""

    def __init__(self) -> None:
        self.checks: Checks | None = None

    def on_link(self, link) -> None:
        if self.checks is not None:
            self.checks.nudge(link.name)

    def on_link_gone(self, name: str) -> None:
        if self.checks is not None:
            self.checks.nudge(name)

    def on_address(self, change) -> None: ...

    def on_gap(self) -> None: ...


@pytest.mark.netns
async def test_a_lost_carrier_is_asked_about_when_the_kernel_tells_and_counted_once(wire: Wire, told):
    nudger = Nudger()
    once = CheckSpec("link", Kind.CARRIER, (HERE,), every_s=60, rise=1, fall=1)
    twice = CheckSpec("other", Kind.CARRIER, (HERE,), every_s=60, rise=1, fall=2)
    checks = nudger.checks = Checks({"b": [once], "c": [twice]}, told, warn=pytest.fail)
    watch = LinkWatch(nudger)
    task = asyncio.create_task(watch.run())
    async with asyncio.timeout(20):
        await watch.ready.wait()
    checks.start()
    await told.until(1)
    wire.carrier(False)
    await told.until(2)
    wire.carrier(True)
    await told.until(3)
    task.cancel()
    await asyncio.wait({task})
    await checks.stop()
    assert told == [
        ("b", "link", True, f"{HERE} has carrier"),
        ("b", "link", False, f"{HERE} has no carrier"),
        ("b", "link", True, f"{HERE} has carrier"),
    ]


async def test_a_check_that_leases_have_alike_is_asked_once_and_told_to_each(told, tmp_path):
    log = tmp_path / "asked"
    once = script("/bin/sh", "-c", f"echo asked >> {log}", every_s=60, rise=1)
    checks = Checks({f"l{at}": [once] for at in range(100)}, told, warn=pytest.fail)
    checks.start()
    await told.until(100)
    await checks.stop()
    assert log.read_text() == "asked\n"
    assert {checks.report(f"l{at}")[0].healthy for at in range(100)} == {True}
