"""The transition table as text, as a diagram, as rows, as a page."""

from __future__ import annotations

from leaseha.core import table, transitions
from leaseha.core.state import Role


def test_each_row_is_shown_once_and_in_the_order_in_which_rows_are_looked_at() -> None:
    ids = [row.id for row in transitions.ROWS]

    assert [row["row"] for row in table.as_rows()] == ids
    assert [line.split()[0] for line in table.as_text().splitlines()[1:]] == ids
    assert len(set(ids)) == len(ids)


def test_the_rows_are_plain_text_for_json() -> None:
    assert table.as_rows()[0] == {
        "row": "S-stop",
        "from": "STANDBY",
        "to": "STOPPED",
        "on": "stop asked",
        "reason": "asked to stop, and nothing is held",
    }


def test_the_columns_of_the_text_stand_below_each_other() -> None:
    head, *lines = table.as_text().splitlines()
    reason = head.index("reason")

    assert all(
        line[reason:] == row.reason and line[reason - 1] == " "
        for line, row in zip(lines, transitions.ROWS, strict=True)
    )


def test_the_diagram_has_one_arrow_between_two_roles_with_all_their_rows() -> None:
    lines = table.as_mermaid().splitlines()

    assert lines[0] == "stateDiagram-v2"
    assert "    CLAIMING --> STANDBY: C-noted, C-over" in lines
    assert len(lines) == 3 + len({(row.role, row.to) for row in transitions.ROWS})


def test_the_page_keeps_its_prose_and_shows_each_role() -> None:
    page = table.as_page(f"prose\n\n{table.BEGIN}\nold\n")

    assert page.startswith(f"prose\n\n{table.BEGIN}\n")
    assert "\nold\n" not in page
    assert all(f"### From {role}" in page for role in Role)
    assert "No row: this is the end." in page
    assert table.as_page(page) == page
