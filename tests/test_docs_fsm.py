"""The page of the state machine says what the transition table says."""

import pathlib
import re

from leaseha.core import table, transitions
from leaseha.core.state import Role

PAGE = pathlib.Path(__file__).resolve().parent.parent / "docs" / "state-machine.md"


def test_the_generated_part_of_the_page_is_current():
    """If this fails: run scripts/state_machine.py."""
    page = PAGE.read_text(encoding="utf-8")

    assert page == table.as_page(page)


def test_the_prose_explains_each_role():
    prose = PAGE.read_text(encoding="utf-8").partition(table.BEGIN)[0]

    assert [role for role in Role if f"| {role} | " not in prose] == []


def test_the_log_lines_of_the_prose_quote_rows_that_exist():
    prose = PAGE.read_text(encoding="utf-8").partition(table.BEGIN)[0]
    quoted = [line for line in prose.splitlines() if re.search(r"\[[A-Z]+ -> ", line)]
    rows = {r.id: (f"{r.reason} (", f"[{r.role} -> {r.to}, {r.id}") for r in transitions.ROWS}

    assert quoted
    for line in quoted:
        start, end = rows[re.findall(r", (\w-\w+)", line)[0]]
        assert line.startswith(start)
        assert end in line
