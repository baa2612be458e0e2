"""The W3C `traceparent` that travels in intents, claims and effects (https://www.w3.org/TR/trace-context/).

Its span id is the id of the move's *root* span: whoever has the string can hang a span on the root, long
before some node emits that root.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

_FORM: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


@dataclass(frozen=True, slots=True)
class TraceContext:
    """A trace and one span of it, as 32 and 16 small hex digits, neither all zero."""

    trace_id: str
    span_id: str
    flags: int = 1
    """Bit 0: sampled. Moves are recorded whatever it says: there are few, and each is wanted."""

    def __str__(self) -> str:
        return f"00-{self.trace_id}-{self.span_id}-{self.flags:02x}"


def parse(text: str) -> TraceContext | None:
    """The context in `text`, or None if it is no valid traceparent. Never raises.

    A later version than 00 may carry more fields; its first four are read, as the standard asks.
    """
    found = _FORM.fullmatch(text)
    if found is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    if version == "ff" or (version == "00" and more is not None):
        return None
    if not int(trace_id, 16) or not int(span_id, 16):
        return None
    return TraceContext(trace_id, span_id, int(flags, 16))
