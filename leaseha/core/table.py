"""Views of the transition table: as text, as a mermaid diagram, and as the page docs/state-machine.md.

`leaseha fsm` prints them. `scripts/state_machine.py` writes the page anew, and a test holds it against the
table: there is no second table that could disagree.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from leaseha.core import transitions
from leaseha.core.state import Role
from leaseha.core.transitions import Row

BEGIN: Final = "<!-- from here on written by scripts/state_machine.py -->"
COLUMNS: Final = ("row", "from", "to", "fires on", "reason")


def as_rows() -> list[dict[str, str]]:
    """Each row of the table, in the order in which they are looked at."""
    return [
        {"row": row.id, "from": row.role, "to": row.to, "on": row.on, "reason": row.reason}
        for row in transitions.ROWS
    ]


def as_text() -> str:
    """The table in columns, one row a line."""
    lines = [COLUMNS, *(_cells(row) for row in transitions.ROWS)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(COLUMNS))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def as_mermaid() -> str:
    """The table as a state diagram; rows between the same two roles share an arrow."""
    arrows: dict[tuple[Role, Role], list[str]] = {}
    for row in transitions.ROWS:
        arrows.setdefault((row.role, row.to), []).append(row.id)
    lines = ["stateDiagram-v2", f"    [*] --> {Role.STANDBY}"]
    lines += [f"    {one} --> {other}: {', '.join(rows)}" for (one, other), rows in arrows.items()]
    lines.append(f"    {Role.STOPPED} --> [*]")
    return "\n".join(lines)


def as_page(prose: str) -> str:
    """A page of documentation: the prose before its mark, then the diagram and the rows of each role."""
    head = prose.partition(BEGIN)[0].rstrip("\n")
    parts = [head, "", BEGIN, "", "## The diagram", "", "```mermaid", as_mermaid(), "```", "", "## The rows"]
    for role in Role:
        parts += ["", f"### From {role}", "", *_markdown(transitions.BY_ROLE[role])]
    return "\n".join(parts) + "\n"


def _cells(row: Row) -> tuple[str, ...]:
    return row.id, row.role, row.to, row.on, row.reason


def _markdown(rows: Sequence[Row]) -> list[str]:
    if not rows:
        return ["No row: this is the end."]
    lines = ["| row | to | fires on | reason |", "|---|---|---|---|"]
    return lines + [f"| `{row.id}` | {row.to} | {row.on} | {row.reason} |" for row in rows]
