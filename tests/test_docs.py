"""The documentation and the code say the same."""

import pathlib
import re

import pytest

from leaseha.config import format_duration, parse, parse_duration
from leaseha.config.faults import Wrong
from leaseha.config.keys import KEY_OF, KEYS, Key
from leaseha.errors import ConfigError

TOP = pathlib.Path(__file__).resolve().parent.parent
REFERENCE = (TOP / "docs/configuration.md").read_text()
ROW = re.compile(r"^\| `([a-z_.A-Z]+)` \| (.*?) \| (.*?) \| (.*) \|$", re.MULTILINE)
ROWS = {found[1]: (found[2], found[3], found[4]) for found in ROW.finditer(REFERENCE)}
CERTIFICATE = "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n"
PRIVATE = "-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n"


def documented(key: Key[object]) -> str:
    """`lease.*.check.*.ping` as the reference writes it."""
    return key.path.replace("*", "NAME", 1).replace("*", "CHECK", 1)


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```$", REFERENCE, re.MULTILINE | re.DOTALL)


def accepted(key: Key[object], value: object) -> bool:
    try:
        key.read(value)
    except Wrong:
        return False
    return True


def test_each_key_of_the_code_is_in_the_reference_and_no_other():
    assert sorted(ROWS) == sorted(documented(key) for key in KEYS)


@pytest.mark.parametrize("key", KEYS, ids=lambda key: key.path)
def test_the_reference_has_the_default_that_the_code_has(key: Key[object]):
    expected = "required" if key.required else key.derived or f"`{key.default}`"

    assert ROWS[documented(key)][1] == expected


@pytest.mark.parametrize("key", KEYS, ids=lambda key: key.path)
def test_each_key_says_what_it_means(key: Key[object]):
    kind, _, meaning = ROWS[documented(key)]

    assert kind
    assert len(meaning.split()) > 5


RANGED = [
    key for key in KEYS if re.search(r"(duration|numbers?), \S+ to \S+", ROWS.get(documented(key), ("",))[0])
]


@pytest.mark.parametrize("key", RANGED, ids=lambda key: key.path)
def test_the_range_in_the_reference_is_the_one_that_is_enforced(key: Key[object]):
    kind, low, high = re.search(r"(duration|numbers?), (\S+) to ([^\s,]+)", ROWS[documented(key)][0]).groups()
    table = "table" in ROWS[documented(key)][0]
    if kind == "duration":
        inside = [low, high]
        low_ns, high_ns = parse_duration(low), parse_duration(high)
        outside = [format_duration(high_ns + 1), *([format_duration(low_ns - 1)] if low_ns else [])]
    elif "." in low:
        inside, outside = [float(low), float(high)], [float(low) - 1e-5, float(high) + 1e-5]
    else:
        inside, outside = [int(low), int(high)], [int(low) - 1, int(high) + 1]
    if table:
        inside, outside = [[{"a": value, "b": 1} for value in side] for side in (inside, outside)]

    assert [accepted(key, value) for value in inside] == [True, True]
    assert not any(accepted(key, value) for value in outside)


def test_most_timings_and_numbers_have_their_range_tested():
    assert len(RANGED) >= 15


def test_every_example_of_a_whole_configuration_loads(tmp_path: pathlib.Path):
    for name, text in (("etcd-ca.pem", CERTIFICATE), ("node.pem", CERTIFICATE), ("node.key", PRIVATE)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o600)

    found = [parse(text.replace("/etc/leaseha", str(tmp_path)), hostname="node1") for text in blocks("toml")]

    assert [config.cluster for config in found] == ["backup", "backup"]
    assert found[0].warnings == ()


def test_the_refusal_in_the_reference_is_what_is_said():
    with pytest.raises(ConfigError) as caught:
        parse(blocks("toml refused")[0])

    assert str(caught.value).splitlines() == blocks("text refusal")[0].splitlines()


def test_the_variables_in_the_reference_are_understood():
    good = blocks("toml")[0]
    variables = re.findall(r"^\| `(LEASEHA_\w+)=(\S+)` \|", REFERENCE, re.MULTILINE)
    plain = re.sub(r"^(ca|cert|key) = .*\n", "", good, flags=re.MULTILINE)

    config = parse(plain, environ=dict(variables))

    assert len(variables) == 5
    assert (config.node.name, config.session.ttl_ns) == ("node2", 7 * 10**9)
    assert config.lease("backups").priority["node1"] == 0


def test_the_table_of_keys_is_complete_in_itself():
    for key in KEYS:
        assert [bool(key.default), bool(key.derived), key.required].count(True) == 1, key.path
        assert KEY_OF[key.path] is key
