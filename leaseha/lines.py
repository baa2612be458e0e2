"""What a log line looks like: the same from the agent and from the processes that it starts.

No traceback is ever written: an exception becomes one line that names it and where it came from.
"""

from __future__ import annotations

import json
import logging
import traceback
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

LINE_MAX: Final = 8192
"""Characters; the rest of a longer line is cut off."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Who speaks, and how it is written: `form` is `human` or `json`, `level` the least that is said."""

    node: str = ""
    cluster: str = ""
    form: str = "human"
    level: str = "info"
    lease: str = ""
    """The lease of lines that name none of their own."""


def formatter(shape: Shape) -> logging.Formatter:
    """Of the shape's form."""
    return JsonFormat(shape) if shape.form == "json" else HumanFormat(shape)


def _one_line(message: str) -> str:
    """As one line, without control characters: what comes from outside cannot forge a second one."""
    flat = " | ".join(part for part in message.splitlines() if part.strip())
    return "".join(sign if sign.isprintable() else f"\\x{ord(sign):02x}" for sign in flat[:LINE_MAX])


def _error_of(record: logging.LogRecord) -> str:
    """`Name: text (file.py:12)` of the exception that a record carries; empty if there is none."""
    error = record.exc_info[1] if record.exc_info else None
    if error is None:
        return ""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{where}"


class HumanFormat(logging.Formatter):
    """`2026-11-22 23:11:05.123 INFO    node1 backups: what happened`, in local time."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self._shape = shape

    def format(self, record: logging.LogRecord) -> str:
        """One line without its newline."""
        at = datetime.fromtimestamp(record.created, tz=UTC).astimezone()
        fields: dict[str, Any] = getattr(record, "leaseha", {})
        name = fields.get("lease") or self._shape.lease
        lease = f" {name}:" if name else ":"
        stamp = f"{at:%Y-%m-%d %H:%M:%S}.{at.microsecond // 1000:03d}"
        error = _error_of(record)
        message = f"{record.getMessage()}{f': {error}' if error else ''}"
        return _one_line(f"{stamp} {record.levelname:<7} {self._shape.node}{lease} {message}")


class JsonFormat(logging.Formatter):
    """One JSON object: `ts` (UTC), `level`, `node`, `cluster`, `lease`, `event`, `message`, then the event's fields."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self._shape = shape

    def format(self, record: logging.LogRecord) -> str:
        """One line without its newline."""
        at = datetime.fromtimestamp(record.created, tz=UTC)
        fields: dict[str, Any] = getattr(record, "leaseha", {})
        line: dict[str, object] = {
            "ts": f"{at:%Y-%m-%dT%H:%M:%S}.{at.microsecond:06d}Z",
            "level": record.levelname.lower(),
            "node": self._shape.node,
            "cluster": self._shape.cluster,
            "lease": fields.get("lease") or self._shape.lease,
            "event": "log",
            "message": _one_line(record.getMessage()),
            "logger": record.name,
        }
        if error := _error_of(record):
            line["error"] = _one_line(error)
        line |= {key: value for key, value in fields.items() if value is not None and key != "lease"}
        return json.dumps(line, separators=(",", ":"), ensure_ascii=False, default=str)
