"""Thirty transitions with a real collector, and the same with one that never answers: a campaign, not a test.

    python -m leaseha.lab.sandbox -- python -m chaos.traces --transitions 30 --out docs/benchmarks/traces

A mix of switchover, failback, SIGKILL and SIGTERM. Each must be exactly one connected trace in the collector
(asserted on the protobuf: one root, every parent present), with spans of the old holder where it took part.
Without an answer from the collector no gap may be longer, and no stop slow.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from chaos.moves import FIRST, MOVE_S, OTHER, candidate, holding, versions
from chaos.otlp_receiver import OtlpReceiver, ReceivedSpan, broken
from leaseha.errors import LabError
from leaseha.lab.lab import LEASE, Lab
from leaseha.lab.timeline import Span

COLLECTOR: Final = "collector"
PORT: Final = 4318
EXPORT_S: Final = 20.0
CYCLE: Final = ("switchover", "failback", "kill", "failback", "term", "failback")
KIND: Final = {"kill": "failover", "term": "release"}
"""What history calls the move that an act makes, where it is not called the same."""
APART_S: Final = 0.15
"""Answers of one node less than 100 ms apart are one stay for the instruments."""


@dataclass(frozen=True, slots=True)
class Transition:
    """One move, as the client saw it and as history tells it."""

    act: str
    kind: str
    from_node: str
    to_node: str
    trace_id: str
    gap_ms: float
    """What the client missed."""
    gap_at_ns: int
    """When that began, as Unix time."""
    told_ms: int
    """The gap by the new holder's word; -1 unknown."""
    stop_s: float | None = None
    """`term`: from the signal to the end of the process."""


@dataclass(slots=True)
class Found:
    """What one run of transitions came to."""

    transitions: list[Transition] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    spans: dict[str, int] = field(default_factory=dict)
    """By trace id."""
    explained: list[float] = field(default_factory=list)
    """Failovers: the part of the gap that the client saw which lies within the root span."""


@contextlib.contextmanager
def cluster(directory: Path | None = None, ttl: str = "1s") -> Iterator[Lab]:
    """Two nodes that send their spans to the host `collector`, under all instruments."""
    settings: dict[str, Any] = {
        "session": {"ttl": ttl},
        "lease": {LEASE: {"hold_down": "2s", "flap_budget": 60}},
        "telemetry": {"otlp_endpoint": f"http://10.77.0.1:{PORT}"},
    }
    nodes = (FIRST, OTHER)
    with Lab(nodes=nodes, settings=settings, extra_hosts=(COLLECTOR,), directory=directory) as lab:
        for name in nodes:
            lab.start_nodes(name)
        lab.measure()
        holding(lab, FIRST)
        candidate(lab, OTHER)
        yield lab


def collect(lab: Lab) -> OtlpReceiver:
    """A collector on its host; the caller closes it."""
    return lab.host(COLLECTOR).call(OtlpReceiver, lab.host(COLLECTOR).ipv4, PORT)


def history(lab: Lab) -> list[dict[str, Any]]:
    """All moves by the word of etcd. Raises `LabError`."""
    command = [sys.executable, "-m", "leaseha", "history", "-n", "100", "--json"]
    done = lab.host(OTHER).run([*command, "--config", str(lab.nodes[OTHER].config)])
    if done.returncode:
        raise LabError(f"leaseha history: {done.stdout}")
    moves: list[dict[str, Any]] = json.loads(done.stdout)
    return moves


def move(lab: Lab, act: str, since_ns: int) -> tuple[Transition, int]:
    """One transition, and the instant at which it is over. `since_ns`: the end of the one before; a failback comes
    by itself, at any time after that. Raises `LabError`.
    """
    to, stop_s = (FIRST, None) if act == "failback" else (OTHER, None)
    if act != "failback":
        holding(lab, FIRST)
        candidate(lab, OTHER)
    time.sleep(APART_S)  # waits for a fact: moves further apart than the instruments can tell
    began_ns = time.monotonic_ns()
    match act:
        case "kill":
            lab.nodes[FIRST].kill()
        case "term":
            lab.nodes[FIRST].stop()
            stop_s = (time.monotonic_ns() - began_ns) / 1e9
        case "switchover":
            config = ["--config", str(lab.nodes[OTHER].config)]
            done = lab.host(OTHER).run([sys.executable, "-m", "leaseha", act, *config, "--to", OTHER])
            if done.returncode:
                raise LabError(f"switchover: {done.stdout}")
        case _:
            if not lab.nodes[FIRST].running:
                lab.start_node(FIRST)
    if act == "failback":
        began_ns = since_ns
    lab.prober.wait_for_answer(by=to, after_ns=began_ns, timeout_s=MOVE_S)
    holding(lab, to)
    ended_ns = lab.settle()
    told = next(one for one in reversed(history(lab)) if one["to_node"] == to)
    gaps = lab.prober.gaps(began_ns, ended_ns)
    gap = max(gaps, key=lambda one: one.ms, default=Span(ended_ns, ended_ns))
    gap_at_ns = gap.start_ns + time.time_ns() - time.monotonic_ns()
    names = (told["kind"], told["from_node"], told["to_node"], told["trace_id"])
    return Transition(act, *names, gap.ms, gap_at_ns, told["gap_ms"], stop_s), ended_ns


def run(lab: Lab, count: int, say: bool = False) -> Found:
    """So many transitions, one after the other. Raises `LabError` if the lease does not move."""
    found = Found()
    began_ns = since_ns = lab.settle()
    for number in range(count):
        transition, since_ns = move(lab, CYCLE[number % len(CYCLE)], since_ns)
        found.transitions.append(transition)
        wanted = KIND.get(transition.act, transition.act)
        if transition.kind != wanted:
            found.faults.append(f"{number}: {transition.act} became a {transition.kind}")
        if say:
            print(f"{number + 1}/{count}: {json.dumps(asdict(transition))}", flush=True)
    lab.settle()
    found.faults += [f"two answered: {one}" for one in lab.two_answering(began_ns)]
    return found


def judge(found: Found, receiver: OtlpReceiver) -> None:
    """Hold every transition against the spans that the collector got; faults are noted in `found`."""
    wanted = {one.trace_id for one in found.transitions}
    receiver.wait_for(lambda spans: wanted <= {s.trace_id for s in spans if not s.parent_id}, EXPORT_S)
    traces = receiver.traces()
    if len(wanted) != len(found.transitions):
        found.faults.append(f"{len(found.transitions)} transitions have {len(wanted)} trace ids")
    for one in found.transitions:
        spans = traces.get(one.trace_id, [])
        found.spans[one.trace_id] = len(spans)
        what = f"{one.act} {one.from_node} -> {one.to_node} ({one.trace_id[:8]})"
        found.faults += [f"{what}: {fault}" for fault in faults_of(one, spans)]
        if one.kind == "failover" and one.gap_ms:
            root = next((span.span for span in spans if not span.parent_id), None)
            if root is not None:
                found.explained.append(explained(one, root.start_time_unix_nano, root.end_time_unix_nano))
    strays = set(traces) - wanted
    for stray in strays:
        if any("leaseha.first" in span.span.name for span in traces[stray]):
            continue  # the move that the campaign began with
        names = [f"{span.resource['leaseha.node']}: {span.span.name}" for span in traces[stray]]
        found.faults.append(f"a trace of no transition: {names}")


def explained(one: Transition, start_ns: int, end_ns: int) -> float:
    """The part of a transition's gap that lies between two Unix times."""
    length_ns = int(one.gap_ms * 1e6)
    inside_ns = min(end_ns, one.gap_at_ns + length_ns) - max(start_ns, one.gap_at_ns)
    return max(0, inside_ns) / length_ns


def faults_of(one: Transition, spans: Sequence[ReceivedSpan]) -> list[str]:
    """What is wrong with the trace of one transition."""
    if not spans:
        return ["no trace"]
    faults = [why] if (why := broken(spans)) else []
    nodes = {str(span.resource["leaseha.node"]) for span in spans}
    took_part = {one.to_node} if one.kind in {"failover", "first"} else {one.from_node, one.to_node}
    if nodes != took_part:
        faults.append(f"spans of {sorted(nodes)}, not of {sorted(took_part)}")
    roots = [span.span.name for span in spans if not span.parent_id]
    if roots != [f"leaseha.{one.kind}"]:
        faults.append(f"roots {roots}")
    return faults


def spread(values: Sequence[float], digits: int = 0) -> str:
    """min / **median** / max."""
    if not values:
        return "-"
    return f"{min(values):.{digits}f} / **{statistics.median(values):.{digits}f}** / {max(values):.{digits}f}"


def table(live: Found, hole: Found) -> str:
    """Markdown of both runs."""
    lines = [
        "| move | transitions | gap, collector answers | gap, collector is a black hole |",
        "|---|---|---|---|",
    ]
    for act in dict.fromkeys(CYCLE):
        both = [[t.gap_ms for t in found.transitions if t.act == act] for found in (live, hole)]
        lines.append(f"| {act} | {len(both[0])} + {len(both[1])} | {spread(both[0])} | {spread(both[1])} |")
    stops = [[t.stop_s for t in found.transitions if t.stop_s is not None] for found in (live, hole)]
    connected = sum(1 for t in live.transitions if live.spans.get(t.trace_id) and not live.faults)
    spans = spread(list(live.spans.values()))
    lines += [
        "",
        f"Connected traces: {connected} of {len(live.transitions)}; spans in each: {spans}.",
        f"SIGTERM to the end of the process, s: {spread(stops[0], 2)}; with the black hole {spread(stops[1], 2)}.",
        f"Part of the failover's gap, as the client saw it, that its trace spans: {spread(live.explained, 3)}.",
        f"Faults: {'; '.join(live.faults + hole.faults) or 'none'}.",
    ]
    return "\n".join(lines)


def main() -> int:
    """Run both, write the results; 1 if anything was not as promised."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--transitions", type=int, default=30)
    parser.add_argument("--ttl", default="1s")
    parser.add_argument("--out", type=Path, help="path without suffix; .json and .md are written")
    asked = parser.parse_args()
    with cluster(ttl=asked.ttl) as lab, contextlib.closing(collect(lab)) as receiver:
        live = run(lab, asked.transitions, say=True)
        judge(live, receiver)
    with cluster(ttl=asked.ttl) as lab:
        lab.host(COLLECTOR).cut_silent()
        hole = run(lab, asked.transitions, say=True)
    text = table(live, hole)
    print(text)
    if asked.out:
        command = f"python -m chaos.traces --transitions {asked.transitions} --ttl {asked.ttl}"
        asked.out.parent.mkdir(parents=True, exist_ok=True)
        facts = {"command": command, "versions": versions(), "live": asdict(live), "black_hole": asdict(hole)}
        asked.out.with_suffix(".json").write_text(json.dumps(facts, indent=1) + "\n")
        known = ", ".join(f"{name} {value}" for name, value in versions().items())
        head = f"# Transitions and their traces\n\nms unless said, min / **median** / max. `{command}`; {known}.\n\n"
        asked.out.with_suffix(".md").write_text(f"{head}{text}\n")
    return 1 if live.faults or hole.faults else 0


if __name__ == "__main__":
    sys.exit(main())
