"""A guard of a thousand leases: told of all of them in one moment it stays the same small process."""

import json
import subprocess
import sys
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from leaseha.adapters.vip import cluster_tag
from leaseha.core.values import NS_PER_S
from leaseha.runtime.guard import named
from tests.runtime.guarded import CLUSTER
from tests.runtime.standing import until

LEASES = [f"a-lease-with-a-name-that-is-rather-long-{at:04d}" for at in range(1000)]
RSS_MAX_KIB = 15 * 1024


class Body:
    """A guarded process: says what it is told, and what it says."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.runtime.guarded", str(folder), "2.0"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    def say(self, **word: Any) -> dict[str, Any]:
        """Its answer to one word."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(word) + "\n")
        self.process.stdin.flush()
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer


@pytest.fixture
def body(tmp_path: Path) -> Iterator[Body]:
    one = Body(tmp_path)
    yield one
    one.say(disarm_all=LEASES)
    one.say(bye=True)
    one.process.communicate(timeout=20)


def rss_kib(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))


def test_a_thousand_leases_in_one_moment_do_not_drown_the_guard(body: Body):
    first = ip_address("10.0.0.1")
    told = {
        "do": "configure",
        "prefix": "/leaseha/many/",
        "leases": LEASES,
        "etcd": {"endpoints": []},
        "vips": {str(first + at): "lo" for at in range(1000)},
        "tag": cluster_tag(CLUSTER),
        "urgent": False,
        "grace_ns": 60 * NS_PER_S,
        "release_ns": 0,
        "log": {"node": "node1", "cluster": CLUSTER, "form": "human"},
    }
    guard = body.say(configure=told)["guard"]
    until("the guard is ready", lambda: body.say(look=True)["layer"])
    body.say(arm_all=LEASES, ms=600_000)
    body.say(disarm_all=LEASES[::2])

    after = body.say(arm_all=LEASES, ms=600_000)

    assert (after["guard"], after["layer"]) == (guard, "guard")
    assert "lost the guard" not in body.log.read_text()
    assert rss_kib(guard) < RSS_MAX_KIB


def test_many_names_are_a_number_and_the_first_ones():
    assert named(["a", "b"]) == "a, b"
    assert named([f"l{at}" for at in range(334)]) == "l0, l1, l2, l3, l4, l5, l6, l7 and 326 more"
