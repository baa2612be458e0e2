"""From text and environment to one table of plain values, before any of them is understood."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from typing import Final

from leaseha.config.faults import HIDDEN, Faults, quoted
from leaseha.config.keys import KEY_OF, KEYS, TABLES, TABLES_IN
from leaseha.errors import ConfigError

LARGEST_FILE: Final = 4 << 20
MOST_LEVELS: Final = 32
VARIABLE: Final = "LEASEHA_"
TOP_VARIABLES: Final = {f"{VARIABLE}{key.name.upper()}": key.name for key in KEYS if not key.section}
"""The keys at the top have no section; other names without two underscores are not ours to judge."""
_WHERE: Final = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")
_SECRET_LINE: Final = re.compile(r"(?i)pass|secret|token")
_PLAIN: Final = re.compile(
    r"lease\.\*\.priority$|\.weight$|\.rise$|\.fall$|\.port$|\.flap_budget$|drift$|carrier$"
)


def read_toml(text: str, source: str) -> dict[str, object]:
    """The document as plain values.

    Raises:
        ConfigError: it is not TOML; the key is then the line.

    """
    if len(text) > LARGEST_FILE:
        raise ConfigError.single(
            "(file)", f"{len(text)} characters", "is too long: 4 MiB are allowed", source
        )
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as e:
        raise _broken(text, str(e), source) from None
    except RecursionError:
        raise ConfigError.single(
            "(file)", "", "is nested too deeply: write it flat, as the reference shows", source
        ) from None
    except ValueError as e:
        raise ConfigError.single(
            "(file)", "", f"holds a value that cannot be read: {e}; correct it", source
        ) from None


def _broken(text: str, message: str, source: str) -> ConfigError:
    found = _WHERE.search(message)
    lines = text.splitlines() or [""]
    number = min(int(found[1]), len(lines)) if found and found[1] else len(lines)
    line = lines[number - 1].strip()
    shown = HIDDEN if _SECRET_LINE.search(line) else quoted(line)
    what = message[: found.start()] if found else message
    return ConfigError.single(f"line {number}", shown, f"is not TOML: {_mend(line, what)}", source)


def _mend(line: str, what: str) -> str:
    if re.match(r"[\w.-]+\s*=\s*[0-9.]+\s*(us|ms|s|m|h)\b", line):
        return 'a duration stands in quotes, as in ttl = "5s"'
    if re.match(r"[\w.-]+\s*:\s", line):
        return 'write key = value, with "=" instead of ":"'
    return f"{what[:1].lower()}{what[1:]}; correct this line (texts stand in quotes)"


def overlay(table: dict[str, object], environ: Mapping[str, str], faults: Faults) -> None:
    """Puts `LEASEHA_SECTION__KEY=value` over what the file says; deeper levels with further `__`."""
    for variable in sorted(environ):
        if variable in TOP_VARIABLES:
            parts = [TOP_VARIABLES[variable]]
        elif variable.startswith(VARIABLE) and "__" in variable:
            parts = variable.removeprefix(VARIABLE).lower().split("__")
        else:
            continue
        _set(table, parts, environ[variable], variable, faults)


def _set(table: dict[str, object], parts: list[str], text: str, variable: str, faults: Faults) -> None:
    if not all(parts) or len(parts) > MOST_LEVELS or (len(parts) > 1 and parts[0] not in TABLES):
        remedy = (
            f"names no key: write {VARIABLE}SECTION__KEY with one of {', '.join(TABLES).upper()} as section"
        )
        faults.add(variable, HIDDEN, remedy)
        return
    here, path, pattern = table, "", ""
    for depth, part in enumerate(parts):
        name = _name_in(here, part)
        path = f"{path}.{name}" if path else name
        pattern = _pattern(pattern, name)
        if depth == len(parts) - 1:
            here[name] = _value(text, pattern)
            faults.origins[path] = variable
            return
        inner = here.setdefault(name, {})
        if not isinstance(inner, dict):
            faults.add(
                variable, HIDDEN, f"{path} is no table, so nothing stands below it: take the variable away"
            )
            return
        here = inner


def _name_in(table: Mapping[str, object], part: str) -> str:
    """A variable's name has no small letters, hyphens or dots: it means the name in the file that reads alike."""
    alike = [name for name in table if re.sub(r"[-.]", "_", name.lower()) == part]
    return alike[0] if alike else part


def _pattern(outer: str, name: str) -> str:
    """`lease` -> `lease`, then any name -> `lease.*`, then `check` -> `lease.*.check`, ..."""
    chosen = outer == "lease" or outer.endswith(".check")
    return f"{outer}.{'*' if chosen else name}" if outer else name


def _value(text: str, pattern: str) -> object:
    """Texts as they are; what TOML writes without quotes, and lists, as TOML; a list also with commas."""
    key = KEY_OF.get(pattern)
    is_list = key is not None and key.name in ("vips", "endpoints", "script")
    in_priority = ".priority." in pattern
    if is_list and not text.lstrip().startswith("["):
        return [part.strip() for part in text.split(",")]
    if is_list or in_priority or _PLAIN.search(pattern) or pattern in _WHOLE_TABLES:
        try:
            found = tomllib.loads(f"v = {text}")
        except (ValueError, RecursionError):
            return text  # the reader of this key will say what it wants
        return found["v"] if len(found) == 1 else text
    return text


_WHOLE_TABLES: Final = {
    *TABLES,
    *(f"{outer}.{name}" for outer, names in TABLES_IN.items() for name in names if outer),
}
