"""A client's backup in the lab: restic if it is installed, else the project's own small client; both real."""

from __future__ import annotations

import filecmp
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from leaseha.errors import LabError
from leaseha.lab.host import Host

PASSWORD: Final = "only for the lab"  # noqa: S105 - the repository is made for one run and removed with it
POLL_S: Final = 0.02
_RANDOM_FILE: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Client:
    """The program that makes the backup. `path` empty: the project's own."""

    path: str
    version: str

    def describe(self) -> str:
        """For a person."""
        if self.path:
            return self.version
        return "leaseha's own small client (restic is not installed; Debian's package is restic)"


def chosen_client() -> Client:
    """restic from the PATH, else the small client."""
    path = shutil.which("restic")
    if path is None:
        return Client("", "")
    done = subprocess.run([path, "version"], capture_output=True, text=True, check=False)
    return Client(path, " ".join(done.stdout.split()[:2]) or "restic")


class Backup:
    """One backup of one folder, run on a host, into the repository behind the VIP."""

    def __init__(self, client: Client, host: Host, folder: Path, vip: str, port: int) -> None:
        self.client = client
        self.host = host
        self.source = folder / "files"
        self.restored = folder / "restored"
        self.url = f"http://{vip}:{port}/demo"
        self._log = folder / "backup.log"
        self._cache = folder / "cache"
        self._process: subprocess.Popen[str] | None = None

    def make_files(self, size: int) -> int:
        """Real files to back up: Python's own library, then random ones up to `size` bytes. How many there are."""
        self.source.mkdir()
        library = Path(os.__file__).parent
        number = total = 0
        for path in sorted(library.glob("*.py")) + sorted(library.glob("asyncio/*.py")):
            content = path.read_bytes()
            (self.source / f"{path.parent.name}-{path.name}").write_bytes(content)
            total, number = total + len(content), number + 1
        while total < size:
            (self.source / f"random-{number}").write_bytes(os.urandom(_RANDOM_FILE))
            total, number = total + _RANDOM_FILE, number + 1
        return number

    def prepare(self) -> None:
        """Make the repository. Raises `LabError`."""
        if self.client.path:
            self._restic("init")

    def start(self, limit_kib_s: int) -> None:
        """Begin to back up, at this speed at most."""
        if self.client.path:
            # From inside of the folder: restic would restore its parents too, and in a user namespace their owner
            # (the real root) cannot be given back.
            inside = ["sh", "-c", 'cd "$1" && shift && exec "$@"', "sh", str(self.source)]
            command = [*inside, *self._restic_command("backup", ".", "--limit-upload", str(limit_kib_s))]
        else:
            command = self._small("backup", "--source", str(self.source), "--limit-upload", str(limit_kib_s))
        self._process = self.host.popen(command, log=self._log, env=self._env())

    def wait_stored(self, data: Path, size: int, timeout_s: float) -> None:
        """Until the repository has so many bytes of packs. Raises `LabError`."""
        end = time.monotonic() + timeout_s
        while sum(path.stat().st_size for path in data.glob("demo/data/*/*")) < size:
            if time.monotonic() > end or (self._process is not None and self._process.poll() is not None):
                raise LabError(f"the backup did not get half-way:\n{self._log.read_text()}")
            time.sleep(POLL_S)

    def wait(self, timeout_s: float) -> tuple[int, str]:
        """(exit code, output) of the backup. Raises `LabError` if it does not end."""
        if self._process is None:
            raise LabError("no backup was started")
        try:
            code = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise LabError(
                f"the backup did not end within {timeout_s:g} s:\n{self._log.read_text()}"
            ) from None
        return code, self._log.read_text()

    def restore_and_compare(self, timeout_s: float) -> str:
        """Restore through the VIP and compare with the source; what differs, empty if nothing does."""
        if self.client.path:
            command = self._restic_command("restore", "latest", "--target", str(self.restored))
        else:
            command = self._small("restore", "--target", str(self.restored))
        done = self.host.run(command, timeout_s=timeout_s, env=self._env())
        if done.returncode != 0:
            return f"restore failed: {done.stdout.strip()[-400:]}"
        names = sorted(path.name for path in self.source.iterdir())
        found = self.restored / str(self.source).lstrip("/")
        found = found if found.is_dir() else self.restored
        _, differ, missing = filecmp.cmpfiles(self.source, found, names, shallow=False)
        return ", ".join(
            [*(f"{name} differs" for name in differ), *(f"{name} is missing" for name in missing)]
        )

    def check(self, timeout_s: float) -> str:
        """Read all that is stored, through the VIP; what is wrong with it, empty if nothing is. With restic only."""
        done = self.host.run(
            self._restic_command("check", "--read-data"), timeout_s=timeout_s, env=self._env()
        )
        return "" if done.returncode == 0 else done.stdout.strip()[-1000:]

    def _restic(self, *arguments: str) -> None:
        done = self.host.run(self._restic_command(*arguments), env=self._env())
        if done.returncode != 0:
            raise LabError(f"restic {arguments[0]}: {done.stdout.strip()}")

    def _restic_command(self, *arguments: str) -> list[str]:
        return [self.client.path, "-r", f"rest:{self.url}/", "--cache-dir", str(self._cache), *arguments]

    def _small(self, verb: str, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "leaseha.lab.small_client", verb, "--repo", self.url, *arguments]

    def _env(self) -> dict[str, str]:
        return {**os.environ, "RESTIC_PASSWORD": PASSWORD}
