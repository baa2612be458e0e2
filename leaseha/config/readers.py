"""Readers of single values: each takes what TOML gave and returns it typed, or raises `Wrong` with a remedy."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Final, TypeVar

from leaseha.config.durations import format_duration, parse_duration
from leaseha.config.faults import Wrong, join, quoted, show
from leaseha.config.model import KeepAway, Script

E = TypeVar("E", bound=StrEnum)

NODE_NAME: Final = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?"
NODE_NAME_RULE: Final = (
    "1 to 63 letters, digits, dots, hyphens or underscores; the first and last a letter or digit"
)
PLAIN_NAME: Final = r"[a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?"
PLAIN_NAME_RULE: Final = (
    "1 to 40 lower-case letters, digits and hyphens; the first and last a letter or digit"
)
LONGEST_PATH: Final = 4096
HIGHEST_PRIORITY: Final = 10_000


def text(value: object, what: str = "a text") -> str:
    """A string that is not empty and has nothing invisible in it."""
    if not isinstance(value, str):
        raise Wrong(f"write {what} in quotes")
    if not value or value != value.strip() or not value.isprintable():
        raise Wrong(f"write {what} without spaces around it and without control characters; not an empty one")
    return value


def matching(pattern: str, rule: str) -> Callable[[object], str]:
    """A string of a fixed form; `rule` says which."""
    compiled = re.compile(pattern)

    def read(value: object) -> str:
        if not isinstance(value, str) or compiled.fullmatch(value) is None:
            raise Wrong(f"write {rule}")
        return value

    return read


def duration(low_ns: int, high_ns: int, why: str = "") -> Callable[[object], int]:
    """A duration in ns within bounds, both allowed; `why` gives the reason of the bounds."""
    low, high = format_duration(low_ns), format_duration(high_ns)

    def read(value: object) -> int:
        if isinstance(value, int | float) and not isinstance(value, bool):
            raise Wrong(_unit_missing(value))
        if not isinstance(value, str):
            raise Wrong('write a duration in quotes with its unit, such as "200ms", "5s" or "1m30s"')
        try:
            found_ns = parse_duration(value)
        except ValueError as e:
            raise Wrong(str(e)) from None
        if not low_ns <= found_ns <= high_ns:
            edge = f"at least {low}" if found_ns < low_ns else f"at most {high}"
            raise Wrong(f"write {edge} ({low} to {high} are allowed{': ' + why if why else ''})")
        return found_ns

    return read


def _unit_missing(value: float) -> str:
    if not abs(value) < 1e15:  # also infinite, or no number at all
        return 'write a duration such as "5s"'
    if value < 0:
        return 'a duration cannot be negative; write one such as "5s"'
    return f'the unit is missing: write "{show(value)}s" for seconds, "{show(value)}ms" for milliseconds'


def integer(low: int, high: int, why: str = "") -> Callable[[object], int]:
    """An integer within bounds, both allowed."""

    def read(value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool):
            raise Wrong(f"write a whole number from {low} to {high}, without quotes")
        if not low <= value <= high:
            raise Wrong(f"write a whole number from {low} to {high}{': ' + why if why else ''}")
        return value

    return read


def weight(value: object) -> int:
    """What a check adds to a priority; never 0."""
    if value == 0 and not isinstance(value, bool | float):
        raise Wrong("a weight of 0 has no effect: write a number such as -60, or leave the check out")
    return integer(-HIGHEST_PRIORITY, HIGHEST_PRIORITY)(value)


def drift(value: object) -> int:
    """A bound on the difference of clock rates, in ppm rounded up."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0002 <= value <= 0.1:
        raise Wrong(
            "write a number from 0.0002 to 0.1 without quotes: two ordinary quartz clocks may differ by 200 ppm, "
            "and a bound above 10 % hides a broken clock"
        )
    return math.ceil(round(value * 1_000_000, 3))


def choice(enum: type[E]) -> Callable[[object], E]:
    """One of a few words."""
    words = ", ".join(quoted(one.value) for one in enum)

    def read(value: object) -> E:
        for one in enum:
            if value == one.value:
                return one
        raise Wrong(f"write one of {words}")

    return read


def on_off(value: object) -> bool:
    """`failback`: "auto" or "off"."""
    if value not in ("auto", "off"):
        raise Wrong('write "auto" (the better node gets its lease back by itself) or "off" (by hand only)')
    return value == "auto"


def as_permitted(value: object) -> bool:
    """`realtime`: "auto" or "off"."""
    if value not in ("auto", "off"):
        raise Wrong(
            'write "auto" (what the account may have: nothing is required) or "off" (an ordinary process)'
        )
    return value == "auto"


def users_or_off(value: object) -> bool:
    """True for `"users"`: whoever speaks must show a user's password."""
    if value not in ("users", "off"):
        raise Wrong('write "users" (those of `leaseha user`, with their passwords) or "off" (everybody)')
    return value == "users"


def yes_no(value: object) -> bool:
    """A truth value."""
    if not isinstance(value, bool):
        raise Wrong("write true or false, without quotes")
    return value


def size(value: object) -> int:
    """Bytes, from a number with a unit: powers of 1024."""
    match = re.fullmatch(r"([0-9]{1,15}) ?(?:([KMGTP])(?:iB|B)?)?", value) if isinstance(value, str) else None
    if match is None or not int(match[1]):
        raise Wrong(
            'write a size in quotes with its unit, such as "500G" or "2T" (1K is 1024 bytes), or "off"'
        )
    return int(match[1]) << 10 * ("KMGTP".index(match[2]) + 1 if match[2] else 0)


def days(value: object) -> int:
    """Whole days, 1 to 3650."""
    match = re.fullmatch(r"([0-9]{1,4})d", value) if isinstance(value, str) else None
    if match is None or not 1 <= int(match[1]) <= 3650:
        raise Wrong('write whole days in quotes, such as "7d", from "1d" to "3650d"')
    return int(match[1])


def days_or_off(value: object) -> int:
    """The same, or the word "off", which is 0."""
    try:
        return or_off(days)(value)
    except Wrong as wrong:
        raise Wrong(f'{wrong}, or "off"') from wrong


def rate(value: object) -> int:
    """Bytes a second, 64 KiB at least: with less the other end would take it for a stall."""
    found = size(value)
    if found < 64 << 10:
        raise Wrong('write at least "64K" (a second), or "off"')
    return found


def or_off(read: Callable[[object], int]) -> Callable[[object], int]:
    """The same, or the word "off", which is 0."""
    return lambda value: 0 if isinstance(value, str) and value == "off" else read(value)


def keep_away(value: object) -> KeepAway:
    """`keep_leader_away`: false, true or "always"."""
    for given, meant in ((False, KeepAway.OFF), (True, KeepAway.OWN), ("always", KeepAway.ALWAYS)):
        if value is given or (isinstance(given, str) and value == given):
            return meant
    raise Wrong(
        'write false, true (in an etcd that has no keys but leaseha\'s) or "always" (also in one that others use)'
    )


def ineligible(value: object) -> bool:
    """`effect`: there is one word only; a change of priority is said by `weight`."""
    if value != "ineligible":
        raise Wrong('write "ineligible", or give a weight instead of an effect')
    return True


def absolute_path(value: object) -> Path:
    """An absolute path in normal form."""
    if not isinstance(value, str) or not value.startswith("/"):
        raise Wrong("write an absolute path in quotes: an agent is not started from the folder of its file")
    if "\0" in value or not value.isprintable() or len(value.encode(errors="replace")) > LONGEST_PATH:
        raise Wrong("write a path without control characters, 4096 bytes at most")
    if ".." in value.split("/"):
        raise Wrong('write the path without ".."')
    return Path("/" + value.strip("/")) if value.strip("/") else Path("/")


def data_path(value: object) -> Path:
    """A directory for data: not the root, and on no file system that the kernel makes up."""
    path = absolute_path(value)
    if len(path.parts) < 2 or path.parts[1] in {"proc", "sys", "dev"}:
        raise Wrong('write a directory of its own on a real disk, such as "/srv/backups"')
    return path


def argv(value: object) -> Script:
    """A program with its arguments; a string is a program without any."""
    words = [value] if isinstance(value, str) else value
    if not isinstance(words, list) or not words or not all(isinstance(word, str) for word in words):
        raise Wrong('write the program and its arguments as a list: ["/usr/local/bin/check-disk", "/srv"]')
    if not words[0].startswith("/") or any("\0" in word for word in words):
        raise Wrong("write the absolute path of the program: no shell looks it up")
    if words[0] != words[0].strip() or (" " in words[0] and len(words) == 1):
        raise Wrong("no shell splits this: write program and arguments as a list of separate texts")
    return Script(tuple(words))


def priorities(value: object) -> Mapping[str, int]:
    """Node name to priority."""
    if not isinstance(value, Mapping):
        raise Wrong("write a table of node names and priorities: { node1 = 100, node2 = 50 }")
    if not value:
        raise Wrong(
            "nobody could hold the lease: write at least one node, such as { node1 = 100, node2 = 50 }"
        )
    wrong: list[tuple[str, str | None, str]] = []
    found: dict[str, int] = {}
    one = integer(0, HIGHEST_PRIORITY, "the higher is preferred, 0 never holds")
    for name, number in value.items():
        suffix = join("", str(name))
        if re.fullmatch(NODE_NAME, str(name)) is None:
            wrong.append((suffix, show(number), f"not a node's name: write {NODE_NAME_RULE}"))
            continue
        try:
            found[name] = one(number)
        except Wrong as e:
            wrong.append((suffix, show(number), e.parts[0][2]))
    if wrong:
        raise Wrong.of_many(wrong)
    if not any(found.values()):
        raise Wrong(
            "with priority 0 everywhere nobody ever holds: give at least one node more than 0", show(value)
        )
    return MappingProxyType(found)
