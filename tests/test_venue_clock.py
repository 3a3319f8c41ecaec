"""The time at a venue: from rows and from the heads of answers, whatever our own clock does."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketprism_ray.rest import sent_at
from marketprism_ray.venue_clock import VenueClock

SECOND = 1_000_000_000
T0 = 1_795_132_800 * SECOND


@given(
    st.lists(st.tuples(st.integers(0, 10**10), st.integers(0, 10**9)), min_size=1),
    st.integers(-4_000, 4_000),
    st.lists(st.integers(-4_000, 4_000), max_size=3),
)
def test_the_time_worked_out_is_never_late_and_as_good_as_the_quickest_row(
    rows: list[tuple[int, int]], offset_s: int, steps: list[int]
) -> None:
    clock, ours = VenueClock(), offset_s * SECOND
    for number, (age, lag) in enumerate(rows):
        there = T0 + number * SECOND
        clock.row(there - age, there + lag + ours)
        if number < len(steps):
            ours += steps[number] * SECOND
            clock.clock_stepped(steps[number] * SECOND)
    told = [(age, lag) for age, lag in rows]
    at = clock.at(T0 + ours)
    if at is not None:
        assert at <= T0
        assert at >= T0 - max(age + lag for age, lag in told)


def test_rows_stamped_by_their_receipt_tell_nothing() -> None:
    clock = VenueClock()
    clock.row(T0, T0)
    assert clock.at(T0) is None


def test_the_head_of_an_answer_counts_until_a_row_has_come() -> None:
    clock = VenueClock()
    clock.head(T0, T0 + 5 * SECOND)
    assert clock.at(T0 + 6 * SECOND) == T0 + SECOND
    clock.row(T0, T0 + 70 * SECOND)
    assert clock.at(T0 + 71 * SECOND) == T0 + SECOND


@pytest.mark.parametrize(
    ("head", "at"),
    [({"Date": "Thu, 19 Nov 2026 00:00:00 GMT"}, 1_795_046_400 * SECOND), ({"Date": "soon"}, None), ({}, None)],
)
def test_when_an_answer_was_sent(head: dict[str, Any], at: int | None) -> None:
    assert sent_at(head) == at
