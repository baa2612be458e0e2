"""The small client's side of the REST protocol: one connection, retries with growing pauses, a rate limit."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable, Iterator
from typing import Final
from urllib.parse import urlsplit

from leaseha.errors import OperationalError

_FIRST_PAUSE_S: Final = 0.25
_PAUSE_GROWTH: Final = 1.5
_LONGEST_PAUSE_S: Final = 5.0
_SLICE: Final = 64 * 1024
_V2: Final = "application/vnd.x.restic.rest.v2"
_TRY_AGAIN: Final = frozenset({408, 429, 500, 502, 503, 504, 507})


class ClientError(OperationalError):
    """The backup cannot go on; the text is for a person."""


class NotThereError(ClientError):
    """The server says 404, which it only says when it is sure."""


class _TryAgainError(Exception):
    """This attempt came to nothing; a later one may."""


class Wire:
    """Requests to one repository URL. Used by one thread.

    A request without success for `retry_s` raises ClientError; every other status than 200, 206 and those
    that may pass does so at once. `limit_bytes_s` 0: as fast as it goes.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float = 10.0,
        retry_s: float = 120.0,
        limit_bytes_s: int = 0,
        retrying: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Raises ClientError for a URL that is none."""
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname:
            raise ClientError(f"not a repository URL (http://VIP:8000/name): {url!r}")
        self._host = parts.hostname
        self._port = parts.port or 80
        self._base = parts.path.rstrip("/") + "/"
        self._timeout_s = timeout_s
        self._retry_s = retry_s
        self._limit_bytes_s = limit_bytes_s
        self._retrying = retrying
        self._connection: http.client.HTTPConnection | None = None
        self.retries = 0

    def create(self) -> None:
        """Make the repository; no error if it is there."""
        self._request("POST", "?create=true", b"")

    def names(self, kind: str) -> list[str]:
        """All objects of a kind."""
        return [entry["name"] for entry in json.loads(self._request("GET", f"{kind}/"))]

    def get(self, path: str) -> bytes:
        """One object. Raises NotThereError."""
        return self._request("GET", path)

    def put(self, path: str, body: bytes) -> None:
        """Stored, as the server promises, when this returns."""
        self._request("POST", path, body)

    def _request(self, method: str, path: str, body: bytes | None = None) -> bytes:
        give_up = time.monotonic() + self._retry_s
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                return self._attempt(method, path, body)
            except (_TryAgainError, http.client.HTTPException, OSError) as why:
                self._hang_up()
                if time.monotonic() + pause_s > give_up:
                    raise ClientError(
                        f"{method} {path}: no success in {self._retry_s:g} s, last: {why}"
                    ) from why
                self.retries += 1
                self._retrying(f"{method} {path[:13]}: {type(why).__name__}: {why}; again in {pause_s:.2f} s")
                time.sleep(pause_s)
                pause_s = min(pause_s * _PAUSE_GROWTH, _LONGEST_PAUSE_S)

    def _attempt(self, method: str, path: str, body: bytes | None) -> bytes:
        if self._connection is None:
            self._connection = http.client.HTTPConnection(self._host, self._port, timeout=self._timeout_s)
        fields = {"Accept": _V2}
        if body is not None:
            fields["Content-Length"] = str(len(body))
        self._connection.request(method, self._base + path, self._slices(body) if body else None, fields)
        response = self._connection.getresponse()
        answer = response.read()
        if response.status in {200, 206}:
            return answer
        if response.status in _TRY_AGAIN:
            raise _TryAgainError(f"{response.status} {response.reason}")
        if response.status == 404:
            raise NotThereError(f"{method} {path}: not there")
        raise ClientError(f"{method} {path}: {response.status} {response.reason}")

    def _slices(self, body: bytes) -> Iterator[bytes]:
        """The body, no faster than the limit."""
        begun = time.monotonic()
        for offset in range(0, len(body), _SLICE):
            if self._limit_bytes_s:
                ahead_s = offset / self._limit_bytes_s - (time.monotonic() - begun)
                if ahead_s > 0:
                    time.sleep(ahead_s)
            yield body[offset : offset + _SLICE]

    def _hang_up(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
