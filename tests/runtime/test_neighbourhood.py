"""What comes of an interface that is taken away and made anew: it is listened to again."""

from ipaddress import ip_address
from types import SimpleNamespace

import pytest
from pyroute2 import IPRoute

from leaseha.adapters.announce import Announcer
from leaseha.runtime.neighbourhood import Neighbourhood
from tests.adapters.wire import HERE, Wire, in_s, laid, until
from tests.core import hands

VIP = ip_address("10.9.0.100")


@pytest.fixture
def wire():
    with laid() as made:
        yield made


def remake() -> int:
    """`v0` under its old name, with another end; its new index."""
    with IPRoute() as kernel:
        kernel.link("del", index=kernel.link_lookup(ifname=HERE)[0])
        kernel.link("add", kind="veth", ifname=HERE, peer={"ifname": "far"})
        for name in (HERE, "far"):
            kernel.link("set", index=kernel.link_lookup(ifname=name)[0], state="up")
        return kernel.link_lookup(ifname=HERE)[0]


@pytest.mark.netns
async def test_foreign_claims_are_heard_again_on_an_interface_that_was_made_anew(wire: Wire):
    world = hands.serving()
    near = Neighbourhood(lambda: world.nodes["a"], lambda _: None)
    lease = SimpleNamespace(name="l", vips=[SimpleNamespace(ip=VIP, version=4)])
    near.proof(lease, HERE)
    parts = SimpleNamespace(
        vips=(VIP,), binder=SimpleNamespace(interface=HERE), announcer=near.announcer(HERE)
    )
    near.listen({"l": SimpleNamespace(bound=True, serving=True, deadline=in_s(60), parts=parts)})
    near.on_link(HERE, 1)
    assert near.contested() == {"l": None}
    near.on_link(HERE, wire.here(remake))

    other = Announcer("far")
    for _ in range(3):
        await other.burst([VIP], lambda: in_s(60))
    await until(lambda: near.contested()["l"] is not None, 10, "the claim is heard")
    assert near.announced() == {"l": None}
    other.close()
    near.close()
