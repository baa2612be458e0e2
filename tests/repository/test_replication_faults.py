"""Disks that refuse, nodes that are known to be dead, and what speaks on the way between nodes. Real processes."""

import asyncio
import resource
import socket
from datetime import UTC, datetime
from pathlib import Path

import pytest

from leaseha.adapters import pki
from leaseha.adapters.pki import Wanted
from leaseha.repository import peer_wire
from leaseha.repository.members import Members, PeerAddress
from leaseha.repository.peer_client import PeerClient, PeerError
from leaseha.repository.peer_wire import Stamp
from leaseha.repository.tls import TlsFiles, client_context
from leaseha.repository.tokens import Mark
from tests.repository.cluster import LEASE, Cluster, pack
from tests.repository.served import HOST, free_port, post_head, read_all


def secure(cluster: Cluster, folder: Path) -> None:
    now = datetime.now(UTC).replace(microsecond=0)
    pki.init(folder, "test", now)
    for name in ("a", "b", "impostor"):
        pki.issue(folder, Wanted(name, ()), now)
    cluster.tls = lambda name: TlsFiles(
        str(folder / f"{name}.crt"), str(folder / f"{name}.key"), str(folder / "ca.crt")
    )


async def test_nodes_speak_tls_with_each_other_and_with_nobody_else(cluster: Cluster, tmp_path: Path):
    secure(cluster, tmp_path / "pki")
    holder, standby = await cluster.pair("a", "b")
    path, body = pack(3_000_000)

    assert (await holder.ask("POST", path, body)).status == 200
    assert (await holder.ask("DELETE", path)).status == 200
    assert (await holder.ask("POST", path, body)).status == 200

    assert standby.has(path, body)
    assert (await holder.replication())["copies"] == 2
    with socket.create_connection((HOST, standby.peer_port), timeout=10) as sock:
        sock.sendall(b"POST /v1/token HTTP/1.1\r\nHost: b\r\nContent-Length: 0\r\n\r\n")
        assert b"HTTP" not in await asyncio.to_thread(read_all, sock)


async def test_a_node_that_shows_another_name_is_no_member(cluster: Cluster, tmp_path: Path):
    secure(cluster, tmp_path / "pki")
    by_name = cluster.tls
    cluster.tls = lambda name: by_name("impostor" if name == "b" else name)
    holder, standby = await cluster.add("a", "b")
    cluster.insync = {"a", "b"}

    assert (await cluster.take(holder, 7)).ok

    assert cluster.insync == {"a"}
    path, body = pack()
    assert (await holder.ask("POST", path, body)).status == 200
    assert not standby.file(path).exists()


async def test_another_certificate_of_the_authority_cannot_speak_for_a_node(cluster: Cluster, tmp_path: Path):
    """Else whoever has one, of whatever machine, could depose the holder by a token that it made up."""
    secure(cluster, tmp_path / "pki")
    holder, standby = await cluster.pair("a", "b")
    peer = PeerAddress("a", "a", HOST, holder.peer_port)
    standby.process.members(Members("b", frozenset({"a", "b"}), (peer,)))
    await standby.process.status()  # it has heard the word before
    files = cluster.tls("impostor")
    assert files
    client = PeerClient(HOST, standby.peer_port, tls=client_context(files), name="b")

    for store in ("a", "made-up"):
        stamp = Stamp(LEASE, Mark(0, 99), store, "b", 1)
        with pytest.raises(PeerError, match="403: the certificate is not"):
            await asyncio.to_thread(client.ask, "POST", peer_wire.TOKEN, stamp)

    path, body = pack()
    assert (await holder.ask("POST", path, body)).status == 200
    assert standby.has(path, body)
    client.close()


async def test_nodes_speak_over_ipv6(cluster: Cluster):
    try:
        free_port("::1")
    except OSError:
        pytest.skip("this machine has no ::1 (kernel without IPv6; no package cures that)")
    cluster.peer_host = "::1"
    holder, standby = await cluster.pair("a", "b")
    path, body = pack()

    assert (await holder.ask("POST", path, body)).status == 200
    assert standby.has(path, body)


async def test_a_standby_whose_disk_takes_no_more_is_asked_out_and_the_upload_goes_on(cluster: Cluster):
    """A limit on the size of files stands for the disk: what the process writes past it is refused."""
    holder, standby = await cluster.pair("a", "b")
    resource.prlimit(standby.process.pid, resource.RLIMIT_FSIZE, (100_000, 100_000))
    path, body = pack(400_000)

    assert (await holder.ask("POST", path, body)).status == 200

    assert holder.has(path, body)
    assert cluster.insync == {"a"}
    assert not standby.file(path).exists()
    await standby.until(lambda: any(one.kind == "fault" for one in standby.notices), "its agent hears of it")
    assert standby.temporaries() == 0


async def test_nobody_waits_for_a_node_that_is_known_to_be_dead(cluster: Cluster):
    """Its process is frozen, which alone would cost seconds."""
    holder, standby = await cluster.pair("a", "b")
    standby.stop()
    path, body = pack(2_000_000)
    with holder.dial() as sock:
        sock.sendall(post_head(path, len(body)) + body)
        await holder.until(lambda: holder.temporaries() == 1, "the upload has begun")
        standby.alive = False
        cluster.tell()
        async with asyncio.timeout(2):
            answer = await asyncio.to_thread(sock.recv, 100)

    assert answer.startswith(b"HTTP/1.1 200 ")
    assert cluster.insync == {"a"}


async def test_a_standby_that_dies_while_nothing_happens_is_asked_out_by_and_by(cluster: Cluster):
    holder, standby = await cluster.pair("a", "b")
    await standby.die()

    await holder.until(lambda: cluster.insync == {"a"}, "it is out")


async def test_a_holder_that_hears_of_a_higher_token_on_its_own_port_closes_at_once(cluster: Cluster):
    holder, standby = await cluster.pair("a", "b")

    assert (await cluster.take(standby, 8)).ok

    await holder.until(lambda: any(one.kind == "closed" for one in holder.notices), "it closes")
    assert not (await holder.process.status()).gate_open
    assert cluster.insync == {"a", "b"}
