"""What lies in deploy/ is what the code wants."""

import configparser
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from leaseha import scheduling
from leaseha.cli import EXIT_USAGE
from leaseha.config import Config, load, parse
from leaseha.config.faults import Wrong
from leaseha.config.keys import KEY_OF
from leaseha.runtime.rights import NEEDED

TOP = Path(__file__).resolve().parent.parent
DEPLOY = TOP / "deploy"
TWO_NODES = DEPLOY / "two-nodes.toml"
CERTIFICATE = "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n"
PRIVATE = "-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n"


def on(node: str) -> Config:
    return load(TWO_NODES, environ={"LEASEHA_NODE__NAME": node})


class Unit(configparser.RawConfigParser):
    """A systemd unit; keys keep their case."""

    def optionxform(self, optionstr: str) -> str:
        return optionstr


@pytest.fixture
def unit() -> configparser.SectionProxy:
    parser = Unit()
    parser.read(DEPLOY / "leaseha.service", encoding="utf-8")
    return parser["Service"]


def test_the_two_node_configuration_loads_on_both_without_a_warning():
    first, second = on("node1"), on("node2")

    assert first.warnings == second.warnings == ()
    assert [lease.digest() for lease in first.leases] == [lease.digest() for lease in second.leases]
    assert len(first.etcd.endpoints) == 3


def test_a_failed_gateway_check_makes_the_other_node_the_better_one():
    (lease,) = on("node1").leases
    (check,) = lease.checks

    assert lease.priority["node1"] + check.weight < lease.priority["node2"] < lease.priority["node1"]


def test_it_loads_with_the_lines_for_tls_too(tmp_path: Path):
    text = TWO_NODES.read_text(encoding="utf-8").replace("http://", "https://")
    for key, content in {"etcd-ca.pem": CERTIFICATE, "node.pem": CERTIFICATE, "node.key": PRIVATE}.items():
        path = tmp_path / key
        path.write_text(content)
        path.chmod(0o600)
    text = re.sub(r"^# ((?:ca|cert|key) = )\"/etc/leaseha/", rf'\1"{tmp_path}/', text, flags=re.MULTILINE)

    assert parse(text, environ={}, hostname="node1").etcd.tls


def test_the_unit_gives_the_capabilities_that_the_agent_needs_and_no_other(unit: configparser.SectionProxy):
    assert (
        unit["AmbientCapabilities"].split() == unit["CapabilityBoundingSet"].split() == list(NEEDED.values())
    )


def test_the_unit_lets_the_agent_be_as_urgent_as_it_asks_to_be(unit: configparser.SectionProxy):
    assert unit["LimitRTPRIO"] == str(scheduling.REALTIME_PRIORITY)
    assert unit["LimitNICE"] == str(scheduling.NICE)
    assert unit["LimitMEMLOCK"] == "infinity"
    assert "RestrictRealtime" not in unit


def test_the_unit_makes_the_folders_in_which_the_defaults_lie(unit: configparser.SectionProxy):
    config = on("node1")

    assert config.runtime_dir.parent == Path("/run", unit["RuntimeDirectory"])
    assert config.state_dir.parent == Path("/var/lib", unit["StateDirectory"])
    assert unit["ReadWritePaths"] == f"-{config.leases[0].repository.path}"


def test_the_unit_waits_for_the_longest_drain_that_can_be_configured(unit: configparser.SectionProxy):
    longest_s = 50
    key = KEY_OF["lease.*.drain_timeout"]

    key.read(f"{longest_s}s")
    with pytest.raises(Wrong, match="at most 50s"):
        key.read(f"{longest_s + 1}s")
    assert int(unit["TimeoutStopSec"].removesuffix("s")) >= longest_s + 2 + 5 + 10


def test_the_unit_brings_the_agent_back_whatever_ended_it_but_not_one_with_a_wrong_configuration():
    parser = Unit()
    parser.read(DEPLOY / "leaseha.service", encoding="utf-8")

    assert parser["Service"]["Restart"] == "always"
    assert parser["Service"]["RestartPreventExitStatus"].split() == [str(EXIT_USAGE)]
    assert parser["Unit"]["StartLimitIntervalSec"] == "0"


def test_systemd_understands_the_unit(tmp_path: Path):
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not installed: apt-get install systemd")
    text = (DEPLOY / "leaseha.service").read_text(encoding="utf-8")
    path = tmp_path / "leaseha.service"
    path.write_text(text.replace("/opt/leaseha/.venv/bin/leaseha", "/bin/true"))

    done = subprocess.run([analyze, "verify", path], capture_output=True, text=True, timeout=60, check=False)

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
