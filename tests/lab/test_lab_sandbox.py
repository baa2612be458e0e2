"""The sandbox runs a command in namespaces of its own, or says why it cannot."""

import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import pytest

from leaseha.errors import LabError
from leaseha.lab import sandbox

SANDBOX = [sys.executable, "-m", "leaseha.lab.sandbox"]
NO_ADMIN = ["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin"]


def outside(**more: str) -> dict[str, str]:
    """The environment of a process that is in no sandbox yet."""
    return {k: v for k, v in os.environ.items() if not k.startswith("LEASEHA_SANDBOX")} | more


def run(*command: str, before: list[str] | None = None, **env: str) -> subprocess.CompletedProcess[str]:
    whole = [*(before or []), *SANDBOX, "--", *command]
    return subprocess.run(whole, env=outside(**env), capture_output=True, text=True, timeout=60, check=False)


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


@pytest.mark.netns
def test_inside_the_account_is_root_and_alone_with_a_loopback_that_is_up():
    code = (
        "import os, pathlib, socket\n"
        "a, b = socket.create_server(('127.0.0.1', 0)), socket.socket()\n"
        "b.connect(a.getsockname())\n"
        "numbered = sum(p.name.isdigit() for p in pathlib.Path('/proc').iterdir())\n"
        "print(os.environ['LEASEHA_SANDBOX'], os.geteuid(), socket.if_nameindex(), numbered)\n"
        "print(sorted(p.name for p in pathlib.Path('/run').iterdir()))\n"
    )
    done = run(*python(code))
    assert done.stdout.splitlines() == ["1 0 [(1, 'lo')] 2", "['leaseha', 'lock', 'netns']"], done.stderr


@pytest.mark.netns
@pytest.mark.parametrize(
    ("code", "expected"), [("raise SystemExit(7)", 7), ("import os; os.kill(os.getpid(), 9)", 137)]
)
def test_the_exit_code_is_that_of_the_command(code, expected):
    assert run(*python(code)).returncode == expected


@pytest.mark.netns
def test_a_command_that_is_not_there_is_said_without_a_traceback():
    done = run("no-such-program")
    assert done.returncode == 127
    assert "no-such-program" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.netns
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_goes_to_the_command_once(number):
    code = (
        "import signal, sys\n"
        f"signal.pthread_sigmask(signal.SIG_BLOCK, [{int(number)}])\n"
        "print('here', flush=True)\n"
        f"signal.sigwait([{int(number)}])\n"
        f"again = signal.sigtimedwait([{int(number)}], 0.3)\n"
        "sys.exit(42 if again is None else 43)\n"
    )
    command = [*SANDBOX, "--", *python(code)]
    with subprocess.Popen(command, env=outside(), stdout=subprocess.PIPE, start_new_session=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"here\n"
        child.send_signal(number)
        assert child.wait(20) == 42


@pytest.mark.netns
@pytest.mark.parametrize("how", ["the command ends", "the sandbox is killed"])
def test_nothing_outlives_the_sandbox(how):
    # The grandchild holds standard output: its end is the end of everybody inside.
    wait = "import time; time.sleep(600)"  # in the process that must not live on
    code = (
        "import subprocess, sys, time\n"
        f"subprocess.Popen([sys.executable, '-c', {wait!r}], start_new_session=True)\n"
        "print('here', flush=True)\n"
        "sys.stdin.readline()\n"
    )
    command = [*SANDBOX, "--", *python(code)]
    with subprocess.Popen(command, env=outside(), stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdin is not None
        assert child.stdout.readline() == b"here\n"
        if how == "the command ends":
            child.stdin.write(b"\n")
            child.stdin.flush()
        else:
            child.kill()
        os.set_blocking(child.stdout.fileno(), False)
        end = time.monotonic() + 20
        while (rest := child.stdout.read(1)) is None:
            assert time.monotonic() < end, "someone still holds the pipe"
            time.sleep(0.01)  # waits for a fact: the pipe is closed by all
        assert rest == b""


@pytest.mark.netns
def test_inside_a_sandbox_the_command_runs_directly():
    done = subprocess.run(
        [*SANDBOX, "--", *python("import os; print(os.getppid())")],
        env=outside(LEASEHA_SANDBOX="1"),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert int(done.stdout) > 2


@pytest.mark.netns
@pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs setpriv: apt-get install util-linux")
def test_root_without_its_powers_gets_a_user_namespace():
    done = run(*python("print(open('/proc/self/uid_map').read().split()[2])"), before=NO_ADMIN)
    assert done.stdout.strip() == "1", done.stderr


@pytest.mark.netns
@pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs setpriv: apt-get install util-linux")
def test_where_nothing_is_allowed_the_command_runs_plainly_and_the_cure_is_named():
    # In a user namespace of its own this closes the way to further ones, for itself alone.
    code = (
        "import os, pathlib, subprocess, sys\n"
        "assert pathlib.Path('/proc/self/uid_map').read_text().split()[2] == '1'\n"
        "pathlib.Path('/proc/sys/user/max_user_namespaces').write_text('0')\n"
        "env = {k: v for k, v in os.environ.items() if k != 'LEASEHA_SANDBOX'}\n"
        'inner = \'import os; print(os.environ["LEASEHA_SANDBOX"], os.environ["LEASEHA_SANDBOX_WHY"]); exit(9)\'\n'
        f"command = {NO_ADMIN!r} + {SANDBOX!r} + ['--', sys.executable, '-c', inner]\n"
        "sys.exit(subprocess.run(command, env=env).returncode)\n"
    )
    done = run(*python(code), before=NO_ADMIN)
    assert done.returncode == 9, done.stderr
    assert done.stdout.startswith("0 ")
    assert "CAP_SYS_ADMIN" in done.stdout
    assert "no sandbox" in done.stderr


@pytest.mark.parametrize(
    ("name", "value", "cure"),
    [
        ("user/max_user_namespaces", "0", "sysctl -w user.max_user_namespaces="),
        ("kernel/unprivileged_userns_clone", "0", "sysctl -w kernel.unprivileged_userns_clone=1"),
        (
            "kernel/apparmor_restrict_unprivileged_userns",
            "1",
            "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
        ),
        ("user/max_user_namespaces", "1000", "--privileged"),
    ],
)
def test_the_reason_names_the_switch_that_an_administrator_turns(tmp_path, name, value, cure):
    file = pathlib.Path(tmp_path, name)
    file.parent.mkdir()
    file.write_text(value)
    assert cure in sandbox.cure_of("user", PermissionError(1, "Operation not permitted"), tmp_path)


def test_ensure_sandbox_returns_inside_and_names_the_cure_where_there_is_none(monkeypatch):
    monkeypatch.setenv("LEASEHA_SANDBOX", "1")
    sandbox.ensure_sandbox(["true"])
    monkeypatch.setenv("LEASEHA_SANDBOX", "0")
    monkeypatch.setenv("LEASEHA_SANDBOX_WHY", "sysctl -w something")
    with pytest.raises(LabError, match="sysctl -w something"):
        sandbox.ensure_sandbox(["true"])


@pytest.mark.netns
def test_ensure_sandbox_becomes_the_same_command_inside():
    code = (
        "import os, sys\n"
        "from leaseha.lab.sandbox import ensure_sandbox\n"
        "ensure_sandbox(sys.orig_argv)\n"
        "print('inside', os.getppid())\n"
        "sys.exit(5)\n"
    )
    done = subprocess.run(
        python(code), env=outside(), capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout, done.returncode) == ("inside 1\n", 5), done.stderr


@pytest.mark.parametrize("arguments", [[], ["true"], ["--"], ["init", "root", "--", "true"]])
def test_a_wrong_command_line_is_bad_input(arguments):
    done = subprocess.run([*SANDBOX, *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "usage" in done.stderr
