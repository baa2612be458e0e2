"""The environment over the file; and whatever stands in either, nothing but ConfigError comes out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leaseha.config import parse
from leaseha.config.keys import KEYS
from leaseha.errors import ConfigError
from tests.config.conftest import GOOD

S = 10**9


def test_the_environment_stands_over_the_file():
    config = parse(
        GOOD + '[lease.backups.check.gate-way]\nping = "h"\nweight = -1\n',
        environ={
            "LEASEHA_CLUSTER": "other",
            "LEASEHA_NODE__NAME": "node2",
            "LEASEHA_SESSION__TTL": "7s",
            "LEASEHA_SESSION__DRIFT": "0.002",
            "LEASEHA_ETCD__ENDPOINTS": "http://10.1.0.1:1, http://10.1.0.2:2,http://10.1.0.3:3",
            "LEASEHA_LEASE__BACKUPS__VIPS": '["10.0.0.5/24"]',
            "LEASEHA_LEASE__BACKUPS__PRIORITY__NODE2": "500",
            "LEASEHA_LEASE__BACKUPS__REPOSITORY__PATH": "/data",
            "LEASEHA_LEASE__BACKUPS__REPOSITORY__PORT": "9000",
            "LEASEHA_LEASE__BACKUPS__CHECK__GATE_WAY__WEIGHT": "-7",
            "LEASEHA_LEASE__BACKUPS__CHECK__LINK__CARRIER": "true",
            "LEASEHA_LEASE__BACKUPS__CHECK__LINK__EFFECT": "ineligible",
            "LEASEHA_SANDBOX": "1",
            "LEASEHA_NO_SKIP": "1",
            "PATH": "/bin",
        },
    )

    lease = config.lease("backups")
    assert (config.cluster, config.node.name, config.session.ttl_ns) == ("other", "node2", 7 * S)
    assert config.session.drift_ppm == 2000
    assert [str(one) for one in config.etcd.endpoints][1] == "http://10.1.0.2:2"
    assert str(lease.vips[0]) == "10.0.0.5/24"
    assert lease.priority == {"node1": 100, "node2": 500}
    assert lease.repository is not None
    assert (str(lease.repository.path), lease.repository.port) == ("/data", 9000)
    assert [check.weight for check in lease.checks] == [-7, 0]


def test_the_environment_alone_can_be_the_whole_configuration():
    config = parse(
        "",
        hostname="node1",
        environ={
            "LEASEHA_CLUSTER": "c",
            "LEASEHA_ETCD__ENDPOINTS": "http://127.0.0.1:2379",
            "LEASEHA_LEASE__WEB__VIPS": "10.0.0.5/24",
            "LEASEHA_LEASE__WEB__PRIORITY": "{ node1 = 1 }",
        },
    )

    assert config.lease("web").priority == {"node1": 1}


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("LEASEHA_SESSION__TTL", "5", ["session.ttl", '"5"', '"5s"', "LEASEHA_SESSION__TTL"]),
        ("LEASEHA_SESSION__TLL", "5s", ["session.tll", "ttl", "LEASEHA_SESSION__TLL"]),
        ("LEASEHA_SESION__TTL", "5s", ["LEASEHA_SESION__TTL", "SESSION"]),
        ("LEASEHA_CLUSTER__NAME", "x", ["LEASEHA_CLUSTER__NAME", "names no key"]),
        ("LEASEHA_NODE__NAME__FIRST", "x", ["LEASEHA_NODE__NAME__FIRST", "no table"]),
        ("LEASEHA_NODE__", "x", ["LEASEHA_NODE__", "names no key"]),
        ("LEASEHA_ETCD__PASSWORD", "hunter2", ["etcd.password", "password_file", "LEASEHA_ETCD__PASSWORD"]),
        (
            "LEASEHA_LEASE__BACKUPS__PRIORITY__NODE1",
            "high",
            ["lease.backups.priority.node1", '"high"', "0 to 10000"],
        ),
        ("LEASEHA_SESSION__DRIFT", "1\nttl = 3", ["session.drift", "0.0002"]),
    ],
)
def test_a_wrong_variable_is_named(variable: str, value: str, words: list[str]):
    with pytest.raises(ConfigError) as caught:
        parse(GOOD, environ={variable: value})

    said = str(caught.value)
    assert all(word in said for word in words), said
    assert "hunter2" not in said


def only_config_error(text: str, environ: dict[str, str] | None = None) -> None:
    said: ConfigError | None = None
    try:
        parse(text, environ=environ, source="f", hostname="h", files=True)
    except ConfigError as e:
        said = e
    if said is not None:
        assert all(one.key and one.remedy for one in said.problems)
        assert all(line.startswith("f: ") for line in str(said).split("\n"))


@given(st.text())
def test_no_text_raises_anything_but_a_config_error(text: str):
    only_config_error(text)


NAMES = sorted(
    {part for key in KEYS for part in key.path.split(".") if part != "*"} | {"x", "", "lease.x", "a b"}
)
SCALARS = st.one_of(
    st.text(max_size=12),
    st.integers(),
    st.floats(),
    st.booleans(),
    st.dates(),
    st.datetimes(),
    st.times(),
    st.sampled_from(
        ["5s", "http://h:1", "10.0.0.1/24", "/a", "fd00::1/64", "h:1", "auto", "http://[", "[::1]:1"]
    ),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(NAMES), inner, max_size=4)
    ),
    max_leaves=12,
)


def toml_of(value: object) -> str:
    if isinstance(value, str):
        return '"' + "".join(f"\\U{ord(c):08x}" for c in value if not 0xD800 <= ord(c) <= 0xDFFF) + '"'
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "[" + ", ".join(map(toml_of, value)) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f'"{key}" = {toml_of(inner)}' for key, inner in value.items()) + "}"
    if hasattr(value, "isoformat"):
        return value.isoformat()
    return str(value)


@given(st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=5))
def test_no_table_raises_anything_but_a_config_error(table: dict[str, object]):
    only_config_error("\n".join(f'"{key}" = {toml_of(value)}' for key, value in table.items()))


@given(st.sampled_from(KEYS), VALUES)
def test_no_value_of_a_key_raises_anything_but_a_config_error(key, value: object):
    path = ".".join("x" if part == "*" else part for part in key.path.split("."))
    only_config_error(f"{path} = {toml_of(value)}\n")


@given(
    st.lists(st.sampled_from([*(n.upper() for n in NAMES), "LEASE", "X"]), min_size=1, max_size=6).map(
        "__".join
    ),
    st.text(),
)
def test_no_variable_raises_anything_but_a_config_error(name: str, value: str):
    only_config_error(GOOD, {f"LEASEHA_{name}": value})


@pytest.mark.parametrize(
    "text",
    [
        "a = " + "[" * 100_000,
        "a." * 5_000 + "b = 1",
        "a = " + "9" * 10_000,
        "session.ttl = 0x" + "f" * 10_000,
        "session.drift = nan",
        "session.drift = -inf",
        "session.ttl = inf",
        "lease.a.priority = { b = 0x" + "f" * 9_999 + " }",
        "x = 1\n" * 2,
        "\n".join(f"key{i} = 1" for i in range(20_000)),
        "#" * (5 << 20),
        "cluster = '''\n\n'''",
        'cluster = "\\u0000"',
        '"\\n" = 1',
        'lease."../x".vips = 1',
        "a = 1979-13-99",
    ],
    ids=lambda text: text[:20].replace("\n", " "),
)
def test_a_hostile_text_is_a_config_error_of_bounded_length(text: str):
    with pytest.raises(ConfigError) as caught:
        parse(text, hostname="h")

    assert len(str(caught.value)) < 40_000
    assert len(caught.value.problems) <= 51
