"""What a repository's process counts, as Prometheus reads it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from leaseha.repository.aside import Aside
from leaseha.repository.usage import Usage

TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


def text(usage: Usage, counters: Mapping[str, int], quota_bytes: int, kept: Sequence[Aside] = ()) -> bytes:
    """All of it. `counters`: of the process, each a total; `kept`: trash and quarantine."""
    uses = sorted(usage.uses().items())
    done, sizes = usage.done()
    lines: list[str] = []
    lines += _family("repository_bytes", "gauge", "What a repository holds, by kind of object.")
    lines += [
        _line("repository_bytes", size, repo, type=kind)
        for repo, use in uses
        for kind, size in _by(use.sizes)
    ]
    lines += _family("repository_objects", "gauge", "How many objects a repository holds, by kind.")
    lines += [
        _line("repository_objects", n, repo, type=kind) for repo, use in uses for kind, n in _by(use.objects)
    ]
    lines += _family(
        "repository_last_snapshot_timestamp_seconds",
        "gauge",
        "When the newest snapshot was written to this node.",
    )
    lines += [
        _line("repository_last_snapshot_timestamp_seconds", round(use.last_snapshot_s, 3), repo)
        for repo, use in uses
        if use.last_snapshot_s
    ]
    if quota_bytes:
        lines += _family("repository_quota_bytes", "gauge", "What each repository may hold.")
        lines.append(f"leaseha_repository_quota_bytes {quota_bytes}")
    lines += _family("repository_counted", "gauge", "1 once the directory was counted since the start.")
    lines.append(f"leaseha_repository_counted {int(usage.counted)}")
    lines += _kept(kept)
    for name, found in (("operations", done), ("operation_bytes", sizes)):
        lines += _family(
            f"repository_{name}_total", "counter", "Objects read, written and deleted by clients."
        )
        for (repo, kind, what), total in sorted(found.items()):
            lines.append(_line(f"repository_{name}_total", total, repo, type=kind, operation=what))
    for name, total in counters.items():
        lines += _family(f"repository_server_{name}_total", "counter", "Of the repository's process.")
        lines.append(f"leaseha_repository_server_{name}_total {total}")
    return ("\n".join(lines) + "\n").encode()


def _kept(kept: Sequence[Aside]) -> list[str]:
    lines: list[str] = []
    for one in kept:
        name = f"repository_{one.folder.name}"
        for what, kind, total in (
            ("bytes", "gauge", one.bytes),
            ("objects", "gauge", one.objects),
            ("purged_total", "counter", one.purged),
        ):
            lines += _family(f"{name}_{what}", kind, f"The {one.folder.name} of this node; purged: for good.")
            lines.append(f"leaseha_{name}_{what} {total}")
    return lines


def _family(name: str, kind: str, help_: str) -> list[str]:
    return [f"# HELP leaseha_{name} {help_}", f"# TYPE leaseha_{name} {kind}"]


def _by(counts: Mapping[str, int]) -> Iterable[tuple[str, int]]:
    return sorted(counts.items())


def _line(name: str, value: float, repo: tuple[str, ...], **labels: str) -> str:
    told = {"repo": "/".join(repo), **labels}
    inside = ",".join(f'{key}="{_escaped(one)}"' for key, one in told.items())
    return f"leaseha_{name}{{{inside}}} {value}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
