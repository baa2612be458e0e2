"""What a node answers to a holder that compares: its manifest, one folder of it, and "put these aside"."""

from __future__ import annotations

import json
from typing import Final

from leaseha.repository import peer_wire
from leaseha.repository.manifest import listing, manifest
from leaseha.repository.paths import Kind
from leaseha.repository.peer_app import PeerApp, PeerRefusedError, Visit
from leaseha.repository.store import DirectoryStore

MANIFEST: Final = b"/v1/manifest"
QUARANTINE: Final = b"/v1/quarantine"
AT_ONCE: Final = 1000
"""Objects in one request, at most."""
_BODY_MAX: Final = 1024 * 1024


class ManifestRoutes:
    """For one data directory. Used by many threads."""

    def __init__(self, store: DirectoryStore) -> None:
        self._store = store
        self._root = store.root

    def join(self, app: PeerApp) -> None:
        """Answered there from now on."""
        app.add_route(MANIFEST, self.give)
        app.add_route(QUARANTINE, self.quarantine)

    def give(self, visit: Visit) -> None:
        """All digests, or the names and sizes of one folder."""
        path = visit.rest.decode("ascii", "replace")
        try:
            visit.answer(listing(self._root, path) if path else {"folders": manifest(self._root)})
        except ValueError as wrong:
            raise PeerRefusedError(404, str(wrong)) from wrong

    def quarantine(self, visit: Visit) -> None:
        """Out of sight, kept: whoever wants to know what it was finds it under the day."""
        if visit.exchange.request.length > _BODY_MAX:
            raise PeerRefusedError(413, "too many at once")
        try:
            paths = json.loads(body_of(visit))["objects"]
            addresses = [peer_wire.address_of(str(path)) for path in paths]
        except (ValueError, KeyError, TypeError) as wrong:
            raise PeerRefusedError(400, "not a list of objects") from wrong
        moved = 0
        for address in addresses:
            if (
                address is None
                or address.kind is None
                or (address.kind is not Kind.CONFIG and not address.name)
            ):
                raise PeerRefusedError(400, "not an object")
            with visit.changing():
                visit.note(address)
                moved += self._store.put_aside(address)
        visit.answer({"moved": moved})


def body_of(visit: Visit) -> bytes:
    """All of a small body. Raises PeerRefusedError."""
    body = bytearray()
    view = memoryview(bytearray(64 * 1024))
    while count := visit.exchange.body.read_into(view):
        body += view[:count]
        if len(body) > _BODY_MAX:
            raise PeerRefusedError(413, "too many at once")
    return bytes(body)
