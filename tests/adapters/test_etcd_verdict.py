"""What a failed call proves: almost nothing, and each proof rests on what etcd itself said."""

import pytest
from grpc import StatusCode

from leaseha.adapters.etcd import verdict
from leaseha.adapters.etcd.verdict import Proof

PROVEN = (
    (StatusCode.NOT_FOUND, "etcdserver: requested lease not found", Proof.LEASE_MISSING),
    (StatusCode.OUT_OF_RANGE, "etcdserver: mvcc: required revision has been compacted", Proof.COMPACTED),
    (StatusCode.UNAUTHENTICATED, "etcdserver: invalid auth token", Proof.STALE_TOKEN),
    (StatusCode.INVALID_ARGUMENT, "etcdserver: revision of auth store is old", Proof.STALE_TOKEN),
    (StatusCode.INVALID_ARGUMENT, "etcdserver: user name is empty", Proof.STALE_TOKEN),
    (
        StatusCode.INVALID_ARGUMENT,
        "etcdserver: authentication failed, invalid user ID or password",
        Proof.DENIED,
    ),
    (StatusCode.PERMISSION_DENIED, "etcdserver: permission denied", Proof.DENIED),
)

UNPROVEN = (
    (StatusCode.UNAVAILABLE, "etcdserver: no leader"),
    (StatusCode.UNKNOWN, "etcdserver: no leader"),
    (StatusCode.UNAVAILABLE, "etcdserver: leader changed"),
    (StatusCode.UNAVAILABLE, "etcdserver: request timed out"),
    (StatusCode.UNAVAILABLE, "etcdserver: request timed out, possibly due to previous leader failure"),
    (StatusCode.UNAVAILABLE, "etcdserver: request timed out, possibly due to connection lost"),
    (StatusCode.UNAVAILABLE, "etcdserver: server stopped"),
    (StatusCode.UNAVAILABLE, "failed to connect to all addresses; last error: Connection refused"),
    (StatusCode.UNAVAILABLE, "Socket closed"),
    (StatusCode.UNAVAILABLE, "GOAWAY received"),
    (StatusCode.UNKNOWN, "context deadline exceeded"),
    (StatusCode.RESOURCE_EXHAUSTED, "etcdserver: mvcc: database space exceeded"),
    (StatusCode.RESOURCE_EXHAUSTED, "etcdserver: too many requests"),
    (StatusCode.INVALID_ARGUMENT, "etcdserver: duplicate key given in txn request"),
    (StatusCode.INVALID_ARGUMENT, "etcdserver: too many operations in txn request"),
    (StatusCode.DATA_LOSS, "etcdserver: corrupt cluster"),
    (StatusCode.FAILED_PRECONDITION, "etcdserver: not leader"),
    (StatusCode.CANCELLED, "Channel closed!"),
    (StatusCode.INTERNAL, "Received RST_STREAM with error code 2"),
)


@pytest.mark.parametrize("code", list(StatusCode))
def test_no_grpc_code_proves_anything_by_itself(code):
    for details in ("", None, "something new"):
        assert verdict.of(code, details).proof is Proof.NOTHING


@pytest.mark.parametrize("code", list(StatusCode))
def test_every_grpc_code_has_a_reason_that_a_person_can_read(code):
    assert verdict.of(code, None).why.islower()


@pytest.mark.parametrize(("code", "details", "proof"), PROVEN)
def test_what_etcd_says_before_it_applies_anything_is_proof(code, details, proof):
    found = verdict.of(code, details)
    assert found.proof is proof
    assert details in found.why


@pytest.mark.parametrize(("code", "details", "proof"), PROVEN)
def test_the_same_words_under_another_code_prove_nothing(code, details, proof):
    others = [other for other in StatusCode if other is not code]
    assert {verdict.of(other, details).proof for other in others} == {Proof.NOTHING}


@pytest.mark.parametrize(("code", "details"), UNPROVEN)
def test_what_may_have_been_applied_is_unknown(code, details):
    assert verdict.of(code, details).proof is Proof.NOTHING


def test_a_reason_is_one_line():
    assert verdict.of(StatusCode.UNAVAILABLE, "first\n  second").why == "first second"


def test_a_missing_user_is_told_as_what_to_configure():
    why = verdict.of(StatusCode.INVALID_ARGUMENT, "etcdserver: user name is empty").why
    assert "wants a user and a password" in why


def test_a_refused_connection_is_told_in_few_words():
    details = (
        "failed to connect to all addresses; last error: "
        "UNKNOWN: ipv4:127.0.0.1:9: Failed to connect to remote host: Connection refused"
    )
    why = verdict.of(StatusCode.UNAVAILABLE, details).why
    assert why == "ipv4:127.0.0.1:9: Failed to connect to remote host: Connection refused"
