"""What an operator does from outside of an agent: look at etcd, ask for a switchover, read the history."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from leaseha import __version__
from leaseha.adapters import clock
from leaseha.adapters.etcd import EtcdClient
from leaseha.config import Config, node_spec
from leaseha.core import machine, records, trace
from leaseha.core import view as views
from leaseha.core.records import ClaimRecord, HistoryRecord, Hold, IntentRecord, Kind
from leaseha.core.state import NodeState
from leaseha.core.values import Committed, Compare, Head, KeyValue, Put, Target, Txn, Unknown
from leaseha.errors import AgentUnreachable, OperationalError, StoreUnavailable, SwitchoverFailed, UsageError
from leaseha.runtime import leader, report
from leaseha.runtime.status import STATUS_SOCKET
from leaseha.runtime.stores import make_client

INTENT_TTL_S: Final = 60
"""An intent that nobody obeyed vanishes by itself."""
POLL_S: Final = 0.05
ASK_TIMEOUT_S: Final = 5.0
RELOAD_S: Final = 180.0
"""More than the bounds of all that a reload waits for together."""
UNSURE: Final = "etcd gave no answer to the request, so whether it stood is unknown: look before asking again"
Keys = tuple[KeyValue, ...]


@contextlib.asynccontextmanager
async def etcd_of(config: Config) -> AsyncIterator[EtcdClient]:
    """A client for the time of one command, proven to reach etcd. Raises `StoreError`."""
    client = make_client(config)
    try:
        await client.wait_ready(ASK_TIMEOUT_S)
        yield client
    finally:
        await client.close()


def ask_agent(config: Config, path: str = "/status") -> Any:
    """The agent's answer on its unix socket, decoded. Raises as `ask_socket` does."""
    return ask_socket(config.runtime_dir / STATUS_SOCKET, path)


def ask_socket(path: Path, target: str) -> Any:
    """GET `target` from the HTTP server on a unix socket; JSON decoded, text otherwise.

    Raises `AgentUnreachable` if nobody answers, `OperationalError` if this account may not ask.
    """
    connection = http.client.HTTPConnection("localhost", timeout=ASK_TIMEOUT_S)
    try:
        connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.sock.settimeout(ASK_TIMEOUT_S)
        connection.sock.connect(str(path))
        connection.request("GET", target)
        response = connection.getresponse()
        body = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise unasked(path, error) from error
    finally:
        connection.close()
    if response.headers.get_content_type() == "application/json":
        return json.loads(body)
    return body.decode().strip()


def reload(config: Config, path: Path, *, upgrade: bool) -> dict[str, Any]:
    """Let the agent of this node become the program and configuration of now; what it says when it is done.

    Raises `UsageError` for a configuration that it refuses, `OperationalError`, `AgentUnreachable`.
    """
    place = config.runtime_dir / STATUS_SOCKET
    connection = http.client.HTTPConnection("localhost", timeout=RELOAD_S)
    try:
        connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.sock.settimeout(ASK_TIMEOUT_S)
        connection.sock.connect(str(place))
        connection.sock.settimeout(RELOAD_S)
    except OSError as error:
        connection.close()
        raise unasked(place, error) from error
    try:
        connection.request("POST", "/reload", json.dumps({"upgrade": upgrade, "config": str(path.resolve())}))
        response = connection.getresponse()
        body = response.read()
    except TimeoutError:
        raise OperationalError(
            f"the agent has not said within {RELOAD_S:g} s how the reload went: its log will"
        ) from None
    except (OSError, http.client.HTTPException) as error:
        raise OperationalError(
            f"the agent ended before it said how the reload went ({error}): "
            "its log says why, and `leaseha status` who holds what"
        ) from error
    finally:
        connection.close()
    if response.headers.get_content_type() != "application/json":
        said = body.decode(errors="replace").strip()
        raise OperationalError(f"the agent that runs knows of no such reload ({said}): restart it")
    found = json.loads(body)
    if not found["ok"]:
        kind = UsageError if found["exit"] == UsageError.exit_code else OperationalError
        raise kind(found["error"])
    return dict(found)


def unasked(path: Path, error: Exception) -> OperationalError:
    """An agent that may not be asked is not one that does not run: nobody is to look for the reason in etcd."""
    if isinstance(error, PermissionError):
        remedy = "ask as root, or as the account or group that it belongs to"
        return OperationalError(f"this account may not ask the agent on {path}: {remedy}")
    return AgentUnreachable(f"no agent answers on {path}: {error}")


async def status_from_etcd(config: Config) -> dict[str, Any]:
    """The status document as etcd alone tells it."""
    async with etcd_of(config) as client:
        head, keys = await client.read_all(ASK_TIMEOUT_S)
        members, peers = await client.status(), await leader.peers_of(client)
    state = looked(config, head, keys)
    nodes = leader.nodes_of(state)
    hosts = await leader.hosts_of(members, peers, nodes)
    vips = {lease.name: [str(vip) for vip in lease.vips] for lease in config.leases}
    around = report.Surroundings(
        __version__,
        0,
        "etcd",
        vips=vips,
        etcd=leader.rows(members, hosts),
        etcd_leader=leader.told(members, hosts, nodes),
    )
    return report.document(state, clock.now(), around)


def looked(config: Config, head: Head, keys: Keys) -> NodeState:
    """A node's state that knows one look at etcd, and nothing else."""
    state = machine.initial(node_spec(config, store="", incarnation="", version=__version__))
    view = views.first_look(clock.now(), clock.wall_ms(), head.revision, keys)
    return replace(state, view=view)


async def history(config: Config, lease: str, limit: int) -> list[HistoryRecord]:
    """The lease's last moves, oldest first."""
    async with etcd_of(config) as client:
        _, keys = await client.read_all(ASK_TIMEOUT_S)
    found = [_history_of(kv, lease) for kv in keys]
    return sorted((r for r in found if r is not None), key=lambda r: r.token)[-limit:]


def _history_of(kv: KeyValue, lease: str) -> HistoryRecord | None:
    prefix = records.history_key(lease, 0).rpartition("/")[0] + "/"
    return records.decode(HistoryRecord, kv.value) if kv.key.startswith(prefix) else None


@dataclass(frozen=True, slots=True)
class Moved:
    """How a switchover ended."""

    lease: str
    from_node: str
    holder: str
    token: int
    gap_ms: int
    trace_id: str


@dataclass(frozen=True, slots=True)
class Asked:
    """A request for a move, as it was written or may have been."""

    token: int
    held: ClaimRecord
    intent: IntentRecord
    after: int
    """The revision after which an answer to it comes: earlier ones were given to others."""
    certain: bool
    """False: etcd gave no answer to the write, so it may stand, or be applied later still."""


async def switchover(config: Config, lease: str, target: str, by: str, timeout_s: float) -> Moved:
    """Ask the holder to hand over, wait for the new holder's first answer.

    Raises `UsageError` for an unknown target, `SwitchoverFailed` when it is refused or does not end in time.
    """
    if target and target not in config.lease(lease).priority:
        known = ", ".join(sorted(config.lease(lease).priority))
        raise UsageError(f"--to = {target}: not among the nodes of lease {lease} ({known})")
    async with etcd_of(config) as client:
        return await move(client, config.cluster, lease, target, by, timeout_s)


async def move(client: EtcdClient, cluster: str, lease: str, target: str, by: str, timeout_s: float) -> Moved:
    """`switchover` over this client; the request is taken back at the end if nobody obeyed it."""
    session = await client.grant(INTENT_TTL_S, ASK_TIMEOUT_S)
    try:
        asked = await _put_intent(client, cluster, lease, target, by, session)
        moved = await _await_move(client, lease, asked, timeout_s)
    finally:
        await client.revoke(session)
    if target and moved.holder != target:
        raise SwitchoverFailed(f"{moved.holder} took lease {lease}, and not {target}: see `leaseha history`")
    return moved


async def _put_intent(
    client: EtcdClient, cluster: str, lease: str, target: str, by: str, session: int
) -> Asked:
    head, kv = await client.get(records.claim_key(lease))
    claim = records.decode(ClaimRecord, kv.value) if kv.mod else None
    if claim is None or claim.hold is not Hold.HELD:
        raise SwitchoverFailed(f"lease {lease} has no holder that could hand it over (see `leaseha status`)")
    if claim.node == target:
        raise SwitchoverFailed(f"{target} holds lease {lease} already")
    traceparent = trace.of_move(cluster, lease, kv.mod, claim.session)
    intent = IntentRecord(Kind.SWITCHOVER, by, kv.mod, target, f"switchover asked for by {by}", traceparent)
    put = Put(records.intent_key(lease), records.encode(intent), session)
    compare = Compare(records.claim_key(lease), Target.MOD, kv.mod)
    outcome = await client.commit(Txn((compare,), (put,), ()), 0, int(ASK_TIMEOUT_S * 1e9))
    match outcome:
        case Committed(written):
            return Asked(kv.mod, claim, intent, written.revision, certain=True)
        case Unknown():
            return Asked(kv.mod, claim, intent, head.revision, certain=False)
    raise SwitchoverFailed(
        f"the request could not be written to etcd ({type(outcome).__name__.lower()}): ask again"
    )


async def _await_move(client: EtcdClient, lease: str, asked: Asked, timeout_s: float) -> Moved:
    """Look until the move's line of history is complete. Bounded by `timeout_s`."""
    where = f"lease {lease} is still with {asked.held.node}"
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                with contextlib.suppress(StoreUnavailable):
                    _, keys = await client.read_all(ASK_TIMEOUT_S)
                    found = {kv.key: kv for kv in keys}
                    _refused(found, lease, asked)
                    moved, where = _moved(found, lease, asked.token, asked.held) or (None, where)
                    if moved is not None:
                        return moved
                await asyncio.sleep(POLL_S)
    except TimeoutError:
        unsure = "" if asked.certain else f"; {UNSURE}"
        raise SwitchoverFailed(f"no outcome within {timeout_s:g} s: {where}{unsure}") from None


def _refused(found: dict[str, KeyValue], lease: str, asked: Asked) -> None:
    """Raises `SwitchoverFailed` for the holder's no to this very request, and for no other."""
    kv = found.get(records.intent_key(lease))
    intent = records.decode(IntentRecord, kv.value) if kv is not None else None
    if kv is None or intent is None or not intent.answer or kv.mod <= asked.after:
        return
    if replace(intent, answer="") == asked.intent:
        raise SwitchoverFailed(f"the holder refused: {intent.answer}")


def _moved(
    found: dict[str, KeyValue], lease: str, token: int, old: ClaimRecord
) -> tuple[Moved | None, str] | None:
    kv = found.get(records.claim_key(lease))
    claim = records.decode(ClaimRecord, kv.value) if kv is not None else None
    if kv is None or claim is None or kv.mod == token:
        return None
    line = found.get(records.history_key(lease, kv.mod))
    entry = records.decode(HistoryRecord, line.value) if line is not None else None
    if entry is None or not entry.answered:
        return None, f"lease {lease} went to {claim.node or 'nobody'}, but its service has not answered"
    if entry.to_node == old.node:
        raise SwitchoverFailed(f"the target did not take lease {lease}: {old.node} serves it again")
    return Moved(lease, old.node, entry.to_node, entry.token, entry.gap_ms, entry.trace_id), ""


def known_lease(config: Config, name: str | None) -> str:
    """The lease that is meant; it need not be named where there is one. Raises `UsageError`."""
    names = [lease.name for lease in config.leases]
    if name is None and len(names) == 1:
        return names[0]
    if name is None:
        raise UsageError(f"LEASE is missing: there are {', '.join(names)}")
    if name not in names:
        raise UsageError(f"LEASE = {name}: there is no such lease, only {', '.join(names)}")
    return name


def no_status(error: OperationalError) -> str:
    """One line for a status that neither agent nor etcd could give."""
    return f"no agent runs here, and etcd gives no answer: {error}"
