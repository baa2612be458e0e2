#!/usr/bin/env python3
"""Write the generated part of docs/state-machine.md anew from the transition table."""

import pathlib
import sys

TOP = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TOP))

from leaseha.core import table  # noqa: E402  # found only once the line above has been run

PAGE = TOP / "docs" / "state-machine.md"

if __name__ == "__main__":
    PAGE.write_text(table.as_page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
