"""The questions that health checks ask: is the link up, does a host answer, a port, a script.

Each probe is asked once per call, holds nothing afterwards, and is ended by its caller's timeout through
cancellation. It decides nothing: what follows from answers is said by `leaseha.adapters.health`.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import fcntl
import os
import signal
import socket
import struct
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, Protocol

from leaseha.adapters.announce import internet_checksum
from leaseha.adapters.aside import aside

_SIOCGIFFLAGS: Final = 0x8913
_SIOCETHTOOL: Final = 0x8946
_ETHTOOL_GLINK: Final = 0x0A
_IFF_UP: Final = 0x1
_IFF_RUNNING: Final = 0x40
_ECHO: Final = {socket.AF_INET: (8, 0), socket.AF_INET6: (128, 129)}
"""Types of ICMP echo request and reply."""
_OUTPUT_BYTES: Final = 4096
_DETAIL_CHARACTERS: Final = 200
_DEATH_S: Final = 1.0
"""How long a killed script may take to be gone; one that hangs in the kernel takes longer."""
_OUR_OWN_TROUBLE: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EAGAIN})


@dataclass(frozen=True, slots=True)
class Answer:
    """What a probe found. `healthy` None: it could not be asked at all, which says nothing about the other side."""

    healthy: bool | None
    detail: str


class Probe(Protocol):
    """One question. `ask` may be cancelled at any time; it is never called while it runs."""

    async def ask(self) -> Answer:
        """Ask once. Raises no `OSError`."""


class Resolver:
    """Turns host names into addresses, aside: a hanging name server stalls nothing else.

    One question for each name at a time; one that hangs is waited for, not repeated.
    """

    def __init__(self) -> None:
        self._asked: dict[tuple[str, int], asyncio.Future[list[Any]]] = {}

    async def addresses(self, host: str, port: int) -> list[tuple[socket.AddressFamily, Any]]:
        """(family, socket address) in the order in which they should be tried. Raises `OSError`."""
        # An address needs no name server and no thread.
        with suppress(socket.gaierror):
            plain = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
            return [(one[0], one[4]) for one in plain]
        key = (host, port)
        asked = self._asked.get(key)
        if asked is None:
            asked = self._asked[key] = aside(lambda: self._resolve(host, port), f"resolve {host}")
            asked.add_done_callback(lambda _: self._asked.pop(key))
        found = await asyncio.shield(asked)
        return [(one[0], one[4]) for one in found]

    @staticmethod
    def _resolve(host: str, port: int) -> list[Any]:
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)


class CarrierProbe:
    """Frames can pass on an interface: it is up, and so is what it is plugged into."""

    def __init__(self, interface: str) -> None:
        self.interface = interface

    async def ask(self) -> Answer:
        """From the kernel, at once."""
        name = self.interface.encode()
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                answer = fcntl.ioctl(sock, _SIOCGIFFLAGS, struct.pack("16sH14x", name, 0))
                plugged = self._plugged(sock, name)
        except OSError as error:
            return _failed(error, f"{self.interface}: ")
        flags = struct.unpack("16xH14x", answer)[0]
        if not flags & _IFF_UP:
            return Answer(healthy=False, detail=f"{self.interface} is switched off")
        # The flag follows a pulled cable up to a second late; but it also knows of bonds and dormant links.
        if not flags & _IFF_RUNNING or not plugged:
            return Answer(healthy=False, detail=f"{self.interface} has no carrier")
        return Answer(healthy=True, detail=f"{self.interface} has carrier")

    @staticmethod
    def _plugged(sock: socket.socket, name: bytes) -> bool:
        """The driver's own word; True from one that has none."""
        link = ctypes.create_string_buffer(struct.pack("=II", _ETHTOOL_GLINK, 0), 8)
        request = struct.pack("16sP", name, ctypes.addressof(link)).ljust(32, b"\0")
        try:
            fcntl.ioctl(sock, _SIOCETHTOOL, request)
        except OSError as error:
            if error.errno == errno.EOPNOTSUPP:
                return True
            raise
        return bool(struct.unpack_from("=I", link.raw, 4)[0])


class TcpProbe:
    """A port accepts connections; the connection is closed without a byte."""

    def __init__(self, host: str, port: int, resolver: Resolver) -> None:
        self.host = host
        self.port = port
        self._resolver = resolver

    async def ask(self) -> Answer:
        """All addresses of the host, one after the other, until one accepts."""
        answer = Answer(healthy=False, detail=f"{self.host} has no address")
        try:
            for family, address in await self._resolver.addresses(self.host, self.port):
                answer = await self._connect(family, address)
                if answer.healthy:
                    break
        except OSError as error:
            return _failed(error, f"{self.host}: ")
        return answer

    async def _connect(self, family: socket.AddressFamily, address: Any) -> Answer:
        where = f"{address[0]} port {self.port}"
        with socket.socket(family, socket.SOCK_STREAM) as sock:
            sock.setblocking(False)
            try:
                await asyncio.get_running_loop().sock_connect(sock, address)
            except OSError as error:
                return _failed(error, f"{where}: ")
        return Answer(healthy=True, detail=f"{where} accepts")


class PingProbe:
    """A host answers an ICMP echo, IPv4 or IPv6, without the `ping` program."""

    def __init__(self, host: str, resolver: Resolver) -> None:
        self.host = host
        self._resolver = resolver
        self._sequence = 0

    async def ask(self) -> Answer:
        """One echo to the first address of the host; waits for the reply without end."""
        try:
            family, address = (await self._resolver.addresses(self.host, 0))[0]
            self._sequence = (self._sequence + 1) & 0xFFFF
            sock, raw = self._open(family)
            with sock:
                sock.connect(address)  # sends nothing: the kernel remembers whom to hear
                return await self._echo(sock, family, raw=raw)
        except PermissionError:
            return Answer(healthy=None, detail="cannot ping: needs CAP_NET_RAW, or net.ipv4.ping_group_range")
        except OSError as error:
            return _failed(error, f"{self.host}: ")

    @staticmethod
    def _open(family: socket.AddressFamily) -> tuple[socket.socket, bool]:
        """A socket that hears from its peer only: the kernel's own for pings, else a raw one."""
        protocol = socket.IPPROTO_ICMP if family == socket.AF_INET else socket.IPPROTO_ICMPV6
        try:
            sock, raw = socket.socket(family, socket.SOCK_DGRAM, protocol), False
        except PermissionError:
            sock, raw = socket.socket(family, socket.SOCK_RAW, protocol), True
        sock.setblocking(False)
        return sock, raw

    async def _echo(self, sock: socket.socket, family: socket.AddressFamily, *, raw: bool) -> Answer:
        loop = asyncio.get_running_loop()
        request, reply = _ECHO[family]
        # 16 random bytes tell our reply from all others; the identifier is the kernel's own business.
        nonce = os.urandom(16)
        await loop.sock_sendall(sock, echo_request(request, self._sequence, nonce))
        while True:
            data = await loop.sock_recv(sock, 2048)
            if raw and family == socket.AF_INET:
                data = data[(data[0] & 0xF) * 4 :]  # a raw IPv4 socket gives the IP header too
            if data[:1] == bytes((reply,)) and data[8:] == nonce:
                return Answer(healthy=True, detail=f"{self.host} answers")


def echo_request(kind: int, sequence: int, payload: bytes) -> bytes:
    """An ICMP echo request; its checksum is right for IPv4, that of ICMPv6 is filled in by the kernel."""
    head = struct.pack("!BBHHH", kind, 0, 0, os.getpid() & 0xFFFF, sequence)
    return head[:2] + struct.pack("!H", internet_checksum(head + payload)) + head[4:] + payload


class ScriptProbe:
    """A program ends with 0. No shell; in a process group of its own, of which nothing outlives the answer.

    (What puts itself into another group, as a daemon does, is not seen.)
    """

    def __init__(self, argv: Sequence[str]) -> None:
        self.argv = tuple(argv)
        self._starting: asyncio.Future[subprocess.Popen[bytes]] | None = None
        self._unkillable: subprocess.Popen[bytes] | None = None

    async def ask(self) -> Answer:
        """Run it to its end. The detail is the last line that it wrote, to standard output or error."""
        if self._starting is not None and not self._starting.done():
            return Answer(healthy=False, detail=f"{self.argv[0]} still does not start")
        if self._unkillable is not None and self._unkillable.poll() is None:
            return Answer(healthy=False, detail=f"process {self._unkillable.pid} was killed and does not end")
        output = bytearray()
        ours, theirs = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        loop = asyncio.get_running_loop()
        try:
            process = await self._start(theirs)
            loop.add_reader(ours, _drain, ours, output)
            try:
                code = await self._end_of(process)
            finally:
                loop.remove_reader(ours)
            _drain(ours, output)
        except OSError as error:
            return _failed(error, f"{self.argv[0]}: ")
        finally:
            os.close(ours)
        return Answer(healthy=code == 0, detail=_last_line(bytes(output), code))

    async def _start(self, output: int) -> subprocess.Popen[bytes]:
        """Aside, since it returns only once the program was found and read from its disk."""

        def start() -> subprocess.Popen[bytes]:
            try:
                os.set_blocking(output, True)
                return subprocess.Popen(
                    self.argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
                )
            finally:
                os.close(output)

        self._starting = starting = aside(start, f"start {self.argv[0]}")
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:
            # It is too late for this run, whenever it comes; as a rule it comes now.
            starting.add_done_callback(self._kill_late)
            await asyncio.wait({starting}, timeout=_DEATH_S)
            if starting.done() and starting.exception() is None:
                await self._put_down(starting.result())
            raise

    def _kill_late(self, starting: asyncio.Future[subprocess.Popen[bytes]]) -> None:
        if starting.exception() is None:
            self._unkillable = starting.result()
            _kill_group(self._unkillable)

    async def _end_of(self, process: subprocess.Popen[bytes]) -> int:
        """The exit code. However this ends, the process group is killed, and the process reaped if it died."""
        # From now on every way out leaves a process that the next run looks at.
        self._unkillable = process
        try:
            dead = os.pidfd_open(process.pid)
            try:
                await _readable(dead)
            finally:
                os.close(dead)
        finally:
            await self._put_down(process)
        return process.returncode

    @staticmethod
    async def _put_down(process: subprocess.Popen[bytes]) -> None:
        # Before it is reaped: until then the number of the group cannot belong to anyone else.
        _kill_group(process)
        try:
            dead = os.pidfd_open(process.pid)
        except OSError:
            process.poll()
            return
        try:
            async with asyncio.timeout(_DEATH_S):
                await _readable(dead)
        except TimeoutError:
            pass  # it hangs in the kernel: the next run says so
        finally:
            process.poll()
            os.close(dead)


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    # No such process: it did not become the leader of its group; not permitted: it became another account.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


async def _readable(descriptor: int) -> None:
    """Until the descriptor is readable: for a pidfd, until its process has ended."""
    loop = asyncio.get_running_loop()
    done = asyncio.Event()
    loop.add_reader(descriptor, done.set)
    try:
        await done.wait()
    finally:
        loop.remove_reader(descriptor)


def _drain(descriptor: int, output: bytearray) -> None:
    """Keep the last of what a script writes; one that writes without end is read in turns."""
    try:
        for _ in range(16):
            data = os.read(descriptor, _OUTPUT_BYTES)
            if not data:
                asyncio.get_running_loop().remove_reader(descriptor)
                return
            output += data
            del output[:-_OUTPUT_BYTES]
    except BlockingIOError:
        return


def _last_line(output: bytes, code: int) -> str:
    lines = output.decode(errors="replace").strip().splitlines()
    said = "".join(c for c in lines[-1] if c.isprintable())[:_DETAIL_CHARACTERS] if lines else ""
    if code == 0:
        return said or "exit 0"
    how = f"exit {code}" if code > 0 else f"ended by signal {-code}"
    return f"{how}: {said}" if said else how


def _failed(error: OSError, where: str) -> Answer:
    """A failure of the other side, unless this process has run out of something."""
    healthy = None if error.errno in _OUR_OWN_TROUBLE else False
    # asyncio puts words of its own into strerror; those of a resolver (errno below 0) are better than none.
    known = error.errno is not None and error.errno > 0
    return Answer(healthy, where + (os.strerror(error.errno or 0) if known else error.strerror or str(error)))
