"""The child's part of the words `door` and `users`: keeps the door, and its certificate, as the agent last said."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import Any

from leaseha.repository.door import Door, DoorOptions
from leaseha.repository.tls import Renewed


class Doorman:
    """Obeys in the process's main thread; `door` and `tls` are used by all others."""

    def __init__(self, options: DoorOptions) -> None:
        """Raises OSError when the certificate cannot be used."""
        self.door = Door(options)
        self._renewed = _renewed(options)

    @property
    def tls(self) -> Callable[[], ssl.SSLContext | None]:
        """The context for a new connection; None: plain HTTP."""
        return lambda: self._renewed() if self._renewed else None

    def change(self, message: dict[str, Any]) -> str:
        """`door`. Returns why it stays as it was; empty when it is done."""
        try:
            options = DoorOptions.of(message)
            if options.tls != self.door.options.tls:
                self._renewed = _renewed(options)
        except (OSError, ValueError, TypeError) as trouble:
            return f"the certificate cannot be used: {trouble}"
        self.door.options = options
        return ""

    def tell_users(self, message: dict[str, Any]) -> None:
        """`users`: one piece of all of them."""
        self.door.book.tell(message["users"], first=message["first"], last=message["last"])


def _renewed(options: DoorOptions) -> Renewed | None:
    return Renewed(options.tls) if options.tls else None
