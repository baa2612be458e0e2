"""What a failed call to etcd proves.

Little: of all that can go wrong only a few answers prove that nothing was written, and only because etcd gives
them before it applies anything. Everything else, whatever its gRPC code sounds like, is *unknown*: etcd maps
one fault to several codes (no leader is UNAVAILABLE or UNKNOWN by version), and a broken channel says nothing
about what left through it. So a verdict rests on code *and* text where it proves something, and on nothing
where it does not.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from grpc import StatusCode


class Proof(StrEnum):
    """What is known for certain about the request that failed."""

    LEASE_MISSING = "lease_missing"
    """Not applied: it names an etcd lease that does not exist. Checked before the first write."""
    STALE_TOKEN = "stale_token"  # noqa: S105  # names a state, is no secret
    """Not applied, not even proposed: the token is not (or no longer) good. A new one may cure it."""
    DENIED = "denied"
    """Not applied: user, password or permission. Repeating does not help."""
    COMPACTED = "compacted"
    """Not done: the revision asked for is compacted."""
    NOTHING = "nothing"
    """It may have been applied, it may be applied later."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a failure proves, and one line that says it to a person."""

    proof: Proof
    why: str


_BY_TEXT: Final = (
    (StatusCode.NOT_FOUND, "requested lease not found", Proof.LEASE_MISSING),
    (StatusCode.OUT_OF_RANGE, "required revision has been compacted", Proof.COMPACTED),
    (StatusCode.UNAUTHENTICATED, "invalid auth token", Proof.STALE_TOKEN),
    (StatusCode.INVALID_ARGUMENT, "revision of auth store is old", Proof.STALE_TOKEN),
    (StatusCode.INVALID_ARGUMENT, "user name is empty", Proof.STALE_TOKEN),
    (StatusCode.INVALID_ARGUMENT, "authentication failed", Proof.DENIED),
    (StatusCode.PERMISSION_DENIED, "permission denied", Proof.DENIED),
)

_PLAIN: Final = {
    StatusCode.DEADLINE_EXCEEDED: "no answer in time",
    StatusCode.CANCELLED: "the call was cut short",
}

_NOISE: Final = re.compile(r"^failed to connect to all addresses; last error: (\w+: )?")

_HINTS: Final = (
    ("user name is empty", "etcd wants a user and a password, and none are configured"),
    ("authentication failed", "etcd does not accept this user and password"),
)


def of(code: StatusCode, details: str | None) -> Verdict:
    """Judge the failure of a call by its gRPC status."""
    text = _NOISE.sub("", " ".join((details or "").split()))
    proof = next((p for c, part, p in _BY_TEXT if c is code and part in text), Proof.NOTHING)
    hint = next((hint for part, hint in _HINTS if part in text), "")
    if hint:
        return Verdict(proof, f"{hint} ({text})")
    if code in _PLAIN and "etcdserver" not in text:
        return Verdict(proof, _PLAIN[code])
    return Verdict(proof, text or code.name.lower().replace("_", " "))
