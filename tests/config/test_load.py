"""A good configuration becomes typed values; defaults are those of the reference."""

import ipaddress
import pathlib

import pytest

from leaseha.config import (
    Carrier,
    Endpoint,
    HostPort,
    LogFormat,
    LogLevel,
    OtlpProtocol,
    Ping,
    Script,
    Tcp,
    Vip,
    load,
    node_spec,
    parse,
    read_password,
)
from leaseha.errors import ConfigError

MS, S = 10**6, 10**9


def test_what_is_left_out_has_its_default(good: str):
    config = parse(good)

    assert config.cluster == "backup"
    assert config.key_prefix == "/leaseha/backup/"
    assert config.runtime_dir == pathlib.Path("/run/leaseha/backup-node1")
    assert config.state_dir == pathlib.Path("/var/lib/leaseha/backup-node1")
    assert (config.node.interface, config.node.address) == (None, None)
    session = config.session
    assert (session.ttl_ns, session.renew_every_ns, session.ttl_max_ns) == (5 * S, 1 * S, 15 * S)
    assert (session.margin_ns, session.margin_given, session.drift_ppm) == (1500 * MS, False, 1000)
    assert session.session_ttl_s == 30
    lease = config.lease("backups")
    assert (lease.failback, lease.hold_down_ns, lease.flap_budget) == (True, 30 * S, 3)
    assert (lease.drain_timeout_ns, lease.repository, lease.checks) == (5 * S, None, ())
    assert config.telemetry.otlp_endpoint is None
    assert config.telemetry.otlp_protocol is OtlpProtocol.HTTP
    assert config.telemetry.file == config.runtime_dir / "spool" / "traces.jsonl"
    assert (config.log.level, config.log.format) == (LogLevel.INFO, LogFormat.HUMAN)
    assert config.status.listen is None
    assert config.warnings == ()


EVERYTHING = """
cluster = "prod.backup"
runtime_dir = "/run/ha/"
state_dir = "/var/lib/ha"
[node]
name = "Node-1.example"
interface = "bond0.17"
address = "fd00::2"
[session]
ttl = "300ms"
renew_every = "50ms"
ttl_max = "3.5s"
margin = "2.5s"
drift = 0.0005
[etcd]
endpoints = ["https://etcd-1.example:2379/", "https://[fd00::3]:2379", "https://10.0.0.3:2379"]
prefix = "/ha/two"
ca = "@FILES@/ca.pem"
cert = "@FILES@/node.pem"
key = "@FILES@/node.key"
user = "ha"
password_file = "@FILES@/password"
[lease.a]
vips = ["192.168.0.50/24", "fd00::50/64", "10.9.9.9/32"]
priority = { "Node-1.example" = 100, other = 0 }
failback = "off"
hold_down = "1m30s"
flap_budget = 1
drain_timeout = "0s"
interface = "eth1"
repository = { path = "/srv//backups/" }
[lease.a.check.gw]
ping = "192.168.0.1"
weight = -60
[lease.a.check.dns]
tcp = "[fd00::1]:53"
weight = 5
every = "2s"
timeout = "500ms"
rise = 1
fall = 9
[lease.a.check.disk]
script = ["@FILES@/program", "two words"]
effect = "ineligible"
[lease.a.check.link]
carrier = true
effect = "ineligible"
[lease.a.check.uplink]
carrier = "eth1"
weight = -1
[telemetry]
otlp_endpoint = "https://collector.example/otlp/"
otlp_protocol = "grpc"
file = "/var/lib/ha/traces.jsonl"
[log]
level = "debug"
format = "json"
[status]
listen = "[::1]:9470"
"""


def test_everything_that_can_be_set_is_read(files: pathlib.Path):
    config = parse(EVERYTHING.replace("@FILES@", str(files)))

    assert config.runtime_dir == pathlib.Path("/run/ha")
    assert config.node.address == ipaddress.ip_address("fd00::2")
    assert (config.session.drift_ppm, config.session.session_ttl_s) == (500, 7)
    assert config.session.margin_given
    assert config.etcd.endpoints == (
        Endpoint(True, HostPort("etcd-1.example", 2379)),
        Endpoint(True, HostPort("fd00::3", 2379)),
        Endpoint(True, HostPort("10.0.0.3", 2379)),
    )
    assert [str(one) for one in config.etcd.endpoints][1] == "https://[fd00::3]:2379"
    assert config.etcd.tls
    assert config.key_prefix == "/ha/two/prod.backup/"
    lease = config.lease("a")
    assert lease.vips[1] == Vip(ipaddress.ip_address("fd00::50"), 64)
    assert lease.repository is not None
    assert (lease.repository.port, str(lease.repository.path)) == (8000, "/srv/backups")
    gw, dns, disk, link, uplink = lease.checks
    assert gw.probe == Ping("192.168.0.1")
    assert (gw.every_ns, gw.timeout_ns, gw.rise, gw.fall, gw.weight) == (S, S, 2, 3, -60)
    assert dns.probe == Tcp(HostPort("fd00::1", 53))
    assert dns.notices_after_ns == 9 * 2 * S + 500 * MS
    assert disk.probe == Script((f"{files}/program", "two words"))
    assert (disk.ineligible, disk.weight) == (True, 0)
    assert (link.probe, uplink.probe) == (Carrier(None), Carrier("eth1"))
    assert config.telemetry.otlp_endpoint == "https://collector.example/otlp"
    assert config.status.listen == HostPort("::1", 9470)
    assert read_password(config.etcd.password_file) == "correct horse"


def test_a_weight_counts_while_its_check_fails_if_negative_and_passes_if_positive(good: str):
    checks = (
        '[lease.backups.check.a]\nping = "h"\nweight = -60\n[lease.backups.check.b]\nping = "h"\nweight = 5\n'
    )
    a, b = parse(good + checks).lease("backups").checks

    assert [a.contribution(passing=False), a.contribution(passing=True)] == [-60, 0]
    assert [b.contribution(passing=False), b.contribution(passing=True)] == [0, 5]


@pytest.mark.parametrize(
    ("session", "ttl_max_s", "session_ttl_s", "margin_ms"),
    [
        ('ttl = "200ms"', 3.0, 6, 2300),
        ('ttl = "999ms"', 3.0, 6, 2300),
        ('ttl = "1s"', 3.0, 6, 1500),
        ('ttl = "1.2s"', 3.6, 8, 1500),
        ('ttl = "1h"', 10800.0, 21600, 1500),
        ('ttl = "2s"\nttl_max = "3001ms"', 3.001, 7, 1500),
    ],
)
def test_the_session_follows_from_the_ttl(
    good: str, session: str, ttl_max_s: float, session_ttl_s: int, margin_ms: int
):
    found = parse(f"{good}[session]\n{session}\n").session

    assert found.renew_every_ns == found.ttl_ns // 5
    assert found.ttl_max_ns == round(ttl_max_s * S)
    assert found.session_ttl_s == session_ttl_s
    assert found.session_ttl_s * S >= 2 * found.ttl_max_ns
    assert found.margin_ns == margin_ms * MS


def test_a_node_without_a_name_is_called_as_its_host(good: str):
    text = good.replace('name = "node1"', "")

    assert parse(text, hostname="node2").node.name == "node2"
    with pytest.raises(ConfigError, match=r'node\.name = "bad host": .*name = "node1"'):
        parse(text, hostname="bad host")


def test_a_lease_that_is_not_there_is_a_key_error(good: str):
    with pytest.raises(KeyError):
        parse(good).lease("other")


def test_the_core_is_told_the_same(good: str):
    config = parse(good + 'repository = { path = "/srv/backups" }\n')
    spec = node_spec(config, store="store-1", incarnation="i-1", address="10.0.0.9")

    assert (spec.node, spec.store, spec.incarnation, spec.address) == ("node1", "store-1", "i-1", "10.0.0.9")
    assert (spec.ttl_ns, spec.margin_ns, spec.session_ttl_s) == (5 * S, 1500 * MS, 30)
    lease = spec.lease_by_name["backups"]
    assert (lease.priorities, lease.data, lease.resources) == ({"node1": 100, "node2": 50}, True, True)
    assert lease.digest == config.lease("backups").digest()


def test_a_file_is_read_with_or_without_a_byte_order_mark(good: str, tmp_path: pathlib.Path):
    path = tmp_path / "leaseha.toml"
    path.write_bytes(b"\xef\xbb\xbf" + good.encode())

    assert load(path, environ={}).cluster == "backup"


@pytest.mark.parametrize("content", [None, b"\xff\xfe", "directory"])
def test_a_file_that_cannot_be_read_is_a_config_error(tmp_path: pathlib.Path, content: bytes | str | None):
    path = tmp_path / "leaseha.toml"
    if content == "directory":
        path.mkdir()
    elif isinstance(content, bytes):
        path.write_bytes(content)

    with pytest.raises(ConfigError) as caught:
        load(path, environ={})
    assert (caught.value.key, caught.value.value) == ("--config", f'"{path}"')


def test_files_are_left_alone_where_a_command_only_asks(good: str):
    secure = good.replace("http://", "https://").replace("[lease", 'ca = "/gone.pem"\n[lease')

    assert parse(secure, files=False).etcd.ca == pathlib.Path("/gone.pem")
    with pytest.raises(ConfigError, match="no such file"):
        parse(secure)


@pytest.mark.parametrize(("name", "remedy"), [("two-lines", "several lines"), ("gone", "no such file")])
def test_a_password_file_holds_one_line(files: pathlib.Path, name: str, remedy: str):
    with pytest.raises(ConfigError, match=remedy):
        read_password(files / name)


def test_a_program_that_anyone_may_change_is_refused(good: str, files: pathlib.Path):
    check = f'[lease.backups.check.x]\nscript = ["{files}/open-program"]\nweight = -1\n'

    with pytest.raises(ConfigError, match="chmod 755"):
        parse(good + check)


def test_a_fifo_in_the_place_of_a_file_does_not_hang_the_start(tmp_path: pathlib.Path):
    import os

    os.mkfifo(tmp_path / "leaseha.toml")
    with pytest.raises(ConfigError, match="no regular file"):
        load(tmp_path / "leaseha.toml", environ={})


def test_a_thousand_leases_load(good: str):
    many = "".join(
        f'[lease.l{i}]\nvips = ["10.{i // 250 + 1}.{i % 250}.7/16"]\npriority = {{ node1 = 1 }}\n'
        f'repository = {{ path = "/srv/l{i}" }}\n'
        for i in range(1000)
    )

    assert len(parse(good + many).leases) == 1001
