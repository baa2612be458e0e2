"""Each file in bad/ is refused with messages that name key, value and remedy (the lines at its top say which)."""

import importlib.util
import os
import pathlib
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from leaseha.config import load
from leaseha.errors import ConfigError, Problem
from tests.config.conftest import put_files

HERE = pathlib.Path(__file__).parent
BAD = sorted((HERE / "bad").glob("*.toml"))
HAS_CLI = importlib.util.find_spec("leaseha.cli") is not None
EXPECTED = re.compile(r"# key: (.*)\n# value: (.*)\n# remedy: (.*)\n")


def ids(path: pathlib.Path) -> str:
    return path.stem


def placed(path: pathlib.Path, files: pathlib.Path) -> tuple[pathlib.Path, list[tuple[str, str, str]]]:
    """The bad file with its `@DIR@` filled in, and (key, value, remedy) for each fault in it."""
    text = path.read_text().replace("@DIR@", str(files))
    copy = files.parent / path.name
    copy.write_text(text)
    return copy, EXPECTED.findall(text)


def matches(problem: Problem, key: str, value: str, remedy: str) -> bool:
    """`value` may be cut short, as a long one is shown."""
    shown = problem.value.startswith(value) if value else problem.value in ("", "(not shown)")
    return problem.key == key and shown and remedy in problem.remedy


def test_there_are_more_than_thirty_bad_files():
    assert len(BAD) >= 30


@pytest.mark.parametrize("path", BAD, ids=ids)
def test_a_bad_file_is_refused_with_key_value_and_remedy(path: pathlib.Path, files: pathlib.Path):
    copy, expected = placed(path, files)

    with pytest.raises(ConfigError) as caught:
        load(copy, environ={})

    error = caught.value
    assert expected, "the file says what it expects"
    for one in expected:
        assert any(matches(problem, *one) for problem in error.problems), f"{one} is not in:\n{error}"
    assert error.exit_code == 2


@pytest.mark.parametrize("path", BAD, ids=ids)
def test_each_problem_is_one_line_and_one_fault_gives_one_problem(path: pathlib.Path, files: pathlib.Path):
    copy, expected = placed(path, files)

    with pytest.raises(ConfigError) as caught:
        load(copy, environ={})

    lines = str(caught.value).splitlines()
    assert len(expected) == len(caught.value.problems), str(caught.value)
    assert len(lines) == len(expected)
    assert all(line.startswith(f"{copy}: ") for line in lines)
    assert "hunter2" not in str(caught.value), "a secret is never shown"


def check_all(folder: pathlib.Path) -> dict[str, tuple[list[tuple[str, str, str]], int, str]]:
    """What `leaseha check` expects, exits with and says, by bad file; as many at a time as there are cores."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("LEASEHA_")}

    def run(path: pathlib.Path) -> tuple[list[tuple[str, str, str]], int, str]:
        home = folder / path.stem
        home.mkdir()
        copy, expected = placed(path, put_files(home / "files"))
        done = subprocess.run(
            [sys.executable, "-m", "leaseha", "check", "--config", str(copy)],
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
            env=environ,
            cwd=HERE.parent.parent,
        )
        return expected, done.returncode, done.stdout + done.stderr

    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        return dict(zip((path.stem for path in BAD), pool.map(run, BAD), strict=True))


if HAS_CLI:  # the command line is above this package: where it is not installed there is nothing to try

    @pytest.fixture(scope="module")
    def checked(tmp_path_factory: pytest.TempPathFactory):
        return check_all(tmp_path_factory.mktemp("checked"))

    @pytest.mark.timeout(600)
    @pytest.mark.parametrize("path", BAD, ids=ids)
    def test_check_prints_it_without_a_traceback_and_exits_2(path: pathlib.Path, checked):
        expected, code, said = checked[path.stem]

        assert code == 2, said
        assert "Traceback" not in said
        for key, value, remedy in expected:
            assert any(key in line and value in line and remedy in line for line in said.splitlines()), said
