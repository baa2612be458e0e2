"""What nodes say to each other about one lease's data, in header fields: who speaks, to whom, under which token.

Every request carries a `Stamp`. The answer is JSON: 409 with `highest` to an older token (G6), 428 to one under
which the sender has not introduced itself to this process (`POST /v1/token`), 421 when lease or store are not the
ones that the sender means.
"""

from __future__ import annotations

import re
import urllib.parse
from dataclasses import dataclass
from typing import Final

from leaseha.repository import paths
from leaseha.repository.paths import Address, Kind
from leaseha.repository.tokens import Mark

DEPTH: Final = 16
"""Segments of a repository's name among nodes; the public port has its own, lower bound."""
OBJECTS: Final = b"/v1/objects"
REPOSITORIES: Final = b"/v1/repositories"
TOKEN: Final = b"/v1/token"
STATE: Final = b"/v1/state"
_MARK: Final = re.compile(r"([0-9]{1,18})-([0-9]{1,19})")
_NUMBER: Final = re.compile(r"[0-9]{1,19}")


class StampError(ValueError):
    """The fields are missing or not well formed; the text is for the sender."""


@dataclass(frozen=True, slots=True)
class Stamp:
    """The header fields of one request between nodes."""

    lease: str
    mark: Mark
    source: str
    """The sender's store."""
    target: str
    """The store that the sender means: a disk that was replaced must not answer for the old one."""
    round: int
    """Grows with every introduction under one token, so that what was sent before one is refused after it."""
    seq: int = 0
    """Number of the operation under this token, from 1; 0: it repeats what is settled already."""
    confirmed: int = -1
    """Every operation up to this number is on every member; -1: nothing is said."""
    floor: int = 0
    """With `POST /v1/token`: numbers up to this may have been sent before."""

    def lines(self) -> str:
        """Header lines, each with its CR LF."""
        text = (
            f"Leaseha-Lease: {urllib.parse.quote(self.lease)}\r\nLeaseha-Mark: {mark_text(self.mark)}\r\n"
            f"Leaseha-From: {self.source}\r\nLeaseha-To: {self.target}\r\nLeaseha-Round: {self.round}\r\n"
        )
        if self.seq:
            text += f"Leaseha-Seq: {self.seq}\r\n"
        if self.confirmed >= 0:
            text += f"Leaseha-Confirmed: {self.confirmed}\r\n"
        if self.floor:
            text += f"Leaseha-Floor: {self.floor}\r\n"
        return text


def addresses_of(paths: object) -> tuple[Address, ...]:
    """Of a list that another node sent; what is no address is passed over."""
    found = [address_of(str(path)) for path in paths] if isinstance(paths, list) else []
    return tuple(one for one in found if one is not None and (one.name or one.kind is Kind.CONFIG))


def read_stamp(fields: dict[bytes, bytes]) -> Stamp:
    """`fields` by lower-case name. Raises StampError."""
    mark = read_mark(_text(fields, b"leaseha-mark"))
    if mark is None:
        raise StampError("Leaseha-Mark is not EPOCH-TOKEN")
    return Stamp(
        lease=urllib.parse.unquote(_text(fields, b"leaseha-lease")),
        mark=mark,
        source=_text(fields, b"leaseha-from"),
        target=_text(fields, b"leaseha-to"),
        round=_number(fields, b"leaseha-round", 0),
        seq=_number(fields, b"leaseha-seq", 0),
        confirmed=_number(fields, b"leaseha-confirmed", -1),
        floor=_number(fields, b"leaseha-floor", 0),
    )


def _text(fields: dict[bytes, bytes], name: bytes) -> str:
    try:
        return fields[name].decode("ascii")
    except (KeyError, UnicodeDecodeError):
        raise StampError(f"{name.decode()} is missing or not ASCII") from None


def _number(fields: dict[bytes, bytes], name: bytes, default: int) -> int:
    if name not in fields:
        return default
    text = _text(fields, name)
    if not _NUMBER.fullmatch(text):
        raise StampError(f"{name.decode()} is no number")
    return int(text)


def mark_text(mark: Mark) -> str:
    """EPOCH-TOKEN, as in the header field and in JSON."""
    return f"{mark.epoch}-{mark.token}"


def read_mark(text: str) -> Mark | None:
    """None for anything but EPOCH-TOKEN."""
    match = _MARK.fullmatch(text)
    return Mark(int(match[1]), int(match[2])) if match else None


def path_of(address: Address) -> str:
    """The URL path of an object, a config, a kind (with its last "/") or a repository; `address_of` reads it."""
    base = "".join("/" + urllib.parse.quote(segment, safe="") for segment in address.repo)
    if address.kind is None:
        return base + "/"
    if address.kind is paths.Kind.CONFIG:
        return f"{base}/{address.kind}"
    return f"{base}/{address.kind}/{address.name}"


def address_of(path: str | bytes) -> Address | None:
    """None for what names nothing that can exist."""
    return paths.parse(path.encode("ascii", "replace") if isinstance(path, str) else path, DEPTH)
