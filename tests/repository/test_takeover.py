"""A standby becomes holder: nothing acknowledged is missing, nothing else differs between members. Real processes."""

import asyncio

from leaseha.repository.store import DirectoryStore
from tests.repository.cluster import Cluster, Node, pack
from tests.repository.served import post_head, read_all


async def remove(cluster: Cluster, node: Node) -> None:
    """Its node is dead, as the agents say."""
    await node.die()
    node.alive = False


async def test_a_standby_serves_every_acknowledged_object_after_the_holder_was_killed_in_mid_upload(
    cluster: Cluster,
):
    holder, standby = await cluster.pair("a", "b")
    packs = [pack() for _ in range(4)]
    for path, body in packs:
        assert (await holder.ask("POST", path, body)).status == 200
    path, body = pack(2_000_000)
    with holder.dial() as sock:
        sock.sendall(post_head(path, len(body)) + body[:-1])
        await holder.until(lambda: standby.temporaries() == 1, "the standby takes it too")
        await remove(cluster, holder)

    assert (await cluster.take(standby, 8)).ok

    assert cluster.insync == {"b"}
    for stored, bytes_ in packs:
        assert (await standby.ask("GET", stored)).body == bytes_
    assert (await standby.ask("HEAD", path)).status == 404
    await standby.until(lambda: standby.temporaries() == 0, "what was begun is gone")
    assert (await standby.ask("POST", path, body)).status == 200


async def test_an_object_that_only_another_member_has_is_put_aside_there_before_the_gate_opens(
    cluster: Cluster,
):
    """b got it and c did not; nothing was acknowledged; a dies; c takes over."""
    holder, second, third = await cluster.pair("a", "b", "c")
    cluster.obeys = False
    path, body = pack(20_000_000)  # more than fits into the buffers of one that does not read
    third.stop()
    upload = holder.asking("POST", path, body)
    await holder.until(lambda: second.has(path, body), "b has it")
    await remove(cluster, holder)
    third.go_on()
    await asyncio.gather(upload, return_exceptions=True)
    cluster.obeys = True

    assert (await cluster.take(third, 8)).ok

    assert cluster.insync == {"b", "c"}
    assert not third.has(path, body)
    assert not second.file(path).exists()
    (kept,) = DirectoryStore(second.root).quarantine.entries()
    assert kept.path.read_bytes() == body
    assert (await third.replication())["copies"] == 2


async def test_what_the_new_holder_has_alone_is_given_to_the_other_members_before_the_gate_opens(
    cluster: Cluster,
):
    holder, second, third = await cluster.pair("a", "b", "c")
    cluster.obeys = False
    path, body = pack()
    third.stop()
    upload = holder.asking("POST", path, body)
    await holder.until(lambda: second.has(path, body), "b has it")
    await remove(cluster, holder)
    third.go_on()
    await asyncio.gather(upload, return_exceptions=True)
    cluster.obeys = True

    assert (await cluster.take(second, 8)).ok

    assert cluster.insync == {"b", "c"}
    assert third.has(path, body)
    assert (await second.ask("GET", path)).body == body


async def test_a_holder_that_wakes_up_is_refused_by_token_and_says_so(cluster: Cluster):
    holder, standby = await cluster.pair("a", "b")
    path, body = pack(2_000_000)
    with holder.dial() as sock:
        sock.sendall(post_head(path, len(body)) + body[:-1])
        await holder.until(lambda: standby.temporaries() == 1, "the standby takes it too")
        holder.stop()
        holder.alive = False
        assert (await cluster.take(standby, 8)).ok
        holder.go_on()
        sock.sendall(body[-1:])
        answer = await asyncio.to_thread(read_all, sock)
        assert answer.startswith(b"HTTP/1.1 503 ") or not answer
    await holder.until(lambda: any(one.kind == "stale" for one in holder.notices), "it says so")

    assert next(one.highest for one in holder.notices if one.kind == "stale") == 8
    assert not (await holder.process.status()).gate_open
    assert not standby.file(path).exists()
    assert not holder.file(path).exists()


async def test_a_member_that_cannot_be_reached_must_leave_the_set_before_the_gate_opens(cluster: Cluster):
    holder, second, third = await cluster.pair("a", "b", "c")
    await remove(cluster, holder)
    third.stop()
    cluster.obeys = False

    taking = asyncio.create_task(cluster.take(second, 8))
    await second.until(lambda: cluster.last_wants == {"b"}, "both are asked out")
    early = second.asking("GET", "/r/data/")  # is held, not refused
    done, _ = await asyncio.wait([taking, early], timeout=0.5)
    assert not done
    cluster.obey()

    assert (await taking).ok
    assert (await early).status == 200


async def test_a_gate_stays_shut_when_the_set_cannot_be_changed(cluster: Cluster):
    holder, standby = await cluster.pair("a", "b")
    await remove(cluster, holder)
    cluster.obeys = False

    answer = await cluster.take(standby, 8)

    assert not answer.ok
    assert answer.why == "members that cannot be asked could not be taken out of the set"
    assert not (await standby.process.status()).gate_open


async def test_a_member_whose_process_has_restarted_is_not_trusted_at_a_takeover(cluster: Cluster):
    holder, second, third = await cluster.pair("a", "b", "c")
    await remove(cluster, holder)
    await third.die()
    await third.restart()

    assert (await cluster.take(second, 8)).ok

    assert cluster.written[0] == {"b"}
    await cluster.all_in_sync("b", "c")


async def test_a_restarted_process_that_takes_over_trusts_nobody_else(cluster: Cluster):
    holder, second, third = await cluster.pair("a", "b", "c")
    await remove(cluster, holder)
    await second.die()
    await second.restart()

    assert (await cluster.take(second, 8)).ok

    assert cluster.written[0] == {"b"}
    assert third.alive


async def test_a_planned_move_and_back_keeps_all_members(cluster: Cluster):
    first, second, third = await cluster.pair("a", "b", "c")
    packs = [pack() for _ in range(3)]
    for token, (node, before) in enumerate(((second, first), (third, second), (first, third)), start=8):
        assert (await before.process.stop(1)).ok
        assert (await cluster.take(node, token)).ok
        assert cluster.insync == {"a", "b", "c"}
        path, body = packs[token - 8]
        assert (await node.ask("POST", path, body)).status == 200

    for node in (first, second, third):
        assert all(node.has(path, body) for path, body in packs)


async def test_after_a_stop_no_member_is_spoken_to_and_the_gate_can_open_again(cluster: Cluster):
    holder, standby = await cluster.pair("a", "b")
    assert (await holder.process.stop(0.1)).ok

    assert (await cluster.take(holder, 9)).ok

    assert cluster.insync == {"a", "b"}
    path, body = pack()
    assert (await holder.ask("POST", path, body)).status == 200
    assert standby.has(path, body)
