"""Our words and etcd's messages."""

import os
import pathlib
import subprocess
import sys

from hypothesis import given
from hypothesis import strategies as st

from leaseha.adapters.etcd import known_bad, messages
from leaseha.adapters.etcd.messages import PROGRESS, Prefix, rpc
from leaseha.core.values import Compare, Delete, KeyValue, Put, Target, Txn

PREFIX = Prefix("/leaseha/test/")
TOP = pathlib.Path(__file__).resolve().parents[2]


def run(source):
    environment = {"PYTHONPATH": str(TOP), "PATH": os.environ["PATH"]}
    command = [sys.executable, "-c", source]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=60, cwd="/", check=False
    )


def test_a_transaction_keeps_its_order_and_its_prefix():
    txn = Txn(
        (Compare("a", Target.MOD, 7), Compare("b", Target.CREATE, 0), Compare("c", Target.LEASE, 9)),
        (Put("a", "ä", 9), Delete("b")),
        ("a", "b"),
    )
    request = PREFIX.txn(txn)
    assert [compare.key for compare in request.compare] == [f"/leaseha/test/{k}".encode() for k in "abc"]
    assert [compare.WhichOneof("target_union") for compare in request.compare] == [
        "mod_revision",
        "create_revision",
        "lease",
    ]
    assert {compare.result for compare in request.compare} == {rpc.Compare.EQUAL}
    assert [op.WhichOneof("request") for op in request.success] == ["request_put", "request_delete_range"]
    assert request.success[0].request_put.value == "ä".encode()
    assert request.success[0].request_put.lease == 9
    assert [op.request_range.key for op in request.failure] == [b"/leaseha/test/a", b"/leaseha/test/b"]


@given(st.text(min_size=1).filter(lambda text: text.isprintable()))
def test_keys_come_back_as_they_went(key):
    assert PREFIX.relative(PREFIX.absolute(key)) == key
    assert PREFIX.absolute("") <= PREFIX.absolute(key) < PREFIX.end()


def test_another_cluster_whose_name_begins_alike_is_outside():
    assert not PREFIX.absolute("") <= b"/leaseha/test2/a" < PREFIX.end()


def test_a_value_that_is_no_text_is_readable_as_something():
    message = rpc.RangeResponse()
    message.kvs.add(key=b"/leaseha/test/a", value=b"\xff\xfe", mod_revision=3, create_revision=2)
    assert PREFIX.found("a", message) == KeyValue("a", "\ufffd\ufffd", 3, 2, 0)


def test_a_progress_request_is_field_3_and_empty():
    assert PROGRESS.SerializeToString() == b"\x1a\x00"


def test_a_members_complaints_are_read_from_a_field_that_etcd3_does_not_know():
    raw = rpc.StatusResponse(version="3.4.23").SerializeToString() + b"\x42\x07NOSPACE"
    assert messages.status_errors(rpc.StatusResponse.FromString(raw)) == ("NOSPACE",)


def test_versions_that_must_not_be_trusted_are_named():
    assert [v for v in ("3.4.23", "3.5.3", "3.5.16", "3.6.0", "v3.5.9") if known_bad(v)] == []
    for version in ("3.5.0", "3.5.1", "3.5.2"):
        assert "3.5.3 or later" in known_bad(version)
    assert "older than 3.4" in known_bad("3.3.27")
    assert "not understood" in known_bad("")


def test_the_shim_leaves_protobufs_default_pool_alone():
    done = run(
        "from leaseha.adapters.etcd.messages import rpc\n"
        "from google.protobuf import descriptor_pool\n"
        "try:\n"
        "    descriptor_pool.Default().FindMessageTypeByName('mvccpb.KeyValue')\n"
        "except KeyError:\n"
        "    print('alone')\n"
    )
    assert done.stdout.strip() == "alone", done.stderr


def test_the_shim_installs_once():
    done = run(
        "from leaseha.adapters import etcdshim as s\nprint(s.install())\nimport etcd3\nprint(s.install())"
    )
    assert done.stdout.split() == ["True", "False"], done.stderr
