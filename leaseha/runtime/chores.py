"""An operator's requests to a repository's process, on their way through the agent: both ends of the unix socket.

`POST /repository` with `{"lease", "do", ...}`: `do` is `status` (what the process says of its chores), or the name of a
chore with its `arguments`. It is answered when the chore is begun, or why not; how far it is, `status` says.
"""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from leaseha.config import Config
from leaseha.errors import OperationalError, RepositoryError, UsageError
from leaseha.repository.control import Answer, RepositoryStatus
from leaseha.runtime.operator import ASK_TIMEOUT_S, unasked
from leaseha.runtime.reply import Reply
from leaseha.runtime.status import STATUS_SOCKET

ANSWER_S: Final = 15.0
"""A process that does not answer is killed before."""
_ARGUMENTS_MOST: Final = 32 * 1024
"""Bytes: they go to the process in one line of 64 KiB at most."""


class Worker(Protocol):
    """What is needed of a lease's repository."""

    async def chore(self, what: str, arguments: Mapping[str, Any]) -> Answer:
        """Begin. Raises RepositoryError."""

    async def inside(self) -> RepositoryStatus:
        """A look inside its process. Raises RepositoryError."""


class Desk:
    """The agent's end."""

    def __init__(self, node: str, workers: Mapping[str, Worker], holder: Callable[[str], str | None]) -> None:
        self._node = node
        self._workers = workers
        self._holder = holder

    async def answer(self, reply: Reply, asked: Mapping[str, Any]) -> None:
        """`reply` is told; never raises."""
        lease, do = str(asked.get("lease", "")), str(asked.get("do", ""))
        arguments = asked.get("arguments", {})
        worker = self._workers.get(lease)
        if worker is None:
            reply.refuse(f"the agent serves no repository of a lease {lease!r}", UsageError.exit_code)
            return
        if not isinstance(arguments, dict) or len(json.dumps(arguments)) > _ARGUMENTS_MOST:
            reply.refuse("too much is asked at once: name fewer objects", UsageError.exit_code)
            return
        holder = self._holder(lease) or ""
        try:
            if do == "status":
                found = await worker.inside()
                reply.done({"chores": found.chores, "holder": holder})
                return
            begun = await worker.chore(do, arguments)
        except RepositoryError as error:
            reply.refuse(str(error), OperationalError.exit_code)
            return
        if begun.ok:
            reply.done({"node": self._node, "holder": holder})
            return
        elsewhere = "" if holder == self._node else f" (the holder is {holder or 'nobody'})"
        reply.refuse(f"{begun.why}{elsewhere}", OperationalError.exit_code)


def ask(config: Config, lease: str, do: str, arguments: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The operator's end: what this node's agent says. Raises `UsageError`, `OperationalError`, `AgentUnreachable`."""
    place = config.runtime_dir / STATUS_SOCKET
    body = json.dumps({"lease": lease, "do": do, "arguments": dict(arguments or {})})
    connection = http.client.HTTPConnection("localhost", timeout=ANSWER_S)
    try:
        connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.sock.settimeout(ASK_TIMEOUT_S)
        connection.sock.connect(str(place))
        connection.sock.settimeout(ANSWER_S)
        connection.request("POST", "/repository", body)
        response = connection.getresponse()
        said = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise unasked(place, error) from error
    finally:
        connection.close()
    if response.headers.get_content_type() != "application/json":
        text = said.decode(errors="replace").strip()
        raise OperationalError(f"the agent that runs knows of no such request ({text}): restart it")
    found = json.loads(said)
    if not found["ok"]:
        kind = UsageError if found["exit"] == UsageError.exit_code else OperationalError
        raise kind(found["error"])
    return dict(found)
