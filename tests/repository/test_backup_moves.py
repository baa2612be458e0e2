"""A real backup goes on when its holder dies, and the standby's own directory has all that was acknowledged."""

import asyncio
import shutil
import threading

import pytest

from chaos.backups.proxy import Proxy, Record
from chaos.backups.record import audit, expected, read
from tests.repository.cluster import Cluster
from tests.repository.served import HOST
from tests.repository.test_restic import Restic, make_source

pytestmark = pytest.mark.skipif(shutil.which("restic") is None, reason="needs restic (Debian package restic)")

HALF_WAY = 8_000_000


async def test_a_backup_over_the_death_of_its_holder_lacks_nothing(cluster: Cluster, tmp_path):
    holder, standby = await cluster.pair("a", "b")
    record = tmp_path / "record.jsonl"
    proxy = Proxy((HOST, holder.port), Record(record))
    serving = threading.Thread(target=proxy.serve, daemon=True)
    serving.start()
    restic = Restic(f"rest:http://{HOST}:{proxy.port}/user/laptop", tmp_path)
    source = make_source(tmp_path / "source", extra=8)
    await asyncio.to_thread(restic, "init")

    backup = asyncio.create_task(asyncio.to_thread(restic, "--limit-upload", "16000", "backup", str(source)))
    await holder.until(
        lambda: sum(one.bytes for one in read(record)) > HALF_WAY, "the backup is half-way", timeout_s=60
    )
    await holder.die()
    holder.alive = False
    standby.port = holder.port
    assert (await cluster.take(standby, 8)).ok
    await backup

    found = audit(expected(read(record)), standby.root)
    assert found.clean, found
    assert found.promised_bytes > HALF_WAY
    assert "no errors were found" in await asyncio.to_thread(restic, "check", "--read-data")
    direct = Restic(str(standby.root / "user/laptop"), tmp_path)
    assert "no errors were found" in await asyncio.to_thread(direct, "check", "--read-data")
    proxy.close()
    serving.join(20)
