"""The standbys know who is connected to the holder, and a new holder tells them that it is there. Real processes."""

import asyncio
import socket

import pytest

from leaseha.repository.tickle import Flow, checksum, segment, send_tickles
from tests.repository.cluster import Cluster
from tests.repository.served import HOST


async def until_known(cluster: Cluster, name: str, count: int) -> None:
    for _ in range(400):
        if (await cluster.nodes[name].replication())["clients"] == count:
            return
        await asyncio.sleep(0.02)  # waits for a fact: it is told
    raise AssertionError(f"{name} never knew of {count}: {await cluster.nodes[name].replication()}")


async def test_a_standby_knows_who_is_connected_and_who_is_not_any_more(cluster: Cluster):
    holder, _ = await cluster.pair("a", "b")

    with holder.dial(), holder.dial():
        await until_known(cluster, "b", 2)
    await until_known(cluster, "b", 0)


async def test_a_standby_that_restarted_is_told_anew(cluster: Cluster):
    holder, standby = await cluster.pair("a", "b")
    with holder.dial():
        await until_known(cluster, "b", 1)
        await standby.die()
        await standby.restart()

        await until_known(cluster, "b", 1)


async def test_the_list_is_used_once(cluster: Cluster):
    """After a takeover the new holder knows of nobody but its own clients."""
    holder, standby = await cluster.pair("a", "b")
    with holder.dial():
        await until_known(cluster, "b", 1)
        await holder.die()
        holder.alive = False

        assert (await cluster.take(standby, 8)).ok

        await until_known(cluster, "b", 0)


@pytest.mark.parametrize(
    ("flow", "header"),
    [(Flow("10.0.0.9", 40000, "10.0.0.1", 8000), 20), (Flow("fd00::9", 40000, "fd00::1", 8000), 40)],
)
def test_the_segment_is_an_empty_ack_from_the_address_to_the_client(flow: Flow, header: int):
    packet = segment(flow)
    source, target = (socket.inet_pton(family_of(flow), one) for one in (flow.vip, flow.client))
    tcp = packet[header:]

    assert (source + target) == packet[header - 2 * len(source) : header]
    assert (int.from_bytes(tcp[:2], "big"), int.from_bytes(tcp[2:4], "big")) == (8000, 40000)
    assert (len(tcp), tcp[13]) == (20, 0x10)
    pseudo = source + target + (20).to_bytes(4, "big") + (6).to_bytes(4, "big")
    assert checksum(pseudo + tcp) == 0, "a sum that includes its own checksum"


def family_of(flow: Flow) -> int:
    return socket.AF_INET6 if ":" in flow.client else socket.AF_INET


@pytest.mark.parametrize(
    "flow",
    [
        Flow("10.0.0.9", 0, "10.0.0.1", 8000),
        Flow("10.0.0.9", 1, "fd00::1", 8000),
        Flow("224.0.0.1", 1, "10.0.0.1", 8000),
        Flow("elsewhere", 1, "10.0.0.1", 8000),
        Flow("fe80::1%eth0", 1, "fe80::2", 70000),
    ],
)
def test_what_cannot_be_a_connection_is_none(flow: Flow):
    assert not flow.sound


def test_nothing_is_sent_by_who_may_not_any_more():
    def closed() -> None:
        raise TimeoutError("closed")

    try:
        with pytest.raises(TimeoutError):
            send_tickles([Flow(HOST, 9, HOST, 9)], closed)
    except PermissionError:
        pytest.skip("needs CAP_NET_RAW: run by `make test`, in a sandbox")
