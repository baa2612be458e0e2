"""The command line's verbs about who may speak: `leaseha pki` and `leaseha user`."""

from __future__ import annotations

import argparse
import asyncio
import getpass
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from leaseha.adapters import clock
from leaseha.config import Wrong, load, size
from leaseha.errors import UsageError

if TYPE_CHECKING:
    from leaseha.adapters.pki import Issued
    from leaseha.repository.users import User

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


def add_user(verb: Verb, config: argparse.ArgumentParser, as_json: argparse.ArgumentParser) -> None:
    """`user add | del | passwd | set | list | import`."""
    text = "who may use the repositories; kept in etcd, so the same on every node at once"
    verbs = verb("user", _user_help, text).add_subparsers(metavar="COMMAND", required=True)

    def below(name: str, does: Callable[[argparse.Namespace], int], help_: str) -> argparse.ArgumentParser:
        made: argparse.ArgumentParser = verbs.add_parser(
            name, help=help_, description=help_, parents=[config, as_json]
        )
        made.set_defaults(command=does)
        if name not in {"list", "import"}:
            made.add_argument("name", metavar="NAME")
        return made

    adding = below("add", _user_add, "a new user; the password is asked for, or read from standard input")
    adding.add_argument("--append-only", action="store_true", help="may delete nothing but locks")
    adding.add_argument(
        "--quota", type=_size, default=0, metavar="SIZE", help="of all his repositories: 500G"
    )
    adding.add_argument("--monitor", action="store_true", help="may read /metrics, and nothing else")
    changing = below("set", _user_set, "change what a user may do")
    changing.add_argument("--append-only", choices=("yes", "no"))
    changing.add_argument("--quota", type=_size, metavar="SIZE", help="such as 500G, or off")
    below("passwd", _user_passwd, "a new password: asked for, or read from standard input")
    below("del", _user_del, "take a user out; what he stored stays")
    below("list", _user_list, "all users")
    importing = below("import", _user_import, "the users of an htpasswd file (bcrypt: htpasswd -B)")
    importing.add_argument("file", type=Path, metavar="FILE")


def _size(text: str) -> int:
    try:
        return 0 if text == "off" else size(text)
    except Wrong as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _user_help(_: argparse.Namespace) -> int:
    raise UsageError("user: add, del, passwd, set, list or import")


def _user_add(arguments: argparse.Namespace) -> int:
    from leaseha.runtime import accounts

    wish = accounts.Wish(arguments.append_only, arguments.quota, arguments.monitor)
    config = load(arguments.config)
    _show_users([asyncio.run(accounts.add(config, arguments.name, _password(), wish))], arguments)
    return 0


def _user_set(arguments: argparse.Namespace) -> int:
    from leaseha.runtime import accounts

    kept = None if arguments.append_only is None else arguments.append_only == "yes"
    wish = accounts.Wish(kept, arguments.quota)
    _show_users([asyncio.run(accounts.change(load(arguments.config), arguments.name, wish))], arguments)
    return 0


def _user_passwd(arguments: argparse.Namespace) -> int:
    from leaseha.runtime import accounts

    config = load(arguments.config)
    changing = accounts.change(config, arguments.name, accounts.Wish(), _password())
    _show_users([asyncio.run(changing)], arguments)
    return 0


def _user_del(arguments: argparse.Namespace) -> int:
    from leaseha.runtime import accounts

    asyncio.run(accounts.remove(load(arguments.config), arguments.name))
    print(json.dumps({"removed": arguments.name}) if arguments.json else f"{arguments.name}: removed")
    return 0


def _user_list(arguments: argparse.Namespace) -> int:
    from leaseha.runtime import accounts

    _show_users(list(asyncio.run(accounts.listed(load(arguments.config)))), arguments)
    return 0


def _user_import(arguments: argparse.Namespace) -> int:
    from leaseha.runtime import accounts

    try:
        with arguments.file.open(encoding="utf-8") as file:
            text = file.read(accounts.LARGEST_IMPORT)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{arguments.file}: {getattr(error, 'strerror', None) or error}") from error
    found = asyncio.run(accounts.import_htpasswd(load(arguments.config), text))
    if arguments.json:
        print(json.dumps(asdict(found)))
    else:
        for line in found.refused:
            print(f"{arguments.file}: {line}")
        for name in found.there:
            print(f"{name}: exists, left as it is")
        print(f"{len(found.written)} users written")
    return 1 if found.refused else 0


def _password() -> str:
    """From a person twice, or the first line of standard input."""
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\r\n")
    first = getpass.getpass("Password: ")
    if getpass.getpass("Again: ") != first:
        raise UsageError("the two are not the same")
    return first


def _show_users(users: list[User], arguments: argparse.Namespace) -> None:
    """Without the hashes."""
    if arguments.json:
        told = [{key: value for key, value in asdict(one).items() if key != "hash"} for one in users]
        print(json.dumps(told))
        return
    for user in users:
        rights = [
            *(["append-only"] if user.append_only else []),
            *([f"quota {user.quota_bytes >> 20} MiB"] if user.quota_bytes else []),
            *(["metrics only"] if user.monitor else []),
        ]
        print(f"{user.name}{': ' if rights else ''}{', '.join(rights)}")
