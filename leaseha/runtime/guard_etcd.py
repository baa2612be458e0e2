"""What the guard writes to etcd, and how: T12 through the JSON gateway, with no more than sockets and JSON.

http.client would double the size of this process, gRPC multiply it. The gateway knows no users by client
certificate: with those, and no password user, nothing can be written here, and a crash takes a ttl.
"""

from __future__ import annotations

import binascii
import json
import socket
import time
from collections.abc import Iterator, Sequence
from typing import Any, Final

from leaseha.runtime.guard_kernel import NS_PER_S, Settled, Unknown

NS_PER_MS: Final = 1_000_000
ANSWER_MAX: Final = 8 << 20
ATTEMPT_S: Final = 1.0
"""How long one member of etcd is given for one answer."""
BATCH: Final = 60
"""Leases in one transaction (etcd allows 128 operations)."""

Message = dict[str, Any]


class Gateway:
    """etcd by POST of JSON: read and compare-and-put. Each call tries every member, the last good one first."""

    def __init__(self, told: Message) -> None:
        """`told`: endpoints, and ca, cert, key, user, password_file where there are any."""
        self._told = told
        self._endpoints: list[str] = list(told["endpoints"])
        self._token = ""
        self._known = False
        """A user was asked for, and answered (perhaps that etcd wants none)."""
        self._tls: Any = None

    def call(self, path: str, body: Message, timeout_s: float) -> Message:
        """The answer of the first member that gives one. Raises Unknown: a write may have happened."""
        why = "no endpoint"
        for endpoint in list(self._endpoints):
            try:
                answer = self._authorised(endpoint, path, body, min(ATTEMPT_S, timeout_s))
            except (OSError, ValueError, Unknown) as error:
                why = f"{endpoint}: {error}"
                continue
            if self._endpoints[0] != endpoint:
                self._endpoints = [endpoint, *(one for one in self._endpoints if one != endpoint)]
            return answer
        raise Unknown(why)

    def refresh(self, timeout_s: float) -> None:
        """Have a fresh token, if a user is told: the hashing takes etcd 90 ms, which a release should not wait for.

        Raises Unknown, OSError, ValueError.
        """
        if self._told.get("user"):
            self._login(self._endpoints[0], timeout_s)

    def _authorised(self, endpoint: str, path: str, body: Message, timeout_s: float) -> Message:
        if self._told.get("user") and not self._known:
            self._login(endpoint, timeout_s)
        status, answer = self._post(endpoint, path, body, timeout_s)
        if status == 401 and self._told.get("user"):
            self._login(endpoint, timeout_s)
            status, answer = self._post(endpoint, path, body, timeout_s)
        if status != 200:
            raise Unknown(str(answer.get("message") or answer.get("error") or f"HTTP status {status}"))
        return answer

    def _login(self, endpoint: str, timeout_s: float) -> None:
        with open(self._told["password_file"], encoding="utf-8") as file:
            password = file.readline().rstrip("\r\n")
        wanted = {"name": self._told["user"], "password": password}
        status, answer = self._post(endpoint, "/v3/auth/authenticate", wanted, timeout_s)
        said = str(answer.get("message") or answer.get("error") or "")
        if status != 200 and "authentication is not enabled" not in said:
            raise Unknown(said or f"HTTP status {status}")
        self._token, self._known = str(answer.get("token", "")), True

    def _post(self, endpoint: str, path: str, body: Message, timeout_s: float) -> tuple[int, Message]:
        """(status, JSON). Raises OSError, ValueError for what is no answer."""
        scheme, _, place = endpoint.partition("://")
        host, _, port = place.rpartition(":")
        host = host.strip("[]")
        data = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: {place}\r\nContent-Type: application/json\r\nConnection: close\r\n"
        head += f"Authorization: {self._token}\r\n" if self._token else ""
        end_ns = time.monotonic_ns() + int(timeout_s * NS_PER_S)
        # As bytes: for text the resolver would load Python's IDNA tables, at the worst of moments.
        place_of: Any = (host.encode(), int(port))
        with socket.create_connection(place_of, timeout_s) as plain:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            wire = self._context().wrap_socket(plain, server_hostname=host) if scheme == "https" else plain
            with wire:
                wire.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
                return _answer(b"".join(_pieces(wire, end_ns)))

    def _context(self) -> Any:
        if self._tls is None:
            import ssl

            self._tls = ssl.create_default_context(cafile=self._told["ca"])
            if self._told.get("cert"):
                self._tls.load_cert_chain(self._told["cert"], self._told["key"])
        return self._tls


def _pieces(wire: socket.socket, end_ns: int) -> Iterator[bytes]:
    """All that comes until the other end closes."""
    size = 0
    while True:
        wire.settimeout(max(0.001, (end_ns - time.monotonic_ns()) / NS_PER_S))
        piece = wire.recv(65536)
        size += len(piece)
        if not piece:
            return
        if size > ANSWER_MAX or time.monotonic_ns() > end_ns:
            raise TimeoutError("the answer did not end")
        yield piece


def _answer(data: bytes) -> tuple[int, Message]:
    """Status and JSON of a whole HTTP/1.1 response. Raises ValueError for a part of one."""
    head, separator, body = data.partition(b"\r\n\r\n")
    if not separator:
        raise ValueError("no HTTP response")
    first, *lines = head.decode("latin-1").split("\r\n")
    fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if fields.get("transfer-encoding", "").lower() == "chunked":
        whole = b""
        while (size := int(body.partition(b"\r\n")[0], 16)) > 0:
            body = body.partition(b"\r\n")[2]
            whole, body = whole + body[:size], body[size + 2 :]
        body = whole
    elif len(body) != int(fields.get("content-length", len(body))):
        raise ValueError("the HTTP response was cut off")
    status = int(first.split()[1])
    try:
        found = json.loads(body)
    except ValueError:
        found = {"message": f"HTTP status {status}, no JSON"}
    return status, found if isinstance(found, dict) else {}


def b64(text: str) -> str:
    """As the gateway writes keys and values."""
    return binascii.b2a_base64(text.encode(), newline=False).decode()


def record_of(kv: Message) -> Message:
    """The JSON object in a value; empty if it holds none."""
    try:
        found = json.loads(binascii.a2b_base64(kv.get("value", "")))
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def encoded(record: Message) -> str:
    """A record as leaseha.core.records.encode writes it."""
    return json.dumps(record, separators=(",", ":"), sort_keys=True)


def closed_session(record: Message) -> str:
    """The own record, *closed* by its node."""
    return encoded({**record, "life": "closed", "by": record["node"]})


def free_claim(claim: Message, token: int, node: str, why: str, trace: str, down_ms: int) -> str:
    """The claim, let go: as T11 writes it, but that this was no release that anyone asked for."""
    record = {"hold": "free", "kind": "failover", "reason": why, "previous": token, "from_node": node}
    more = {"traceparent": (trace, ""), "epoch": (claim.get("epoch", 1), 1), "down_ms": (down_ms, -1)}
    return encoded(record | {name: value for name, (value, default) in more.items() if value != default})


def history_line(claim: Message, token: int, at_ms: int) -> str:
    """The line of a failback whose target crashed before it wrote one, for the flap budget (G8), as the core has it."""
    trace = str(claim.get("traceparent", "")).split("-")
    line = {"token": token, "to_node": claim["node"], "from_node": claim.get("from_node", ""), "at_ms": at_ms}
    line |= {"kind": "failback", "reason": claim.get("reason", "")}
    return encoded({**line, "trace_id": trace[1] if len(trace) == 4 else ""})


def _compare(key: str, mod: int) -> Message:
    return {"key": b64(key), "target": "MOD", "result": "EQUAL", "mod_revision": str(mod)}


def _put(key: str, value: str) -> Message:
    return {"request_put": {"key": b64(key), "value": b64(value)}}


class Closing:
    """T12: the own session *closed*, its claims *free*, and nothing that anyone else wrote meanwhile is touched."""

    def __init__(self, gateway: Gateway, prefix: str, session: int, leases: Sequence[str]) -> None:
        self._gateway = gateway
        self._prefix = prefix
        self._session = session
        self._leases = leases

    def read(self, timeout_s: float) -> tuple[Message | None, dict[str, Message]]:
        """The own session record, and the claims that name this session, by lease. Raises Unknown."""
        own: Message | None = None
        claims: dict[str, Message] = {}
        for at in range(0, max(1, len(self._leases)), BATCH):
            names = self._leases[at : at + BATCH]
            keys = [self._own(), *map(self._claim, names)]
            found = self._ask(keys, timeout_s)
            own = found[0][0] if found[0] else None
            seen = {name: kvs[0] for name, kvs in zip(names, found[1:], strict=True) if kvs}
            claims |= {name: kv for name, kv in seen.items() if self._names_us(record_of(kv))}
        return own, claims

    def write(self, traces: dict[str, str], why: str, since_ns: int, end_ns: int) -> list[str]:
        """Until it is written; the leases that were freed. Raises Unknown if it was not, in time or at all."""
        freed: list[str] = []
        while (timeout_s := (end_ns - time.monotonic_ns()) / NS_PER_S) > 0:
            own, claims = self.read(timeout_s)
            record = record_of(own) if own else {}
            life = record.get("life", "gone")
            if own is None or life not in ("live", "closed"):
                raise Settled(f"its session is {life} already")
            if life == "closed" and not claims:
                return freed
            mine = list(claims.items())[:BATCH]
            compares = [_compare(self._own(), int(own["mod_revision"]))]
            puts = [_put(self._own(), closed_session(record))] if life == "live" else []
            down_ms = (time.monotonic_ns() - since_ns) // NS_PER_MS
            for name, kv in mine:
                token = int(kv["mod_revision"])
                compares.append(_compare(self._claim(name), token))
                claim = free_claim(record_of(kv), token, record["node"], why, traces.get(name, ""), down_ms)
                puts.append(_put(self._claim(name), claim))
            puts += self._unwritten(mine, timeout_s)
            # A refusal means that something moved since the read: a write of the dead agent that was still on its way.
            answer = self._gateway.call("/v3/kv/txn", {"compare": compares, "success": puts}, timeout_s)
            if answer.get("succeeded"):
                freed += [name for name, _ in mine]
                if len(mine) == len(claims):
                    return freed
        raise Unknown("no time was left")

    def _unwritten(self, mine: Sequence[tuple[str, Message]], timeout_s: float) -> list[Message]:
        """The history of failbacks that have none. Their target alone writes it, before the session is closed."""
        failbacks = [(name, kv) for name, kv in mine if record_of(kv).get("kind") == "failback"]
        if not failbacks:
            return []
        keys = [
            f"{self._prefix}leases/{name}/history/{int(kv['mod_revision']):020d}" for name, kv in failbacks
        ]
        at_ms = time.time_ns() // NS_PER_MS
        return [
            _put(key, history_line(record_of(kv), int(kv["mod_revision"]), at_ms))
            for key, (_, kv), found in zip(keys, failbacks, self._ask(keys, timeout_s), strict=True)
            if not found
        ]

    def _ask(self, keys: Sequence[str], timeout_s: float) -> list[list[Message]]:
        """What stands at each of these keys. Raises Unknown."""
        asked = [{"request_range": {"key": b64(key)}} for key in keys]
        answer = self._gateway.call("/v3/kv/txn", {"success": asked}, timeout_s)
        found = [one.get("response_range", {}).get("kvs", []) for one in answer.get("responses", [])]
        if len(found) != len(keys):
            raise Unknown("etcd's gateway gave half an answer")
        return found

    def _own(self) -> str:
        return f"{self._prefix}sessions/{self._session:016x}"

    def _claim(self, lease: str) -> str:
        return f"{self._prefix}leases/{lease}/claim"

    def _names_us(self, claim: Message) -> bool:
        return claim.get("hold") == "held" and claim.get("session") == self._session
