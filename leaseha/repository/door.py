"""Who may do what: users, private repositories, append-only.

It is asked only with the gate open: 401 and 403 are final for clients, so nothing here is ever said by a server
that may not know better, and while the users are not known yet the answer is 503.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, Final, Self

from leaseha.repository.aside import QUARANTINE_DAYS, TRASH_DAYS
from leaseha.repository.exchange import Exchange
from leaseha.repository.paths import Address, Kind
from leaseha.repository.refused import RefusedError
from leaseha.repository.tls import TlsFiles
from leaseha.repository.users import BusyError, PasswordCheck, User, UserBook, credentials

_ASK: Final = ("WWW-Authenticate", 'Basic realm="restic repositories", charset="UTF-8"')
_LATER: Final = ("Retry-After", "1")


@dataclass(frozen=True, slots=True)
class DoorOptions:
    """What the configuration says of one lease's repository."""

    users: bool = False
    private: bool = False
    append_only: bool = False
    quota_bytes: int = 0
    metrics: bool = False
    cert: str = ""
    key: str = ""
    trash_days: int = TRASH_DAYS
    quarantine_days: int = QUARANTINE_DAYS
    compare_every_s: float = 600.0
    """0: never; so are the others."""
    scrub_rate: int = 0
    """Bytes a second."""
    scrub_every_s: float = 30 * 86400.0
    """From the beginning of one pass to that of the next."""
    catch_up_rate: int = 0

    def told(self) -> str:
        """As JSON, for the child's command line; nothing in it is secret."""
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def of(cls, told: str | dict[str, Any]) -> Self:
        """Back from `told`; raises ValueError or TypeError for what is none. Unknown fields are passed over."""
        found: Any = json.loads(told) if isinstance(told, str) else told
        return cls(**{name: value for name, value in found.items() if name in cls.__slots__})

    @property
    def tls(self) -> TlsFiles | None:
        """None: plain HTTP."""
        return TlsFiles(self.cert, self.key) if self.cert else None


@dataclass(frozen=True, slots=True)
class Guest:
    """Who speaks; `user` None: anybody, where no users are wanted."""

    user: User | None
    append_only: bool

    @property
    def name(self) -> str:
        """Empty for anybody."""
        return self.user.name if self.user else ""

    def may_delete(self, address: Address) -> None:
        """Raises RefusedError. Locks can always go: else a backup that broke off would block all others."""
        if self.append_only and address.kind is not Kind.LOCKS:
            raise RefusedError(403, "this repository is append-only")


class Door:
    """Lets requests in. Asked by many threads; options and users are told by one."""

    def __init__(self, options: DoorOptions = DoorOptions()) -> None:
        self.options = options
        self.book = UserBook()
        self.passwords = PasswordCheck()

    def admit(self, exchange: Exchange) -> Guest:
        """Who this is. Raises RefusedError: 401, or 503 while that cannot be said."""
        options = self.options
        if not options.users:
            return Guest(None, options.append_only)
        if not self.book.known:
            raise RefusedError(503, "the users are not known yet", _LATER)
        shown = credentials(exchange.request.fields.get(b"authorization"))
        if shown is None:
            raise RefusedError(401, "a user and a password are needed", _ASK)
        name, password = shown
        user = self.book.find(name)
        try:
            good = self.passwords.good(user, password)
        except BusyError as busy:
            raise RefusedError(503, str(busy), _LATER) from busy
        if user is None or not good:
            raise RefusedError(401, "wrong user or password", _ASK)
        exchange.user = user.name
        return Guest(user, options.append_only or user.append_only)

    def may_monitor(self, guest: Guest) -> None:
        """Raises RefusedError (403): where there are users, the metrics are for one who is for that."""
        if guest.user is not None and not guest.user.monitor:
            raise RefusedError(403, "the metrics are for users made with --monitor")

    def may_enter(self, guest: Guest, address: Address) -> None:
        """Raises RefusedError (403) for another user's repository."""
        user = guest.user
        if user is None:
            return
        if user.monitor:
            raise RefusedError(403, "this user may read the metrics, and nothing else")
        if self.options.private and address.repo[:1] != (user.name,):
            raise RefusedError(403, "this is another user's")
