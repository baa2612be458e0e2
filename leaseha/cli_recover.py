"""The command line's verb for the worst night: `leaseha recover`."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from leaseha.config import Config, load
from leaseha.errors import RecoverRefused, UsageError

if TYPE_CHECKING:
    from leaseha.runtime.recovering import Plan, Recovered

TIMEOUT_S: Final = 90.0


def add_recover(verb: Callable[..., Any], *parents: argparse.ArgumentParser) -> None:
    """`recover LEASE --accept-loss`."""
    text = "go on with what one node has, after all nodes that had everything are lost for good"
    made = verb("recover", _recover, text, *parents)
    made.add_argument("lease", metavar="LEASE")
    made.add_argument(
        "--accept-loss", action="store_true", help="what was acknowledged and is not on that node is given up"
    )
    made.add_argument("--node", default="", metavar="NODE", help="whose data counts; default: this node's")
    made.add_argument("--yes", action="store_true", help="do not ask: for scripts")
    made.add_argument("--timeout", type=float, default=TIMEOUT_S, metavar="S", help="default %(default)g")


def _recover(arguments: argparse.Namespace) -> int:
    from leaseha.runtime import operator

    config = load(arguments.config)
    lease = operator.known_lease(config, arguments.lease)
    if not arguments.accept_loss:
        raise UsageError(
            "recover: --accept-loss is missing: see `leaseha status` for a way that loses nothing"
        )
    if not arguments.timeout > 0:
        raise UsageError(f"--timeout = {arguments.timeout:g}: must be more than 0 (s)")
    if not arguments.yes and not sys.stdin.isatty():
        raise UsageError("recover: asks before it writes, and here is nobody to ask: --yes answers")
    node = arguments.node or config.node.name
    by = f"{os.environ.get('SUDO_USER') or os.environ.get('USER') or 'an operator'} on {config.node.name}"
    _tell(f"recover {lease}: watching who gives a sign of life")
    planned = asyncio.run(_look(config, lease, node, by))
    for line in planned.cost:
        _tell(line)
    if not arguments.yes:
        _ask(lease)
    done = asyncio.run(_carry_out(config, planned, arguments.timeout))
    if arguments.json:
        print(json.dumps(asdict(done), indent=1), flush=True)
    else:
        print(f"{done.lease}: {done.holder} serves, token {done.token} ({done.accepted})", flush=True)
    return 0


def _ask(lease: str) -> None:
    """Raises `RecoverRefused` unless the lease's name is typed."""
    sys.stderr.write(f"type the lease's name ({lease}) to accept this loss: ")
    sys.stderr.flush()
    if sys.stdin.readline().strip() != lease:
        raise RecoverRefused("not confirmed: nothing was written")


def _tell(text: str) -> None:
    """Beside the result, which may be JSON."""
    print(text, file=sys.stderr, flush=True)


async def _look(config: Config, lease: str, node: str, by: str) -> Plan:
    from leaseha.runtime import operator, recovering

    async with operator.etcd_of(config) as client:
        return await recovering.look(client, config, lease, node, by)


async def _carry_out(config: Config, planned: Plan, timeout_s: float) -> Recovered:
    from leaseha.runtime import operator, recovering

    async with operator.etcd_of(config) as client:
        revision = await recovering.write(client, planned)
        _tell(f"written: {planned.node} takes over once nobody else can be serving any more")
        return await recovering.await_holder(client, planned, revision, timeout_s)
