"""Which URL paths name something, and that nothing else does."""

import string
from pathlib import PurePosixPath
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from leaseha.repository.paths import DEPTH, Address, Kind, parse

NAME = "0123456789abcdef" * 4

# The rows of rest-server's own table (TestSplitURLPath), and what a whole request makes of them.
TABLE = [
    ("/", 0, Address(())),
    ("/", 2, Address(())),
    (f"/foo/bar/locks/{NAME}", 0, None),
    (f"/foo/bar/locks/{NAME}", 1, None),
    (f"/foo/bar/locks/{NAME}", 2, Address(("foo", "bar"), Kind.LOCKS, NAME)),
    (f"/foo/bar/locks/{NAME}", 3, Address(("foo", "bar"), Kind.LOCKS, NAME)),
    (f"/foo/bar/zzz/locks/{NAME}", 2, None),
    (f"/foo/bar/zzz/locks/{NAME}", 3, Address(("foo", "bar", "zzz"), Kind.LOCKS, NAME)),
    ("/foo/bar/locks/", 2, Address(("foo", "bar"), Kind.LOCKS)),
    ("/foo/locks/", 2, Address(("foo",), Kind.LOCKS)),
    ("/foo/data/", 2, Address(("foo",), Kind.DATA)),
    ("/foo/index/", 2, Address(("foo",), Kind.INDEX)),
    ("/foo/keys/", 2, Address(("foo",), Kind.KEYS)),
    ("/foo/snapshots/", 2, Address(("foo",), Kind.SNAPSHOTS)),
    ("/foo/config", 2, Address(("foo",), Kind.CONFIG)),
    ("/foo/", 2, Address(("foo",))),
    ("/foo/bar/", 2, Address(("foo", "bar"))),
    ("/foo/bar", 2, None),
    ("/locks/", 2, Address((), Kind.LOCKS)),
    ("/././locks/", 2, None),
    ("/../../locks/", 2, None),
    ("///locks/", 2, None),
    ("////locks/", 2, None),
    ("foo", 2, None),
    ("foo/bar", 2, None),
    ("", 2, None),
    # Beyond that table.
    ("/foo/?create=true", 2, Address(("foo",), create=True)),
    ("/foo/?create=false", 2, Address(("foo",))),
    ("/foo/locks", 2, None),
    ("/foo/config/", 2, None),
    (f"/foo/data/{NAME}/", 2, None),
    (f"/foo/data/{NAME[:2]}/{NAME}", 2, None),
    (f"/foo/data/{NAME.upper()}", 2, None),
    (f"/foo/data/{NAME[:-1]}", 2, None),
    (f"/foo/data/{NAME}0", 2, None),
    ("/foo/%2e%2e/locks/", 2, None),
    ("/foo%2f..%2fbar/locks/", 2, None),
    ("/foo%00/locks/", 2, None),
    ("/foo%zz/locks/", 2, None),
    ("/foo%/locks/", 2, None),
    ("/%ff/locks/", 2, None),
    ("/.leaseha/locks/", 2, None),
    ("/%2eleaseha/locks/", 2, None),
    ("/foo%0abar/locks/", 2, None),
    ("/caf%C3%A9/locks/", 2, Address(("café",), Kind.LOCKS)),
    ("/node one/locks/", 2, Address(("node one",), Kind.LOCKS)),
    (f"/{'x' * 256}/locks/", 2, None),
    ("http://other/foo/locks/", 2, None),
    ("/foo/locks/#x", 2, None),
]


@pytest.mark.parametrize(("target", "depth", "expected"), TABLE)
def test_a_path_names_what_restic_means_by_it_or_nothing(target, depth, expected):
    assert expected == parse(target.encode(), depth)


ODD = st.sampled_from(
    ["..", ".", "", "%2e%2e", "%2f", "%00", "data", "config", ".leaseha", NAME, "a", "%C3%A9", "é"]
)


@given(st.lists(ODD | st.text(string.printable, max_size=4), max_size=6), st.integers(0, 3))
def test_no_path_leads_out_of_its_repository(pieces, depth):
    address = parse(("/" + "/".join(pieces)).encode(), depth)
    if address is not None:
        stays_inside(address, depth)


def stays_inside(address: Address, depth: int) -> None:
    """Nothing of it could name a file elsewhere."""
    assert len(address.repo) <= depth
    for segment in address.repo:
        assert PurePosixPath(segment).parts == (segment,)
        assert not segment.startswith(".")
        assert segment not in set(Kind)
    assert address.name == "" or len(address.name) == 64


def written(address: Address) -> bytes:
    """The plainest request target for an address."""
    path = "/" + "".join(f"{quote(segment, safe='')}/" for segment in address.repo)
    if address.kind is not None:
        path += address.kind if address.kind is Kind.CONFIG else f"{address.kind}/{address.name}"
    return (path + ("?create=true" if address.create else "")).encode()


BYTES = [b"/", b"//", b"..", b"%2e", b"%2f", b"?", b"#", b"create=true", b"data", b"config", b"\0", b"\xff"]


@given(st.lists(st.sampled_from([*BYTES, NAME.encode()]) | st.binary(max_size=3), max_size=9).map(b"".join))
@example(b"/r\xc3\xa9/data/" + NAME.encode())
@example(b"/%72/config")
@example(b"//data/")
def test_any_bytes_name_nothing_or_the_same_as_the_plainest_way_to_write_it(target):
    for one in (target, b"/" + target):
        address = parse(one)
        if address is not None:
            stays_inside(address, DEPTH)
            assert one.startswith(b"/")
            assert parse(written(address)) == address
