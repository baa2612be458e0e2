"""The figures as a page, and as bars: each system's ratio to rest-server in the same round."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from xml.sax.saxutils import escape

from chaos.bench_repo.servers import ONE_COPY, REST_SERVER, WITH_STANDBY

INTRO: Final = """\
All on one machine, over loopback, data on its disk and then in the kernel's cache; the client takes its part of the
cores. rest-server and leaseha hash every upload and fsync file and folder before they answer.
**rclone does neither**, so its uploads are not the same service. With a standby a second process does all of it once
more, on the same cores and disk. min / **median** / max of the rounds; *ratio*: median of the rounds' quotients, and
their range."""
_TEXT: Final = {
    "POST": "upload of 16 MiB objects",
    "GET": "download of them",
    "range": "ranges of 64 KiB",
    "POST CPU": "processor time of an upload",
    "listing": "listing of {objects} objects",
    "memory": "most memory (RSS)",
}


def write(out: Path, facts: Mapping[str, Any]) -> None:
    """OUT.json, OUT.md, OUT.svg."""
    out.parent.mkdir(parents=True, exist_ok=True)
    head = {key: value for key, value in facts.items() if key != "rows"}
    rows = ",\n".join(f"  {json.dumps(row)}" for row in facts["rows"])
    text = ",\n".join(f" {json.dumps(key)}: {json.dumps(value)}" for key, value in head.items())
    out.with_suffix(".json").write_text(f'{{\n{text},\n "rows": [\n{rows}\n ]\n}}\n')
    out.with_suffix(".md").write_text(page(facts, out.with_suffix(".svg").name))
    out.with_suffix(".svg").write_text(bars(facts["rows"]))


def page(facts: Mapping[str, Any], picture: str) -> str:
    """Markdown."""
    about = ", ".join(f"{name} {value}" for name, value in facts["versions"].items())
    systems = "; ".join(f"{name}: {value}" for name, value in facts["systems"].items())
    lines = [
        "# The repository beside rest-server and rclone",
        "",
        f"`{facts['command']}`, begun {facts['began']}; {about}. {systems}.",
        "",
        f"![Ratios to rest-server]({picture})",
        "",
        INTRO,
        "",
        "| case | connections | system | | ratio to rest-server |",
        "| --- | --- | --- | --- | --- |",
    ]
    rows = facts["rows"]
    for case, connections, system in _keys(rows):
        values = _values(rows, case, connections, system)
        unit = next(row["unit"] for row in rows if row["case"] == case)
        spread = f"{min(values):g} / **{statistics.median(values):g}** / {max(values):g}"
        spread = spread if len(values) > 1 else f"**{values[0]:g}**"
        ratio = ratio_of(rows, case, connections, system)
        each = quotients(rows, case, connections, system)
        shown = f"**{ratio:.2f}**" if ratio is not None and system != REST_SERVER else ""
        if shown and len(each) > 1:
            shown += f" ({min(each):.2f} to {max(each):.2f})"
        objects = next((row.get("objects") for row in rows if row["case"] == case), None)
        text = _TEXT[case].format(objects=f"{objects:,}" if objects else "")
        lines.append(f"| {text} | {connections} | {system} | {spread} {unit} | {shown} |")
    return "\n".join(lines) + "\n"


def _keys(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, int, str]]:
    order = list(_TEXT)
    systems = [REST_SERVER, "rclone", ONE_COPY, WITH_STANDBY]
    found = {(row["case"], row["connections"], row["system"]) for row in rows}
    return sorted(found, key=lambda one: (order.index(one[0]), one[1], systems.index(one[2])))


def _values(rows: Sequence[Mapping[str, Any]], case: str, connections: int, system: str) -> list[float]:
    wanted = (case, connections, system)
    return [row["value"] for row in rows if (row["case"], row["connections"], row["system"]) == wanted]


def ratio_of(rows: Sequence[Mapping[str, Any]], case: str, connections: int, system: str) -> float | None:
    """The median over the rounds; None where there is nothing to divide by."""
    each = quotients(rows, case, connections, system)
    return statistics.median(each) if each else None


def quotients(rows: Sequence[Mapping[str, Any]], case: str, connections: int, system: str) -> list[float]:
    """Of each round: this system's figure over rest-server's."""
    ours = _values(rows, case, connections, system)
    theirs = _values(rows, case, connections, REST_SERVER)
    return [one / other for one, other in zip(ours, theirs, strict=False) if other]


def bars(rows: Sequence[Mapping[str, Any]]) -> str:
    """SVG: one bar for each case and system but rest-server, whose ratio is the line at 1."""
    keys = [
        key
        for key in _keys(rows)
        if key[2] != REST_SERVER and key[0] in {"POST", "GET", "range"} and ratio_of(rows, *key) is not None
    ]
    colours = {"rclone": "#b5651d", ONE_COPY: "#05668d", WITH_STANDBY: "#3fae49"}
    left, row_height, width = 330, 20, 900
    most = max((ratio_of(rows, *key) or 0 for key in keys), default=1.0)
    scale = (width - left - 70) / max(most, 1.2)
    height = 50 + row_height * len(keys)
    size = f'width="{width}" height="{height}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        '<text x="10" y="20" font-size="14">Ratio to rest-server in the same round (1: as fast)</text>',
    ]
    for number, (case, connections, system) in enumerate(keys):
        ratio = ratio_of(rows, case, connections, system) or 0.0
        y = 36 + row_height * number
        label = escape(f"{case}, {connections} connection{'s' if connections > 1 else ''}: {system}")
        parts.append(f'<text x="{left - 8}" y="{y + 12}" text-anchor="end">{label}</text>')
        parts.append(
            f'<rect x="{left}" y="{y}" width="{ratio * scale:.1f}" height="14" fill="{colours[system]}"/>'
        )
        parts.append(f'<text x="{left + ratio * scale + 5:.1f}" y="{y + 12}">{ratio:.2f}</text>')
    one = left + scale
    parts.append(f'<line x1="{one:.1f}" y1="30" x2="{one:.1f}" y2="{height - 8}" stroke="#555"/>')
    return "\n".join([*parts, "</svg>"]) + "\n"
