"""One network namespace, and the thread that lives in it.

What runs in that thread, and every process and socket that it makes, belongs to the namespace; the other
threads of this process stay where they are. So no launcher and no fork is needed to work in many hosts.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, ParamSpec, TypeVar

from leaseha.errors import LabError
from leaseha.lab import kernel

if TYPE_CHECKING:
    from pyroute2 import IPRoute

P = ParamSpec("P")
R = TypeVar("R")

NAMES: Final = Path("/run/netns")
CALL_TIMEOUT_S: Final = 30.0


class Namespace:
    """A network namespace with loopback up, also reachable by name with `ip netns exec NAME`.

    Its processes have a host name and a `/sys` of their own as well, so that what they read there is theirs.
    Raises `LabError` where the machine does not let this process make one.
    """

    def __init__(self, name: str, hostname: str) -> None:
        self.name = name
        self.hostname = hostname
        self._named = False
        self._ipr: IPRoute | None = None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"netns-{name}")
        try:
            self._fd, tid = self.call(self._enter)
        except OSError as error:
            self._thread.shutdown()
            raise LabError(
                f"no network namespace could be made ({error}): "
                "run as root, or through `python -m leaseha.lab.sandbox -- COMMAND`"
            ) from error
        self.inode = os.fstat(self._fd).st_ino
        self._bind_name(f"/proc/{os.getpid()}/task/{tid}/ns/net")

    def _enter(self) -> tuple[int, int]:
        kernel.unshare(kernel.CLONE_NEWNET | kernel.CLONE_NEWNS | kernel.CLONE_NEWUTS)
        kernel.mount("none", "/", flags=kernel.MS_REC | kernel.MS_SLAVE)
        kernel.set_hostname(self.hostname)
        # Without it (a kernel may refuse) only what reads /sys/class/net sees the wrong interfaces.
        with contextlib.suppress(OSError):
            kernel.mount("sysfs", "/sys", "sysfs", kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC)
        kernel.loopback_up()
        return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC), _thread_id()

    def _bind_name(self, source: str) -> None:
        """A name for `ip netns`; a convenience only, so that a read-only /run does not matter."""
        with contextlib.suppress(OSError):
            NAMES.mkdir(exist_ok=True)
            target = NAMES / self.name
            target.touch(exist_ok=False)
            try:
                kernel.mount(source, str(target), flags=kernel.MS_BIND)
                self._named = True
            finally:
                if not self._named:
                    target.unlink()

    @property
    def path(self) -> str:
        """A path that opens this namespace, as long as it is not closed."""
        return f"/proc/{os.getpid()}/fd/{self._fd}"

    def call(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run a short function in the namespace. Calls run one after the other; at most 30 s each."""
        return self._thread.submit(function, *args, **kwargs).result(timeout=CALL_TIMEOUT_S)

    def socket(self, family: int, kind: int, protocol: int = 0) -> socket.socket:
        """A socket of this namespace, for use in any thread."""
        return self.call(socket.socket, family, kind, protocol)

    def route(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """A call of pyroute2's `IPRoute` in the namespace, such as `route("link", "set", index=2)`."""
        return self.call(self._route, method, args, kwargs)

    def _route(self, method: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        if self._ipr is None:
            from pyroute2 import IPRoute

            self._ipr = IPRoute()
        answer = getattr(self._ipr, method)(*args, **kwargs)
        return list(answer) if hasattr(answer, "__iter__") else answer

    def popen(
        self,
        command: Sequence[str],
        *,
        log: Path | None = None,
        env: Mapping[str, str] | None = None,
        stdin: int | IO[Any] | None = subprocess.DEVNULL,
        stdout: int | IO[Any] | None = None,
        pass_fds: Sequence[int] = (),
    ) -> subprocess.Popen[str]:
        """Start a process in the namespace, in a session of its own. `log` takes both outputs, appended."""
        options = {"cwd": Path.cwd(), "env": env, "stdin": stdin, "stdout": stdout, "pass_fds": pass_fds}
        if log is None:
            return self.call(_start, command, options)
        with log.open("ab") as sink:
            return self.call(_start, command, options | {"stdout": sink, "stderr": sink})

    def run(
        self, command: Sequence[str], *, timeout_s: float = 30.0, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the namespace to its end; stdout and stderr come back together in `stdout`.

        Raises `subprocess.TimeoutExpired` after killing it.
        """
        outputs = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        child = self.call(_start, command, {"cwd": Path.cwd(), "env": env, **outputs})
        try:
            output, _ = child.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            child.kill()
            child.communicate()
            raise
        return subprocess.CompletedProcess(command, child.returncode, output, "")

    def pids(self) -> tuple[int, ...]:
        """Processes in this namespace, except the one that made it."""
        own = os.getpid()
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != own:
                with contextlib.suppress(OSError):  # it ended meanwhile, or belongs to someone else
                    if (entry / "ns/net").stat().st_ino == self.inode:
                        found.append(int(entry.name))
        return tuple(found)

    def close(self) -> None:
        """Let the namespace go; the kernel removes it, with its interfaces, when its last process has ended."""
        if self._ipr is not None:
            self.call(self._ipr.close)
            self._ipr = None
        self._thread.shutdown()
        os.close(self._fd)
        if self._named:
            with contextlib.suppress(OSError):
                kernel.unmount(str(NAMES / self.name))
                (NAMES / self.name).unlink()


def _thread_id() -> int:
    import threading

    return threading.get_native_id()


def _start(command: Sequence[str], options: Mapping[str, Any]) -> subprocess.Popen[str]:
    # The working directory is said, for this thread has kept the one of its beginning.
    return subprocess.Popen(command, text=True, start_new_session=True, **options)
