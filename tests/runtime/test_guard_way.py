"""Whether a guard could write to etcd is said before it has to: by `check`, in one sentence with its cure."""

import pytest

from leaseha.config import Config, parse
from leaseha.runtime import doctor, guarding
from leaseha.runtime.guard_etcd import Gateway
from tests.adapters.etcd_members import Members, needs_etcd

pytestmark = [pytest.mark.lab, needs_etcd]


def config(members: Members) -> Config:
    text = f"""
    cluster = "way"
    [node]
    interface = "lo"
    [etcd]
    endpoints = ["{members.endpoints[0]}"]
    [lease.l]
    vips = ["10.99.0.50/24"]
    priority = {{ node1 = 100 }}
    """
    return parse(text, environ={}, hostname="node1")


def test_an_etcd_with_a_gateway_is_no_finding(tmp_path):
    with Members(tmp_path) as members:
        found = doctor.examine(config(members), offline=False)

        assert guarding.cannot_free(config(members), 2.0) == ""
    assert [finding.text for finding in found if "guard" in finding.text] == []


def test_an_etcd_without_a_gateway_is_named_and_is_no_reason_not_to_start(tmp_path):
    with Members(tmp_path, options=["--enable-grpc-gateway=false"]) as members:
        found = doctor.examine(config(members), offline=False)

    (finding,) = [one for one in found if "guard" in one.text]
    assert not finding.grave
    assert "a guard could free nothing after a crash, which would then take a ttl" in finding.text
    assert members.endpoints[0] in finding.text


def test_an_etcd_with_users_wants_one_with_a_password(tmp_path):
    with Members(tmp_path) as members:
        gateway = Gateway({"endpoints": members.endpoints})
        gateway.call("/v3/auth/user/add", {"name": "root", "password": "secret"}, 5)
        gateway.call("/v3/auth/user/grant", {"user": "root", "role": "root"}, 5)
        gateway.call("/v3/auth/enable", {}, 5)

        assert "user name is empty" in guarding.cannot_free(config(members), 2.0)
