"""The command line's verbs about what is stored: `leaseha repo ...`.

`list`, `usage`, `locks` and `trash` read this node's data directory, so they work on a node that is stopped too. The
others ask the agent, whose repository process does the work; this shows how far it is, and may be left with ^C.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from leaseha.config import Config, load
from leaseha.errors import AgentUnreachable, OperationalError, UsageError

if TYPE_CHECKING:
    from leaseha.config import RepositoryConfig

Verb = Callable[..., Any]

POLL_S: Final = 0.5
WATCH_S: Final = 2.0
PATIENCE: Final = 20
"""So many vain questions in a row, and the agent is gone."""
NAMES_MOST: Final = 100
"""As many fit into one request to the agent."""
_rest: Final = threading.Event()
"""Never set."""
_NAME: Final = re.compile(r"[0-9a-f]{6,64}|config")


def add_repo(verb: Verb, config: argparse.ArgumentParser, as_json: argparse.ArgumentParser) -> None:
    """`repo list | usage | locks | trash | undelete | sync-status | scrub | verify`."""
    text = "what is stored, what was deleted, and whether all of it is on every node"
    verbs = verb("repo", _help, text).add_subparsers(metavar="COMMAND", required=True)

    def below(name: str, does: Callable[[argparse.Namespace], int], help_: str) -> argparse.ArgumentParser:
        made: argparse.ArgumentParser = verbs.add_parser(
            name, help=help_, description=help_, parents=[config, as_json]
        )
        made.set_defaults(command=does)
        made.add_argument("--lease", metavar="LEASE", help="need not be named where there is one")
        return made

    below("list", _list, "the repositories on this node, and when each had its last snapshot")
    below("usage", _usage, "what each of them holds, by kind, and what trash and quarantine hold")
    below("locks", _locks, "restic's locks: how old they are (restic unlock takes away stale ones)")
    trash = below("trash", _trash, "what was deleted and is kept for a while")
    trash.add_argument("--quarantine", action="store_true", help="what leaseha itself has put aside, instead")
    _which(trash)
    undelete = below("undelete", _undelete, "bring deleted objects back, on every node; on the holder only")
    undelete.add_argument(
        "names", nargs="*", metavar="NAME", help="of an object, or its first 6 digits or more"
    )
    undelete.add_argument("--all", action="store_true", help="all that the trash has of it")
    undelete.add_argument("--list", action="store_true", help="only say what would come back")
    _which(undelete)
    _waits(undelete)
    syncing = below("sync-status", _sync_status, "which node has what, and how far those that lack some are")
    syncing.add_argument("--watch", action="store_true", help="again every 2 s")
    scrub = below("scrub", _scrub, "read all that is on this node's disk, and compare it with its names")
    _paced(scrub)
    _waits(scrub)
    verify = below("verify", _verify, "compare another node's copy with the holder's; on the holder only")
    verify.add_argument("node", metavar="NODE")
    _paced(verify)
    _waits(verify)


def _which(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--repository", default=None, metavar="PATH", help="of this one only, such as /laptop/"
    )
    parser.add_argument("--since", default=None, metavar="DATE", help="deleted on that day (UTC) or later")


def _paced(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--rate",
        type=_rate,
        default=0,
        metavar="SIZE",
        help="a second, such as 50M; all that goes, if not said",
    )


def _rate(text: str) -> int:
    from leaseha.config import readers
    from leaseha.config.faults import Wrong

    try:
        return readers.rate(text)
    except Wrong as wrong:
        raise argparse.ArgumentTypeError(str(wrong)) from wrong


def _waits(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--no-wait", action="store_true", help="begin it, and do not wait for its end")


def _help(_: argparse.Namespace) -> int:
    raise UsageError("repo: list, usage, locks, trash, undelete, sync-status, scrub or verify")


# ---- which lease, which repository, since when


def _lease_of(arguments: argparse.Namespace, config: Config) -> tuple[str, RepositoryConfig]:
    """Raises UsageError."""
    having = {lease.name: lease.repository for lease in config.leases if lease.repository is not None}
    name = arguments.lease
    if not having:
        raise UsageError("no lease has a repository: see [lease.NAME.repository]")
    if name is None and len(having) > 1:
        raise UsageError(f"--lease is missing: there are {', '.join(having)}")
    name = next(iter(having)) if name is None else name
    if name not in having:
        raise UsageError(f"--lease = {name}: has no repository here, only {', '.join(having)}")
    return name, having[name]


def _loaded(arguments: argparse.Namespace) -> Config:
    # Nothing here needs etcd's keys, which whoever asks may not be allowed to read.
    return load(arguments.config, files=False)


def _folder(arguments: argparse.Namespace) -> Path:
    """The data directory that is meant. Raises UsageError, OperationalError."""
    lease, repository = _lease_of(arguments, _loaded(arguments))
    if not repository.path.is_dir():
        raise OperationalError(
            f"lease.{lease}.repository.path = {repository.path}: there is no such directory"
        )
    return repository.path


def _repository(text: str | None) -> str | None:
    """`/alice/laptop/` as `alice/laptop`; None: all. Raises UsageError."""
    from leaseha.repository import paths

    if text is None:
        return None
    plain = text.strip("/")
    address = paths.parse(f"/{plain}/".encode() if plain else b"/")
    if address is None or address.kind is not None:
        raise UsageError(f"--repository = {text}: write its path as clients do, such as /laptop/")
    return plain


def _since(text: str | None) -> str:
    """A day as folders are named; empty: from the beginning. Raises UsageError."""
    if text is None:
        return ""
    try:
        return date.fromisoformat(text).isoformat()
    except ValueError:
        raise UsageError(f"--since = {text}: write a day such as 2026-01-31") from None


# ---- reading the directory


def _list(arguments: argparse.Namespace) -> int:
    from leaseha.repository import looking

    rows = _read(lambda: looking.repositories(_folder(arguments)))
    if arguments.json:
        return _print(rows)
    for row in rows:
        last = _when(row["last_snapshot_s"]) if row["last_snapshot_s"] else "no snapshot yet"
        print(f"{row['repository']}: {row['snapshots']} snapshots, {_size(row['bytes'])}, last {last}")
    if not rows:
        print("no repositories")
    return 0


def _usage(arguments: argparse.Namespace) -> int:
    from leaseha.repository import looking

    found = _read(lambda: looking.usage(_folder(arguments)))
    if arguments.json:
        return _print(found)
    for row in found["repositories"]:
        print(f"{row['repository']}: {_size(row['bytes'])}")
        for kind, held in row["kinds"].items():
            print(f"  {kind:<10}{held['objects']:>9} objects {_size(held['bytes']):>12}")
    for name in ("trash", "quarantine"):
        print(f"{name}: {_size(found[name]['bytes'])} in {found[name]['objects']} objects (in no quota)")
    print(f"disk: {_size(found['free_bytes'])} free of {_size(found['disk_bytes'])}")
    return 0


def _locks(arguments: argparse.Namespace) -> int:
    from leaseha.repository import looking

    rows = _read(lambda: looking.locks(_folder(arguments)))
    if arguments.json:
        return _print(rows)
    for row in rows:
        print(f"{row['repository']} {row['name'][:10]} since {_when(row['since_s'])}")
    if not rows:
        print("no locks")
    return 0


def _trash(arguments: argparse.Namespace) -> int:
    from leaseha.repository import looking

    where = "quarantine" if arguments.quarantine else "trash"
    repository, since = _repository(arguments.repository), _since(arguments.since)
    rows = _read(lambda: looking.aside(_folder(arguments), where, repository, since))
    if arguments.json:
        return _print(rows)
    _show_kept(rows)
    return 0


def _show_kept(rows: list[dict[str, Any]]) -> None:
    """By day, repository and kind."""
    groups: dict[tuple[str, str, str], list[int]] = {}
    for row in rows:
        groups.setdefault((row["day"], row["repository"], row["kind"]), []).append(row["bytes"])
    for (day, repository, kind), sizes in sorted(groups.items()):
        print(f"{day} {repository} {kind}: {len(sizes)} objects, {_size(sum(sizes))}")
    if not rows:
        print("nothing is kept")


def _read(look: Callable[[], Any]) -> Any:
    """Raises OperationalError."""
    try:
        return look()
    except OSError as error:
        raise OperationalError(f"{error.filename}: {error.strerror}") from error


# ---- asking the agent


def _undelete(arguments: argparse.Namespace) -> int:
    repository, since = _repository(arguments.repository), _since(arguments.since)
    for name in arguments.names:
        if not _NAME.fullmatch(name):
            raise UsageError(f"NAME = {name}: write 6 to 64 hexadecimal digits, or config")
    if bool(arguments.names) and arguments.all:
        raise UsageError("NAME and --all: name objects, or say --all, not both")
    if len(arguments.names) > NAMES_MOST:
        raise UsageError(f"NAME: at most {NAMES_MOST} at once; or say --all, with --repository and --since")
    if arguments.list:
        return _would_come_back(arguments, repository, since)
    if not arguments.names and not arguments.all:
        raise UsageError(
            "NAME is missing: name objects, or say --all (`leaseha repo trash` shows what there is)"
        )
    wish = {"repository": repository, "since": since, "names": arguments.names}
    return _chore(arguments, "undelete", wish)


def _would_come_back(arguments: argparse.Namespace, repository: str | None, since: str) -> int:
    from leaseha.repository import looking

    rows = _read(lambda: looking.aside(_folder(arguments), "trash", repository, since))
    if arguments.names:
        rows = [row for row in rows if row["name"].startswith(tuple(arguments.names))]
    if arguments.json:
        return _print(rows)
    _show_kept(rows)
    return 0


def _scrub(arguments: argparse.Namespace) -> int:
    return _chore(arguments, "scrub", {"rate": arguments.rate})


def _verify(arguments: argparse.Namespace) -> int:
    return _chore(arguments, "verify", {"node": arguments.node, "rate": arguments.rate})


def _chore(arguments: argparse.Namespace, what: str, wish: Mapping[str, Any]) -> int:
    """Begun, watched to its end, told. Exit 1 when it failed, or says that not all is well (`ok` in its result)."""
    from leaseha.runtime import chores

    config = _loaded(arguments)
    lease, _ = _lease_of(arguments, config)
    chores.ask(config, lease, what, wish)
    if arguments.no_wait:
        print(json.dumps({"begun": what}) if arguments.json else f"{what}: begun")
        return 0
    patience = PATIENCE
    while True:
        try:
            told = chores.ask(config, lease, "status")["chores"].get(what)
        except AgentUnreachable:
            # A reload takes a moment, and the work goes on.
            if not patience:
                raise
            patience -= 1
            _rest.wait(POLL_S)
            continue
        patience = PATIENCE
        if told is None:
            raise OperationalError(
                f"{what}: the repository's process has begun anew, and knows nothing of it"
            )
        if told["state"] != "running":
            break
        _show_progress(what, told)
        _rest.wait(POLL_S)
    _show_progress(what, None)
    good = told["state"] == "done" and bool(told["result"].get("ok", True))
    if arguments.json:
        _print(told)
    else:
        _show_outcome(what, told)
    return 0 if good else 1


def _show_progress(what: str, told: Mapping[str, Any] | None) -> None:
    """On a terminal only; None: clear it."""
    if sys.stderr.isatty():
        text = f"{what}: {told['done']} of {told['total'] or '?'}" if told else ""
        print(f"\r{text:<60}", end="" if told else "\r", file=sys.stderr, flush=True)


def _show_outcome(what: str, told: Mapping[str, Any]) -> None:
    for line in told["found"]:
        print(line)
    if told["found_more"]:
        print(f"... and {told['found_more']} more")
    if told["state"] != "done":
        raise OperationalError(f"{what} failed after {told['done']} of {told['total']}: {told['error']}")
    print(f"{what}: " + (", ".join(f"{key} {value}" for key, value in told["result"].items()) or "done"))


def _sync_status(arguments: argparse.Namespace) -> int:
    from leaseha.runtime import operator, syncing

    config = _loaded(arguments)
    lease, _ = _lease_of(arguments, config)
    while True:
        found = syncing.of(operator.ask_agent(config), lease)
        if arguments.json:
            print(json.dumps(found, indent=None if arguments.watch else 1), flush=True)
        else:
            print(syncing.as_text(found), flush=True)
        if not arguments.watch:
            return 0 if found["level"] else 1
        _rest.wait(WATCH_S)


# ---- text


def _print(value: object) -> int:
    print(json.dumps(value, indent=1), flush=True)
    return 0


def _size(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def _when(unix_s: float) -> str:
    return f"{datetime.fromtimestamp(unix_s, UTC):%Y-%m-%d %H:%M} UTC"
