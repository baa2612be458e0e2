"""Answers that are lost, late or double (G5): whatever was sent may be applied later still, or was already.

Each case is tried in both worlds: the transaction was applied, and it was not.
"""

from __future__ import annotations

from leaseha.core.state import Role
from leaseha.core.values import Committed, Refused
from tests.core import hands
from tests.core.harness import spec


def test_a_transaction_that_was_executed_twice_is_known_by_its_nonce() -> None:
    """The second execution is refused, but the own record, read with it, has the nonce of this very write."""
    world = hands.serving(spec("a"))
    hands.keep(world, "a")
    world.run(1.1)
    renewal = hands.kept(world, "a")
    first, second = hands.apply(world, renewal, seen=False), hands.apply(world, renewal, seen=False)
    hands.answer(world, "a", renewal, second)

    assert (Committed, Refused) == (type(first), type(second))
    assert Role.HOLDER is world.role("a")
    assert world.nodes["a"].session.pending == ()
    assert hands.warned(world, "a") == []
