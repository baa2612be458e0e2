"""An agent that the kernel would not let bind a VIP says which right it lacks."""

import pytest

from leaseha.errors import OperationalError
from leaseha.runtime import rights

ALL, NONE = "CapInh:\t0\nCapEff:\t000001ffffffffff\n", "CapEff:\t0000000000000000\n"


def test_root_lacks_nothing():
    assert rights.lacking(ALL) == ()


def test_what_is_lacking_is_named():
    assert rights.lacking(NONE) == ("CAP_NET_ADMIN", "CAP_NET_RAW")
    assert rights.lacking("CapEff:\t0000000000001000\n") == ("CAP_NET_RAW",)
    assert rights.lacking("CapEff:\t0000000000002000\n") == ("CAP_NET_ADMIN",)


def test_a_kernel_that_says_nothing_grants_nothing():
    assert rights.lacking("Name:\tpython\n") == ("CAP_NET_ADMIN", "CAP_NET_RAW")


def test_the_sentence_names_the_cure():
    assert "run the agent as root" in rights.sentence(("CAP_NET_RAW",))


def test_this_very_process_is_judged_alike_by_both():
    if rights.lacking():
        with pytest.raises(OperationalError, match="this account lacks"):
            rights.require_rights()
    else:
        rights.require_rights()
