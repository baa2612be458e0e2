"""One table of the file, read key by key against the table of keys."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import TypeVar

from leaseha.config.faults import MOST_PROBLEMS, Faults, Wrong, join, quoted, show
from leaseha.config.keys import FIELD_WORDS, KEYS, RESERVED, Key, names_in

T = TypeVar("T")
Table = Mapping[str, object]


class Section:
    """The table at `path`; `pattern` is its place in the table of keys (`lease.*` for `lease.backups`)."""

    def __init__(self, faults: Faults, table: Table, path: str = "", pattern: str = "") -> None:
        self.faults = faults
        self.path = path
        self.pattern = pattern
        self._table = table
        self._refuse_unknown()

    def key(self, key: Key[object]) -> str:
        """The path of a key in this section, as messages name it."""
        return join(self.path, key.name)

    def has(self, key: Key[object]) -> bool:
        """The key is given, be it right or wrong."""
        return key.name in self._table

    def holds(self, name: str) -> bool:
        """A table of that name is given."""
        return name in self._table

    def get(self, key: Key[T]) -> T:
        """The value of a key; its default or stand-in if it is left out or (after a fault is noted) wrong."""
        path = self.key(key)
        if key.name not in self._table:
            if key.required:
                place = f" below [{self.path}]" if self.path else " at the top of the file"
                self.faults.add(path, "", f"is missing: add a line such as {key.example}{place}")
            return key.stand_in
        value = self._table[key.name]
        try:
            return key.read(value)
        except Wrong as e:
            for suffix, shown, remedy in e.parts:
                dot = "." if suffix and not suffix.startswith("[") else ""
                self.faults.add(f"{path}{dot}{suffix}", show(value) if shown is None else shown, remedy)
            return key.stand_in

    def inner(self, name: str) -> Section:
        """The table `name` in this one; empty if it is left out or no table."""
        path, pattern = join(self.path, name), f"{self.pattern}.{name}" if self.pattern else name
        return Section(self.faults, self._as_table(name, path, self._table.get(name, {})), path, pattern)

    def named(self, name: str) -> Iterator[tuple[str, Section]]:
        """The tables in the table `name`, whose names the operator chose: `[lease.backups]`, ..."""
        outer = join(self.path, name)
        pattern = f"{self.pattern}.{name}.*" if self.pattern else f"{name}.*"
        for chosen, value in self._as_table(name, outer, self._table.get(name, {})).items():
            path = join(outer, chosen)
            if isinstance(value, Mapping):
                yield chosen, Section(self.faults, value, path, pattern)
            else:
                self.faults.add(
                    path, show(value), f"is no table: name it, as in [{outer}.NAME], and put the key there"
                )

    def _as_table(self, name: str, path: str, value: object) -> Table:
        if isinstance(value, Mapping):
            return value
        example = f"[{path}.NAME]" if name in ("lease", "check") else f"[{path}]"
        self.faults.add(path, show(value), f"is a table: write {example} and its keys on the lines below")
        return {}

    def _refuse_unknown(self) -> None:
        known = names_in(self.pattern)
        for name, value in self._table.items():
            if name in known:
                continue
            place = f"{self.pattern}.{name}" if self.pattern else name
            remedy = RESERVED.get(place) or "is unknown"
            if place not in RESERVED and len(self.faults.problems) < MOST_PROBLEMS:
                remedy = _did_you_mean(name, known, self.pattern)
            shown = show(value) if place not in RESERVED else "(not shown)"
            self.faults.add(join(self.path, name), shown, remedy)


def _did_you_mean(name: str, known: tuple[str, ...], pattern: str) -> str:
    """The nearest valid key: by what other programs call it, by spelling here, by spelling elsewhere."""
    plain = name.lower().replace("-", "_")
    if (word := FIELD_WORDS.get(plain, plain)) in known:
        return f"is unknown; write {quoted(word)}"
    near = difflib.get_close_matches(plain, known, n=1, cutoff=0.6)
    if near:
        return f"is unknown; the nearest key is {quoted(near[0])}"
    elsewhere = [one for one in KEYS if one.name == word and one.section != pattern]
    if elsewhere:
        place = elsewhere[0].section.replace("*", "NAME")
        where = f"in [{place}]" if place else "at the top of the file"
        return f"is unknown here; {quoted(word)} stands {where}"
    nearest = difflib.get_close_matches(plain, known, n=1, cutoff=0.0)
    hint = f"; the nearest key is {quoted(nearest[0])}" if nearest else ""
    return f"is unknown{hint} (allowed here: {', '.join(known)})"
