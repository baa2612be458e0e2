"""The new program, tried in a process of its own before the running one is replaced by it.

    python -P -m leaseha.runtime.trial --config FILE

Loads all that an agent loads, and the configuration; prints one line of JSON when that is done (so whoever waits knows
how long it takes), and another that says whether a fence can stand, and which etcd answers, if one does. Exit 2,
and the fault on standard error, if the configuration is refused. Changes nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from leaseha import __version__
from leaseha.adapters.fence import available
from leaseha.config import Config, format_duration, parse
from leaseha.config.files import read_config
from leaseha.config.source import LARGEST_FILE
from leaseha.core.values import NS_PER_S
from leaseha.errors import LeasehaError, StoreDenied, StoreUnavailable
from leaseha.runtime.fencing import interface_of
from leaseha.runtime.handover import FORMAT

ETCD_S: Final = 5.0


def constants(config: Config) -> dict[str, str]:
    """What one session, one process and one cluster cannot change while they live: key to value."""
    return {
        "cluster": config.cluster,
        "node.name": config.node.name,
        "runtime_dir": str(config.runtime_dir),
        "state_dir": str(config.state_dir),
        "etcd.prefix": config.etcd.prefix,
        "session.ttl_max": format_duration(config.session.ttl_max_ns),
        "session.drift": f"{config.session.drift_ppm} ppm",
    }


def places(config: Config) -> dict[str, dict[str, Any]]:
    """Of each lease its VIPs and their interface."""
    return {
        lease.name: {
            "interface": interface_of(config, lease),
            "vips": sorted(str(vip.ip) for vip in lease.vips),
        }
        for lease in config.leases
    }


async def _etcd(config: Config) -> dict[str, Any]:
    """Why etcd does not answer, and its cluster's id. Raises `StoreError` where no agent could start."""
    from leaseha.runtime import operator

    try:
        async with operator.etcd_of(config) as client:
            head = await client.read_head(ETCD_S)
    except (StoreUnavailable, StoreDenied) as error:
        return {"etcd": str(error), "cluster_id": 0}
    return {"etcd": "", "cluster_id": head.cluster_id}


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 it can start, 2 the configuration is wrong, 1 anything else."""
    reading = argparse.ArgumentParser(prog="leaseha-trial", description="started by `leaseha reload`")
    reading.add_argument("--config", type=Path, required=True)
    path = reading.parse_args(arguments).config
    try:
        from leaseha.runtime import agent  # noqa: F401 - loaded to see that it can be

        text = read_config(path, LARGEST_FILE)
        config = parse(text, environ=os.environ, source=str(path))
        if any(lease.repository is not None for lease in config.leases):
            from leaseha.runtime import repositories  # noqa: F401 - the same
        used = resource.getrusage(resource.RUSAGE_SELF)
        cpu_ns = int((used.ru_utime + used.ru_stime) * NS_PER_S)
        found = {"format": FORMAT, "version": __version__, "text": text, "cpu_ns": cpu_ns}
        _say({**found, "constants": constants(config), "leases": places(config)})
        _say({"fence": available(), **asyncio.run(_etcd(config))})
    except LeasehaError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


def _say(found: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(found) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
