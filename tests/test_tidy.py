"""The house rules that ruff, mypy and import-linter cannot say; each is tried on a planted offence too."""

import ast
import functools
import pathlib
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

TOP = pathlib.Path(__file__).resolve().parent.parent
FILE_LINES, FUNCTION_LINES, BLOB_BYTES = 450, 70, 500_000

# The guard may import nothing of leaseha but itself, and so has its own look at the clocks.
CLOCK = ("leaseha/adapters/clock.py", "leaseha/runtime/guard.py", "leaseha/runtime/guard_")
MEASURES = ("leaseha/lab/", "leaseha/repository/")
TALKS = ("leaseha/cli", "leaseha/lab/", "leaseha/__main__.py")


@dataclass(frozen=True, slots=True)
class Ban:
    """A name that must not be used below `where`, except in `but`, and what to do instead."""

    name: str  # a regular expression over the full dotted name
    where: str
    instead: str
    why: str
    but: tuple[str, ...] = ()


BANS = (
    Ban(
        r"time\.(time|monotonic|perf_counter|process_time|clock_gettime)(_ns)?",
        "leaseha/",
        "take the instant as an argument, or ask leaseha.adapters.clock",
        "a decision that reads the clock cannot be replayed",
        CLOCK + MEASURES,
    ),
    Ban(
        r"datetime\.(datetime|date)\.(now|utcnow|today)",
        "leaseha/",
        "ask leaseha.adapters.clock",
        "as above; and wall clocks jump",
        CLOCK + MEASURES,
    ),
    Ban(
        r"time\.sleep",
        "leaseha/",
        "wait on a timer of the runtime, or on the fact itself",
        "a blocked loop is a missed renewal",
        ("leaseha/lab/",),
    ),
    Ban(
        r"random(\..*)?",
        "leaseha/",
        "take the chance as an argument",
        "a run must be replayable from its seed",
    ),
    Ban(
        r"random\.(?!Random$).*",
        "chaos/",
        "draw from the random.Random that the seed made",
        "a module-wide generator makes a seed worthless",
    ),
    Ban(
        r"(unittest\.)?mock(\..*)?|pytest_mock(\..*)?",
        "",
        "write a fake that passes the contract suite",
        "a mock agrees",
    ),
    Ban(r"os\.fork", "", "start a process of its own", "grpc does not survive a fork"),
    Ban(r"os\.system|os\.popen", "", "subprocess with an argument list", "no shell between us and a name"),
    Ban(
        r"builtins\.print",
        "leaseha/",
        "log, or return the text to the command line",
        "an agent has no terminal",
        TALKS,
    ),
    Ban(r"tests(\..*)?", "leaseha/", "move it to leaseha", "tests are not installed"),
    Ban(r"tests(\..*)?", "chaos/", "move it to chaos", "a campaign runs without the tests"),
)

# Folders and files that import the standard library and their own neighbours, nothing else.
GUARD = (
    "leaseha.connections",
    "leaseha.runtime.guard_etcd",
    "leaseha.runtime.guard_kernel",
    "leaseha.runtime.guard_tree",
    "leaseha.scheduling",
)
STDLIB_ONLY = {
    "leaseha/core/": ("leaseha.core", "leaseha.errors"),
    "leaseha/errors.py": (),
    "leaseha/runtime/guard.py": GUARD,
    "leaseha/runtime/guard_": GUARD,
    "chaos/checkers": ("chaos.checkers", "chaos.history"),
    "chaos/history": ("chaos.history",),
}

# What has no place in a file that strangers read. The tilde is taken out, so that this file may say it.
FOREIGN = tuple(
    (pattern.replace("~", ""), what)
    for pattern, what in (
        (r"(?<![\w.])/wo~rk/|(?<![\w.])/ro~ot/\.", "a path of one machine"),
        (r"\bshared/(kn~owledge|de~sign)", "a file that is not in this repository"),
        (
            r"(?i)\b(cl~aude|anth~ropic|chat~gpt|cop~ilot|lang~uage model|co-auth~ored-by)\b",
            "not the project",
        ),
        (r"(?i)\b(as an|the|an?other|ai) (assis~tant|sub-?age~nt)s?\b", "not the project"),
        (r"(?i)\bpy~pi\.org|pythonho~sted\.org|registry\.np~mjs|deb\.deb~ian\.org", "a registry's address"),
        (r"/opt/(py~pi|wh~eels)", "a registry's address"),
    )
)


@functools.cache
def tracked() -> tuple[str, ...]:
    """Files of the repository, and new ones that are not ignored; paths from its top."""
    command = [
        "git",
        "-c",
        "safe.directory=*",
        "ls-files",
        "-z",
        "--cached",
        "--others",
        "--exclude-standard",
    ]
    names = (
        subprocess.run(command, cwd=TOP, capture_output=True, check=True, timeout=30)
        .stdout.decode()
        .split("\0")
    )
    return tuple(sorted({n for n in names if n and (TOP / n).is_file()}))


@functools.cache
def text_of(name: str) -> str:
    return (TOP / name).read_text(encoding="utf-8", errors="replace")


def python_files() -> list[str]:
    return [
        n
        for n in tracked()
        if n.endswith(".py") or (n.startswith("chaos/scripts/") and "python" in text_of(n)[:40])
    ]


def bindings(tree: ast.AST) -> dict[str, str]:
    """Local name -> full dotted name, for everything that the module imports."""
    names = {"print": "builtins.print"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {
                a.asname or a.name.split(".")[0]: a.name if a.asname else a.name.split(".")[0]
                for a in node.names
            }
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
    return names


def imported(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, a.name) for a in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.lineno, "." * node.level + (node.module or "")


def dotted(node: ast.AST, names: dict[str, str]) -> str:
    """`monotonic` or `time.monotonic` -> `time.monotonic`; "" for what is not a plain name."""
    if isinstance(node, ast.Name):
        return names.get(node.id, "")
    if isinstance(node, ast.Attribute):
        left = dotted(node.value, names)
        return f"{left}.{node.attr}" if left else ""
    return ""


def banned_names(name: str, text: str) -> Iterator[str]:
    """Uses of names in the ban list."""
    bans = [b for b in BANS if name.startswith(b.where) and not name.startswith(b.but or ("\0",))]
    tree = ast.parse(text)
    names = bindings(tree)
    uses = [(n.lineno, dotted(n, names)) for n in ast.walk(tree) if isinstance(n, ast.Name | ast.Attribute)]
    for line, used in sorted({*uses, *imported(tree)}):
        for ban in bans:
            if re.fullmatch(ban.name, used):
                yield f"{name}:{line}: {used}: {ban.instead} ({ban.why})"


def swallowed_errors(name: str, text: str) -> Iterator[str]:
    """`except:`, and handlers of everything that do nothing."""
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.ExceptHandler):
            continue
        wide = isinstance(node.type, ast.Name) and node.type.id in {"Exception", "BaseException"}
        silent = all(
            isinstance(s, ast.Pass | ast.Continue)
            or (isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant))
            for s in node.body
        )
        if node.type is None or (wide and silent):
            yield f"{name}:{node.lineno}: name the error, and say what becomes of it"


def long_files(name: str, text: str) -> Iterator[str]:
    """One noun a file, one screen a function."""
    if (lines := text.count("\n")) > FILE_LINES:
        yield f"{name}: {lines} lines, more than {FILE_LINES}: is it one noun?"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            span = (node.end_lineno or 0) - node.lineno + 1
            if span > FUNCTION_LINES:
                yield f"{name}:{node.lineno}: {node.name} has {span} lines, more than {FUNCTION_LINES}"


def sleeping_tests(name: str, text: str) -> Iterator[str]:
    """A test waits for a fact, in a loop with an end; the pause of that loop says which fact."""
    if not name.startswith("tests/"):
        return
    lines = text.splitlines()
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.Call) or ast.unparse(node.func).split(".")[-1] != "sleep":
            continue
        if node.args and isinstance(node.args[0], ast.Constant) and node.args[0].value == 0:
            continue  # gives way to the loop once, waits for no time
        if not any(
            "# waits for a fact: " in line for line in lines[max(0, node.lineno - 2) : node.end_lineno]
        ):
            yield f"{name}:{node.lineno}: sleeps; wait for a fact and name it: `# waits for a fact: ...`"


def patched_tests(name: str, text: str) -> Iterator[str]:
    """The environment of a test may be set; what it tests may not be rewritten."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Attribute) and ast.unparse(node) in {
            "monkeypatch.setattr",
            "monkeypatch.setitem",
        }:
            yield f"{name}:{node.lineno}: {ast.unparse(node)}: pass a fake in instead"


def runtime_asserts(name: str, text: str) -> Iterator[str]:
    """`assert` vanishes under -O; `leaseha.errors.invariant` does not."""
    if name.startswith("leaseha/"):
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Assert):
                yield f"{name}:{node.lineno}: assert: use leaseha.errors.invariant"


def role_conditions(name: str, text: str) -> Iterator[str]:
    """What a role means is decided in the core alone: elsewhere add an event, a row or an effect."""
    if not name.startswith("leaseha/") or name.startswith("leaseha/core/"):
        return
    for node in ast.walk(ast.parse(text)):
        parts: list[ast.expr] = []
        if isinstance(node, ast.Compare):
            parts = [node.left, *node.comparators]
        elif isinstance(node, ast.MatchValue):
            parts = [node.value]
        inside = [n for part in parts for n in ast.walk(part) if isinstance(n, ast.Attribute)]
        if any(re.fullmatch(r"(\w+\.)*Role\.[A-Z]+", ast.unparse(n)) for n in inside):
            yield f"{name}:{node.lineno}: a condition on a role outside the core"


def unreasoned_waivers(name: str, text: str) -> Iterator[str]:
    """A checker may be overruled where that is said with its rule and a reason."""
    for number, line in enumerate(text.splitlines(), 1):
        found = re.search(r"#\s*(noqa|type: ignore)(.*)", line)
        if name.startswith(("leaseha/", "chaos/")) and found:
            rest = re.sub(r"^(: ?[A-Z0-9, ]+\b|\[[\w, -]+\])", "", found[2])
            if len(re.findall(r"[a-z]{2,}", rest)) < 2:
                yield f"{name}:{number}: a waiver without a reason behind it"


def wide_imports(name: str, text: str) -> Iterator[str]:
    """Some modules stand on the standard library alone."""
    for where, own in STDLIB_ONLY.items():
        if not name.startswith(where):
            continue
        for line, module in imported(ast.parse(text)):
            if module.split(".")[0] in sys.stdlib_module_names or module.startswith("."):
                continue
            if not any(module == o or module.startswith(f"{o}.") for o in own):
                yield f"{name}:{line}: imports {module}, not of the standard library nor of {own}"


def foreign_words(name: str, text: str) -> Iterator[str]:
    """The repository speaks of the project alone."""
    for number, line in enumerate(text.splitlines(), 1):
        for pattern, what in FOREIGN:
            if found := re.search(pattern, line):
                yield f"{name}:{number}: {found[0]!r}: {what}"


Rule = Callable[[str, str], Iterator[str]]
PYTHON_RULES: tuple[Rule, ...] = (
    banned_names,
    swallowed_errors,
    long_files,
    sleeping_tests,
    patched_tests,
    runtime_asserts,
    role_conditions,
    unreasoned_waivers,
    wide_imports,
)


@pytest.mark.parametrize("rule", PYTHON_RULES, ids=lambda rule: rule.__name__)
def test_every_python_file_keeps_the_rule(rule: Rule):
    offences = [offence for name in python_files() for offence in rule(name, text_of(name))]
    assert not offences, "\n".join(["", rule.__doc__ or "", *offences])


def test_no_file_speaks_of_anything_but_the_project():
    offences = [offence for name in tracked() for offence in foreign_words(name, text_of(name))]
    assert not offences, "\n".join(["", *offences])


def test_no_large_file_is_kept_in_the_repository():
    large = [n for n in tracked() if (TOP / n).stat().st_size > BLOB_BYTES]
    assert not large


def test_the_changelog_keeps_its_form():
    lines = text_of("CHANGELOG.md").splitlines()
    headings = [line for line in lines if line.startswith("#")]
    assert headings[:2] == ["# Changelog", "## [Unreleased]"]
    kinds = {"### " + k for k in ("Added", "Changed", "Deprecated", "Removed", "Fixed", "Security")}
    version = re.compile(r"## \[\d+\.\d+\.\d+\] - \d{4}-\d{2}-\d{2}")
    assert [h for h in headings[2:] if h not in kinds and not version.fullmatch(h)] == []


def test_the_lock_names_a_version_and_a_hash_for_everything_and_no_address():
    entries = re.sub(r"\\\n", " ", text_of("requirements.lock")).splitlines()
    entries = [e for e in entries if e.strip() and not e.startswith("#")]
    assert len(entries) > 20
    assert [e for e in entries if not re.match(r"[\w.-]+==\S+ .*--hash=sha256:[0-9a-f]{64}", e)] == []
    assert "://" not in "".join(entries)


def test_each_runtime_dependency_is_justified():
    page = text_of("docs/decisions/0001-runtime-dependencies.md")
    wanted = re.search(r"\ndependencies = \[(.*?)\n\]", text_of("pyproject.toml"), re.DOTALL)
    assert wanted
    names = re.findall(r'"([\w-]+)', wanted[1])
    assert names
    assert [n for n in names if f"| `{n}` |" not in page] == []


OFFENCES = (
    (banned_names, "leaseha/core/x.py", "from time import monotonic_ns as now\nnow()"),
    (banned_names, "leaseha/runtime/x.py", "import time\ntime.time()"),
    (banned_names, "leaseha/runtime/x.py", "import datetime as d\nd.datetime.now()"),
    (banned_names, "leaseha/adapters/x.py", "import random"),
    (banned_names, "leaseha/adapters/x.py", "print('x')"),
    (banned_names, "leaseha/adapters/x.py", "from tests import fakes"),
    (banned_names, "chaos/sim/x.py", "import random\nrandom.choice([1])"),
    (banned_names, "tests/x.py", "from unittest.mock import Mock"),
    (swallowed_errors, "x.py", "try: f()\nexcept: raise"),
    (swallowed_errors, "x.py", "try: f()\nexcept Exception: pass"),
    (long_files, "x.py", "x = 1\n" * 451),
    (long_files, "x.py", "def f():\n" + "    f()\n" * 70),
    (sleeping_tests, "tests/x.py", "import asyncio\nawait asyncio.sleep(0.1)"),
    (patched_tests, "tests/x.py", "def test(monkeypatch): monkeypatch.setattr('a.b', 1)"),
    (runtime_asserts, "leaseha/x.py", "assert x"),
    (role_conditions, "leaseha/runtime/x.py", "if state.role is Role.HOLDER: f()"),
    (role_conditions, "leaseha/cli.py", "if role in (values.Role.HOLDER, 1): f()"),
    (role_conditions, "leaseha/cli.py", "match role:\n    case Role.HOLDER: f()"),
    (unreasoned_waivers, "leaseha/x.py", "import x  # no~qa: F401"),
    (unreasoned_waivers, "leaseha/x.py", "x = y  # type: ig~nore[arg-type]"),
    (wide_imports, "leaseha/core/x.py", "import msgspec"),
    (wide_imports, "chaos/checkers.py", "from leaseha.core import values"),
    (wide_imports, "leaseha/runtime/guard.py", "from leaseha import errors"),
    (foreign_words, "README.md", "see /wo~rk/main"),
)

FINE = (
    (banned_names, "leaseha/adapters/clock.py", "import time\ntime.monotonic_ns()"),
    (banned_names, "leaseha/lab/x.py", "import time\ntime.sleep(1)\nprint(time.monotonic())"),
    (banned_names, "chaos/sim/x.py", "import random\nrandom.Random(1).choice([1])"),
    (banned_names, "leaseha/core/x.py", "def f(time): return time.time"),
    (swallowed_errors, "x.py", "try: f()\nexcept OSError: pass"),
    (sleeping_tests, "tests/x.py", "await sleep(0)\n# waits for a fact: the port answers\nawait sleep(0.01)"),
    (role_conditions, "leaseha/core/x.py", "if role is Role.HOLDER: f()"),
    (role_conditions, "leaseha/cli.py", "names = {Role.HOLDER: 'holder'}"),
    (unreasoned_waivers, "leaseha/x.py", "x = y  # type: ig~nore[arg-type]  # etcd3 has no types"),
    (wide_imports, "leaseha/core/x.py", "import dataclasses\nfrom leaseha.core import values"),
    (foreign_words, "x.md", "the repository under /var/lib/work/main, shared/ by all"),
)


@pytest.mark.parametrize(("rule", "name", "source"), OFFENCES)
def test_a_planted_offence_is_found(rule: Rule, name: str, source: str):
    assert list(rule(name, source.replace("~", "")))


@pytest.mark.parametrize(("rule", "name", "source"), FINE)
def test_what_is_allowed_passes(rule: Rule, name: str, source: str):
    assert not list(rule(name, source.replace("~", "")))
