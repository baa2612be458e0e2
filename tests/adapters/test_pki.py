"""The small authority: what it writes is taken by OpenSSL, and by nothing that it should not be taken by."""

import shutil
import ssl
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from leaseha.adapters import pki
from leaseha.adapters.pki import Wanted
from leaseha.errors import OperationalError, UsageError

NOW = datetime.now(UTC).replace(microsecond=0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    pki.init(tmp_path / "pki", "backup", NOW)
    return tmp_path / "pki"


def test_a_key_can_be_read_by_its_owner_alone(folder: Path):
    made = pki.issue(folder, Wanted("a1"), NOW)

    assert {path.stat().st_mode & 0o777 for path in (made.key, folder / "ca.key")} == {0o600}
    assert folder.stat().st_mode & 0o777 == 0o700
    assert sorted(path.name for path in folder.iterdir()) == ["a1.crt", "a1.key", "ca.crt", "ca.key"]


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl (Debian: openssl)")
@pytest.mark.parametrize(
    ("public", "purpose", "good"),
    [
        (False, "sslserver", True),
        (False, "sslclient", True),
        (True, "sslserver", True),
        (True, "sslclient", False),
    ],
)
def test_openssl_takes_it_for_its_purpose_and_no_other(folder: Path, public, purpose, good):
    made = pki.issue(folder, Wanted("backup.example", ("10.0.0.50",), serves_clients=public), NOW)

    verify = ["openssl", "verify", "-x509_strict", "-purpose", purpose, "-verify_ip", "10.0.0.50"]
    asked = subprocess.run(
        [*verify, "-CAfile", folder / "ca.crt", made.certificate], capture_output=True, check=False
    )

    assert (asked.returncode == 0) is good, asked.stderr


def test_renewing_keeps_the_key_the_names_and_the_purpose(folder: Path):
    pki.issue(folder, Wanted("vip", ("10.0.0.50",), days=10, serves_clients=True), NOW)
    key = (folder / "vip.key").read_bytes()

    renewed = pki.renew(folder, "vip", NOW + timedelta(days=9))

    assert renewed.until == NOW + timedelta(days=9 + pki.CERTIFICATE_DAYS)
    assert renewed.names == ("vip", "10.0.0.50")
    assert (folder / "vip.key").read_bytes() == key
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(renewed.certificate, renewed.key)
    assert [one.name for one in pki.issued(folder)] == ["vip"]


@pytest.mark.parametrize("name", ["", "../a", "a/b", "-a", "ca", "a b", "x" * 64])
def test_a_name_that_could_be_another_file_is_refused(folder: Path, name):
    with pytest.raises(UsageError):
        pki.issue(folder, Wanted(name), NOW)


def test_nothing_is_overwritten_and_what_is_missing_is_said(folder: Path, tmp_path: Path):
    pki.issue(folder, Wanted("a1"), NOW)
    pki.init(tmp_path / "other", "backup", NOW)
    shutil.copy(folder / "a1.crt", tmp_path / "other/a1.crt")
    shutil.copy(folder / "a1.key", tmp_path / "other/a1.key")

    with pytest.raises(OperationalError, match="authority already"):
        pki.init(folder, "backup", NOW)
    with pytest.raises(OperationalError, match="renew a1"):
        pki.issue(folder, Wanted("a1"), NOW)
    with pytest.raises(OperationalError, match="No such file"):
        pki.renew(folder, "b1", NOW)
    with pytest.raises(OperationalError, match="not of the authority"):
        pki.renew(tmp_path / "other", "a1", NOW)
    with pytest.raises(OperationalError, match="before this certificate would"):
        pki.issue(folder, Wanted("b1", days=3650), NOW + timedelta(days=1))
