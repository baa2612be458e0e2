"""Listeners, connections and worker threads: who waits where, and how all of it ends at once.

A connection is *parked* (in epoll, watched by one thread that also collects the bytes of the next head) or
*busy* (with one worker, from a complete head to the answer). So a slow or idle client costs a descriptor
and no thread, and a worker may block in recv, write, fsync and sendfile, which all let others run.
Everything is bounded: connections, workers, sizes and times.

`reset_all` may be called from any thread and does not wait for workers: after it returns no byte of an
answer leaves on any connection that was open.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from leaseha.repository import kernel
from leaseha.repository.exchange import BadBodyError, ClientGoneError, Connection, Exchange, linger
from leaseha.repository.http import END_OF_HEAD, MAX_HEAD, HeadError, head_of_answer, parse_head
from leaseha.repository.tickle import Flow

log = logging.getLogger(__name__)

_IP_FREEBIND: Final = 15
_IPV6_FREEBIND: Final = 78
_BACKLOG: Final = 256
_STAY_MS: Final = 20
"""How long a worker waits for the next request before it parks the connection."""
_SWEEP_S: Final = 1.0
_YOUNG_NS: Final = 1_000_000_000
_WATCH: Final = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLONESHOT


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on what clients may take."""

    connections: int = 512
    workers: int = 64
    head_s: float = 30.0
    body_s: float = 60.0
    """Longest pause within a body, either way."""
    idle_s: float = 120.0


class Server:
    """Serves `handle(exchange)` on the addresses given to `listen`. `handle` answers or raises."""

    def __init__(
        self,
        handle: Callable[[Exchange], None],
        limits: Limits,
        quiet: Callable[[], None] = lambda: None,
        tls: Callable[[], ssl.SSLContext | None] | None = None,
    ) -> None:
        """`quiet` is called (from any thread) whenever the last connection has gone.

        `tls` gives the context for each new connection and must not wait; without one, plain HTTP.
        """
        self._tls = tls
        self._handle = handle
        self._limits = limits
        self._quiet = quiet
        self._lock = threading.Lock()
        self._epoll = select.epoll()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._wake, select.EPOLLIN)
        self._listeners: dict[int, socket.socket] = {}
        self._connections: dict[int, Connection] = {}
        self._work: queue.SimpleQueue[Connection | None] = queue.SimpleQueue()
        self._workers = 0
        self._free_workers = 0
        self._full = False
        self._draining = False
        self._ended = False
        self._watcher = threading.Thread(target=self._watch, name="watcher", daemon=True)
        self._watcher.start()

    # ---- asked for by the process

    def listen(self, addresses: Sequence[str], port: int) -> None:
        """Accept on each address, which need not be on an interface yet. Raises OSError, listening on none."""
        opened: list[socket.socket] = []
        try:
            opened.extend(_listener(address, port) for address in addresses)
        except OSError:
            for sock in opened:
                sock.close()
            raise
        with self._lock:
            self._draining = False
            self._full = False
            for sock in opened:
                self._listeners[sock.fileno()] = sock
                self._epoll.register(sock, select.EPOLLIN)

    def stop_accepting(self) -> None:
        """No new connection, no new request on an old one; who is busy may finish and is then closed."""
        with self._lock:
            self._draining = True
            self._close_listeners()
            for connection in [one for one in self._connections.values() if one.parked]:
                self._close(connection)

    def reset_all(self) -> int:
        """Close the listeners, send RST on every connection. Returns how many of them were busy."""
        with self._lock:
            self._draining = True
            self._close_listeners()
            busy = 0
            for connection in list(self._connections.values()):
                kernel.reset_connection(connection.sock)
                if connection.parked:
                    self._close(connection)
                else:
                    busy += 1
            return busy

    def counts(self) -> tuple[int, int]:
        """(connections, those of them that are busy)."""
        with self._lock:
            return len(self._connections), sum(not one.parked for one in self._connections.values())

    def flows(self) -> list[Flow]:
        """Who is connected to which of our addresses."""
        with self._lock:
            socks = [one.sock for one in self._connections.values()]
        found = []
        for sock in socks:
            with contextlib.suppress(OSError):  # it has ended meanwhile
                (client, client_port), (vip, port) = sock.getpeername()[:2], sock.getsockname()[:2]
                found.append(Flow(client, client_port, vip, port))
        return found

    def end(self) -> None:
        """Reset everything and let the threads go. For the end of the process, and for tests."""
        self.reset_all()
        with self._lock:
            self._ended = True
            for _ in range(self._workers):
                self._work.put(None)
        os.eventfd_write(self._wake, 1)
        self._watcher.join(timeout=2 * _SWEEP_S)

    # ---- the watcher's thread

    def _watch(self) -> None:
        sweep_at = time.monotonic() + _SWEEP_S
        while not self._ended:
            for fd, _ in self._epoll.poll(_SWEEP_S):
                with self._lock:
                    if fd in self._listeners:
                        self._accept(self._listeners[fd])
                    elif (connection := self._connections.get(fd)) and connection.parked:
                        self._collect(connection)
            if time.monotonic() >= sweep_at:
                sweep_at = time.monotonic() + _SWEEP_S
                with self._lock:
                    self._sweep()

    def _accept(self, listener: socket.socket) -> None:
        if len(self._connections) >= self._limits.connections and not self._close_idlest():
            self._pause_listeners()
            return
        try:
            sock, address = listener.accept()
        except OSError as trouble:
            # Out of descriptors, most likely: trying again at once would only burn the processor.
            log.warning("accept: %s", trouble)
            self._pause_listeners()
            return
        try:
            sock.setblocking(True)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            tls = self._tls() if self._tls else None
            connection = Connection(sock, f"{address[0]}:{address[1]}", self._limits.body_s, tls)
        except OSError as trouble:
            log.info("%s: %s", address[0], trouble)
            sock.close()
            return
        self._connections[connection.sock.fileno()] = connection
        self._epoll.register(connection.sock, _WATCH)

    def _collect(self, connection: Connection) -> None:
        """Bytes of the next head, without waiting; a worker gets the connection once the head is whole.

        A step of a TLS handshake is a worker's too: it costs a millisecond of computing.
        """
        if connection.shaking:
            connection.parked = False
            self._give_to_worker(connection)
            return
        before = len(connection.pending)
        if not connection.collect(MAX_HEAD + 1 - before):
            self._close(connection)
            return
        if not before and connection.pending:
            connection.since_ns = time.monotonic_ns()
        if _has_head(connection):
            connection.parked = False
            self._give_to_worker(connection)
        else:
            self._epoll.modify(connection.sock, _WATCH)

    def _give_to_worker(self, connection: Connection) -> None:
        if self._free_workers <= self._work.qsize() and self._workers < self._limits.workers:
            self._workers += 1
            threading.Thread(target=self._serve_queue, name=f"worker-{self._workers}", daemon=True).start()
        self._work.put(connection)

    def _sweep(self) -> None:
        """Close those that were parked too long: idle, or slow with their head."""
        now_ns = time.monotonic_ns()
        for connection in [one for one in self._connections.values() if one.parked]:
            allowed_s = (
                self._limits.head_s if connection.pending or not connection.served else self._limits.idle_s
            )
            if now_ns - connection.since_ns > allowed_s * 1e9:
                self._close(connection)
        self._resume_listeners()

    def _close_idlest(self) -> bool:
        """Make room. One that has just come is about to ask: it is not pushed out by the next newcomer."""
        young_ns = time.monotonic_ns() - _YOUNG_NS
        idle = [
            one
            for one in self._connections.values()
            if one.parked and not one.pending and (one.served or one.since_ns < young_ns)
        ]
        if idle:
            self._close(min(idle, key=lambda one: one.since_ns))
        return bool(idle)

    def _pause_listeners(self) -> None:
        """Newcomers wait in the kernel's queue until somebody goes."""
        self._full = True
        for listener in self._listeners.values():
            self._epoll.modify(listener, 0)

    def _resume_listeners(self) -> None:
        if self._full:
            self._full = False
            for listener in self._listeners.values():
                self._epoll.modify(listener, select.EPOLLIN)

    def _close_listeners(self) -> None:
        for listener in self._listeners.values():
            self._epoll.unregister(listener)
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        self._listeners.clear()

    def _close(self, connection: Connection) -> None:
        """With the lock held, so that no other thread acts on a descriptor that has a new meaning."""
        fd = connection.sock.fileno()
        if self._connections.pop(fd, None) is None:
            return
        self._epoll.unregister(fd)
        connection.sock.close()
        self._resume_listeners()
        if not self._connections:
            self._quiet()

    # ---- a worker's thread

    def _serve_queue(self) -> None:
        while True:
            with self._lock:
                self._free_workers += 1
            connection = self._work.get()
            with self._lock:
                self._free_workers -= 1
            if connection is None:
                return
            keep = False
            try:
                keep = self._serve(connection)
            finally:
                if not keep:
                    connection.say_goodbye()
                with self._lock:
                    if keep and not self._draining:
                        connection.parked = True
                        # A handshake is bounded as a whole, however many steps it takes.
                        if not connection.shaking:
                            connection.since_ns = time.monotonic_ns()
                        self._epoll.modify(connection.sock, _WATCH)
                    else:
                        self._close(connection)

    def _serve(self, connection: Connection) -> bool:
        """Requests, as long as they follow each other closely. False: the connection must be closed."""
        if not connection.shake():
            log.info("%s: the TLS handshake failed", connection.peer)
            return False
        while not connection.shaking:
            if not _has_head(connection):
                if self._work.qsize() or not connection.more_comes(_STAY_MS):
                    return True
                if not connection.collect(MAX_HEAD + 1 - len(connection.pending)):
                    return False
                if not _has_head(connection):
                    return True  # whoever sends a head in crumbs waits in the park, which has a bound
            if not self._one(connection) or self._draining:
                return False
            connection.absorb()
        return True

    def _one(self, connection: Connection) -> bool:
        """One request. False: the connection cannot be used further."""
        end = connection.pending.find(END_OF_HEAD)
        try:
            if not 0 <= end <= MAX_HEAD - len(END_OF_HEAD):
                raise HeadError(431, "the head is too large")
            end += len(END_OF_HEAD)
            request = parse_head(bytes(connection.pending[:end]))
        except HeadError as wrong:
            self._refuse_head(connection, wrong)
            return False
        del connection.pending[:end]
        connection.absorb()  # what came with the head counts as having come
        connection.served += 1
        exchange = Exchange(connection, request, closing=lambda: self._draining)
        try:
            self._handle(exchange)
        except (ClientGoneError, BadBodyError):
            return False
        if not exchange.body.ended:
            linger(connection)
        return exchange.keep_alive

    def _refuse_head(self, connection: Connection, wrong: HeadError) -> None:
        log.warning("%s refused %d: %s", connection.peer, wrong.status, wrong)
        why = f"{wrong}\n".encode("latin-1", "replace")
        with contextlib.suppress(ClientGoneError):
            connection.send(head_of_answer(wrong.status, len(why), (), close=True) + why)
            linger(connection)


def _has_head(connection: Connection) -> bool:
    """The next head is whole, or is already too large ever to be accepted."""
    return END_OF_HEAD in connection.pending or len(connection.pending) > MAX_HEAD


def _listener(address: str, port: int) -> socket.socket:
    """A listening socket for an address that may not be there yet. Raises OSError."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_FREEBIND, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
        sock.setblocking(False)
        sock.bind((address, port))
        sock.listen(_BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock
