"""The command line: arguments in, one call, text or JSON out; exit 0 done, 1 operational failure, 2 bad input."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from leaseha import __version__, cli_access, cli_recover, cli_repo
from leaseha.config import DEFAULT_PATH, load, parse
from leaseha.errors import AgentUnreachable, LeasehaError, OperationalError, UsageError

EXIT_OK: Final = 0
EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_INTERRUPTED: Final = 130
HISTORY_LINES: Final = 20
SWITCHOVER_S: Final = 60.0


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage in front."""

    def error(self, message: str) -> Any:
        """Refuse the command line."""
        # Every complaint begins with the program's name: here it is the command's that is missing.
        command = "".join(f"{word}: " for word in self.prog.split()[1:])
        raise UsageError(f"{command}{message} (see `{self.prog} --help`)")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; never raises, and never shows a traceback."""
    try:
        arguments = _parser().parse_args(argv)
        command: Callable[[argparse.Namespace], int] = arguments.command
        return command(arguments)
    except LeasehaError as error:
        _complain(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        _complain("interrupted")
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has gone; the rest of it is nobody's business, nor is an error about that.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except RecursionError as error:
        _complain(f"fault in leaseha: {error}")
        return EXIT_FAILED
    except Exception as error:  # noqa: BLE001 - the last line of defence: a person gets a sentence, not a traceback
        _complain(f"fault in leaseha, please report it: {type(error).__name__}: {error}")
        return EXIT_FAILED


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="leaseha",
        description="Keeps a virtual IP, and the backups behind it, on one of several machines.",
    )
    parser.add_argument(
        "--version", action="version", version=f"leaseha {__version__}", help="print the version"
    )
    verbs = parser.add_subparsers(metavar="COMMAND", required=True)
    config = argparse.ArgumentParser(add_help=False)
    config.add_argument(
        "--config", type=_path, default=DEFAULT_PATH, metavar="FILE", help=f"default {DEFAULT_PATH}"
    )
    as_json = argparse.ArgumentParser(add_help=False)
    as_json.add_argument("--json", action="store_true", help="print JSON")

    def verb(name: str, does: Callable[[argparse.Namespace], int], text: str, *parents: Any) -> Any:
        made = verbs.add_parser(name, help=text, description=text, parents=parents)
        made.set_defaults(command=does)
        return made

    verb("run", _run, "run the agent of this node, in the foreground", config)
    reloading = verb(
        "reload", _reload, "apply configuration and certificates; no lease moves for it", config, as_json
    )
    reloading.add_argument("--exec", action="store_true", help="upgrade: go on as the version installed now")
    checking = verb(
        "check", _check, "say what is wrong with the configuration; changes nothing", config, as_json
    )
    checking.add_argument("--offline", action="store_true", help="look at the file only, not at etcd")
    verb(
        "status", _status, "who holds what, and who could; exits 1 if a lease has no holder", config, as_json
    )
    moving = verb("switchover", _switchover, "move a lease to another node, and wait for it", config, as_json)
    moving.add_argument("lease", nargs="?", metavar="LEASE", help="need not be named where there is one")
    moving.add_argument("--to", default="", metavar="NODE", help="default: the best candidate")
    moving.add_argument(
        "--timeout", type=float, default=SWITCHOVER_S, metavar="S", help="default %(default)g"
    )
    telling = verb("history", _history, "the last moves of a lease, each with its reason", config, as_json)
    telling.add_argument("lease", nargs="?", metavar="LEASE", help="need not be named where there is one")
    telling.add_argument("-n", type=int, default=HISTORY_LINES, metavar="N", help="default %(default)s")
    fsm = verb("fsm", _fsm, "print the transition table", as_json)
    fsm.add_argument("--mermaid", action="store_true", help="as a mermaid diagram")
    demo = verb(
        "demo",
        _demo,
        "three nodes on this machine: failover, failback, switchover, with a backup through them",
    )
    demo.add_argument(
        "--keep", action="store_true", help="leave the cluster up afterwards, and say what to try"
    )
    cli_recover.add_recover(verb, config, as_json)
    cli_access.add_pki(verb, as_json)
    cli_access.add_user(verb, config, as_json)
    cli_repo.add_repo(verb, config, as_json)
    verb("version", _version, "print the version", as_json)
    return parser


def _path(text: str) -> Path:
    if not text:
        raise argparse.ArgumentTypeError("names no file")  # Path("") would be the working directory
    return Path(text)


def _run(arguments: argparse.Namespace) -> int:
    from leaseha.runtime import guarding, handover

    told = handover.received()
    if told is None:
        config = load(arguments.config)
    else:
        config = parse(told.text, environ=os.environ, source=str(arguments.config))
    guard = guarding.begin(config, told)
    # Only now what takes a second to import: whatever becomes of it, there is a guard.
    from leaseha.runtime import agent

    return agent.run(config, guard, arguments.config, told)


def _reload(arguments: argparse.Namespace) -> int:
    from leaseha.runtime import operator

    found = operator.reload(load(arguments.config), arguments.config, upgrade=arguments.exec)
    if arguments.json:
        _print_json(found)
    else:
        holds = ", ".join(f"{lease} (token {token})" for lease, token in found["holds"].items()) or "nothing"
        version = f"leaseha {found['version_before']} -> {found['version']}" if arguments.exec else "reloaded"
        _say(f"{found['node']}: {version} in {found['took_ms']} ms, holding {holds}")
    return EXIT_OK


def _check(arguments: argparse.Namespace) -> int:
    from leaseha.runtime import doctor

    config = load(arguments.config)
    findings = doctor.examine(config, offline=arguments.offline)
    failed = any(finding.grave for finding in findings)
    if arguments.json:
        _print_json({"ok": not failed, "findings": [asdict(finding) for finding in findings]})
    else:
        for finding in findings:
            _say(f"{'error' if finding.grave else 'warning'}: {finding.text}")
        _say(f"{arguments.config}: {'not good' if failed else 'good'}")
    return EXIT_FAILED if failed else EXIT_OK


def _status(arguments: argparse.Namespace) -> int:
    from leaseha.runtime import operator, show

    try:
        # The agent's socket needs none of etcd's keys, which whoever asks may not be allowed to read.
        found = operator.ask_agent(load(arguments.config, files=False))
    except AgentUnreachable:
        config = load(arguments.config)
        try:
            found = asyncio.run(operator.status_from_etcd(config))
        except OperationalError as error:
            raise OperationalError(operator.no_status(error)) from error
    if arguments.json:
        _print_json(found)
    else:
        _say(show.status(found))
    held = all(lease["holder"] and not lease["holder_silent"] for lease in found["leases"].values())
    return EXIT_OK if held else EXIT_FAILED


def _switchover(arguments: argparse.Namespace) -> int:
    from leaseha.runtime import operator

    config = load(arguments.config)
    if not arguments.timeout > 0:
        raise UsageError(f"--timeout = {arguments.timeout:g}: must be more than 0 (s)")
    lease = operator.known_lease(config, arguments.lease)
    by = f"{os.environ.get('SUDO_USER') or os.environ.get('USER') or 'an operator'} on {config.node.name}"
    moved = asyncio.run(operator.switchover(config, lease, arguments.to, by, arguments.timeout))
    if arguments.json:
        _print_json(asdict(moved))
    else:
        gap = f"{moved.gap_ms} ms" if moved.gap_ms >= 0 else "unknown"
        _say(
            f"{moved.lease}: {moved.from_node} -> {moved.holder}, gap {gap}, "
            f"token {moved.token}, trace {moved.trace_id}"
        )
    return EXIT_OK


def _history(arguments: argparse.Namespace) -> int:
    from leaseha.runtime import operator, show

    config = load(arguments.config)
    if arguments.n < 1:
        raise UsageError(f"-n = {arguments.n}: must be 1 or more")
    lease = operator.known_lease(config, arguments.lease)
    moves = asyncio.run(operator.history(config, lease, arguments.n))
    if arguments.json:
        _print_json([asdict(move) for move in moves])
    else:
        _say(show.history(moves) if moves else f"{lease}: no moves yet")
    return EXIT_OK


def _fsm(arguments: argparse.Namespace) -> int:
    from leaseha.core import table

    if arguments.json and arguments.mermaid:
        raise UsageError("fsm: --json and --mermaid are two forms of one answer: ask for one of them")
    if arguments.json:
        _print_json(table.as_rows())
    else:
        _say(table.as_mermaid() if arguments.mermaid else table.as_text())
    return EXIT_OK


def _demo(arguments: argparse.Namespace) -> int:
    from leaseha.lab import demo

    return demo.main(keep=arguments.keep)


def _version(arguments: argparse.Namespace) -> int:
    if arguments.json:
        _print_json({"version": __version__, "python": sys.version.split()[0]})
    else:
        _say(f"leaseha {__version__}")
    return EXIT_OK


def _say(text: str) -> None:
    print(text, flush=True)


def _print_json(value: object) -> None:
    _say(json.dumps(value, indent=1))


def _complain(text: str) -> None:
    print(f"leaseha: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
