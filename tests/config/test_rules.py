"""What keys say of each other: remedies that cure, warnings, and what two nodes must agree on."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leaseha.config import format_duration, node_spec, parse, parse_duration
from leaseha.config.rules import ANSWER_NS, CLAIMS_MAX, PPM
from leaseha.core import machine, writer
from leaseha.core.state import Draft
from leaseha.core.values import Instant
from leaseha.errors import ConfigError
from tests.config.conftest import GOOD

MS, S = 10**6, 10**9
DURATIONS = st.one_of(
    st.integers(200, 10_000).map(lambda n: n * MS), st.integers(1, 3600).map(lambda n: n * S)
)


REMEDY = re.compile(r"write at most (\S+), or raise session\.\w+ to at least (\S+)")


def refusal(text: str) -> ConfigError | None:
    try:
        parse(text)
    except ConfigError as e:
        return e
    return None


def session(**values: str) -> str:
    lines = "".join(f'{key} = "{value}"\n' for key, value in values.items() if key != "drift")
    return GOOD + "[session]\n" + lines + (f"drift = {values['drift']}\n" if "drift" in values else "")


@given(DURATIONS, st.integers(20, 1_200_000), st.sampled_from(["0.001", "0.0002", "0.1"]))
def test_two_renewals_fit_into_what_a_proof_is_good_for_or_the_remedy_makes_them_fit(
    ttl_ns: int, renew_ms: int, drift: str
):
    ttl, renew = format_duration(ttl_ns), format_duration(renew_ms * MS)
    text = session(ttl=ttl, renew_every=renew, drift=drift)
    if refused := refusal(text):
        remedy = REMEDY.search(refused.remedy)
        assert refused.key == "session.renew_every"
        assert remedy, refused
        if parse_duration(remedy[1]) >= 20 * MS:
            parse(session(ttl=ttl, renew_every=remedy[1], drift=drift))
        if parse_duration(remedy[2]) <= 3600 * S:
            parse(session(ttl=remedy[2], renew_every=renew, drift=drift))
    else:
        found = parse(text).session
        served_ns = found.ttl_ns * (PPM - found.drift_ppm) / PPM
        assert 2 * found.renew_every_ns + ANSWER_NS <= served_ns
        assert found.renew_every_ns < found.ttl_ns / 2


@given(DURATIONS, DURATIONS)
def test_the_wait_ends_before_the_record_may_go_or_the_remedy_makes_it_end(ttl_ns: int, margin_ns: int):
    ttl, margin = format_duration(ttl_ns), format_duration(margin_ns)
    text = session(ttl=ttl, margin=margin)
    if refused := refusal(text):
        remedy = REMEDY.search(refused.remedy)
        assert remedy, refused
        parse(session(ttl=ttl, margin=remedy[1]))
        parse(session(ttl=ttl, margin=margin, ttl_max=remedy[2]))
    else:
        found = parse(text).session
        assert found.ttl_ns * 1.001 + found.margin_ns <= found.session_ttl_s * S


@given(DURATIONS)
def test_each_ttl_alone_is_possible(ttl_ns: int):
    found = parse(session(ttl=format_duration(ttl_ns))).session

    assert found.ttl_ns <= found.ttl_max_ns
    assert found.session_ttl_s * S >= 2 * found.ttl_max_ns


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t + '[session]\nttl = "2s"\n', "etcd election"),
        (lambda t: t + '[session]\nmargin = "20ms"\n', "two nodes may answer"),
        (lambda t: t.replace('"node1"', '"node9"', 1), "never holds the lease"),
        (lambda t: t.replace("[lease", 'user = "a"\npassword_file = "/p"\n[lease'), "password can be read"),
        (lambda t: t.replace(', "http://10.0.0.2:2379", "http://10.0.0.3:2379"', ""), "name three"),
        (lambda t: t.replace(', "http://10.0.0.3:2379"', ""), "need each other"),
        (lambda t: t + 'hold_down = "2s"\n', "shorter than the ttl"),
        (
            lambda t: t + 'hold_down = "6s"\n[lease.backups.check.x]\nping = "h"\nweight = -1\nfall = 9\n',
            "slowest check",
        ),
        (lambda t: t.replace('"node1"', '"localhost"', 1), "never holds"),
    ],
)
def test_what_is_allowed_yet_likely_to_disappoint_is_warned_of(change, words: str):
    warnings = parse(change(GOOD), files=False).warnings

    assert [words in one for one in warnings] == [True]


def test_one_cause_gives_one_line():
    with pytest.raises(ConfigError) as caught:
        parse(session(ttl="5", renew_every="4s", ttl_max="3s", margin="1h"))

    assert [one.key for one in caught.value.problems] == ["session.ttl"]


def test_what_other_programs_would_call_it_is_understood():
    with pytest.raises(ConfigError) as caught:
        parse(GOOD + 'virtual_ipaddress = "x"\npreempt_delay = 3\n')

    assert [one.remedy for one in caught.value.problems] == [
        'is unknown; write "vips"',
        'is unknown; write "hold_down"',
    ]


BARE = parse(GOOD).lease("backups").digest()


@pytest.mark.parametrize(
    ("line", "vips_differ", "rest_differs"),
    [
        ("", False, False),
        ('failback = "auto"', False, False),
        ('hold_down = "30000ms"', False, False),
        ('interface = "eth7"', False, False),
        ('failback = "off"', False, True),
        ('hold_down = "31s"', False, True),
        ("flap_budget = 4", False, True),
        ('drain_timeout = "6s"', False, True),
        ('repository = { path = "/a" }', False, True),
        ('repository = { path = "/a", auth = "off", private = false, quota = "off" }', False, True),
        ('check.x = { ping = "h", weight = -1 }', False, True),
    ],
)
def test_the_digest_tells_what_two_nodes_must_agree_on(line: str, vips_differ: bool, rest_differs: bool):
    vips, rest = parse(f"{GOOD}{line}\n").lease("backups").digest().split(".")

    assert [vips, rest] == [
        vips if vips_differ else BARE.split(".")[0],
        rest if rest_differs else BARE.split(".")[1],
    ]
    assert (rest != BARE.split(".")[1]) == rest_differs


def digest_of(text: str) -> str:
    return parse(text).lease("backups").digest()


@pytest.mark.parametrize("more", ['auth = "users"', "append_only = true", 'quota = "1T"', "metrics = true"])
def test_the_digest_tells_who_may_do_what_in_a_repository(more: str):
    plain, other = (f'{GOOD}repository = {{ path = "/a", {text} }}\n' for text in ('auth = "off"', more))

    assert digest_of(plain) == digest_of(f'{GOOD}repository = {{ path = "/b" }}\n')
    assert digest_of(other) != digest_of(plain)


def test_the_digest_counts_vips_but_not_their_order():
    two = GOOD.replace('["192.168.0.50/24"]', '["192.168.0.50/24", "fd00::50/64"]')
    turned = GOOD.replace('["192.168.0.50/24"]', '["FD00:0::50/64", "192.168.0.50/24"]')

    assert digest_of(two) == digest_of(turned)
    assert digest_of(two).split(".")[0] != BARE.split(".")[0]
    assert digest_of(two).split(".")[1] == BARE.split(".")[1]
    assert digest_of(GOOD.replace("50/24", "50/25")).split(".")[0] != BARE.split(".")[0]


def test_the_digest_leaves_out_what_machines_differ_in():
    one = GOOD + 'repository = { path = "/a" }\n[lease.backups.check.x]\nping = "h"\nweight = -1\n'
    other = (
        GOOD
        + 'repository = { path = "/b" }\n[lease.backups.check.x]\ntcp = "i:1"\nevery = "9s"\nweight = -1\n'
    )

    assert digest_of(one) == digest_of(other)


def test_the_digest_does_not_change_from_release_to_release():
    """Nodes of two versions compare it while they are upgraded one after the other."""
    assert BARE == "7a82e16bd74a.8cc6293abfb0"


def many(leases: int) -> str:
    """That many leases, and timings with which two renewals must have compared all of them."""
    more = "".join(
        f'[lease.l{n}]\nvips = ["10.1.{n >> 8}.{n & 255}/8"]\npriority = {{ node1 = 1 }}\n'
        for n in range(leases - 1)
    )
    return session(ttl="5s", ttl_max="5s", renew_every="1200ms") + more


def test_more_leases_than_the_renewals_can_compare_are_refused_with_the_limit_and_the_remedy():
    spec = node_spec(parse(many(1)), store="s", incarnation="i")
    most = writer.slice_rounds(Draft(machine.initial(spec), Instant(0, 0))) * CLAIMS_MAX

    parse(many(most))
    refused = refusal(many(most + 1))

    assert refused
    assert (refused.key, refused.value) == ("lease", f"{most + 1} leases")
    assert f"write at most {most}, or a shorter session.renew_every" in refused.remedy
    assert "--max-txn-ops 128" in refused.remedy
