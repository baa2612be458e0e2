"""Certificates for tests, made with the openssl command."""

from __future__ import annotations

import pathlib
import shutil
import subprocess

import pytest

needs_openssl = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="needs the openssl command (Debian: openssl)"
)


def _openssl(*arguments: object) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True, timeout=60)


class Authority:
    """A certificate authority in a folder of its own; `ca` is its certificate."""

    def __init__(self, folder: pathlib.Path) -> None:
        folder.mkdir()
        self.folder = folder
        self.ca = folder / "ca.pem"
        self._key = folder / "ca.key"
        subject = f"/CN=authority {folder.name}"
        new = ("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
        _openssl(*new, "-keyout", self._key, "-out", self.ca, "-subj", subject, "-days", 2)

    def issue(self, name: str, days: int = 2) -> tuple[pathlib.Path, pathlib.Path]:
        """Certificate and key for 127.0.0.1, as server and as client."""
        cert, key, request = (self.folder / f"{name}.{end}" for end in ("pem", "key", "csr"))
        extensions = self.folder / f"{name}.ext"
        extensions.write_text("subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n")
        new = ("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
        _openssl(*new, "-keyout", key, "-out", request, "-subj", f"/CN={name}")
        sign = ("x509", "-req", "-in", request, "-CA", self.ca, "-CAkey", self._key, "-CAcreateserial")
        _openssl(*sign, "-out", cert, "-days", days, "-extfile", extensions)
        return cert, key
