"""What the kernel must allow this process: addresses, and frames of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from leaseha.errors import OperationalError

NEEDED: Final = {12: "CAP_NET_ADMIN", 13: "CAP_NET_RAW"}
"""Number and name: to set addresses; to announce them, and to hear who else claims them."""


def lacking(status: str | None = None) -> tuple[str, ...]:
    """Names of the capabilities that are not effective here. `status`: the text of `/proc/self/status`."""
    text = (
        Path("/proc/self/status").read_text(encoding="ascii", errors="replace") if status is None else status
    )
    line = next((line for line in text.splitlines() if line.startswith("CapEff:")), "CapEff: 0")
    effective = int(line.split()[1], 16)
    return tuple(name for number, name in NEEDED.items() if not effective >> number & 1)


def sentence(names: tuple[str, ...]) -> str:
    """What is wrong, and the cure."""
    return f"this account lacks {' and '.join(names)}: run the agent as root, or give it both (see deploy/)"


def require_rights() -> None:
    """A node that cannot bind a VIP must not compete for it: it would take the lease and fail, again and again.

    Raises `OperationalError`.
    """
    if names := lacking():
        raise OperationalError(sentence(names))
