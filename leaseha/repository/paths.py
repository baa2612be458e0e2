"""URL path → which repository, which kind of object, which name. Strict: what is not understood is None.

The form is that of restic's REST protocol: `/`, `/REPO/`, `/REPO/config`, `/REPO/KIND/`, `/REPO/KIND/NAME`,
with REPO of up to `depth` segments. Nothing here touches a file; nothing that leaves here can name a file
outside of its repository.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

DEPTH: Final = 2
"""How many segments a repository's name may have, unless configured otherwise (as rest-server does)."""
_NAME: Final = re.compile(r"[0-9a-f]{64}")
_ESCAPE: Final = re.compile(rb"%([0-9A-Fa-f]{2})?")
_MAX_SEGMENT_BYTES: Final = 255


class Kind(StrEnum):
    """The kinds of objects that a restic repository has; also the names of their folders."""

    CONFIG = "config"
    DATA = "data"
    INDEX = "index"
    KEYS = "keys"
    LOCKS = "locks"
    SNAPSHOTS = "snapshots"


_KINDS: Final = frozenset(Kind)


@dataclass(frozen=True, slots=True)
class Address:
    """What a request is about.

    `kind` None: the repository itself. `name` "": the listing of a kind, or the config, which has no name.
    """

    repo: tuple[str, ...]
    kind: Kind | None = None
    name: str = ""
    create: bool = False
    """The query asks for `create=true`."""

    @property
    def label(self) -> str:
        """For log lines: repository, kind and the start of the name."""
        return "/".join(
            (*self.repo, *((self.kind,) if self.kind else ()), *((self.name[:8],) if self.name else ()))
        )


def is_name(text: str) -> bool:
    """True for what can be the name of an object: 64 lower-case hex digits, the SHA-256 of its bytes."""
    return _NAME.fullmatch(text) is not None


def parse(target: bytes, depth: int = DEPTH) -> Address | None:
    """The request target as it stood in the request line; None when it names nothing that can exist here."""
    path, _, query = target.partition(b"?")
    if not path.startswith(b"/") or b"#" in target:
        return None
    segments = [_decode(raw) for raw in path[1:].split(b"/")]
    repo: list[str] = []
    for at, segment in enumerate(segments):
        if segment is None:
            return None
        last = at == len(segments) - 1
        if segment in _KINDS:
            return _within(tuple(repo), Kind(segment), segments[at + 1 :])
        if last:
            # Only "/REPO/" is a repository: the last piece must be empty.
            return Address(tuple(repo), create=_asks_create(query)) if segment == "" else None
        if len(repo) == depth or not _is_repo_segment(segment):
            return None
        repo.append(segment)
    return None


def _within(repo: tuple[str, ...], kind: Kind, rest: list[str | None]) -> Address | None:
    if kind is Kind.CONFIG:
        return Address(repo, kind) if not rest else None
    if rest == [""]:
        return Address(repo, kind)
    if len(rest) == 1 and rest[0] is not None and is_name(rest[0]):
        return Address(repo, kind, rest[0])
    return None


def _decode(raw: bytes) -> str | None:
    """Percent decoding, strict: a broken escape, bytes that are no UTF-8, or a hidden "/" are refused."""
    if b"%" not in raw:
        decoded = raw
    elif any(match[1] is None for match in _ESCAPE.finditer(raw)):
        return None
    else:
        decoded = _ESCAPE.sub(lambda match: bytes((int(match[1], 16),)), raw)
    try:
        text = decoded.decode("utf-8")
    except UnicodeDecodeError:
        return None
    return None if "/" in text else text


def _is_repo_segment(text: str) -> bool:
    """A folder's name: not hidden (which excludes "..", "." and our own `.leaseha`), printable, short enough."""
    return (
        text != ""
        and not text.startswith(".")
        and text.isprintable()
        and len(text.encode("utf-8")) <= _MAX_SEGMENT_BYTES
    )


def _asks_create(query: bytes) -> bool:
    return b"create=true" in query.split(b"&")
