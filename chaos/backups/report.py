"""The campaign's results for a person: a line for each run, a page for all."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from chaos.backups.faults import ALL, FAULTS
from chaos.backups.trial import Outcome

Row = Mapping[str, Any]
_HEAD: Final = (
    "fault",
    "client",
    "runs",
    "backup ended well",
    "check --read-data",
    "acknowledged",
    "missing",
    "different",
    "address taken, ms",
    "fault noticed, ms",
    "served again, ms",
    "pause of uploads, ms",
    "backup, s",
)
_MEANING: Final = """\
*Acknowledged*: objects whose upload was answered 200, by the record of a proxy on the client's host, and which no later
deletion took away. *Missing*, *different*: of these, in the new holder's own directory and, where the old holder came
back, in its directory when it was a member again. Times count from the fault: min / **median** / max.
*Noticed*: until the last upload that was on its way at the fault was broken off. *Served again*: until the first
request that began after the fault was answered with success. *Pause*: the longest time between two successful
uploads, an upload's own time (about half a second) included."""


def line(one: Outcome) -> str:
    """For the terminal."""
    head = f"{one.fault:<10} {one.number:>2} {one.client:<13} {'good' if one.good else 'BAD '}"
    if one.error:
        return f"{head} {one.error}"
    view, held = one.client_view, one.held
    text = (
        f"{head} exit {one.backup_exit}   {held.promised} promised, {len(held.missing)} missing, "
        f"{len(held.different)} different   taken {one.taken_ms:.0f}   noticed {view.noticed_ms:.0f}   "
        f"served {view.served_ms:.0f}   pause {view.pause_ms:.0f} ms   backup {one.backup_s:.1f} s   "
        f"in flight {view.in_flight}, waiting {view.waiting}, retries {one.retries}"
    )
    if one.later.promised:
        text += f"   old holder: {len(one.later.missing)} missing, {len(one.later.different)} different"
    more = [f"check: {one.check}"] if one.check else []
    more += [f"not back: {one.not_back}"] if one.not_back else []
    more += [f"two answering: {one.answering_ms:.0f} ms"] if one.answering_ms else []
    for kind in ("missing", "different", "undeleted"):
        names = (*getattr(held, kind), *getattr(one.later, kind))
        more += [f"{kind}: {', '.join(names[:5])}"] if names else []
    return "\n    ".join([text, *more])


def page(facts: Mapping[str, Any]) -> str:
    """Markdown of what the JSON has."""
    rows: Sequence[Row] = facts["runs"]
    known = ", ".join(f"{name} {value}" for name, value in facts["versions"].items())
    size = facts["size"]
    made = (
        f"{known}. Each backup: {size['mib']} MiB of random files at {size['limit_kib_s'] / 1024:g} MiB/s at "
        f"most, ttl {size['ttl']}, two nodes, {size['copies']}; made by `chaos/backups/`."
    )
    run = {row["fault"] for row in rows}
    shown = [one for one in ALL if one in FAULTS or one.name in run]
    table = "\n".join(f"| `{one.name}` | {one.text} | {one.sockets} |" for one in shown)
    faults = f"| fault | what was done | connections |\n|---|---|---|\n{table}"
    parts = ["# Backups over a holder's end", made, _table(rows), _MEANING, faults]
    wrong = [row for row in rows if row["error"]]
    if wrong:
        parts.append(f"Runs that the lab could not do: {len(wrong)}, in no figure above.")
    return "\n\n".join(parts) + "\n"


def _table(rows: Sequence[Row]) -> str:
    lines = [f"| {' | '.join(_HEAD)} |", f"|{'---|' * len(_HEAD)}"]
    for fault in ALL:
        for client in sorted({row["client"] for row in rows}):
            mine = [
                row
                for row in rows
                if row["fault"] == fault.name and row["client"] == client and not row["error"]
            ]
            if mine:
                lines.append(f"| {' | '.join((fault.name, client, *_cells(mine)))} |")
    return "\n".join(lines)


def _cells(rows: Sequence[Row]) -> tuple[str, ...]:
    def lost(kind: str) -> str:
        return str(sum(len(row[where][kind]) for row in rows for where in ("held", "later")))

    count = len(rows)
    return (
        str(count),
        f"{sum(row['backup_exit'] == 0 for row in rows)} of {count}",
        f"{sum(not row['check'] for row in rows)} of {count} clean",
        str(sum(row["held"]["promised"] for row in rows)),
        lost("missing"),
        lost("different"),
        _spread(rows, lambda row: row["taken_ms"]),
        _spread(
            [row for row in rows if row["client_view"]["in_flight"]],
            lambda row: row["client_view"]["noticed_ms"],
        ),
        _spread(rows, lambda row: row["client_view"]["served_ms"]),
        _spread(rows, lambda row: row["client_view"]["pause_ms"]),
        _spread(rows, lambda row: row["backup_s"], digits=1),
    )


def _spread(rows: Sequence[Row], value: Callable[[Row], float], digits: int = 0) -> str:
    values = [value(row) for row in rows]
    if not values:
        return ""
    middle = statistics.median(values)
    return f"{min(values):.{digits}f} / **{middle:.{digits}f}** / {max(values):.{digits}f}"
