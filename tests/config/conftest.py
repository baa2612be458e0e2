"""Files that a configuration may name, and the good configuration that tests change in one place."""

import pathlib

import pytest

GOOD = """
cluster = "backup"

[node]
name = "node1"

[etcd]
endpoints = ["http://10.0.0.1:2379", "http://10.0.0.2:2379", "http://10.0.0.3:2379"]

[lease.backups]
vips = ["192.168.0.50/24"]
priority = { node1 = 100, node2 = 50 }
"""

CERTIFICATE = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
PRIVATE = "-----BEGIN PRIVATE KEY-----\nMIIB\n-----END PRIVATE KEY-----\n"
FILES = (
    ("ca.pem", CERTIFICATE, 0o644),
    ("node.pem", CERTIFICATE, 0o644),
    ("node.key", PRIVATE, 0o600),
    ("open.key", PRIVATE, 0o644),
    ("password", "correct horse\n", 0o600),
    ("open.password", "correct horse\n", 0o644),
    ("two-lines", "correct\nhorse\n", 0o600),
    ("empty", "", 0o600),
    ("program", "#!/bin/sh\n", 0o755),
    ("open-program", "#!/bin/sh\n", 0o757),
)


def put_files(home: pathlib.Path) -> pathlib.Path:
    """Certificates, keys, passwords and programs, good and bad ones, in a new directory."""
    home.mkdir()
    for name, text, mode in FILES:
        (home / name).write_text(text)
        (home / name).chmod(mode)
    return home


@pytest.fixture
def files(tmp_path: pathlib.Path) -> pathlib.Path:
    """A directory with what a configuration may name."""
    return put_files(tmp_path / "files")


@pytest.fixture
def good() -> str:
    """A small configuration without a fault or a warning."""
    return GOOD
