"""Where the status is told, and how it is shown."""

from __future__ import annotations

import json
import socket
import threading
from pathlib import Path

import pytest

from leaseha.adapters import clock
from leaseha.config import parse
from leaseha.config.model import HostPort
from leaseha.core import machine
from leaseha.errors import OperationalError
from leaseha.runtime import operator, report, show
from leaseha.runtime.status import STATUS_SOCKET, Answers, StatusServer
from tests.core.harness import spec

ANSWERS = Answers(dict, lambda: (True, ""), lambda: (True, ""), lambda lease: None)


async def test_a_port_that_is_taken_keeps_nobody_from_starting_who_holds_something(tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        at = HostPort("127.0.0.1", taken.getsockname()[1])
        server = StatusServer(ANSWERS)
        await server.listen(tmp_path / STATUS_SOCKET, at, tcp_needed=False)
        assert operator_reads(tmp_path / STATUS_SOCKET)
        server.close()
        with pytest.raises(OperationalError, match="cannot be listened on"):
            await server.listen(tmp_path / STATUS_SOCKET, at, tcp_needed=True)
        server.close()


def operator_reads(path: Path) -> bool:
    """Somebody listens there."""
    with socket.socket(socket.AF_UNIX) as asking:
        asking.connect(str(path))
    return True


def test_an_agent_that_knows_no_reload_is_not_said_to_have_ended(tmp_path: Path):
    config = parse(
        f'cluster = "backup"\nruntime_dir = "{tmp_path}"\n[node]\nname = "node1"\n'
        '[etcd]\nendpoints = ["http://127.0.0.1:1"]\n[lease.l]\nvips = ["192.0.2.50/24"]\n'
        "priority = { node1 = 100 }\n",
        hostname="node1",
    )
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / STATUS_SOCKET))
        listener.listen()

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                asked = b""
                while not asked.endswith(b"}"):  # what is closed unread is reset
                    asked += connection.recv(4096)
                text = b"this endpoint is read-only\n"
                head = b"HTTP/1.1 405 Method Not Allowed\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n"
                connection.sendall(head % len(text) + text)

        agent = threading.Thread(target=answer)
        agent.start()
        with pytest.raises(OperationalError, match=r"knows of no such reload \(this endpoint is read-only\)"):
            operator.reload(config, tmp_path / "node.toml", upgrade=True)
        agent.join()


def test_the_status_of_an_older_agent_is_shown():
    around = report.Surroundings("0.1", 1, "agent", fence_layers=("agent",), vips={"l": []})
    found = json.loads(json.dumps(report.document(machine.initial(spec("a")), clock.now(), around)))
    found["etcd"] = [
        {"endpoint": "http://x:1", "version": "3.5.9", "leader": True, "trouble": None},
    ]
    for later in ("urgency", "etcd_leader"):
        del found[later]
    assert "etcd http://x:1: 3.5.9, leader" in show.status(found)
