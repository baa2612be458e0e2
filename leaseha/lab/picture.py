"""What the demo draws: tables and a timeline, as text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from leaseha.core.records import Kind
from leaseha.lab.timeline import Holding

WIDTH: Final = 96
MOVES: Final = (Kind.FAILOVER, Kind.FAILBACK, Kind.SWITCHOVER)
"""The moves of the demo, in order."""


def timeline(
    holdings: Sequence[Holding], marks: Sequence[tuple[int, str]], began_ns: int, nodes: Sequence[str]
) -> str:
    """Who answered the client when: a row for each node, `█` where it answered, and what happened below."""
    if not holdings:
        return "the client heard nobody"
    ended_ns = max(one.end_ns for one in holdings)
    scale = max(1, ended_ns - began_ns) / WIDTH
    lines = []
    for node in nodes:
        row = [" "] * WIDTH
        for one in holdings:
            if one.who == node:
                first, last = (
                    min(WIDTH - 1, max(0, int((t - began_ns) / scale))) for t in (one.start_ns, one.end_ns)
                )
                row[first : last + 1] = ["█"] * (last + 1 - first)
        lines.append(f"{node:>8} |{''.join(row)}|")
    letters = "abcdefghijklmnopqrstuvwxyz"
    row = [" "] * WIDTH
    for letter, (at_ns, _) in zip(letters, marks, strict=False):
        at = min(WIDTH - 1, max(0, int((at_ns - began_ns) / scale)))
        while at < WIDTH - 1 and row[at] != " ":
            at += 1
        row[at] = letter
    lines.append(f"{'':>8}  {''.join(row)}")
    for letter, (at_ns, text) in zip(letters, marks, strict=False):
        lines.append(f"{letter:>8}  {(at_ns - began_ns) / 1e9:6.2f} s  {text.splitlines()[0]}")
    return "\n".join(lines)


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as lines with aligned columns, two blanks between."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
