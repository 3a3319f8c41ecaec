"""Lines of time: what is emitted is stored or lies in a hole, and no hole claims what is stored."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketprism_ray.bars import before_opening, candles_between, following
from marketprism_ray.continuity import Bars, Hole, Polls, Pushes

SECOND = 1_000_000_000
T0 = 1_795_132_800 * SECOND
MINUTE = 60 * SECOND


def final(holes: list[Hole]) -> list[Hole]:
    """Keep the last row of each key, and those that claim something."""
    last = {hole.opened_at: hole for hole in holes}
    return [hole for hole in last.values() if hole.missing != 0]


class World:
    """A venue, a network with a fixed delay and a venue's clock that is wrong by some time, and a line."""

    def __init__(self, line: Pushes, delay: int, offset: int) -> None:
        self.line, self.delay, self.offset = line, delay, offset
        self.now = T0
        self.emitted: list[int] = []
        self.stored: list[int] = []
        self.holes: list[Hole] = []
        self.connected = False
        self.heard = T0

    def say(self, at: int) -> None:
        """The venue pushes a row; it arrives if the socket lives."""
        stamp = at + self.offset
        self.emitted.append(stamp)
        if self.connected:
            self.now = self.heard = at + self.delay
            self.stored.append(stamp)
            self.holes += self.line.row(stamp, self.now)


STEPS = st.lists(st.tuples(st.sampled_from(["row", "cut", "accept", "tick", "quiet"]), st.integers(1, 40)), max_size=60)


@given(STEPS, st.integers(0, 200), st.integers(-3, 3), st.booleans())
def test_what_was_pushed_is_stored_or_in_a_hole_and_no_hole_claims_a_stored_row(
    steps: list[tuple[str, int]], delay_ms: int, offset_s: int, is_regular: bool
) -> None:
    line = Pushes(SECOND, SECOND) if is_regular else Pushes()
    world = World(line, delay_ms * 1_000_000, offset_s * SECOND)
    at, begun = T0, None
    for what, tenths in steps:
        if is_regular and what == "row":
            at += SECOND
            world.say(at)
            world.holes += line.tick(at + world.delay)
            continue
        if is_regular:
            # The clock of a regular venue goes on, whoever listens.
            for _ in range(tenths // 10):
                at += SECOND
                world.say(at)
        else:
            at += tenths * SECOND // 10
        now = at + world.delay
        if what == "row":
            world.say(at)
        elif what == "cut" and world.connected:
            world.connected = False
            line.interrupted(now, "disconnected", world.heard)
        elif what == "accept" and not world.connected:
            world.connected = True
            begun = begun or at
            line.accepted(now)
            world.heard = now
        elif what == "tick":
            world.holes += line.tick(now)
    if begun is None:
        assert world.holes == []
        return
    world.connected = True
    line.accepted(at + world.delay)
    for _ in range(12):
        at += SECOND
        world.say(at)
        world.holes += line.tick(at + world.delay)
    holes = final(world.holes)
    assert all(hole.closed_at is not None for hole in holes)
    # Before its first row nobody knows how wrong the venue's clock is.
    known_from = begun if not world.offset and not world.delay else min(world.stored) - world.offset
    for stamp in set(world.emitted) - set(world.stored):
        if stamp > known_from + world.offset:
            assert any(hole.opened_at <= stamp <= (hole.closed_at or 0) for hole in holes)
    for hole in holes:
        assert not any(hole.opened_at < stamp < (hole.closed_at or 0) for stamp in world.stored)
    spans = sorted((hole.opened_at, hole.closed_at or 0) for hole in holes)
    assert all(one[1] <= other[0] for one, other in pairwise(spans))
    if is_regular:
        for hole in holes:
            claims = any(hole.opened_at < stamp < (hole.closed_at or 0) for stamp in world.emitted)
            assert claims or hole.opened_at < min(world.stored)


def test_events_of_one_time_are_no_repeat() -> None:
    line = Pushes(repeats=False)
    line.accepted(T0)
    assert line.row(T0 + SECOND, T0 + SECOND) == ()
    line.interrupted(T0 + SECOND, "disconnected", T0 + SECOND)
    line.accepted(T0 + 2 * SECOND)
    assert line.row(T0 + SECOND, T0 + 2 * SECOND) == ()
    assert line.tick(T0 + 5 * SECOND) == (Hole(T0 + SECOND, T0 + 2 * SECOND, "disconnected"),)


@pytest.mark.parametrize("offset_s", [-3_600, -70, 4, 3_600])
def test_a_line_without_a_row_yet_goes_by_the_delay_of_others(offset_s: int) -> None:
    line, ours = Pushes(), T0 + offset_s * SECOND
    line.accepted(ours, offset_s * SECOND)
    line.interrupted(ours + 10 * SECOND, "disconnected", ours + 10 * SECOND)
    line.accepted(ours + 20 * SECOND, offset_s * SECOND)
    (hole,) = line.tick(ours + 23 * SECOND)
    assert hole.opened_at <= T0 + 10 * SECOND
    assert hole.closed_at is not None
    assert T0 + 20 * SECOND <= hole.closed_at <= T0 + 22 * SECOND


def started(line: Pushes) -> Pushes:
    line.accepted(T0)
    assert line.row(T0 + SECOND, T0 + SECOND) == ()
    return line


def test_a_planned_replacement_leaves_no_hole() -> None:
    line = started(Pushes(SECOND, SECOND))
    for n in range(2, 30):
        assert line.row(T0 + n * SECOND, T0 + n * SECOND) == ()
        assert line.row(T0 + n * SECOND, T0 + n * SECOND) == ()  # the other socket brings it as well
        assert line.tick(T0 + n * SECOND) == ()


def test_a_short_cut_of_a_regular_stream_that_lost_nothing_is_no_hole() -> None:
    line = started(Pushes(SECOND, SECOND))
    line.interrupted(T0 + SECOND * 3 // 2, "disconnected", T0 + SECOND)
    line.accepted(T0 + SECOND * 7 // 4)
    assert line.row(T0 + 2 * SECOND, T0 + 2 * SECOND) == ()


def test_a_hole_of_events_is_the_time_without_a_connection_and_ends_without_an_event() -> None:
    line = started(Pushes())
    line.interrupted(T0 + 100 * SECOND, "disconnected", T0 + 100 * SECOND)
    (opened,) = line.tick(T0 + 102 * SECOND)
    assert opened.closed_at is None
    assert T0 + 99 * SECOND < opened.opened_at <= T0 + 100 * SECOND
    line.accepted(T0 + 130 * SECOND)
    assert line.tick(T0 + 131 * SECOND) == ()
    assert line.tick(T0 + 133 * SECOND) == (Hole(opened.opened_at, T0 + 130 * SECOND, "disconnected"),)
    assert line.tick(T0 + 500 * SECOND) == ()


def test_a_late_first_row_does_not_end_a_hole_before_the_subscription() -> None:
    line = Pushes()
    line.resume(T0)
    line.accepted(T0 + 10 * SECOND)
    assert line.row(T0 + 10 * SECOND, T0 + 12 * SECOND) == (Hole(T0, T0 + 10 * SECOND, "collector_lost"),)


def test_a_row_that_the_venue_repeats_to_a_new_subscriber_proves_that_nothing_was_missed() -> None:
    line = started(Pushes())
    line.interrupted(T0 + 10 * SECOND, "disconnected", T0 + 10 * SECOND)
    assert len(line.tick(T0 + 12 * SECOND)) == 1
    line.accepted(T0 + 13 * SECOND)
    (none,) = line.row(T0 + SECOND, T0 + 13 * SECOND)
    assert none.missing == 0


def test_silence_of_a_stream_with_a_cadence_is_a_hole_and_an_event_stream_may_be_silent() -> None:
    line, events = started(Pushes(SECOND, SECOND)), started(Pushes())
    assert line.tick(T0 + 5 * SECOND) == ()
    (opened,) = line.tick(T0 + 7 * SECOND)
    assert opened == Hole(T0 + SECOND, None, "silent")
    assert line.row(T0 + 9 * SECOND, T0 + 9 * SECOND) == (Hole(T0 + SECOND, T0 + 9 * SECOND, "silent"),)
    assert events.tick(T0 + 3_600 * SECOND) == ()


def test_what_was_only_late_was_not_silent() -> None:
    line = started(Pushes(SECOND, SECOND))
    assert len(line.tick(T0 + 7 * SECOND)) == 1
    (none,) = line.row(T0 + 2 * SECOND, T0 + 9 * SECOND)
    assert none.missing == 0


def test_a_frame_that_was_not_understood_is_a_hole_about_its_time() -> None:
    line = started(Pushes())
    line.row(T0 + 5 * SECOND, T0 + 5 * SECOND)
    line.malformed(T0 + 6 * SECOND)
    (hole,) = line.row(T0 + 60 * SECOND, T0 + 60 * SECOND)
    assert hole.opened_at <= T0 + 6 * SECOND <= (hole.closed_at or 0) <= T0 + 7 * SECOND


def test_a_successor_misses_everything_since_the_last_durable_row() -> None:
    line = Pushes()
    line.resume(T0)
    line.accepted(T0 + 30 * SECOND)
    (hole,) = line.row(T0 + 40 * SECOND, T0 + 40 * SECOND)
    assert hole == Hole(T0, T0 + 30 * SECOND, "collector_lost")


@given(st.lists(st.tuples(st.integers(0, 12), st.booleans()), max_size=40), st.booleans())
def test_each_candle_is_stored_with_its_final_values_or_in_a_hole(
    seen: list[tuple[int, bool]], has_ticks: bool
) -> None:
    line, holes, final_ones, newest = Bars("1m"), [], set(), -1
    first = None
    for number, is_closed in seen:
        if number < newest:
            continue  # a venue does not go back
        newest = number
        first = number if first is None else first
        if number in final_ones:
            continue
        if has_ticks:
            holes += line.tick(T0 + number * MINUTE)
        holes += line.row(T0 + number * MINUTE, T0 + (number + 1) * MINUTE, is_closed)
        if is_closed:
            final_ones.add(number)
    if first is None:
        return
    holes += line.row(T0 + 20 * MINUTE, T0 + 21 * MINUTE, True)
    claimed = [
        number
        for hole in final(holes)
        for number in range(20)
        if hole.opened_at < T0 + number * MINUTE < (hole.closed_at or 0)
    ]
    assert sorted(claimed) == sorted(set(range(first, 20)) - final_ones)
    assert sum(hole.missing or 0 for hole in final(holes)) == len(claimed)


def test_a_candle_whose_end_does_not_come_is_a_hole_until_it_comes() -> None:
    line = Bars("1m")
    assert line.row(T0, T0 + MINUTE, False) == ()
    assert line.tick(T0 + MINUTE + 4 * SECOND) == ()
    assert line.tick(T0 + MINUTE + 6 * SECOND) == (Hole(T0 - MINUTE, None, "bar_missing"),)
    assert line.tick(T0 + 2 * MINUTE) == ()
    (none,) = line.row(T0, T0 + MINUTE, True)
    assert (none.opened_at, none.missing) == (T0 - MINUTE, 0)


def test_months_are_of_the_calendar() -> None:
    january = 1_767_225_600 * SECOND
    assert following(january, "1M") - january == 31 * 86_400 * SECOND
    assert following(following(january, "1M", 14), "1M", -14) == january
    assert candles_between(january, following(january, "1M", 5), "1M") == 5
    assert candles_between(T0, T0, "1h") == 0
    assert before_opening(january + 40 * 86_400 * SECOND, "1M") == january
    assert before_opening(T0 + 90 * SECOND, "1m") == T0
    week = before_opening(january, "1w")
    assert (week // (86_400 * SECOND) + 3) % 7 == 0, "a Monday"


EVERY = 300 * SECOND


def test_a_poll_that_failed_is_a_hole_until_one_succeeds() -> None:
    line = Polls(EVERY, shows_past=False)
    assert line.failed(T0) == ()
    assert line.succeeded([T0], T0) == ()
    assert line.failed(T0 + EVERY) == (Hole(T0, None, "poll_failed"),)
    assert line.failed(T0 + 2 * EVERY) == ()
    assert line.succeeded([T0 + 3 * EVERY], T0 + 3 * EVERY) == (Hole(T0, T0 + 3 * EVERY, "poll_failed", 2),)
    assert line.succeeded([T0 + 4 * EVERY], T0 + 4 * EVERY) == ()


def test_a_poll_that_was_not_made_is_a_hole() -> None:
    line = Polls(EVERY, shows_past=False)
    line.succeeded([T0], T0)
    assert line.tick(T0 + EVERY) == ()
    assert line.tick(T0 + 3 * EVERY) == (Hole(T0, None, "poll_missed"),)
    assert line.succeeded([T0 + 4 * EVERY], T0 + 4 * EVERY) == (Hole(T0, T0 + 4 * EVERY, "poll_missed", 3),)


@pytest.mark.parametrize(("oldest", "missing"), [(-1, 0), (3, None)])
def test_an_answer_with_the_last_rows_makes_up_for_missed_polls_as_far_as_it_reaches(
    oldest: int, missing: int | None
) -> None:
    line = Polls(EVERY, shows_past=True)
    line.succeeded([T0], T0)
    assert len(line.failed(T0 + EVERY)) == 1
    answer = [T0 + n * EVERY for n in range(oldest, 6)]
    (hole,) = line.succeeded(answer, T0 + 6 * EVERY)
    assert hole.missing == missing
    assert missing == 0 or hole.closed_at == answer[0]


def test_a_successor_that_hears_late_how_far_its_predecessor_came_writes_the_same_hole() -> None:
    early, late = Pushes(), Pushes()
    early.resume(T0)
    for line in (early, late):
        line.accepted(T0 + 30 * SECOND)
    (hole,) = early.row(T0 + 40 * SECOND, T0 + 40 * SECOND)
    assert late.row(T0 + 40 * SECOND, T0 + 40 * SECOND) == ()
    assert late.resume(T0) == (hole,) == (Hole(T0, T0 + 30 * SECOND, "collector_lost"),)


def test_a_successor_goes_on_with_a_hole_that_lasted() -> None:
    line = Pushes()
    line.resume(T0, T0 + 5 * SECOND, "disconnected")
    line.accepted(T0 + 30 * SECOND)
    assert line.row(T0 + 40 * SECOND, T0 + 40 * SECOND) == (Hole(T0 + 5 * SECOND, T0 + 30 * SECOND, "disconnected"),)


def test_candles_between_two_collectors_are_missing_whenever_that_is_heard() -> None:
    early, late = Bars("1m"), Bars("1m")
    early.resume(T0)
    (hole,) = early.row(T0 + 3 * MINUTE, T0 + 4 * MINUTE, False)
    assert late.row(T0 + 3 * MINUTE, T0 + 4 * MINUTE, False) == ()
    assert late.resume(T0) == (hole,) == (Hole(T0, T0 + 3 * MINUTE, "collector_lost", 2),)


def test_a_restart_within_a_poll_period_misses_no_poll_and_a_longer_one_does() -> None:
    short, long = Polls(EVERY, shows_past=False), Polls(EVERY, shows_past=False)
    for line in (short, long):
        line.resume(T0)
    assert short.succeeded([T0 + EVERY // 3], T0 + EVERY // 3) == ()
    assert long.succeeded([T0 + 4 * EVERY], T0 + 4 * EVERY) == (Hole(T0, T0 + 4 * EVERY, "collector_lost", 3),)


def test_gaps_are_tallied_by_data_type_and_reason() -> None:
    from marketprism_ray.metrics import figures
    from marketprism_ray.records import Gap
    from marketprism_ray.tally import GapTally

    def gap(closed: int | None, status: str, data_type: str = "ticker", reason: str = "silent") -> Gap:
        return Gap(
            exchange_name="x", market_type="spot", symbol_name="A", timestamp=T0, receive_timestamp=T0, source="stream",
            data_type=data_type, reason=reason, opened_at=T0, status=status,  # type: ignore[arg-type]
            closed_at=None if closed is None else T0 + closed * SECOND,
        )  # fmt: skip

    tally = GapTally()
    tally.note(gap(None, "unrepairable"))
    tally.note(gap(7, "open", "kline", "disconnected"))
    assert tally.open == 2
    tally.note(gap(5, "unrepairable"))
    tally.note(gap(7, "repaired", "kline", "disconnected"))
    assert tally.open == 0
    assert tally.rows() == [
        {"data_type": "kline", "reason": "disconnected", "open": 0, "seconds": 7.0},
        {"data_type": "ticker", "reason": "silent", "open": 0, "seconds": 5.0},
    ]
    status = {"shard": "s", "venue": "v", "gaps": tally.rows()}
    seen = {(metric.name, labels["data_type"]): value for metric, labels, value in figures(status)}
    assert seen["marketprism_gap_seconds", "ticker"] == 5.0
    assert seen["marketprism_gaps_open", "kline"] == 0
