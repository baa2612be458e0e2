"""What a node makes of the kernel fence, or of its absence; with a real one only where a namespace is at hand."""

import subprocess
import sys
from collections.abc import Iterator

import pytest

from leaseha.config import parse
from leaseha.core.values import NS_PER_MS
from leaseha.errors import FenceError
from leaseha.runtime import rights
from leaseha.runtime.doctor import examine
from leaseha.runtime.fencing import put_up

WHY = "libnftables.so.1 is missing"
TEXT = """
cluster = "backup"
[node]
name = "node1"
interface = "lo"
[etcd]
endpoints = ["http://10.0.0.1:2379", "http://10.0.0.2:2379", "http://10.0.0.3:2379"]
[lease.backups]
vips = ["192.0.2.50/24"]
priority = { node1 = 100, node2 = 50 }
[session]
"""


@pytest.fixture
def wire() -> Iterator[object]:
    """Namespaces, of which the test runs in one."""
    from tests.adapters.wire import laid  # late: pyroute2 is needed by these tests only

    with laid() as made:
        yield made


async def test_without_a_fence_a_node_goes_by_address_lifetimes_and_says_so_once():
    said = []
    fencing = await put_up(parse(TEXT), said.append, lambda: WHY)
    assert not fencing.stands
    assert fencing.layers == (f"kernel: address lifetimes alone ({WHY})",)
    assert said == [
        f"no kernel fence: {WHY}; address lifetimes alone end a frozen holder, so standbys wait 1.5s longer"
    ]
    assert fencing.close_commands == ()
    await fencing.close([])
    fencing.close_soon([])
    fencing.on_link("lo", 7)
    await fencing.end(all_off=True)


@pytest.mark.parametrize(
    ("session", "margin_ms", "most_past_ms"),
    [("", 1500, None), ('ttl = "300ms"', 2300, 1000), ('margin = "5s"', 5000, None)],
)
async def test_without_a_fence_margin_and_least_lifetime_are_those_of_address_lifetimes(
    session, margin_ms, most_past_ms
):
    config = parse(TEXT + session)
    fencing = await put_up(config, lambda _text: None, lambda: WHY)
    assert fencing.margin_ns(config.session) == margin_ms * NS_PER_MS
    assert fencing.most_past_ms(config.session) == most_past_ms
    assert fencing.slack_ms == 200


@pytest.mark.netns
@pytest.mark.parametrize(("session", "margin_ms"), [("", 20), ('ttl = "300ms"', 20), ('margin = "5s"', 5000)])
async def test_with_a_fence_the_margin_is_its_lateness_unless_the_operator_said_otherwise(
    wire, session, margin_ms
):
    config = parse(TEXT + session)
    fencing = await put_up(config, lambda _text: None)
    assert fencing.stands
    assert fencing.layers == ("kernel: nftables", "kernel: address lifetimes")
    assert fencing.margin_ns(config.session) == margin_ms * NS_PER_MS
    assert fencing.most_past_ms(config.session) is None
    assert fencing.slack_ms == 999
    await fencing.end(all_off=True)


@pytest.mark.netns
async def test_a_fence_that_cannot_be_armed_is_named_as_failing(wire):
    from tests.adapters.wire import in_s

    config = parse(TEXT)
    fencing = await put_up(config, lambda _text: None)
    with pytest.raises(FenceError):
        await fencing.arm(["not a VIP"], in_s(5))
    assert "fails: not a VIP is not guarded" in fencing.layers[0]
    await fencing.arm([config.leases[0].vips[0].ip], in_s(5))
    assert fencing.layers[0] == "kernel: nftables"
    await fencing.end(all_off=True)


def test_check_names_what_is_missing_and_what_it_costs():
    if rights.lacking():
        pytest.skip("an account without the rights of an agent is told of those first; run it in `make test`")
    found = examine(parse(TEXT), offline=True, why_no_fence=lambda: WHY)
    (fence,) = [finding for finding in found if "kernel fence" in finding.text]
    assert not fence.grave
    assert WHY in fence.text
    assert "1.5s longer" in fence.text


def test_check_names_a_kernel_that_cannot_end_old_connections():
    if rights.lacking():
        pytest.skip("an account without the rights of an agent is told of those first; run it in `make test`")
    found = examine(parse(TEXT), offline=True, why_no_fence=lambda: "", why_unsevered=lambda: WHY)
    (said,) = [finding for finding in found if "old connections" in finding.text]
    assert not said.grave
    assert WHY in said.text


def test_the_library_is_loaded_when_a_fence_is_made_and_not_when_its_adapter_is_imported():
    code = "import sys, leaseha.runtime.fencing; sys.exit('libnftables' in open('/proc/self/maps').read())"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
