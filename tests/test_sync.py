from __future__ import annotations

import pytest

from marketprism_ray.errors import BookError
from marketprism_ray.sync import SNAPSHOT_ID, TRANSITIONS, BookSync, Event, State
from marketprism_ray.venue import BookCodec, Delta, Snapshot, WireLevel
from marketprism_ray.venues import VENUES


class Log:
    """Outputs that write down what was asked."""

    def __init__(self) -> None:
        self.steps: list[tuple[object, ...]] = []

    def delta(self, delta: Delta, previous: int, received: int) -> None:
        self.steps.append(("delta", previous, delta.last))

    def fetch_snapshot(self, attempt: int) -> None:
        self.steps.append(("fetch", attempt))

    def resubscribe(self) -> None:
        self.steps.append(("resubscribe",))

    def gap_opened(self, reason: str, last: int, time: int) -> None:
        self.steps.append(("gap", reason, last))

    def gap_closed(self, last: int, time: int, received: int, *, is_whole: bool) -> None:
        self.steps.append(("whole" if is_whole else "closed", last))


def codec(venue: str) -> BookCodec:
    found = VENUES[venue].channel("orderbook").codec
    assert isinstance(found, BookCodec)
    return found


def make(venue: str) -> tuple[BookSync, Log]:
    log = Log()
    return BookSync(codec(venue), log, None), log


def spot(first: int, last: int, price: str = "10", quantity: str = "1") -> Delta:
    return Delta(first, last, None, 1, [WireLevel(price, quantity)], [])


def chained(previous: int, last: int, *, price: str = "10", quantity: str = "1", checksum: int = 0) -> Delta:
    return Delta(last, last, previous, 1, [WireLevel(price, quantity)], [], checksum=checksum)


def whole(last: int, *, bid: str = "9", ask: str = "20") -> Delta:
    return Delta(last, last, -1, 1, [WireLevel(bid, "1")], [WireLevel(ask, "1")], is_snapshot=True)


def rest(last: int) -> Snapshot:
    return Snapshot(last, 1, [WireLevel("9", "1")], [WireLevel("20", "1")])


def test_snapshot_is_spliced_with_the_held_deltas_that_follow_it() -> None:
    sync, log = make("binance_spot")
    sync.subscribed()
    for delta in (spot(1, 3), spot(4, 6), spot(7, 9)):
        sync.delta(delta, 0)
    sync.snapshot(rest(5), 0)
    assert sync.state is State.LIVE
    assert log.steps == [("fetch", 0), ("delta", SNAPSHOT_ID, 5), ("delta", 5, 6), ("delta", 6, 9)]
    assert sync.counts["dropped"] == 1


def test_snapshot_older_than_the_first_held_delta_is_fetched_again_later() -> None:
    sync, log = make("binance_spot")
    sync.subscribed()
    sync.delta(spot(10, 12), 0)
    sync.snapshot(rest(5), 0)
    assert (sync.state, log.steps[-1]) == (State.SYNCING, ("fetch", 1))
    sync.snapshot(rest(9), 0)
    assert (sync.state, sync.last) == (State.LIVE, 12)


def test_a_perfectly_adjacent_first_delta_is_accepted() -> None:
    sync, _ = make("binance_spot")
    sync.subscribed()
    sync.snapshot(rest(5), 0)
    sync.delta(spot(6, 7), 0)
    assert (sync.state, sync.last) == (State.LIVE, 7)


def test_a_delta_older_than_a_snapshot_nothing_has_continued_is_stale() -> None:
    sync, _ = make("binance_spot")
    sync.subscribed()
    sync.snapshot(rest(5), 0)
    sync.delta(spot(1, 4), 0)
    assert (sync.state, sync.last, sync.counts["stale"]) == (State.LIVE, 5, 1)


def test_gap_in_live_book_emits_gap_and_resyncs() -> None:
    sync, log = make("binance_spot")
    sync.subscribed()
    sync.snapshot(rest(5), 0)
    sync.delta(spot(8, 9), 0)
    assert sync.state is State.SYNCING
    assert log.steps[-2:] == [("gap", "sequence", 5), ("fetch", 0)]
    with pytest.raises(BookError, match="not live"):
        sync.best()
    sync.snapshot(rest(8), 0)
    assert sync.state is State.LIVE
    assert log.steps[-3:] == [("delta", SNAPSHOT_ID, 8), ("closed", 8), ("delta", 8, 9)]


def test_only_the_first_loss_of_a_live_book_opens_a_gap() -> None:
    sync, log = make("binance_spot")
    sync.subscribed()
    sync.snapshot(rest(5), 0)
    sync.closed("disconnected")
    sync.subscribed()
    sync.closed("disconnected")
    assert [step for step in log.steps if step[0] == "gap"] == [("gap", "disconnected", 5)]


def test_failed_snapshots_are_asked_for_again_with_growing_attempts() -> None:
    sync, log = make("binance_spot")
    sync.subscribed()
    sync.snapshot_failed("timeout")
    sync.snapshot_failed("timeout")
    assert log.steps == [("fetch", 0), ("fetch", 1), ("fetch", 2)]


def test_a_level_that_is_no_number_takes_the_book_down_not_the_program() -> None:
    sync, log = make("binance_spot")
    sync.subscribed()
    sync.snapshot(rest(5), 0)
    sync.delta(spot(6, 6, quantity="NaN"), 0)
    assert (sync.state, log.steps[-2]) == (State.SYNCING, ("gap", "malformed", 5))


def test_a_crossed_book_is_taken_down() -> None:
    sync, log = make("binance_spot")
    sync.subscribed()
    sync.snapshot(rest(5), 0)
    sync.delta(spot(6, 6, price="25"), 0)
    assert sync.state is State.SYNCING
    assert ("gap", "crossed", 6) in log.steps


def test_pushed_snapshot_makes_the_book_live_and_a_second_one_replaces_it() -> None:
    sync, log = make("okx_spot")
    sync.subscribed()
    sync.delta(whole(5), 0)
    sync.delta(whole(7, bid="8"), 0)
    bid, _ = sync.best()
    assert bid == WireLevel("8", "1")
    assert log.steps == [
        ("delta", SNAPSHOT_ID, 5), ("gap", "resubscribed", 5), ("delta", SNAPSHOT_ID, 7), ("closed", 7)]  # fmt: skip


def test_updates_queued_before_a_pushed_snapshot_are_part_of_it() -> None:
    sync, log = make("okx_spot")
    sync.subscribed()
    sync.delta(chained(1, 2), 0)
    sync.delta(whole(5), 0)
    assert log.steps == [("delta", SNAPSHOT_ID, 5)]


def test_keep_alive_duplicate_and_sequence_reset_are_no_gaps() -> None:
    sync, log = make("okx_spot")
    sync.delta(whole(5), 0)
    sync.delta(Delta(5, 5, 5, 2, [], []), 0)
    sync.delta(chained(5, 8), 0)
    sync.delta(chained(5, 8), 0)
    sync.delta(chained(8, 3), 0)
    sync.delta(chained(3, 4), 0)
    assert (sync.state, sync.last, sync.counts["stale"]) == (State.LIVE, 4, 1)
    assert log.steps == [("delta", SNAPSHOT_ID, 5), ("delta", 5, 8), ("delta", 8, 3), ("delta", 3, 4)]


def test_a_broken_chain_of_a_pushing_channel_resubscribes() -> None:
    sync, log = make("okx_spot")
    sync.delta(whole(5), 0)
    sync.delta(chained(6, 8), 0)
    assert log.steps[-2:] == [("gap", "sequence", 5), ("resubscribe",)]
    sync.delta(chained(8, 9), 0)  # ignored until the snapshot
    sync.delta(whole(20), 0)
    assert log.steps[-1] == ("closed", 20)


def test_checksum_is_compared_only_while_it_is_not_zero() -> None:
    sync, log = make("okx_spot")
    sync.delta(whole(5), 0)
    sync.delta(chained(5, 6, checksum=0), 0)
    assert sync.state is State.LIVE
    sync.delta(chained(6, 7, checksum=12345), 0)
    assert sync.state is State.SYNCING
    assert ("gap", "checksum", 7) in log.steps


def test_an_overdue_pushed_snapshot_is_taken_from_rest_and_spliced() -> None:
    sync, log = make("okx_spot")
    sync.subscribed()
    sync.overdue()
    sync.delta(chained(5, 8), 0)
    sync.snapshot(rest(6), 0)
    assert (sync.state, sync.last) == (State.LIVE, 8)
    assert log.steps == [("fetch", 0), ("delta", SNAPSHOT_ID, 6), ("delta", 6, 8)]


def test_every_transition_of_the_table_leads_to_a_state_and_closed_is_always_possible() -> None:
    assert {(state, Event.CLOSED) for state in State} <= set(TRANSITIONS)
    sync, _ = make("binance_spot")
    with pytest.raises(BookError, match="cannot happen in state cold"):
        sync._move(Event.SNAPSHOT, "")
