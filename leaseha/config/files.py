"""Files that the configuration names: there, readable, of the right kind, and closed to strangers."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

from leaseha.config.faults import Faults, quoted
from leaseha.config.model import Config, LeaseConfig, Script
from leaseha.errors import ConfigError

LARGEST_SECRET: Final = 4096
LARGEST_PEM: Final = 1 << 20


def check_files(config: Config, faults: Faults) -> None:
    """Notes a fault for each file that cannot serve its purpose. Reads them, changes nothing."""
    etcd = config.etcd
    if etcd.ca is not None:
        _pem(faults, "etcd.ca", etcd.ca, b"CERTIFICATE", "certificates of authorities")
    if etcd.cert is not None:
        _pem(faults, "etcd.cert", etcd.cert, b"CERTIFICATE", "the certificate of this node")
    if etcd.key is not None and _pem(
        faults, "etcd.key", etcd.key, b"PRIVATE KEY", "the private key of this node"
    ):
        _closed(faults, "etcd.key", etcd.key)
    if etcd.password_file is not None:
        _password(faults, "etcd.password_file", etcd.password_file)
    for lease in config.leases:
        _door(faults, lease)
        _copies(faults, lease)
        for check in lease.checks:
            if isinstance(check.probe, Script):
                _program(faults, f"lease.{lease.name}.check.{check.name}.script", Path(check.probe.argv[0]))


def _door(faults: Faults, lease: LeaseConfig) -> None:
    if lease.repository is None:
        return
    door, section = lease.repository.door, f"lease.{lease.name}.repository"
    if door.cert is not None:
        _pem(faults, f"{section}.cert", door.cert, b"CERTIFICATE", "the certificate that clients see")
    if door.key is not None and _pem(
        faults, f"{section}.key", door.key, b"PRIVATE KEY", "the private key of that certificate"
    ):
        _closed(faults, f"{section}.key", door.key)


def _copies(faults: Faults, lease: LeaseConfig) -> None:
    copies = lease.repository.copies if lease.repository is not None else None
    if copies is None:
        return
    section = f"lease.{lease.name}.repository"
    if copies.ca is not None:
        _pem(faults, f"{section}.peer_ca", copies.ca, b"CERTIFICATE", "the authority of all nodes")
    if copies.cert is not None:
        _pem(faults, f"{section}.peer_cert", copies.cert, b"CERTIFICATE", "the certificate of this node")
    if copies.key is not None and _pem(
        faults, f"{section}.peer_key", copies.key, b"PRIVATE KEY", "the private key of this node"
    ):
        _closed(faults, f"{section}.peer_key", copies.key)


def read_password(path: Path) -> str:
    """The password in a file: its first and only line.

    Raises:
        ConfigError: the file cannot be read, is empty, or has a second line.

    """
    faults = Faults()
    found = _password(faults, "etcd.password_file", path)
    faults.raise_if_any("")
    return found


def read_config(path: Path, largest: int) -> str:
    """The text of a configuration file.

    Raises:
        ConfigError: it cannot be read, is too large, or is not UTF-8.

    """
    faults = Faults()
    raw = _read(faults, "--config", path, largest)
    if raw is not None:
        try:
            return raw.decode("utf-8-sig")
        except UnicodeDecodeError as e:
            faults.add(
                "--config", quoted(str(path)), f"is not UTF-8 at byte {e.start}: save it as UTF-8 text"
            )
    faults.raise_if_any("")
    raise ConfigError.single("--config", quoted(str(path)), "cannot be read; name another file")


def _read(faults: Faults, key: str, path: Path, largest: int) -> bytes | None:
    """The bytes of a regular file, or None and a fault."""
    shown = quoted(str(path))
    try:
        # Without O_NONBLOCK a FIFO in this place would hang the agent's start.
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        faults.add(key, shown, "there is no such file: create it, or name the right one")
        return None
    except PermissionError:
        faults.add(key, shown, "may not be read by this account: give it to the account that runs leaseha")
        return None
    except (OSError, ValueError) as e:
        faults.add(key, shown, f"cannot be opened ({getattr(e, 'strerror', None) or e}): name a regular file")
        return None
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        faults.add(key, shown, "is no regular file: name one")
        return None
    with os.fdopen(handle, "rb") as file:
        try:
            raw = file.read(largest + 1)
        except OSError as e:
            faults.add(key, shown, f"cannot be read ({e.strerror}): name a file that can")
            return None
    if len(raw) > largest:
        faults.add(
            key, shown, f"has more than {largest} bytes: that is not what is meant here, name the right file"
        )
        return None
    return raw


def _pem(faults: Faults, key: str, path: Path, kind: bytes, what: str) -> bool:
    raw = _read(faults, key, path, LARGEST_PEM)
    if raw is None:
        return False
    if b"-----BEGIN" not in raw or kind + b"-----" not in raw:
        faults.add(key, quoted(str(path)), f"does not hold {what} in PEM form: name the file that does")
        return False
    return True


def _closed(faults: Faults, key: str, path: Path) -> bool:
    mode = path.stat().st_mode
    if mode & (stat.S_IROTH | stat.S_IWOTH):
        remedy = f"every account of this host may read it (mode {mode & 0o777:03o}): chmod 600 {path}"
        faults.add(key, quoted(str(path)), remedy)
        return False
    return True


def _password(faults: Faults, key: str, path: Path) -> str:
    raw = _read(faults, key, path, LARGEST_SECRET)
    if raw is None or not _closed(faults, key, path):
        return ""
    shown = quoted(str(path))
    try:
        found = raw.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        faults.add(key, shown, "is not UTF-8 text: write the password into it, and nothing else")
        return ""
    if not found or "\n" in found:
        faults.add(key, shown, "holds none or several lines: write the password into it, and nothing else")
        return ""
    return found


def _program(faults: Faults, key: str, path: Path) -> None:
    shown = quoted(str(path))
    try:
        mode = path.stat().st_mode
    except OSError as e:
        faults.add(key, shown, f"cannot be found ({e.strerror}): name a program that is there")
        return
    if not stat.S_ISREG(mode) or not mode & 0o111:
        faults.add(key, shown, f"is no program: name one, or chmod 755 {path}")
    elif mode & stat.S_IWOTH:
        faults.add(
            key, shown, f"every account of this host may change what the agent would run: chmod 755 {path}"
        )
