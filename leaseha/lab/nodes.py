"""leaseha agents on hosts of the lab, as real processes: configured, started, signalled, asked."""

from __future__ import annotations

import contextlib
import copy
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from leaseha.errors import LabError
from leaseha.lab.host import Host

_MARK: Final = "LEASEHA_LAB_AGENT"
_SOCKET: Final = "status.sock"
_POLL_S: Final = 0.01

Table = dict[str, Any]


class AgentNode:
    """One agent and what it starts: guard, repository. Its files are `NAME.toml`, `NAME.log`, `NAME.run/`."""

    def __init__(self, name: str, host: Host, folder: Path, settings: Mapping[str, Any]) -> None:
        self.name = name
        self.host = host
        self.config = folder / f"{name}.toml"
        self.log = folder / f"{name}.log"
        self.runtime_dir = folder / f"{name}.run"
        self.process: subprocess.Popen[str] | None = None
        self._mark = f"{_MARK}={os.getpid()}:{folder}/{name}"
        self.configure(settings)

    def configure(self, settings: Mapping[str, Any]) -> None:
        """Write the configuration file; a running agent does not see it before a reload or restart."""
        self.settings = copy.deepcopy(dict(settings))
        self.config.write_text(toml(self.settings), encoding="utf-8")

    # Life and death

    def start(self, env: Mapping[str, str] | None = None, program: tuple[str, ...] = ()) -> None:
        """Start the agent and return at once. `program` replaces `python -m leaseha run --config FILE`.

        Raises `LabError` if it runs already.
        """
        if self.running:
            raise LabError(f"the agent of {self.name} is running")
        name, _, value = self._mark.partition("=")
        environment = {**os.environ, **(env or {}), name: value}
        command = program or (sys.executable, "-m", "leaseha", "run", "--config", str(self.config))
        self.process = self.host.popen(command, log=self.log, env=environment)

    @property
    def running(self) -> bool:
        """The agent's own process is there (it may be frozen)."""
        return self.process is not None and self.process.poll() is None

    @property
    def pid(self) -> int:
        """Of the agent. Raises `LabError` if there is none."""
        if self.process is None or self.process.poll() is not None:
            raise LabError(f"the agent of {self.name} is not running")
        return self.process.pid

    def pids(self) -> tuple[int, ...]:
        """The agent and all that came of it, also what outlived it, by a mark in their environment."""
        mark = self._mark.encode()
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):  # it ended meanwhile, or belongs to someone else
                    if mark in (entry / "environ").read_bytes().split(b"\0"):
                        found.append(int(entry.name))
        return tuple(found)

    def term(self) -> None:
        """SIGTERM to the agent: an orderly stop. Returns at once."""
        os.kill(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL to the agent alone; its guard sees to the rest. Returns when the agent is gone."""
        os.kill(self.pid, signal.SIGKILL)
        self.wait()

    def kill_tree(self) -> None:
        """SIGKILL to the agent and all that came of it, guard first, so that nobody notes another's death.

        The agent is stopped before: it makes a new guard within a millisecond.
        """
        own = self.process.pid if self.process is not None else 0
        if self.running:
            _signal(own, signal.SIGSTOP)
        for pid in sorted(self.pids(), key=lambda pid: pid == own):
            _signal(pid, signal.SIGKILL)
        self.wait()

    def freeze(self, *, tree: bool = False) -> None:
        """SIGSTOP to the agent alone, or to all that came of it too."""
        for pid in self._chosen(tree):
            _signal(pid, signal.SIGSTOP)

    def thaw(self, *, tree: bool = False) -> None:
        """SIGCONT, to the same."""
        for pid in self._chosen(tree):
            _signal(pid, signal.SIGCONT)

    def _chosen(self, tree: bool) -> tuple[int, ...]:
        return self.pids() if tree else (self.pid,)

    def wait(self, timeout_s: float = 15.0) -> int:
        """For the end of the agent; its exit code, negative for a signal. Raises `LabError` after the timeout."""
        if self.process is None:
            return 0
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise LabError(f"the agent of {self.name} did not end within {timeout_s:g} s") from None

    def stop(self, timeout_s: float = 15.0) -> int:
        """SIGTERM, and wait for the end; its exit code."""
        if self.running:
            self.term()
        return self.wait(timeout_s)

    def restart(self, env: Mapping[str, str] | None = None) -> None:
        """Stop if it runs, then start."""
        self.stop()
        self.start(env)

    # What it says

    def status(self, timeout_s: float = 1.0) -> Table:
        """The agent's `/status`. Raises `OSError` if it does not answer, `LabError` if it refuses."""
        answer = self.get("/status", timeout_s)
        if answer[0] != 200:
            raise LabError(f"{self.name}: /status: {answer[0]} {answer[1][:200]}")
        found: Table = json.loads(answer[1])
        return found

    def get(self, path: str, timeout_s: float = 1.0) -> tuple[int, str]:
        """(HTTP status, text) of a path of the agent's status endpoint. Raises `OSError` if it does not answer."""
        connection = http.client.HTTPConnection("localhost", timeout=timeout_s)
        connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with contextlib.closing(connection):
            connection.sock.settimeout(timeout_s)
            connection.sock.connect(str(self.runtime_dir / _SOCKET))
            try:
                connection.request("GET", path)
                answer = connection.getresponse()
                return answer.status, answer.read().decode(errors="replace")
            except http.client.HTTPException as error:
                raise ConnectionError(str(error)) from error

    def wait_for(self, what: str, fact: Callable[[Table], bool], timeout_s: float = 20.0) -> Table:
        """The first status of which `fact` is true. Raises `LabError` that says `what` was waited for, with the
        end of the agent's log, after the timeout or when the agent has ended.
        """
        end = time.monotonic() + timeout_s
        while True:
            with contextlib.suppress(OSError, LabError):
                status = self.status()
                if fact(status):
                    return status
            if not self.running or time.monotonic() > end:
                state = f"did not come to: {what}" if self.running else "has ended"
                raise LabError(f"the agent of {self.name} {state}\n{self.tail()}")
            time.sleep(_POLL_S)

    def wait_ready(self, timeout_s: float = 20.0) -> None:
        """Until `/readyz` is 200: its session is proven. Raises `LabError` as `wait_for`."""
        end = time.monotonic() + timeout_s
        while True:
            with contextlib.suppress(OSError):
                if self.get("/readyz")[0] == 200:
                    return
            if not self.running or time.monotonic() > end:
                state = "is not ready" if self.running else "has ended"
                raise LabError(f"the agent of {self.name} {state}\n{self.tail()}")
            time.sleep(_POLL_S)

    def tail(self, lines: int = 15) -> str:
        """The end of its log."""
        try:
            text = self.log.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return "(no log)"
        return "\n".join(text.splitlines()[-lines:])

    def close(self) -> None:
        """End all that came of it, without ceremony."""
        if self.process is not None:
            for pid in self.pids():
                _signal(pid, signal.SIGKILL)
            self.process.wait()


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> Table:
    """`base` with `changes` laid over it, table by table; a value of None takes a key out."""
    found = copy.deepcopy(dict(base))
    for key, value in changes.items():
        if value is None:
            found.pop(key, None)
        elif isinstance(value, Mapping) and isinstance(found.get(key), dict):
            found[key] = merged(found[key], value)
        else:
            found[key] = copy.deepcopy(dict(value)) if isinstance(value, Mapping) else value
    return found


def toml(table: Mapping[str, Any], path: tuple[str, ...] = ()) -> str:
    """A TOML document of nested mappings, lists, strings, numbers and booleans: plain values before tables."""
    plain = {key: value for key, value in table.items() if not isinstance(value, Mapping)}
    lines = [f"[{'.'.join(map(_key, path))}]"] if path and (plain or not table) else []
    lines += [f"{_key(key)} = {_value(value)}" for key, value in plain.items()]
    text = "\n".join(lines) + "\n" if lines else ""
    for key, value in table.items():
        if isinstance(value, Mapping):
            text += toml(value, (*path, key))
    return text


def _key(name: str) -> str:
    bare = name.replace("-", "").replace("_", "").isalnum() and name.isascii()
    return name if bare else _text(name)


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_value(one) for one in value) + "]"
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_key(k)} = {_value(v)}" for k, v in value.items()) + " }"
    return _text(str(value)) if isinstance(value, str | Path) else json.dumps(value)


def _text(value: str) -> str:
    # JSON's strings are TOML's, but for DEL.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007F")
