"""`LEASEHA_NO_SKIP=1` lets nothing pass unrun."""

import os
import pathlib
import subprocess
import sys

import pytest

CONFTEST = pathlib.Path(__file__).with_name("conftest.py")
RUNS = "def test_runs(): pass\n"
SKIPS = "import pytest\n@pytest.mark.skip(reason='apt-get install nftables')\ndef test_skips(): pass\n"
XFAILS = "import pytest\n@pytest.mark.xfail\ndef test_fails(): assert False\n"
MODULE_SKIPS = "import pytest\npytest.skip('apt-get install restic', allow_module_level=True)\n"
NEEDS_NETNS = "import pytest\n@pytest.mark.netns\ndef test_netns(): pass\n"


def run(folder: pathlib.Path, source: str, **environ: str) -> subprocess.CompletedProcess[str]:
    (folder / "conftest.py").write_text(CONFTEST.read_text())
    (folder / "pytest.ini").write_text("[pytest]\naddopts = -rs\nmarkers = netns: as in pyproject\n")
    (folder / "test_ran.py").write_text(RUNS)
    (folder / "test_it.py").write_text(source)
    env = {k: v for k, v in os.environ.items() if not k.startswith("LEASEHA_")}
    env |= {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"} | environ
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(folder)]
    return subprocess.run(
        command, cwd=folder, env=env, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize("source", [SKIPS, XFAILS, MODULE_SKIPS, NEEDS_NETNS])
def test_a_skip_fails_the_run_where_none_is_allowed(tmp_path, source):
    assert run(tmp_path, source).returncode == 0
    strict = run(tmp_path, source, LEASEHA_NO_SKIP="1")
    assert strict.returncode == 1
    assert "allows no skip" in strict.stdout
    assert "test_it.py" in strict.stdout.split("allows no skip")[1]


def test_a_run_without_skips_passes_where_none_is_allowed(tmp_path):
    assert run(tmp_path, RUNS, LEASEHA_NO_SKIP="1").returncode == 0


def test_a_test_for_the_sandbox_runs_inside_and_names_the_cure_outside(tmp_path):
    assert "2 passed" in run(tmp_path, NEEDS_NETNS, LEASEHA_SANDBOX="1", LEASEHA_NO_SKIP="1").stdout
    outside = run(tmp_path, NEEDS_NETNS, LEASEHA_SANDBOX="0", LEASEHA_SANDBOX_WHY="no user namespaces")
    assert "1 passed, 1 skipped" in outside.stdout
    assert "make test" in outside.stdout
    assert "no user namespaces" in outside.stdout
