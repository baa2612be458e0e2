"""What every test stands on: skips that say their cure, and a way to allow none of them."""

import os
import pathlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, settings

# A loaded machine is slow, not wrong: examples have no deadline. CI draws the same ones each time.
settings.register_profile("here", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", parent=settings.get_profile("here"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "here")

NO_SANDBOX = "needs namespaces of its own, which `make test` gives where the machine allows it"


@dataclass(eq=False)
class SkipCounter:
    """Counts what did not run; with `LEASEHA_NO_SKIP=1` any of it fails the run."""

    unrun: list[str] = field(default_factory=list)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A test that was skipped, or was expected to fail."""
        if report.skipped or hasattr(report, "wasxfail"):
            self.unrun.append(report.nodeid)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A whole module that was skipped at its import."""
        if report.skipped:
            self.unrun.append(report.nodeid)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Iterator[None]:
        """The exit status changes before the closing lines are written."""
        if self.unrun and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        return (yield)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Says so, by name."""
        if self.unrun:
            terminalreporter.section("LEASEHA_NO_SKIP=1 allows no skip and no expected failure", red=True)
            for nodeid in self.unrun:
                terminalreporter.line(nodeid)


def own_temporary_folder() -> None:
    """An account that is root in its sandbox must not meet the real root's folder `pytest-of-root`."""
    outer_uid = pathlib.Path("/proc/self/uid_map").read_text(encoding="ascii").split()[1]
    folder = pathlib.Path(tempfile.gettempdir(), f"leaseha-tests-{outer_uid}")
    folder.mkdir(mode=0o700, exist_ok=True)
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(folder))


def pytest_configure(config: pytest.Config) -> None:
    """Before anything is collected."""
    own_temporary_folder()
    if os.environ.get("LEASEHA_NO_SKIP") == "1":
        config.pluginmanager.register(SkipCounter(), "leaseha-no-skip")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked `netns` run inside the sandbox only; elsewhere they say what is missing."""
    if os.environ.get("LEASEHA_SANDBOX") == "1":
        return
    why = os.environ.get("LEASEHA_SANDBOX_WHY", "")
    reason = f"{NO_SANDBOX} ({why})" if why else NO_SANDBOX
    for item in items:
        if item.get_closest_marker("netns"):
            item.add_marker(pytest.mark.skip(reason=reason))
