"""What a repository's process counts, as Prometheus reads it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Final

from leaseha.repository.aside import Aside
from leaseha.repository.usage import Usage

TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


_UPKEEP: Final = (
    ("scrub", "read_bytes", "scrub_bytes_total", "counter", "Read from this node's disk and hashed."),
    ("scrub", "found", "scrub_found_total", "counter", "Objects found spoilt on this node's disk, ever."),
    ("scrub", "healed", "scrub_healed_total", "counter", "Of those, replaced by a good copy."),
    ("scrub", "bad", "scrub_bad", "gauge", "Objects that are spoilt on this node's disk now."),
    (
        "scrub",
        "finished_s",
        "scrub_finished_timestamp_seconds",
        "gauge",
        "When all objects had been read; 0: not yet.",
    ),
    ("mending", "lost", "mending_lost", "gauge", "Spoilt here, and no member has a good copy."),
    ("mending", "sent", "mending_sent_total", "counter", "Good copies sent to members that lacked one."),
    ("mending", "fetched", "mending_fetched_total", "counter", "Good copies fetched from members."),
    ("compare", "compared", "compare_runs_total", "counter", "Comparisons with one member."),
    ("compare", "lacking", "compare_lacking_total", "counter", "Acknowledged objects that a member lacked."),
    ("compare", "surplus", "compare_surplus_total", "counter", "Objects that a member alone had."),
    ("compare", "configs", "compare_configs_total", "counter", "Configs found to differ."),
    (
        "compare",
        "finished_s",
        "compare_finished_timestamp_seconds",
        "gauge",
        "When all members had been compared with; 0: not yet.",
    ),
)


def text(
    usage: Usage,
    counters: Mapping[str, int],
    quota_bytes: int,
    kept: Sequence[Aside] = (),
    upkeep: Mapping[str, Mapping[str, float]] = MappingProxyType({}),
) -> bytes:
    """All of it. `counters`: of the process, each a total; `kept`: trash, quarantine; `upkeep`: scrub, compare."""
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
    for part, figure, name, kind, help_ in _UPKEEP:
        if part in upkeep:
            lines += _family(f"repository_{name}", kind, help_)
            lines.append(f"leaseha_repository_{name} {upkeep[part][figure]}")
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
