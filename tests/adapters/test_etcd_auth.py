"""User and password: tokens that end, wrong passwords, permissions that are missing."""

import asyncio

import pytest

from leaseha.adapters.etcd import EtcdClient, User, WatchBatch
from leaseha.adapters.etcd.messages import rpc
from leaseha.core.values import NS_PER_S, Committed, Put, Txn, Unknown
from leaseha.errors import StoreDenied
from tests.adapters.etcd_members import BINARIES, Members

pytestmark = pytest.mark.lab

PREFIX = "/leaseha/auth/"
AGENT = User("agent", "secret")
ROOT = User("root", "root's own")
SOON_S = 20


def write(value):
    return Txn((), (Put("key", str(value)),), ())


@pytest.fixture(scope="module", params=BINARIES)
def guarded(request, tmp_path_factory):
    """An etcd with users; `agent` may use its prefix only."""
    with Members(tmp_path_factory.mktemp("auth"), request.param) as members:
        asyncio.run(switch_on(members))
        yield members


async def switch_on(members):
    client = EtcdClient(members.endpoints, PREFIX)
    await client.wait_ready(20)
    auth = client._ring.members[0].auth
    for user in (ROOT, AGENT):
        await auth.UserAdd(rpc.AuthUserAddRequest(name=user.name, password=user.password))
        await auth.RoleAdd(rpc.AuthRoleAddRequest(name=user.name))
        await auth.UserGrantRole(rpc.AuthUserGrantRoleRequest(user=user.name, role=user.name))
    grant = rpc.AuthRoleGrantPermissionRequest(name=AGENT.name)
    grant.perm.permType = 2  # read and write
    grant.perm.key, grant.perm.range_end = PREFIX.encode(), client._prefix.end()
    await auth.RoleGrantPermission(grant)
    await auth.AuthEnable(rpc.AuthEnableRequest())
    await client.close()


@pytest.fixture
async def login(guarded):
    """Clients that are closed in the end: `login(user)`."""
    clients = []

    def make(user, prefix=PREFIX):
        clients.append(EtcdClient(guarded.endpoints, prefix, user=user, silence_s=0.5))
        return clients[-1]

    yield make
    for client in clients:
        await client.close()


async def test_a_user_may_do_all_that_an_agent_does(login):
    client = login(AGENT)
    head = await client.wait_ready(20)
    lease = await client.grant(30)
    news = asyncio.Queue()
    watching = asyncio.create_task(client.watch(head.revision + 1, news.put_nowait))
    outcome = await client.commit(Txn((), (Put("key", "v", lease),), ()), 0, 5 * NS_PER_S)
    assert isinstance(outcome, Committed)
    async with asyncio.timeout(SOON_S):
        assert isinstance(await news.get(), WatchBatch)
    assert await client.keepalive_once(lease) == 30
    assert [kv.value for kv in (await client.read_all())[1]] == ["v"]
    assert await client.revoke(lease)
    assert [status.why for status in await client.status()] == [""]
    watching.cancel()
    await asyncio.wait({watching})


async def test_a_wrong_password_is_told_at_once_and_plainly(login):
    client = login(User("agent", "wrong"))
    with pytest.raises(StoreDenied) as caught:
        async with asyncio.timeout(SOON_S):
            await client.wait_ready(60)
    assert "does not accept this user and password" in str(caught.value)
    assert "wrong" not in str(caught.value)
    assert isinstance(await client.commit(write(1), 0, 5 * NS_PER_S), Unknown)
    assert "does not accept" in client.denied


async def test_a_missing_user_is_told_at_once_and_plainly(login):
    with pytest.raises(StoreDenied, match="wants a user and a password"):
        async with asyncio.timeout(SOON_S):
            await login(None).wait_ready(60)


async def test_a_missing_permission_is_told_and_nothing_is_written(login):
    client = login(AGENT, "/leaseha/other/")
    outcome = await client.commit(write(1), 0, 5 * NS_PER_S)
    assert isinstance(outcome, Unknown)
    assert "permission denied" in outcome.why
    assert "permission denied" in client.denied
    with pytest.raises(StoreDenied, match="permission denied"):
        await client.read_all()
    assert (await login(ROOT, "/leaseha/other/").read_all())[1] == ()


async def test_tokens_that_a_restart_has_forgotten_are_renewed_and_nothing_else_is_noticed(guarded, login):
    client = login(AGENT)
    head = await client.wait_ready(20)
    lease = await client.grant(30)
    news = asyncio.Queue()
    watching = asyncio.create_task(client.watch(head.revision + 1, news.put_nowait))
    guarded.restart(0)
    async with asyncio.timeout(SOON_S):
        while not isinstance(outcome := await client.commit(write("after"), 0, NS_PER_S), Committed):
            assert "token" not in outcome.why, "a token is renewed within the attempt"
        while (batch := await news.get()).changes[-1].revision < outcome.head.revision:
            pass
    assert batch.changes[-1].now.value == "after"
    assert await client.keepalive_once(lease) == 30
    assert not client.denied
    watching.cancel()
    await asyncio.wait({watching})


async def test_many_calls_that_are_turned_away_renew_the_token_once(login):
    client = login(AGENT)
    await client.wait_ready(20)
    token = client._token
    token._value, before = "forgotten.1", token.generation
    outcomes = await asyncio.gather(*(client.commit(write(n), 0, 5 * NS_PER_S) for n in range(20)))
    assert all(isinstance(outcome, Committed) for outcome in outcomes)
    assert token.generation == before + 1


async def test_a_renewal_goes_on_when_the_call_that_wanted_it_gives_up(login):
    client = login(AGENT)
    await client.wait_ready(20)
    token = client._token
    token._value, before = "forgotten.1", token.generation
    outcome = await client.commit(write(1), 0, NS_PER_S // 50)
    assert isinstance(outcome, (Unknown, Committed))
    async with asyncio.timeout(SOON_S):
        while not isinstance(await client.commit(write(2), 0, NS_PER_S // 50), Committed):
            pass
    assert token.generation == before + 1


async def test_a_watch_whose_token_is_forgotten_gets_a_new_one(login):
    client, other = login(AGENT), login(AGENT)
    head = await client.wait_ready(20)
    client._token._value = "forgotten.1"
    news = asyncio.Queue()
    watching = asyncio.create_task(client.watch(head.revision + 1, news.put_nowait))
    assert isinstance(await other.commit(write("seen"), 0, 5 * NS_PER_S), Committed)
    async with asyncio.timeout(SOON_S):
        batch = await news.get()
    assert batch.changes[-1].now.value == "seen"
    watching.cancel()
    await asyncio.wait({watching})


async def test_a_user_does_no_harm_where_etcd_has_none(tmp_path):
    with Members(tmp_path) as members:
        client = EtcdClient(members.endpoints, PREFIX, user=AGENT)
        await client.wait_ready(20)
        assert isinstance(await client.commit(write(1), 0, 5 * NS_PER_S), Committed)
        await switch_on(members)
        assert isinstance(await client.commit(write(2), 0, 5 * NS_PER_S), Committed), "a token is got then"
        await client.close()


def test_a_password_is_not_shown():
    assert "secret" not in repr(AGENT)
