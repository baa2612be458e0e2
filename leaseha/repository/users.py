"""The users of a repository and their passwords, as the agent tells them.

They stand in etcd, one key a user, so that they are the same on every node. A password is proven by bcrypt once, and
remembered (as a keyed hash, in memory alone) for as long as the user's entry stays the same: never a bcrypt a request.

Not done: locking an account after wrong passwords, which would let anybody lock anybody out. Instead wrong
ones are proven one at a time, so that guessing costs this process one thread at most.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import re
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Final

NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
"""Also the name of a folder, and the part before the colon of a Basic credential."""
PASSWORD_MAX: Final = 72
"""Bytes that bcrypt looks at."""
COST: Final = 10
COST_MAX: Final = 14
"""A hash that takes longer (about a second) would be a way to stop the service."""
GOOD_NS: Final = 3600 * 10**9
BAD_NS: Final = 10 * 10**9
REMEMBERED: Final = 10_000
WAIT_S: Final = 5.0
WAITING: Final = 16
"""More are told to come again: whoever guesses must not take the threads of those who are known."""
_HASH: Final = re.compile(r"\$2[aby]\$([0-9]{2})\$[./A-Za-z0-9]{53}")
_NOBODY: Final = "$2b$10$IYMvF0TpNTx8tCc5MplyluZqhljObJrsF925Gq8EMpBXCgB/VVYXK"
"""Proven against for a name that does not exist, so that the time taken does not tell which do."""


class BusyError(Exception):
    """So many passwords are being proven that this one has to wait for another time."""


@dataclass(frozen=True, slots=True)
class User:
    """One user; everything but the name is what stands in etcd, as JSON."""

    name: str
    hash: str
    """bcrypt, in the form of htpasswd."""
    append_only: bool = False
    quota_bytes: int = 0
    """Of all repositories below `/NAME/` together; 0: none."""
    monitor: bool = False
    """May read the metrics, and nothing else."""

    def told(self) -> str:
        """The value of the key."""
        value = {
            name: one for name, one in asdict(self).items() if name != "name" and (one or name == "hash")
        }
        return json.dumps(value, separators=(",", ":"))


_FIELDS: Final = frozenset(field.name for field in fields(User)) - {"name"}


def is_hash(text: str) -> bool:
    """True for a bcrypt hash that can be proven in reasonable time."""
    match = _HASH.fullmatch(text)
    return match is not None and 4 <= int(match[1]) <= COST_MAX


def read(name: str, value: str) -> User | None:
    """A user from its key and value; None for what is none (fields of a newer version are passed over)."""
    try:
        told: Any = json.loads(value)
        found = {key: one for key, one in told.items() if key in _FIELDS}
    except (ValueError, TypeError, AttributeError):
        return None
    quota = found.get("quota_bytes", 0)
    right = (
        NAME.fullmatch(name) is not None
        and isinstance(found.get("hash"), str)
        and is_hash(found["hash"])
        and all(isinstance(found.get(key, False), bool) for key in ("append_only", "monitor"))
        and type(quota) is int
        and quota >= 0
    )
    return User(name, **found) if right else None


def hashed(password: str) -> str:
    """The bcrypt hash of a new password. Raises ValueError with a sentence for one that cannot be."""
    raw = password.encode()
    if not raw or len(raw) > PASSWORD_MAX:
        raise ValueError(f"a password has 1 to {PASSWORD_MAX} bytes")
    if b"\0" in raw or "\n" in password or "\r" in password:
        raise ValueError("a password has no line ends or zero bytes in it")
    import bcrypt

    return bcrypt.hashpw(raw, bcrypt.gensalt(COST)).decode()


def credentials(field: bytes | None) -> tuple[str, bytes] | None:
    """Name and password of an `Authorization` field; None without one that is Basic and well formed."""
    scheme, _, encoded = (field or b"").partition(b" ")
    if scheme.lower() != b"basic":
        return None
    try:
        name, colon, password = base64.b64decode(encoded.strip(b" "), validate=True).partition(b":")
        return (name.decode(), password) if colon else None
    except (binascii.Error, UnicodeDecodeError):
        return None


class UserBook:
    """Who there is. Replaced whole, piece by piece told; read by many threads without a lock."""

    def __init__(self) -> None:
        self._users: Mapping[str, User] | None = None
        self._coming: dict[str, User] = {}

    @property
    def known(self) -> bool:
        """Whether the agent has told it yet."""
        return self._users is not None

    def tell(self, users: Iterable[Mapping[str, Any]], *, first: bool, last: bool) -> None:
        """The next piece: each user's `name` and `value`. What counts changes with the last one."""
        if first:
            self._coming = {}
        for one in users:
            user = read(one["name"], one["value"])
            if user is not None:
                self._coming[user.name] = user
        if last:
            self._users, self._coming = self._coming, {}

    def find(self, name: str) -> User | None:
        """The user of that name."""
        return (self._users or {}).get(name)

    def __len__(self) -> int:
        return len(self._users or {})


class PasswordCheck:
    """Proves passwords, and remembers what it has proven. Used by many threads."""

    def __init__(self, wait_s: float = WAIT_S) -> None:
        self._wait_s = wait_s
        self._secret = secrets.token_bytes(32)
        self._lock = threading.Lock()
        self._proving = threading.Lock()
        self._waiting = threading.Semaphore(WAITING)
        self._remembered: OrderedDict[bytes, tuple[bool, int]] = OrderedDict()
        self.proven = 0
        """How many times bcrypt was asked."""

    def good(self, user: User | None, password: bytes) -> bool:
        """Whether it is the user's. Raises BusyError when too many are waiting to be told."""
        entry = f"{user.name}\0{user.hash}\0" if user else "\0"
        key = hmac.digest(self._secret, entry.encode() + hashlib.sha256(password).digest(), "sha256")
        if (known := self._recall(key)) is not None:
            return known
        if not self._waiting.acquire(blocking=False):
            raise BusyError("too many passwords are being proven")
        try:
            return self._prove_in_turn(key, user, password)
        finally:
            self._waiting.release()

    def _prove_in_turn(self, key: bytes, user: User | None, password: bytes) -> bool:
        if not self._proving.acquire(timeout=self._wait_s):
            raise BusyError("too many passwords are being proven")
        try:
            # Whoever was before us may have proven the same one: restic opens five connections at once.
            if (known := self._recall(key)) is not None:
                return known
            good = _proves(user.hash if user else _NOBODY, password) and user is not None
            self._remember(key, good)
            return good
        finally:
            self._proving.release()

    def _recall(self, key: bytes) -> bool | None:
        with self._lock:
            known = self._remembered.get(key)
            if known is None or known[1] < time.monotonic_ns():
                return None
            self._remembered.move_to_end(key)
            return known[0]

    def _remember(self, key: bytes, good: bool) -> None:
        with self._lock:
            self.proven += 1
            self._remembered[key] = (good, time.monotonic_ns() + (GOOD_NS if good else BAD_NS))
            self._remembered.move_to_end(key)
            while len(self._remembered) > REMEMBERED:
                self._remembered.popitem(last=False)


def _proves(known: str, password: bytes) -> bool:
    import bcrypt

    try:
        return bcrypt.checkpw(password[:PASSWORD_MAX], known.encode())
    except ValueError:
        return False  # a zero byte within
