"""One version of restic on the client's host: a repository through the proxy, its backup and its check."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from leaseha.errors import LabError
from leaseha.lab.host import Host

PASSWORD: Final = "only for the lab"  # noqa: S105 - the repository is made for one run and removed with it
REPOSITORY: Final = "demo"
_FILE: Final = 1 << 20
_POLL_S: Final = 0.004
_CHECK_S: Final = 120.0


@dataclass(frozen=True, slots=True)
class Version:
    """A program that was found."""

    path: str
    name: str
    """Such as `restic 0.14.0`."""


def version_of(path: str) -> Version:
    """Raises LabError if it does not start."""
    try:
        done = subprocess.run([path, "version"], capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError) as trouble:
        raise LabError(f"{path} is no restic: {trouble} (the Debian package is restic)") from trouble
    return Version(path, " ".join(done.stdout.split()[:2]))


class Restic:
    """Commands on `host`, against the repository at `url`."""

    def __init__(self, version: Version, host: Host, folder: Path, url: str) -> None:
        self.version = version
        self.source = folder / "files"
        self.log = folder / "backup.log"
        self._host = host
        self._url = url
        self._cache = folder / "cache"
        self._process: subprocess.Popen[str] | None = None

    def make_files(self, size: int) -> None:
        """Random ones, of `size` bytes together."""
        self.source.mkdir(parents=True)
        for number in range(max(1, size // _FILE)):
            (self.source / f"random-{number}").write_bytes(os.urandom(_FILE))

    def init(self) -> None:
        """Raises LabError."""
        self._run("init")

    def start(self, limit_kib_s: int) -> None:
        """Begin to back up, at this speed at most."""
        command = self._command("backup", str(self.source), "--limit-upload", str(limit_kib_s))
        self._process = self._host.popen(command, log=self.log, env=self._env())

    @property
    def running(self) -> bool:
        """The backup has begun and not ended."""
        return self._process is not None and self._process.poll() is None

    def wait_for(self, what: str, fact: Callable[[], bool], timeout_s: float) -> None:
        """While it runs. Raises LabError if the backup ends first, or the time is over."""
        end = time.monotonic() + timeout_s
        while not fact():
            if not self.running or time.monotonic() > end:
                raise LabError(f"the backup did not come to: {what}\n{self.output()[-800:]}")
            time.sleep(_POLL_S)

    def wait(self, timeout_s: float) -> int | None:
        """The backup's exit code; None if it did not end in time (it is killed then)."""
        if self._process is None:
            raise LabError("no backup was started")
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            return None

    def output(self) -> str:
        """Of the backup."""
        return self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""

    def check(self, repository: str = "") -> str:
        """`restic check --read-data`; empty: no errors. `repository`: another one than that at the URL."""
        try:
            done = self._host.run(
                self._command("--no-cache", "check", "--read-data", repository=repository),
                timeout_s=_CHECK_S,
                env=self._env(),
            )
        except subprocess.TimeoutExpired:
            return f"no end within {_CHECK_S:g} s"
        good = done.returncode == 0 and "no errors were found" in done.stdout
        return "" if good else done.stdout.strip()[-600:] or f"exit {done.returncode}"

    def _run(self, *arguments: str) -> None:
        done = self._host.run(self._command(*arguments), env=self._env(), timeout_s=60)
        if done.returncode != 0:
            raise LabError(f"restic {arguments[0]}: {done.stdout.strip()}")

    def _command(self, *arguments: str, repository: str = "") -> list[str]:
        where = repository or f"rest:{self._url}/{REPOSITORY}/"
        return [self.version.path, "-r", where, "--cache-dir", str(self._cache), *arguments]

    def _env(self) -> dict[str, str]:
        return {**os.environ, "RESTIC_PASSWORD": PASSWORD, "RESTIC_PROGRESS_FPS": "0.01"}
