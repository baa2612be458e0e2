"""What `leaseha check` says of a certificate that clients would see."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from leaseha.adapters import pki
from leaseha.config import parse
from leaseha.runtime.certificates import examine

NOW = datetime.now(UTC).replace(microsecond=0)
TEXT = """
cluster = "c"
node.name = "node1"
etcd.endpoints = ["http://10.0.0.1:2379"]
[lease.backups]
vips = ["192.168.0.50/24"]
priority = {{ node1 = 100 }}
[lease.backups.repository]
path = "/srv/backups"
cert = "{cert}"
key = "{key}"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    pki.init(tmp_path, "c", NOW)
    for name in ("good", "other"):
        pki.issue(tmp_path, pki.Wanted(name, ("192.168.0.50",), days=100, serves_clients=True), NOW)
    return tmp_path


def told(cert: Path, key: Path, later: timedelta = timedelta()) -> list[tuple[bool, str]]:
    config = parse(TEXT.format(cert=cert, key=key), environ={})
    return examine(config, int((NOW + later).timestamp() * 1000))


def test_nothing_is_said_of_a_good_one(folder):
    assert told(folder / "good.crt", folder / "good.key") == []


@pytest.mark.parametrize(
    ("days", "grave", "words"),
    [(85, False, "pki renew"), (101, True, "nobody takes it now"), (-2, True, "nobody takes")],
)
def test_an_end_is_told_before_and_after_it_came(folder, days, grave, words):
    ((found, text),) = told(folder / "good.crt", folder / "good.key", timedelta(days=days))

    assert (found, words in text) == (grave, True)


def test_a_key_of_another_certificate_is_told(folder):
    ((grave, text),) = told(folder / "good.crt", folder / "other.key")

    assert (grave, "with its key" in text) == (True, True)


@pytest.mark.parametrize(("name", "found"), [("node1", []), ("node2", [True])])
def test_a_certificate_for_other_nodes_must_name_this_one(tmp_path, name, found):
    pki.init(tmp_path, "c", NOW)
    made = pki.issue(tmp_path, pki.Wanted(name), NOW)
    files = {"peer_ca": tmp_path / "ca.crt", "peer_cert": made.certificate, "peer_key": made.key}
    peer = "replicate = true\n" + "".join(f'{key} = "{path}"\n' for key, path in files.items())
    text = TEXT.format(cert="", key="").replace('cert = ""\nkey = ""\n', peer)

    told = examine(parse(text, environ={}), int(NOW.timestamp() * 1000))

    assert [grave for grave, _ in told] == found


def test_a_bare_vip_and_plain_http_have_nothing_to_tell():
    plain = TEXT.split("[lease.backups.repository]", maxsplit=1)[0].format()
    config = parse(plain, environ={})

    assert examine(config, 0) == []
