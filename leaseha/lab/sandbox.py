"""Namespaces of its own for one command: `python -m leaseha.lab.sandbox -- COMMAND ...`.

As root: network, mount and process namespaces. As any other account: a user namespace first, in which the
account is root. Inside: loopback up, an empty `/run` of its own, `LEASEHA_SANDBOX=1`; whatever the command
starts ends with it. Where the machine does not allow that, the command runs as it is, with
`LEASEHA_SANDBOX=0` and the reason in `LEASEHA_SANDBOX_WHY`, which is also printed.

The exit code is that of the command, 128 + n if signal n ended it. SIGINT, SIGTERM and SIGHUP go to it.

Three processes stand around the command: this one, which stays outside; `enter`, which makes the namespaces;
`init`, the first process of the new process namespace. No fork, so that threads and gRPC do not matter.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NoReturn

from leaseha.errors import LabError
from leaseha.lab import kernel

_MODULE: Final = "leaseha.lab.sandbox"
INSIDE: Final = "LEASEHA_SANDBOX"
WHY: Final = "LEASEHA_SANDBOX_WHY"
_READY: Final = "ready"
_USAGE: Final = "usage: python -m leaseha.lab.sandbox -- COMMAND [ARGUMENT ...]"
_FORWARDED: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_MODES: Final = ("root", "user")


def inside() -> bool:
    """This process runs in a sandbox."""
    return os.environ.get(INSIDE) == "1"


def ensure_sandbox(argv: Sequence[str]) -> None:
    """Returns inside a sandbox; elsewhere the process becomes `argv` run in one and this never returns.

    Raises:
        LabError: this is that second run, and the machine allows no sandbox; the text names the cure.

    """
    if inside():
        return
    if os.environ.get(INSIDE) == "0":
        raise LabError(f"this needs namespaces of its own: {os.environ.get(WHY, 'not allowed here')}")
    command = [sys.executable, "-m", _MODULE, "--", *argv]
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, command)  # noqa: S606  (no shell is wanted: the process becomes the sandbox)


def run(command: Sequence[str]) -> int:
    """Run the command in a sandbox, or plainly where there can be none; its exit code."""
    if inside():
        return supervise(lambda: subprocess.Popen(command))
    reasons = []
    for mode in _MODES if os.geteuid() == 0 else _MODES[1:]:
        code, reason = _run_in(mode, command)
        if code is not None:
            return code
        reasons.append(reason)
    why = reasons[0]
    print(f"leaseha: no sandbox: {why}", file=sys.stderr, flush=True)
    environment = os.environ | {INSIDE: "0", WHY: why}
    return supervise(lambda: subprocess.Popen(command, env=environment))


def _run_in(mode: str, command: Sequence[str]) -> tuple[int | None, str]:
    """(exit code, "") if the sandbox came to be, else (None, why not)."""
    receive, send = os.pipe()
    own = [sys.executable, "-m", _MODULE, "enter", mode, str(send), "--", *command]
    said = ""

    def start() -> subprocess.Popen[bytes]:
        nonlocal said
        child = subprocess.Popen(own, pass_fds=(send,))
        os.close(send)
        with os.fdopen(receive, encoding="utf-8", errors="replace") as report:
            said = report.readline().strip()  # ends when the pipe does, if the child says nothing
        return child

    code = supervise(start)
    return (code, "") if said == _READY else (None, said or f"its first process ended with {code}")


def supervise(start: Callable[[], subprocess.Popen[bytes]]) -> int:
    """Start a child, hand it the signals that other processes send to this one, reap all, wait for it.

    A signal from the terminal (sent by the kernel to the whole group) reaches the child without help.
    """
    early: list[int] = []
    for number in _FORWARDED:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda n, _frame: early.append(n))
    try:
        child = start()
    except OSError as error:
        print(f"leaseha: cannot run the command: {error}", file=sys.stderr)
        return 127
    # Blocked only now, since the child inherits the mask; and opened again, since the next one does.
    waited = {*_FORWARDED, signal.SIGCHLD}
    signal.pthread_sigmask(signal.SIG_BLOCK, waited)
    for sent in early:
        child.send_signal(sent)
    while (status := _reap(child.pid)) is None:
        info = signal.sigwaitinfo(waited)
        if info.si_signo != signal.SIGCHLD and info.si_code <= 0:
            os.kill(child.pid, info.si_signo)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, waited)
    child.returncode = os.waitstatus_to_exitcode(status)
    return child.returncode if child.returncode >= 0 else 128 - child.returncode


def _reap(wanted: int) -> int | None:
    """Collect every child that has ended; the status of `wanted` if it is among them."""
    found = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if pid == 0:
            return found
        if pid == wanted:
            found = status


def _enter(mode: str, report: int, command: Sequence[str]) -> int:
    """Make the namespaces, then start `init` as the first process of the new process namespace."""
    uid, gid = os.geteuid(), os.getegid()
    flags = kernel.CLONE_NEWNET | kernel.CLONE_NEWNS | kernel.CLONE_NEWPID
    try:
        if mode == "user":
            kernel.unshare(kernel.CLONE_NEWUSER)
            Path("/proc/self/setgroups").write_text("deny", encoding="ascii")
            Path("/proc/self/uid_map").write_text(f"0 {uid} 1", encoding="ascii")
            Path("/proc/self/gid_map").write_text(f"0 {gid} 1", encoding="ascii")
        kernel.unshare(flags)
        kernel.die_with_parent(signal.SIGKILL)
    except OSError as error:
        _say(report, cure_of(mode, error))
        return 1
    own = [sys.executable, "-m", _MODULE, "init", mode, str(report), "--", *command]

    def start() -> subprocess.Popen[bytes]:
        child = subprocess.Popen(own, pass_fds=(report,))
        os.close(report)
        return child

    return supervise(start)


def _init(mode: str, report: int, command: Sequence[str]) -> int:
    """The first process inside: mounts, loopback, then the command."""
    try:
        kernel.die_with_parent(signal.SIGKILL)
        kernel.mount("none", "/", flags=kernel.MS_REC | kernel.MS_PRIVATE)
        nosuid = kernel.MS_NOSUID | kernel.MS_NODEV
        kernel.mount("proc", "/proc", "proc", nosuid | kernel.MS_NOEXEC)
        kernel.mount("tmpfs", "/run", "tmpfs", nosuid)
        for folder in ("netns", "leaseha", "lock"):
            Path("/run", folder).mkdir(mode=0o755)
        kernel.loopback_up()
    except OSError as error:
        _say(report, cure_of(mode, error))
        return 1
    _say(report, _READY)
    environment = {name: value for name, value in os.environ.items() if name not in {"XDG_RUNTIME_DIR", WHY}}
    environment[INSIDE] = "1"
    # An ordinary account has no sbin on its path, and is root here.
    environment["PATH"] = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))
    return supervise(lambda: subprocess.Popen(command, env=environment))


def _say(report: int, text: str) -> None:
    os.write(report, (" ".join(text.split()) + "\n").encode())
    os.close(report)


def cure_of(mode: str, error: OSError, sysctls: Path = Path("/proc/sys")) -> str:
    """One line: what the kernel refused, and what an administrator changes so that it does not."""

    def value(name: str) -> str:
        try:
            return (sysctls / name).read_text(encoding="ascii").strip()
        except OSError:
            return ""

    what = error.strerror or str(error)
    if mode == "root":
        return f"{what}: root lacks CAP_SYS_ADMIN here (a container? start it with --privileged)"
    if value("user/max_user_namespaces") == "0":
        return f"{what}: user namespaces are off: sysctl -w user.max_user_namespaces=10000"
    if value("kernel/unprivileged_userns_clone") == "0":
        return f"{what}: closed to ordinary accounts: sysctl -w kernel.unprivileged_userns_clone=1, or run as root"
    if value("kernel/apparmor_restrict_unprivileged_userns") == "1":
        return (
            f"{what}: AppArmor keeps ordinary accounts from it: "
            "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0, or run as root"
        )
    return f"{what}: user namespaces are not allowed here (a container? start it with --privileged, or run as root)"


def main(argv: Sequence[str]) -> int:
    """Exit code of the command; 2 for a wrong command line."""
    if "--" not in argv:
        print(_USAGE, file=sys.stderr)
        return 2
    at = list(argv).index("--")
    options, command = list(argv[:at]), list(argv[at + 1 :])
    if not command:
        print(_USAGE, file=sys.stderr)
        return 2
    if not options:
        return run(command)
    if len(options) == 3 and options[0] in {"enter", "init"} and options[1] in _MODES:
        step = _enter if options[0] == "enter" else _init
        return step(options[1], int(options[2]), command)
    print(_USAGE, file=sys.stderr)
    return 2


def _exit() -> NoReturn:
    sys.exit(main(sys.argv[1:]))


if __name__ == "__main__":
    _exit()
