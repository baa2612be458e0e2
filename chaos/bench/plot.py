"""Every run as a dot: a strip plot of the client's gaps on a logarithmic scale, as SVG. Pure, and without a library."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from xml.sax.saxutils import escape

from chaos.bench.figures import Outcome, Run, chosen, in_order
from chaos.bench.scenarios import PHASES

LEFT, RIGHT, TOP, BOTTOM = 262, 44, 46, 54
WIDTH: Final = 1000
ROW: Final = 17
BETWEEN: Final = 12
DOT: Final = 3.4
ZERO_X: Final = LEFT + 16
"""A silence of 0 has no place on the scale; it is left of it."""
SCALE_X: Final = LEFT + 44
LOW_MS: Final = 1.0
OURS: Final = ("#05668d", "#0b8a6f", "#3fae49", "#8cc152")
THEIRS: Final = ("#5f4b8b", "#b5651d", "#e0a030", "#777777")
BAD: Final = "#d00000"


@dataclass(frozen=True, slots=True)
class Scale:
    """From ms to the horizontal place."""

    high_ms: float

    def x(self, ms: float) -> float:
        """0 and less stand left of the scale; what is beyond its end stands at the end."""
        if ms <= 0:
            return ZERO_X
        span = math.log10(self.high_ms / LOW_MS)
        part = math.log10(min(max(ms, LOW_MS), self.high_ms) / LOW_MS) / span
        return SCALE_X + part * (WIDTH - RIGHT - SCALE_X)

    def ticks(self) -> list[int]:
        """Powers of ten."""
        return [10**power for power in range(round(math.log10(self.high_ms)) + 1)]


def scale_for(runs: Sequence[Run]) -> Scale:
    """Up to the power of ten above all gaps, at least 10 s."""
    most = max((run.gap_ms for run in runs), default=0.0)
    return Scale(max(10_000.0, 10.0 ** math.ceil(math.log10(max(most, 1.0)))))


def colours_of(systems: Sequence[str]) -> dict[str, str]:
    """Cold ones for leaseha, warm ones for who it is compared with."""
    ours = [who for who in systems if who.startswith("leaseha")]
    theirs = [who for who in systems if who not in ours]
    pairs = [(who, OURS[at % len(OURS)]) for at, who in enumerate(ours)]
    found = dict(pairs + [(who, THEIRS[at % len(THEIRS)]) for at, who in enumerate(theirs)])
    return {who: found[who] for who in systems}


def strip_plot(runs: Sequence[Run]) -> str:
    """The picture; a row for each scenario and system, in the order of the tables."""
    systems = in_order([run.system for run in runs])
    colours = colours_of(systems)
    scale = scale_for(runs)
    bands: list[str] = []
    parts: list[str] = []
    y = float(TOP + ROW * math.ceil(len(systems) / 4))
    top = y
    for phase in PHASES:
        present = [who for who in systems if chosen(runs, phase.name, who)]
        if not present:
            continue
        height = ROW * len(present)
        band = (
            f'x="{LEFT}" y="{y - BETWEEN / 2 + 2:.1f}" width="{WIDTH - LEFT}" height="{height + BETWEEN - 4}"'
        )
        bands.append(f'<rect {band} fill="#f4f4f1"/>')
        parts.append(_text(LEFT - 10, y + height / 2 + 4, phase.text, anchor="end", weight="600"))
        for who in present:
            parts += _row(chosen(runs, phase.name, who), scale, y + ROW / 2, colours[who])
            y += ROW
        y += BETWEEN
    axis = _axis(scale, top - 6, y - BETWEEN + 6)
    height = round(y + BOTTOM)
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" '
        f'height="{height}" font-family="sans-serif" font-size="12">'
    )
    title = "<title>Client-seen gap of every run, by scenario and system</title>"
    paper = f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>'
    return (
        "\n".join([head, title, paper, *_legend(colours), *bands, *axis, *parts, *_foot(height), "</svg>"])
        + "\n"
    )


def _legend(colours: dict[str, str]) -> list[str]:
    parts = [_text(16, 22, "Client-seen gap, ms; one dot a run, bar: median", weight="600")]
    for at, (who, colour) in enumerate(colours.items()):
        x, y = 20 + (at % 4) * 245, 42 + ROW * (at // 4)
        parts.append(f'<circle cx="{x}" cy="{y - 4}" r="{DOT + 1}" fill="{colour}"/>')
        parts.append(_text(x + 12, y, who))
    return parts


def _axis(scale: Scale, top: float, bottom: float) -> list[str]:
    parts = []
    for x, label in [(ZERO_X, "0"), *((scale.x(tick), f"{tick:,}") for tick in scale.ticks())]:
        parts.append(f'<line x1="{x:.1f}" y1="{top:.1f}" x2="{x:.1f}" y2="{bottom:.1f}" stroke="#dddddd"/>')
        parts.append(_text(x, bottom + 15, label, anchor="middle"))
    return parts


def _foot(height: int) -> list[str]:
    y = height - 14
    return [
        f'<circle cx="{20}" cy="{y - 4}" r="{DOT + 2}" fill="none" stroke="{BAD}" stroke-width="1.6"/>',
        _text(32, y, "two nodes answered in this run"),
        _text(260, y, "×", fill=BAD, weight="700"),
        _text(274, y, "no takeover, or the run could not be done"),
    ]


def _row(runs: Sequence[Run], scale: Scale, y: float, colour: str) -> list[str]:
    parts = []
    good = [run.gap_ms for run in runs if run.good]
    if good:
        x = scale.x(statistics.median(good))
        ends = f'x1="{x:.1f}" y1="{y - 7:.1f}" x2="{x:.1f}" y2="{y + 7:.1f}"'
        parts.append(f'<line {ends} stroke="{colour}" stroke-width="2"/>')
    for run in runs:
        # Runs with the same gap are set apart up and down; by their number, so that the picture is always the same.
        place = y + (run.number * 7 % 5 - 2) * 1.6
        parts.append(_mark(run, scale, place, colour))
    return parts


def _mark(run: Run, scale: Scale, y: float, colour: str) -> str:
    said = f"<title>{escape(f'{run.system}, {run.scenario}, run {run.number}: {_said(run)}')}</title>"
    if not run.good:
        x = WIDTH - RIGHT + 14
        return f'<text x="{x}" y="{y + 4:.1f}" fill="{BAD}" font-weight="700" text-anchor="middle">×{said}</text>'
    ring = f' stroke="{BAD}" stroke-width="1.6"' if run.two else ""
    at = f'cx="{scale.x(run.gap_ms):.1f}" cy="{y:.1f}"'
    return f'<circle {at} r="{DOT}" fill="{colour}" fill-opacity="0.7"{ring}>{said}</circle>'


def _said(run: Run) -> str:
    if run.outcome is Outcome.ERROR:
        return f"error: {run.error[:200]}"
    both = ", two nodes answered" if run.two else ""
    return f"{run.outcome}, {run.gap_ms:.1f} ms{both}"


def _text(
    x: float, y: float, text: str, *, anchor: str = "start", weight: str = "400", fill: str = "#222222"
) -> str:
    style = f'text-anchor="{anchor}" font-weight="{weight}" fill="{fill}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(text)}</text>'
