"""Asking an agent on its socket: one that may not be asked is not taken for one that does not run."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from leaseha import cli
from leaseha.errors import AgentUnreachable
from leaseha.runtime.operator import ask_socket, unasked
from leaseha.runtime.status import STATUS_SOCKET

SECURE = """
cluster = "backup"
runtime_dir = "{home}"

[node]
name = "node1"

[etcd]
endpoints = ["https://127.0.0.1:1"]
ca = "{home}/ca.pem"
cert = "{home}/cert.pem"
key = "{home}/key.pem"

[lease.backups]
vips = ["192.0.2.50/24"]
priority = {{ node1 = 100 }}
"""


@contextlib.contextmanager
def serving(agent: socket.socket, answer: bytes) -> Iterator[None]:
    """Give one client this answer, whatever it asks."""

    def serve() -> None:
        with agent.accept()[0] as client:
            client.recv(4096)
            client.sendall(answer)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield
    thread.join(5)


def test_a_refused_account_is_told_the_socket_and_the_remedy_and_not_that_no_agent_runs():
    error = unasked(Path("/run/leaseha/status.sock"), PermissionError(13, "Permission denied"))

    assert not isinstance(error, AgentUnreachable)
    assert error.exit_code == 1
    assert str(error).startswith(
        "this account may not ask the agent on /run/leaseha/status.sock: ask as root"
    )


def test_a_socket_that_is_not_there_or_that_nobody_listens_on_is_no_agent(tmp_path):
    path = tmp_path / STATUS_SOCKET
    with pytest.raises(AgentUnreachable, match="no agent answers"):
        ask_socket(path, "/status")
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    with pytest.raises(AgentUnreachable, match="no agent answers"):
        ask_socket(path, "/status")


def test_the_keys_of_etcd_are_needed_only_where_etcd_is_asked(tmp_path, capsys):
    file = tmp_path / "leaseha.toml"
    file.write_text(SECURE.format(home=tmp_path))

    assert cli.main(["status", "--config", str(file)]) == 2  # no agent: now they are
    assert "etcd.key" in capsys.readouterr().err


def test_the_agent_is_asked_although_the_keys_of_etcd_cannot_be_read(tmp_path, capsys):
    file = tmp_path / "leaseha.toml"
    file.write_text(SECURE.format(home=tmp_path))
    answer = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n{"leases": {}}'
    with socket.socket(socket.AF_UNIX) as agent:
        agent.bind(str(tmp_path / STATUS_SOCKET))
        agent.listen()
        with serving(agent, answer):
            assert cli.main(["status", "--json", "--config", str(file)]) == 0
    assert '"leases": {}' in capsys.readouterr().out
