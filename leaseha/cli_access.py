"""The command line's verbs about who may speak: `leaseha pki` and `leaseha user`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from leaseha.adapters import clock
from leaseha.errors import UsageError

if TYPE_CHECKING:
    from leaseha.adapters.pki import Issued

Verb = Callable[..., Any]

PKI_FOLDER: Final = Path("/etc/leaseha/pki")


def add_pki(verb: Verb, *parents: argparse.ArgumentParser) -> None:
    """`pki init | issue | renew`."""
    text = "a certificate authority of the cluster's own, for nodes to know each other by"
    verbs = verb("pki", _pki_help, text).add_subparsers(metavar="COMMAND", required=True)

    def below(name: str, does: Callable[[argparse.Namespace], int], help_: str) -> argparse.ArgumentParser:
        made: argparse.ArgumentParser = verbs.add_parser(name, help=help_, description=help_, parents=parents)
        made.set_defaults(command=does)
        made.add_argument("--dir", type=Path, default=PKI_FOLDER, metavar="DIR", help="default %(default)s")
        return made

    init = below(
        "init", _pki_init, "make the authority: ca.crt for every node, ca.key to be kept away from them"
    )
    init.add_argument("--name", default="", help="the cluster's, to be read in the certificate")
    init.add_argument("--days", type=int, default=3650, help="default %(default)s")
    issue = below("issue", _pki_issue, "make a node's key and certificate")
    issue.add_argument("name", metavar="NAME", help="the node's name, as in its configuration")
    issue.add_argument(
        "--also", action="append", default=[], metavar="NAME", help="further DNS name or address"
    )
    issue.add_argument("--days", type=int, default=397, help="default %(default)s")
    issue.add_argument(
        "--public",
        action="store_true",
        help="for clients to see (name the VIP): good for no node's connection",
    )
    renew = below("renew", _pki_renew, "give certificates more time; keys and names stay")
    renew.add_argument("names", nargs="*", metavar="NAME", help="default: all that end within --within days")
    renew.add_argument("--within", type=int, default=60, metavar="DAYS", help="default %(default)s")
    renew.add_argument("--days", type=int, default=397, help="default %(default)s")


def _pki_help(_: argparse.Namespace) -> int:
    raise UsageError("pki: init, issue or renew")


def _now() -> datetime:
    return datetime.fromtimestamp(clock.wall_ms() / 1e3, UTC).replace(microsecond=0)


def _pki_init(arguments: argparse.Namespace) -> int:
    from leaseha.adapters import pki

    made = pki.init(arguments.dir, arguments.name, _now(), arguments.days)
    if arguments.json:
        print(json.dumps({"authority": str(made)}))
    else:
        print(f"{made}: give it to every node. Keep {made.with_suffix('.key')} on none of them.")
    return 0


def _pki_issue(arguments: argparse.Namespace) -> int:
    from leaseha.adapters import pki

    wanted = pki.Wanted(arguments.name, tuple(arguments.also), arguments.days, arguments.public)
    _show([pki.issue(arguments.dir, wanted, _now())], as_json=arguments.json)
    return 0


def _pki_renew(arguments: argparse.Namespace) -> int:
    from leaseha.adapters import pki

    now = _now()
    soon = now + timedelta(days=arguments.within)
    names = arguments.names or [one.name for one in pki.issued(arguments.dir) if one.until < soon]
    made = [pki.renew(arguments.dir, name, now, arguments.days) for name in names]
    _show(made, as_json=arguments.json)
    if not made and not arguments.json:
        print(f"nothing in {arguments.dir} ends within {arguments.within} days")
    return 0


def _show(issued: list[Issued], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps([asdict(one) for one in issued], default=str))
        return
    for one in issued:
        print(f"{one.certificate}: {', '.join(one.names)}, until {one.until:%Y-%m-%d}")
