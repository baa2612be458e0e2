"""nftables as text and as packed elements: transactions, errors, and timeouts that the kernel keeps."""

import ctypes
import errno
from ipaddress import ip_address

import pytest

from leaseha.adapters.nfset import NFPROTO_INET, ElementSocket, SetName, element_head
from leaseha.adapters.nft import Nft, first_error, load_library
from leaseha.errors import FenceError
from tests.adapters.wire import until

TABLE = "table inet t {\nset s {\ntype ipv4_addr\nflags timeout\n}\n}\n"
PLACE = SetName(NFPROTO_INET, "t", "s")
ONE, TWO = (element_head(ip_address(ip).packed) for ip in ("10.0.0.1", "10.0.0.2"))


def test_the_first_error_is_told_without_the_command():
    said = "internal:0:0-0: Error: Could not process rule: Operation not permitted\nadd table inet t\n^^^\n"
    assert first_error(said) == "Could not process rule: Operation not permitted"
    assert first_error("") == "no reason given"


def test_a_library_that_is_not_there_is_named_with_its_cure():
    with pytest.raises(FenceError, match=r"libnothing\.so is missing .*libnftables1"):
        load_library("libnothing.so")


@pytest.mark.netns
def test_a_library_that_gives_no_context_is_an_error(wire):
    def load(name: str) -> ctypes.CDLL:
        library = load_library(name)
        library.nft_ctx_new = lambda _flags: None
        return library

    with pytest.raises(FenceError, match="no context"):
        Nft(load)


@pytest.mark.netns
def test_commands_are_done_all_or_none(wire):
    nft = Nft()
    with pytest.raises(FenceError, match="No such file"):
        nft.run(TABLE + "delete table inet nothing\n")
    assert nft.run("list ruleset") == ""
    nft.run(TABLE)
    assert "timeout" in nft.run("list table inet t")
    nft.close()
    nft.close()
    with pytest.raises(FenceError, match="closed"):
        nft.run("list ruleset")


@pytest.mark.netns
async def test_elements_live_as_long_as_they_were_last_told(wire):
    nft, sets = Nft(), ElementSocket()
    nft.run(TABLE)
    assert sets.put({PLACE: [ONE, TWO]}, 60_000) == 0
    assert sets.put({PLACE: [ONE]}, 100) == 0
    assert "10.0.0.1" in nft.run("list set inet t s")
    await until(lambda: "10.0.0.1" not in nft.run("list set inet t s"), 5, "the shorter timeout ended")
    assert "10.0.0.2 timeout 1m" in nft.run("list set inet t s")
    assert sets.remove({PLACE: [ONE, TWO]}) == 0
    assert "10.0.0" not in nft.run("list set inet t s")
    sets.close()


@pytest.mark.netns
def test_a_set_that_is_not_there_is_told_by_its_errno_and_nothing_else_is_changed(wire):
    nft, sets = Nft(), ElementSocket()
    nft.run(TABLE)
    nowhere = SetName(NFPROTO_INET, "t", "nothing")
    assert sets.put({PLACE: [ONE], nowhere: [ONE]}, 60_000) == errno.ENOENT
    assert sets.remove({nowhere: [ONE]}) == errno.ENOENT
    assert "10.0.0.1" not in nft.run("list set inet t s")
    assert sets.put({}, 60_000) == 0
    assert sets.put({PLACE: []}, 60_000) == 0
    sets.close()
