"""README and docs point at what is there, and name every command."""

import argparse
import re
from pathlib import Path

import pytest

from leaseha import cli

TOP = Path(__file__).resolve().parent.parent
PAGES = sorted([*TOP.glob("*.md"), *TOP.glob("docs/**/*.md"), *TOP.glob("deploy/*.md")])
LINK = re.compile(r"(?<!\!)\[[^\]]*\]\(([^)\s]+)\)")
CODE_PATH = re.compile(r"`((?:leaseha|chaos|tests|deploy|scripts|docs|\.ci)/[\w./-]*)`")


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def prose(page: Path) -> str:
    """Without fenced blocks: what stands there is an example."""
    return re.sub(r"^```.*?^```", "", text_of(page), flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """What headings are called in links, as the usual renderers make them."""
    found = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


def verbs() -> list[str]:
    """The subcommands of the command line."""
    actions = cli._parser()._actions
    return next(sorted(a.choices) for a in actions if isinstance(a, argparse._SubParsersAction))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(TOP)))
def test_each_link_leads_somewhere(page: Path):
    broken = []
    for target in LINK.findall(prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        inside = there.is_relative_to(TOP) and there.exists()
        if not inside or (anchor and there.suffix == ".md" and anchor not in anchors(there)):
            broken.append(target)

    assert not broken


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(TOP)))
def test_each_path_of_code_that_is_named_exists(page: Path):
    missing = [path for path in CODE_PATH.findall(prose(page)) if not (TOP / path).exists()]

    assert not missing


def test_each_command_is_explained():
    page = text_of(TOP / "docs/operations.md")

    assert verbs()
    assert [verb for verb in verbs() if f"`leaseha {verb}" not in page] == []


def test_each_page_can_be_reached_from_the_readme():
    seen, waiting = set(), [TOP / "README.md"]
    while waiting:
        page = waiting.pop()
        seen.add(page)
        for target in LINK.findall(prose(page)):
            there = (page.parent / target.partition("#")[0]).resolve()
            found = sorted(there.glob("*.md")) if there.is_dir() else [there]
            waiting += [one for one in found if one in PAGES and one not in seen]

    assert [
        str(page.relative_to(TOP)) for page in PAGES if page.parts[-2] != "benchmarks" and page not in seen
    ] == []


def test_each_guarantee_has_its_section_and_its_row_in_the_readme():
    page, readme = text_of(TOP / "docs/guarantees.md"), text_of(TOP / "README.md")

    for number in range(1, 9):
        assert f"\n## G{number}: " in page
        assert f"\n| G{number} | " in readme
