"""JSON and Markdown of many leases."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from chaos.many.figures import Death, Result


def as_json(results: Sequence[Result], about: Mapping[str, str]) -> str:
    """All figures."""
    return json.dumps({"about": dict(about), "results": [asdict(one) for one in results]}, indent=1) + "\n"


def as_markdown(results: Sequence[Result], session: Mapping[str, str], about: Mapping[str, str]) -> str:
    """A page with two tables."""
    facts = {**session, **about}
    command = facts.pop("command", "")
    known = ", ".join(f"{name} {value}" for name, value in facts.items())
    return (
        f"# Many leases on three nodes\n\n`{command}`\n\n{known}\n\n"
        "One VIP a lease, a third of the leases on each node, one etcd member; all on one machine.\n\n"
        f"## At rest\n\n{rest_table(results)}\n\n"
        "Writes: revisions of etcd's store a second, and entries of its log, in which etcd's own lease keepalives "
        "are too. CPU in % of one core, of the busiest of the three nodes; memory of the largest, RSS (PSS). "
        "Start: s from the start of the three agents until every VIP answers. "
        "Ask: s that `leaseha status` takes.\n\n"
        f"## A node dies\n\n{death_table(results)}\n\n"
        "ms from the power cut until a client has the first answer of another node, min / **median** / max over the "
        "runs: of the first of its VIPs, and of the last. Two answering: VIPs for which two nodes answered, of all "
        "VIPs, in all runs. Renewal pause: the longest between two renewals of a survivor while it takes over.\n"
    )


def rest_table(results: Sequence[Result]) -> str:
    """Markdown."""
    lines = [
        "| leases | writes/s | ratio | entries/s | agent CPU | guard CPU | agent MiB | guard MiB | start | ask |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for one in results:
        nodes, first = one.rest.nodes, results[0].rest.revisions_s
        big = max(nodes, key=lambda node: node.agent_rss_kib)
        tall = max(nodes, key=lambda node: node.guard_rss_kib)
        ratio = f"{one.rest.revisions_s / first:.2f} ×" if first else "-"
        lines.append(
            f"| {one.leases} | {one.rest.revisions_s:.2f} | {ratio} | {one.rest.entries_s:.2f} "
            f"| {max(node.agent_cpu for node in nodes):.1f} % | {max(node.guard_cpu for node in nodes):.1f} % "
            f"| {big.agent_rss_kib / 1024:.1f} ({big.agent_pss_kib / 1024:.1f}) "
            f"| {tall.guard_rss_kib / 1024:.1f} ({tall.guard_pss_kib / 1024:.1f}) "
            f"| {one.started_s:.1f} | {one.status_s:.2f} |"
        )
    return "\n".join(lines)


def death_table(results: Sequence[Result]) -> str:
    """Markdown."""
    lines = [
        "| leases | share | runs | first VIP | last VIP | two answering | never answered | renewal pause |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for one in results:
        lines += [f"| {one.leases} | {_deaths(one.deaths)} |"] if one.deaths else []
    return "\n".join(lines)


def _deaths(deaths: Sequence[Death]) -> str:
    share = max(one.share for one in deaths)
    two, missing = sum(one.two_answering for one in deaths), sum(one.missing for one in deaths)
    first, last = _spread([one.first_ms for one in deaths]), _spread([one.last_ms for one in deaths])
    pause = _spread([one.pause_ms for one in deaths])
    return f"{share} | {len(deaths)} | {first} | {last} | {two} | {missing} | {pause}"


def _spread(values: Sequence[float]) -> str:
    return f"{min(values):.0f} / **{statistics.median(values):.0f}** / {max(values):.0f}"
