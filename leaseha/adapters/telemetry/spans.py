"""A finished span as plain data, and its JSON line: what both exporters are given."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from leaseha.adapters.telemetry.traceparent import TraceContext
from leaseha.core.values import NS_PER_MS

Attribute = str | bool | int | float
TEXT_MAX: Final = 1024
ATTRIBUTES_MAX: Final = 64
_INT_MAX: Final = 2**63 - 1
_NS_MAX: Final = 2**64 - 1


class Status(StrEnum):
    """How what the span measures ended."""

    UNSET = "unset"
    OK = "ok"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Resource:
    """Who emits the spans: one node of one cluster."""

    node: str
    cluster: str
    version: str

    def attributes(self) -> dict[str, str]:
        """As OpenTelemetry names them."""
        return {
            "service.name": "leaseha",
            "service.instance.id": self.node,
            "service.version": self.version,
            "leaseha.cluster": self.cluster,
            "leaseha.node": self.node,
        }


@dataclass(frozen=True, slots=True)
class Moment:
    """Something that happened within a span, at a Unix time in ns."""

    name: str
    at_ns: int
    attributes: Mapping[str, Attribute]


@dataclass(frozen=True, slots=True)
class FinishedSpan:
    """One span, over. Times are Unix times in ns. An empty `parent_id` makes it the root of its trace."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    start_ns: int
    end_ns: int
    attributes: Mapping[str, Attribute]
    status: Status = Status.UNSET
    message: str = ""
    moments: tuple[Moment, ...] = ()
    links: tuple[TraceContext, ...] = ()


def text(value: object) -> str:
    """As a string that every encoder takes: no lone surrogates, at most 1024 characters."""
    return str(value)[:TEXT_MAX].encode("utf-8", "replace").decode("utf-8")


def clean(attributes: Mapping[str, object] | None) -> dict[str, Attribute]:
    """Attributes that every encoder takes: None is left out, what is no plain value becomes text.

    One that an encoder refused would lose its whole batch, again and again.
    """
    found: dict[str, Attribute] = {}
    for key, value in list((attributes or {}).items())[:ATTRIBUTES_MAX]:
        if isinstance(value, bool) or (isinstance(value, float) and math.isfinite(value)):
            found[key] = value
        elif isinstance(value, int) and abs(value) <= _INT_MAX:
            found[key] = int(value)
        elif value is not None:
            found[key] = text(value)
    return found


def within(start_ns: int, end_ns: int) -> tuple[int, int]:
    """Times that fit the wire, the end not before the start (a wall clock may have been set back between)."""
    start_ns = min(max(0, start_ns), _NS_MAX)
    return start_ns, min(max(start_ns, end_ns), _NS_MAX)


def span_id(parent: TraceContext, node: str, name: str, start_ns: int, serial: int) -> str:
    """An id of its own for a child span: a hash, so nothing is drawn at random; `serial` counts a process's spans."""
    seed = f"leaseha span\0{parent}\0{node}\0{name}\0{start_ns}\0{serial}"
    return hashlib.sha256(seed.encode("utf-8", "replace")).hexdigest()[:16]


def to_json(span: FinishedSpan, resource: Resource) -> str:
    """The span as one flat line of JSON; docs/telemetry.md describes it. No newline at its end."""
    fields: dict[str, object] = {
        "name": span.name,
        "trace_id": span.trace_id,
        "span_id": span.span_id,
        "parent_id": span.parent_id,
        "node": text(resource.node),
        "cluster": text(resource.cluster),
        "version": text(resource.version),
        "start_ns": span.start_ns,
        "end_ns": span.end_ns,
        "took_ms": round((span.end_ns - span.start_ns) / NS_PER_MS, 3),
        "status": span.status.value,
    }
    if span.message:
        fields["message"] = span.message
    # An attribute that is called like one of the span's own fields must not take its place.
    fields |= {name: value for name, value in span.attributes.items() if name not in fields}
    if span.moments:
        fields["events"] = [{"name": m.name, "at_ns": m.at_ns, **m.attributes} for m in span.moments]
    if span.links:
        fields["links"] = [str(link) for link in span.links]
    return json.dumps(fields, separators=(",", ":"), ensure_ascii=False)
