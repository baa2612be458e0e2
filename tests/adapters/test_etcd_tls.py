"""Mutual TLS: certificates checked on both sides, told plainly, and renewed without a restart."""

import asyncio
import shutil

import pytest

from leaseha.adapters.etcd import EtcdClient, Tls, WatchBatch
from leaseha.core.values import NS_PER_S, Committed, Put, Txn, Unknown
from leaseha.errors import StoreError, StoreUnavailable
from tests.adapters.certificates import Authority, needs_openssl
from tests.adapters.etcd_members import Members, needs_etcd

pytestmark = [pytest.mark.lab, needs_etcd, needs_openssl]

PREFIX = "/leaseha/tls/"
SOON_S = 20


def write(value):
    return Txn((), (Put("key", str(value)),), ())


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("pki") / "ours")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("pki") / "strange")


@pytest.fixture(scope="module")
def secured(authority, tmp_path_factory):
    cert, key = authority.issue("member")
    options = (
        f"--cert-file={cert}",
        f"--key-file={key}",
        f"--trusted-ca-file={authority.ca}",
        "--client-cert-auth",
    )
    with Members(tmp_path_factory.mktemp("tls"), options=options) as members:
        yield members


@pytest.fixture
def files(authority, tmp_path):
    """The files that a node is configured with, which may be replaced."""
    cert, key = authority.issue("node")
    for path, name in ((authority.ca, "ca.pem"), (cert, "node.pem"), (key, "node.key")):
        shutil.copy(path, tmp_path / name)
    return Tls(tmp_path / "ca.pem", tmp_path / "node.pem", tmp_path / "node.key")


def replace(files, cert, key):
    shutil.copy(cert, files.cert)
    shutil.copy(key, files.key)


async def test_both_sides_show_their_certificates(secured, files):
    client = EtcdClient(secured.endpoints, PREFIX, tls=files)
    await client.wait_ready(20)
    assert isinstance(await client.commit(write(1), 0, 5 * NS_PER_S), Committed)
    await client.close()


async def test_a_client_without_a_certificate_is_kept_out(secured, authority):
    client = EtcdClient(secured.endpoints, PREFIX, tls=Tls(authority.ca))
    with pytest.raises(StoreUnavailable) as caught:
        await client.wait_ready(1)
    assert secured.endpoints[0] in str(caught.value)
    await client.close()


async def test_a_member_of_another_authority_is_not_spoken_to_and_the_reason_is_told(secured, stranger):
    client = EtcdClient(secured.endpoints, PREFIX, tls=Tls(stranger.ca, *stranger.issue("node")))
    with pytest.raises(StoreUnavailable, match=r"(?i)certificate"):
        await client.wait_ready(1)
    await client.close()


async def test_renewed_certificates_are_used_without_a_restart(secured, files, authority, stranger):
    """To see that files are read anew, bad ones come between: they must fail, and the next good ones work."""
    client = EtcdClient(secured.endpoints, PREFIX, tls=files, silence_s=0.5)
    head = await client.wait_ready(20)
    news = asyncio.Queue()
    watching = asyncio.create_task(client.watch(head.revision + 1, news.put_nowait))
    first = await client.commit(write(1), 0, 5 * NS_PER_S)
    replace(files, *stranger.issue("node"))
    await client.reload_certificates()
    assert isinstance(await client.commit(write(2), 0, 2 * NS_PER_S), Unknown)
    replace(files, *authority.issue("node"))
    await client.reload_certificates()
    last = await client.commit(write(3), 0, 5 * NS_PER_S)
    assert isinstance(last, Committed)
    told = []
    async with asyncio.timeout(SOON_S):
        while last.head.revision not in told:
            batch = await news.get()
            assert isinstance(batch, WatchBatch)
            told += [change.revision for change in batch.changes]
    assert told == [first.head.revision, last.head.revision]
    watching.cancel()
    await asyncio.wait({watching})
    await client.close()


async def test_damaged_files_are_refused_and_the_old_channels_stay(secured, files):
    client = EtcdClient(secured.endpoints, PREFIX, tls=files)
    await client.wait_ready(20)
    files.cert.write_text("not a certificate")
    with pytest.raises(StoreError) as caught:
        await client.reload_certificates()
    assert str(files.cert) in str(caught.value)
    assert isinstance(await client.commit(write(1), 0, 5 * NS_PER_S), Committed)
    await client.close()


async def test_a_key_of_another_certificate_is_refused(files, authority):
    _, key = authority.issue("other")
    shutil.copy(key, files.key)
    with pytest.raises(StoreError, match=r"(?i)key"):
        files.credentials()


async def test_a_missing_file_is_named(files):
    files.ca.unlink()
    with pytest.raises(StoreError, match=r"ca\.pem"):
        EtcdClient(["https://127.0.0.1:1"], PREFIX, tls=files)
