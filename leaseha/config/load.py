"""The two doors to a configuration: from a file, or from text."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from leaseha.config.build import build
from leaseha.config.faults import Faults
from leaseha.config.files import check_files, read_config
from leaseha.config.model import Config
from leaseha.config.rules import check_rules
from leaseha.config.source import LARGEST_FILE, overlay, read_toml

DEFAULT_PATH: Final = Path("/etc/leaseha/leaseha.toml")


def load(path: Path = DEFAULT_PATH, *, environ: Mapping[str, str] = os.environ, files: bool = True) -> Config:
    """The configuration in the file `path`, with `LEASEHA_...` of the environment over it.

    `files=False` leaves out whether the files that it names (keys, passwords, scripts) are there: for commands
    which only ask, run by accounts that may not read them.

    Raises:
        ConfigError: with all problems at once, one line each.

    """
    text = read_config(path, LARGEST_FILE)
    return parse(text, environ=environ, source=str(path), files=files)


def parse(
    text: str,
    *,
    environ: Mapping[str, str] | None = None,
    source: str = "",
    hostname: str | None = None,
    files: bool = True,
) -> Config:
    """The configuration in a TOML text; `hostname` (default: the machine's) names a node that has no name.

    Raises:
        ConfigError: with all problems at once, one line each, behind `source`.

    """
    faults = Faults()
    table = read_toml(text, source)
    overlay(table, environ or {}, faults)
    config = build(table, faults, socket.gethostname() if hostname is None else hostname)
    check_rules(config, faults)
    if files:
        check_files(config, faults)
    faults.raise_if_any(source)
    return replace(config, warnings=tuple(faults.warnings))
