"""Durations as a person writes them ("200ms", "5s", "1m30s") and as the code counts them (whole ns)."""

from __future__ import annotations

import re
from typing import Final

from leaseha.core.values import NS_PER_MS, NS_PER_S

NS_PER_US: Final = 1_000
NS_PER_MINUTE: Final = 60 * NS_PER_S
NS_PER_HOUR: Final = 60 * NS_PER_MINUTE
UNITS: Final = {
    "h": NS_PER_HOUR,
    "m": NS_PER_MINUTE,
    "s": NS_PER_S,
    "ms": NS_PER_MS,
    "us": NS_PER_US,
}
"""Unit to ns, the largest first: the order in which they may stand."""
LONGEST_TEXT: Final = 40
_PART: Final = re.compile(r"([0-9]+)(?:\.([0-9]{1,9}))?(h|ms|m|us|s)")
_EXAMPLES: Final = '"200ms", "5s" or "1m30s"'


def parse_duration(text: str) -> int:
    """ns in `text`: numbers with a unit (h, m, s, ms, us), the larger unit first, each once; no sign.

    The last number may have a fraction ("1.5s").

    Raises:
        ValueError: with what to write instead.

    """
    if not text or len(text) > LONGEST_TEXT:
        raise ValueError(f"write a duration with its unit, such as {_EXAMPLES}")
    if text.lstrip().startswith("-"):
        raise ValueError(f"a duration cannot be negative; write one such as {_EXAMPLES}")
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?", text):
        raise ValueError(f'the unit is missing: write "{text}s" for seconds, "{text}ms" for milliseconds')
    total_ns, at, units = 0, 0, list(UNITS)
    while at < len(text):
        part = _PART.match(text, at)
        if part is None or part[3] not in units:
            raise ValueError(f"not a duration: write numbers with the units h, m, s, ms, as in {_EXAMPLES}")
        if part[2] is not None and part.end() != len(text):
            raise ValueError("only the last number of a duration may have a fraction")
        unit_ns = UNITS[part[3]]
        total_ns += int(part[1]) * unit_ns
        if part[2] is not None:
            fraction_ns, rest = divmod(int(part[2]) * unit_ns, 10 ** len(part[2]))
            if rest:
                raise ValueError("finer than a nanosecond: leave out the last digits")
            total_ns += fraction_ns
        del units[: units.index(part[3]) + 1]
        at = part.end()
    return total_ns


def format_duration(duration_ns: int) -> str:
    """The shortest text that `parse_duration` reads as `duration_ns` (>= 0): "0s", "1.5s", "1m30s", "200ms"."""
    if duration_ns == 0:
        return "0s"
    if duration_ns < NS_PER_S:
        unit = "ms" if duration_ns >= NS_PER_MS else "us"
        return _decimal(duration_ns, UNITS[unit]) + unit
    hours, rest_ns = divmod(duration_ns, NS_PER_HOUR)
    minutes, rest_ns = divmod(rest_ns, NS_PER_MINUTE)
    text = (f"{hours}h" if hours else "") + (f"{minutes}m" if minutes else "")
    return text + (_decimal(rest_ns, NS_PER_S) + "s" if rest_ns else "")


def _decimal(amount_ns: int, unit_ns: int) -> str:
    whole, rest = divmod(amount_ns, unit_ns)
    digits = len(str(unit_ns)) - 1
    fraction = f"{rest:0{digits}d}".rstrip("0")
    return f"{whole}.{fraction}" if fraction else str(whole)
