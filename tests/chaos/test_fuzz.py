"""The fuzzer of what reads a stranger's bytes: a short run, and that it would notice."""

import random

import pytest

from chaos import fuzz
from leaseha.repository.http import Request


def test_nothing_of_some_thousand_inputs_breaks_a_rule():
    chance = random.Random(20)
    read = 0
    for _ in range(5000):
        raw = fuzz.mutated(chance)
        fuzz.try_one(raw)
        read += fuzz.END_OF_HEAD in raw

    assert read > 2500  # most still have a head to be read


def test_it_notices_two_framings():
    fields = {b"content-length": b"5", b"transfer-encoding": b"chunked"}
    smuggling = Request("POST", b"/config", fields, 5, chunked=True, keep_alive=True, expects_continue=False)

    with pytest.raises(fuzz.BrokenRuleError, match="one framing"):
        fuzz._read(smuggling, b"")
