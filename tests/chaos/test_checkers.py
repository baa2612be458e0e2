"""Each checker on histories written by hand: what is broken is found, what is right passes."""

import pytest

from chaos.checkers import HOUR_NS, Bounds, Violation, judge
from chaos.history import History

S = 1_000_000_000
MS = 1_000_000
BOUNDS = Bounds(hold_down_ns=2 * S, flap_budget=2, drift_ppm=0, takeover_ns=3 * S)


def names(*facts, bounds=BOUNDS):
    """What the judge finds in a history of (at, what, facts...)."""
    history = History()
    for at_ns, what, *rest in facts:
        history.add(at_ns, what, *rest)
    return [violation.name for violation in judge(history.entries, bounds)]


def held(mod, node, session, kind="failover", giver="", reason=""):
    return ("l0", mod, "held", node, session, kind, reason, giver)


class TestOneAnswers:
    def test_one_after_the_other_is_right(self):
        assert names((1, "present", "a", "l0"), (2, "absent", "a", "l0"), (2, "present", "b", "l0")) == []

    def test_two_leases_on_two_nodes_are_right(self):
        assert names((1, "present", "a", "l0"), (1, "present", "b", "l1")) == []

    def test_two_nodes_with_one_address_are_found(self):
        assert names((1, "present", "a", "l0"), (2, "present", "b", "l0")) == ["G1 two answer"]


class TestAnnouncedByWhoAnswers:
    def test_frames_of_who_answers_are_right(self):
        assert names((1, "present", "a", "l0"), (2, "frame", "a", "l0"), (3, "absent", "a", "l0")) == []

    def test_a_frame_after_another_has_taken_over_is_found(self):
        moved = ((1, "present", "a", "l0"), (2, "absent", "a", "l0"), (3, "present", "b", "l0"))
        assert names(*moved, (4, "frame", "a", "l0")) == ["G1 announced too late"]
        assert names(*moved, (4, "frame", "a", "l1")) == []


class TestNoLaterThanProven:
    RECORD = (10, "record", "a", 7, "live", 5, 1 * S, "store-a")

    def test_up_to_the_ttl_from_the_sending_is_right(self):
        assert names(self.RECORD, (11, "told", "a", "l0", 3, 7, 5 + S)) == []

    def test_longer_than_that_is_found(self):
        assert names(self.RECORD, (11, "told", "a", "l0", 3, 7, 6 + S)) == ["G5 longer than proven"]

    def test_a_shorter_ttl_that_is_written_while_one_means_to_serve_longer_is_found(self):
        lowered = (20, "record", "a", 7, "live", 15, S // 2, "store-a")
        assert names(self.RECORD, (11, "told", "a", "l0", 3, 7, 5 + S), lowered) == ["G5 longer than proven"]

    def test_who_has_taken_the_address_off_means_nothing_any_more(self):
        lowered = (20, "record", "a", 7, "live", 15, S // 2, "store-a")
        told = (11, "told", "a", "l0", 3, 7, 5 + S)
        assert names(self.RECORD, told, (12, "absent", "a", "l0"), lowered) == []
        assert names(self.RECORD, told, (12, "died", "a"), lowered) == []

    def test_who_has_let_go_of_a_lease_that_was_never_up_means_nothing_any_more(self):
        lowered = (20, "record", "a", 7, "live", 15, S // 2, "store-a")
        freed = (12, "claim", "l0", 9, "free", "", 0, "release", "", "a")
        assert names(self.RECORD, (11, "told", "a", "l0", 3, 7, 5 + S), freed, lowered) == []

    def test_an_older_record_that_is_put_back_late_shortens_nothing(self):
        late = (20, "record", "a", 7, "live", 2, S // 2, "store-a")
        assert names(self.RECORD, (11, "told", "a", "l0", 3, 7, 5 + S), late) == []

    def test_a_session_that_never_was_proves_nothing(self):
        assert names((11, "told", "a", "l0", 3, 9, 12)) == ["G5 longer than proven"]


class TestUnderItsClaim:
    RECORD = (1, "record", "a", 7, "live", 1, S, "store-a")

    def test_the_claim_that_names_the_session_is_right(self):
        assert names(self.RECORD, (2, "claim", *held(3, "a", 7)), (3, "told", "a", "l0", 3, 7, S)) == []

    @pytest.mark.parametrize(("token", "session"), [(2, 7), (3, 8)])
    def test_another_token_or_another_session_is_found(self, token, session):
        other = (1, "record", "a", 8, "live", 1, S, "store-a")
        claim = (2, "claim", *held(3, "a", 7))
        found = names(self.RECORD, other, claim, (3, "told", "a", "l0", token, session, S))
        assert found == ["G6 not its claim"]

    @pytest.mark.parametrize(("until_ns", "found"), [(3 + S, []), (3 * S, ["G6 not its claim"])])
    def test_a_claim_that_a_restored_snapshot_does_not_know_counts_for_one_ttl_more(self, until_ns, found):
        first, second = (2, "claim", *held(3, "a", 7)), (2, "claim", *held(9, "a", 7))
        longer = (3, "record", "a", 7, "live", 3 * S, S, "store-a")
        told = (4, "told", "a", "l0", 9, 7, until_ns)
        assert names(self.RECORD, first, second, (3, "restored", 5), longer, told) == found


class TestTokensGrow:
    def test_growing_tokens_are_right(self):
        assert names((1, "write", "a", "l0", 3), (2, "write", "a", "l0", 3), (3, "write", "b", "l0", 5)) == []

    def test_a_write_under_an_older_token_is_found(self):
        assert names((1, "write", "b", "l0", 5), (2, "write", "a", "l0", 3)) == ["G6 stale write accepted"]

    def test_a_restored_etcd_begins_anew(self):
        assert names((1, "write", "b", "l0", 5), (2, "restored", 2), (3, "write", "a", "l0", 3)) == []


class TestNothingAcknowledgedIsLost:
    RECORDS = (
        (1, "record", "a", 7, "live", 1, S, "store-a"),
        (1, "record", "b", 8, "live", 1, S, "store-b"),
    )

    def test_a_holder_with_everything_is_right(self):
        acked = (2, "ack", "l0", frozenset({"store-a", "store-b"}))
        assert names(*self.RECORDS, acked, (3, "claim", *held(9, "b", 8))) == []

    def test_a_holder_that_lacks_an_object_is_found(self):
        acked = (2, "ack", "l0", frozenset({"store-a"}))
        found = names(*self.RECORDS, acked, (3, "claim", *held(9, "b", 8)))
        assert found == ["G2 acknowledged object lost"]

    def test_what_an_operator_gave_up_is_not_asked_for(self):
        acked, given_up = (2, "ack", "l0", frozenset({"store-a"})), (3, "recovered", "l0")
        assert names(*self.RECORDS, acked, given_up, (4, "claim", *held(9, "b", 8))) == []
        assert names(*self.RECORDS, acked, given_up, (4, "claim", *held(9, "a", 7))) == []

    def test_a_loss_is_accepted_only_of_what_the_named_store_had_not(self):
        both, one = frozenset({"store-a", "store-b"}), frozenset({"store-a"})
        acked = (2, "ack", "l0", both), (2, "ack", "l0", one)
        given_up = (3, "accepted", "l0", "store-b")
        after = (4, "ack", "l0", frozenset({"store-b"}))
        assert names(*self.RECORDS, *acked, given_up, (5, "claim", *held(9, "b", 8))) == []
        late = names(*self.RECORDS, *acked, given_up, after, (5, "claim", *held(9, "a", 7)))
        assert late == ["G2 acknowledged object lost"]

    def test_a_store_that_was_brought_up_to_date_has_everything(self):
        acked = (2, "ack", "l0", frozenset({"store-a"}))
        copied = (3, "copied", "l0", "store-b")
        assert names(*self.RECORDS, acked, copied, (4, "claim", *held(9, "b", 8))) == []


class TestFreeMeansOff:
    def test_free_after_the_address_is_off_is_right(self):
        free = (3, "claim", "l0", 9, "free", "", 0, "release", "stop", "a")
        assert names((1, "present", "a", "l0"), (2, "absent", "a", "l0"), free) == []

    def test_free_while_the_address_is_on_is_found(self):
        free = (3, "claim", "l0", 9, "free", "", 0, "release", "stop", "a")
        assert names((1, "present", "a", "l0"), free) == ["let go while answering"]

    def test_a_handover_while_the_address_is_on_is_found(self):
        handed = (3, "claim", *held(9, "b", 8, kind="switchover", giver="a"))
        assert names((1, "present", "a", "l0"), handed) == ["let go while answering"]

    def test_a_take_from_a_silent_holder_is_judged_by_others(self):
        assert names((1, "present", "a", "l0"), (3, "claim", *held(9, "b", 8, giver="a"))) == []


def test_an_obeyed_order_against_an_older_token_is_found():
    claim = (1, "claim", *held(9, "b", 8, kind="switchover", reason="stale"))
    assert names(claim) == ["stale intent obeyed"]
    assert names((1, "claim", *held(9, "b", 8, kind="switchover", reason="order"))) == []


class TestCalm:
    def back(self, at_ns, mod):
        return (at_ns, "claim", *held(mod, "a", 7, kind="failback", giver="b"))

    def test_a_failback_after_the_hold_down_is_right(self):
        assert names((1, "registered", "a"), self.back(3 * S, 9)) == []

    def test_one_before_it_is_found(self):
        assert names((2 * S, "registered", "a"), self.back(3 * S, 9)) == ["G8 hold-down skipped"]

    def test_the_hold_down_counts_from_when_the_node_was_well_again(self):
        ill, well = (2 * S, "well", "a", "l0", False), (5 * S, "well", "a", "l0", True)
        assert names((1, "registered", "a"), ill, well, self.back(6 * S, 9)) == ["G8 hold-down skipped"]
        assert names((1, "registered", "a"), ill, well, self.back(7 * S, 9)) == []

    def test_a_failback_to_a_node_that_all_know_to_be_ill_is_found(self):
        facts = ((1, "registered", "a"), (4 * S, "well", "a", "l0", False), self.back(5 * S, 9))
        assert names(*facts) == ["G8 back to an ill node"]

    def test_one_that_crosses_the_news_is_right(self):
        facts = ((1, "registered", "a"), (4 * S, "well", "a", "l0", False), self.back(5 * S, 9))
        assert names(*facts, bounds=Bounds(2 * S, 2, 0, heard_ns=S)) == []

    def test_an_illness_that_the_holder_could_not_have_heard_of_begins_no_hold_down(self):
        ill, well = (4 * S, "well", "a", "l0", False), (4 * S + 1, "well", "a", "l0", True)
        facts = ((1, "registered", "a"), ill, well, self.back(5 * S, 9))
        assert names(*facts, bounds=Bounds(2 * S, 2, 0, heard_ns=S)) == []
        assert names(*facts, bounds=Bounds(2 * S, 2, 0, heard_ns=S // 2)) == ["G8 hold-down skipped"]

    def test_more_than_the_budget_within_an_hour_is_found(self):
        moves = [self.back(at * S, at) for at in (10, 20, 30)]
        assert names((1, "registered", "a"), *moves) == ["G8 flap budget"]

    def test_a_failback_that_was_deleted_by_hand_before_anyone_answered_does_not_count(self):
        gone = (15 * S, "claim", "l0", 0, "absent", "", 0, "", "", "")
        facts = [
            (1, "registered", "a"),
            self.back(10 * S, 9),
            gone,
            self.back(20 * S, 10),
            self.back(30 * S, 11),
        ]
        assert names(*facts) == []
        assert names(facts[0], facts[1], (11 * S, "present", "a", "l0"), *facts[2:]) == ["G8 flap budget"]

    def test_an_hour_later_it_is_there_again(self):
        moves = [self.back(at_ns, 9) for at_ns in (10 * S, 20 * S, 11 * S + HOUR_NS)]
        assert names((1, "registered", "a"), *moves) == []


class TestBoundedTakeover:
    def test_another_node_in_time_is_right(self):
        facts = ((1, "present", "a", "l0"), (2 * S, "died", "a"), (3 * S, "absent", "a", "l0"))
        assert names(*facts, (4 * S, "present", "b", "l0"), (20 * S, "ended")) == []

    def test_too_late_is_found(self):
        facts = ((1, "present", "a", "l0"), (2 * S, "died", "a"), (3 * S, "absent", "a", "l0"))
        assert names(*facts, (6 * S, "present", "b", "l0"), (20 * S, "ended")) == ["G3 late takeover"]

    def test_never_is_found_at_the_end(self):
        facts = ((1, "present", "a", "l0"), (2 * S, "died", "a"), (3 * S, "absent", "a", "l0"))
        assert names(*facts, (20 * S, "ended")) == ["G3 no takeover"]

    def test_without_a_bound_nothing_is_judged(self):
        facts = ((1, "present", "a", "l0"), (2 * S, "died", "a"), (20 * S, "ended"))
        assert names(*facts, bounds=Bounds(2 * S, 2, 0)) == []


def test_what_did_not_heal_is_found():
    assert names((1, "unhealed", "l0 is held by nobody")) == ["not healed"]


def test_violations_come_in_the_order_of_time_and_speak_for_themselves():
    history = History()
    for at_ns, what, *facts in (
        (5 * MS, "unhealed", "l0"), (1 * MS, "present", "a", "l0"), (2 * MS, "present", "b", "l0"),
    ):  # fmt: skip
        history.add(at_ns, what, *facts)
    found = judge(history.entries, BOUNDS)
    assert [violation.at_ns for violation in found] == [2 * MS, 5 * MS]
    assert str(found[0]) == "G1 two answer at 0.002000 s: l0: b and a"
    assert isinstance(found[0], Violation)


def test_a_checker_can_be_left_out():
    history = History()
    history.add(1, "unhealed", "l0")
    assert judge(history.entries, BOUNDS, {"converged": False}) == []


def test_a_history_is_kept_as_one_line_a_fact(tmp_path):
    history = History()
    history.add(1, "ack", "l0", frozenset({"b", "a"}))
    history.save(tmp_path / "history")
    assert (tmp_path / "history").read_text() == '[1, "ack", "l0", ["a", "b"]]\n'
