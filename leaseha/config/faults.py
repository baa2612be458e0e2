"""Collects what is wrong with a configuration, so that all of it is said at once."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Mapping, Sequence
from typing import Final

from leaseha.errors import ConfigError, Problem

LONGEST_VALUE: Final = 200
MOST_PROBLEMS: Final = 50
"""What lies beyond is counted, not shown: nobody reads a thousand lines before the first correction."""
HIDDEN: Final = "(not shown)"
_SECRET: Final = re.compile(r"(?i)(password|passwd|passphrase|pass|pwd|secret|token)$")

_IN_URL: Final = re.compile(r"//[^\n]*@")


class Wrong(Exception):
    """A value that a reader refuses: (suffix of the key, value shown, remedy) for each thing wrong."""

    def __init__(self, remedy: str, value: str | None = None, suffix: str = "") -> None:
        self.parts: tuple[tuple[str, str | None, str], ...] = ((suffix, value, remedy),)
        super().__init__(remedy)

    @classmethod
    def of_many(cls, parts: Sequence[tuple[str, str | None, str]]) -> Wrong:
        """Several at once, for a list or table in which several items are wrong."""
        wrong = cls(parts[0][2])
        wrong.parts = tuple(parts)
        return wrong


class Faults:
    """Problems by key, warnings, and which values came from the environment."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.warnings: list[str] = []
        self.origins: dict[str, str] = {}
        """Key to the environment variable that set it."""
        self._bad: set[str] = set()

    def add(self, key: str, value: str, remedy: str, *, needs: Sequence[str] = ()) -> None:
        """One problem. It is dropped if a key in `needs` is at fault already: one cause, one line."""
        if any(not self.clean(one) for one in needs):
            return
        self._bad.add(key)
        shown = HIDDEN if value and is_secret(key) else value
        if origin := self._origin(key):
            remedy = f"{remedy} (set by {origin})"
        self.problems.append(Problem(key, shown, remedy))

    def warn(self, text: str, *, needs: Sequence[str] = ()) -> None:
        """One warning, unless a key in `needs` is at fault."""
        if all(self.clean(one) for one in needs):
            self.warnings.append(" ".join(text.split()))

    def clean(self, key: str) -> bool:
        """Nothing was said against `key`, what stands in it, or what it stands in."""
        return not any(
            bad == key or bad.startswith((f"{key}.", f"{key}[")) or key.startswith(f"{bad}.")
            for bad in self._bad
        )

    def raise_if_any(self, source: str) -> None:
        """Ends the reading if there is a problem.

        Raises:
            ConfigError: with all problems, in the order in which they were found.

        """
        if not self.problems:
            return
        shown = self.problems[:MOST_PROBLEMS]
        if (more := len(self.problems) - len(shown)) > 0:
            shown.append(
                Problem("(more)", str(more), "further problems; mend the first ones and check again")
            )
        raise ConfigError(shown, source)

    def _origin(self, key: str) -> str:
        for path, variable in self.origins.items():
            if key == path or key.startswith((f"{path}.", f"{path}[")):
                return variable
        return ""


def is_secret(key: str) -> bool:
    """The value of this key may be a secret, so it is never shown."""
    return _SECRET.search(key) is not None


def join(path: str, name: str) -> str:
    """The key `name` in the table at `path`; a name that TOML would quote is quoted."""
    shown = name if re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name) else quoted(name)
    return f"{path}.{shown}" if path else shown


def show(value: object) -> str:
    """A value about as the file has it, shortened, on one line."""
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        # Python refuses to write out (or read) integers of thousands of digits.
        return str(value) if abs(value) < 10**20 else "(an integer of more than 20 digits)"
    if isinstance(value, float | dt.date | dt.time):
        return str(value)
    if isinstance(value, Mapping):
        if not value:
            return "{}"
        return _shorten("{ " + ", ".join(f"{join('', str(k))} = ..." for k in list(value)[:6]) + " }")
    if isinstance(value, list):
        inner = ", ".join("[...]" if isinstance(v, list) else show(v) for v in value[:6])
        return _shorten(f"[{inner}{', ...' if len(value) > 6 else ''}]")
    return type(value).__name__


def quoted(text: str) -> str:
    """Text in double quotes; what cannot be seen is escaped, a user and password in a URL is left out."""
    bare = _IN_URL.sub(f"//{HIDDEN}@", text)[: LONGEST_VALUE + 1]
    safe = "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in bare)
    return '"' + _shorten(safe.replace('"', '\\"')) + '"'


def _shorten(text: str) -> str:
    return text if len(text) <= LONGEST_VALUE else text[: LONGEST_VALUE - 3] + "..."
