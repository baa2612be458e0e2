"""`scripts/env` makes the environment, or says in one line what is missing and how to get it."""

import pathlib
import subprocess

import pytest

SCRIPT = pathlib.Path(__file__).resolve().parent.parent / "scripts" / "env"


def make_env(folder: pathlib.Path, python: str) -> subprocess.CompletedProcess[str]:
    (folder / "requirements.lock").touch()
    (folder / "pyproject.toml").touch()
    environ = {"PATH": "/usr/bin:/bin", "PYTHON": python}
    return subprocess.run(
        ["sh", str(SCRIPT)], cwd=folder, env=environ, capture_output=True, text=True, timeout=60, check=False
    )


def an_interpreter(folder: pathlib.Path, *, version: str, old: bool, venv: bool) -> str:
    """A stand-in that answers the three questions that the script asks of an interpreter."""
    fake = folder / "python"
    fake.write_text(
        "#!/bin/sh\ncase $2 in\n"
        f"    *base_prefix*) echo /usr {version} ;;\n"
        f"    *version_info*) exit {int(old)} ;;\n"
        f"    *ensurepip*) exit {int(not venv)} ;;\n"
        "esac\n"
    )
    fake.chmod(0o755)
    return str(fake)


@pytest.mark.parametrize(
    ("python", "words"),
    [
        ("python-that-is-not-there", ["install Python 3.11", "make PYTHON="]),
        ("/bin/false", ["does not start"]),
    ],
)
def test_an_interpreter_that_is_not_there_is_named(tmp_path, python, words):
    said = make_env(tmp_path, python)
    assert said.returncode == 1
    assert len(said.stderr.splitlines()) == 1
    assert all(word in said.stderr for word in [python, *words])


def test_an_old_interpreter_is_refused_by_its_version(tmp_path):
    said = make_env(tmp_path, an_interpreter(tmp_path, version="3.9.2", old=True, venv=True))
    assert said.returncode == 1
    assert "3.9.2" in said.stderr
    assert "3.11" in said.stderr


def test_a_missing_venv_module_is_cured_by_the_package_that_is_named(tmp_path):
    said = make_env(tmp_path, an_interpreter(tmp_path, version="3.11.2", old=False, venv=False))
    assert said.returncode == 1
    assert "apt-get install python3-venv" in said.stderr
    assert not (tmp_path / ".venv").exists()
