"""Sets of sequences against plain Python sets."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from marketprism_ray.extents import Claim, Extents, Hole, Run, runs_of

RANGES = st.lists(
    st.tuples(st.integers(0, 40), st.integers(0, 8)).map(lambda pair: (pair[0], pair[0] + pair[1])), max_size=12
)


def made(ranges: list[tuple[int, int]]) -> tuple[Extents, set[int]]:
    """Make both; the time of each sequence is ten times itself."""
    extents = Extents((low, high, low * 10, high * 10) for low, high in ranges)
    return extents, {n for low, high in ranges for n in range(low, high + 1)}


def check(extents: Extents, expected: set[int]) -> None:
    runs = extents.runs()
    assert {n for run in runs for n in range(run.low, run.high + 1)} == expected
    assert all(one.high + 1 < two.low for one, two in pairwise(runs)), "disjoint, in order, joined"


@given(RANGES)
def test_ranges_are_joined_and_know_the_times_of_their_ends(ranges: list[tuple[int, int]]) -> None:
    extents, expected = made(ranges)
    check(extents, expected)
    assert all((run.began, run.ended) == (run.low * 10, run.high * 10) for run in extents.runs())
    assert extents == Extents(extents.runs())
    assert runs_of((n, n, n * 10) for n in expected) == extents.runs()


@given(RANGES, RANGES)
def test_taking_out_leaves_the_rest(ranges: list[tuple[int, int]], out: list[tuple[int, int]]) -> None:
    extents, expected = made(ranges)
    for low, high in out:
        extents.subtract(low, high)
        expected -= set(range(low, high + 1))
    check(extents, expected)


@given(RANGES, RANGES)
def test_what_is_in_both(one: list[tuple[int, int]], two: list[tuple[int, int]]) -> None:
    (left, first), (right, second) = made(one), made(two)
    both = left.intersection(right)
    check(both, first & second)
    assert both == right.intersection(left)
    assert all((run.began, run.ended) == (run.low * 10, run.high * 10) for run in both.runs())
    merged = Claim(left.runs()).merged(Claim(right.runs()))
    check(Extents(merged.runs), first | second)


@given(RANGES, st.integers(0, 50), st.integers(-3, 15))
def test_what_is_missing_covered_and_counted(ranges: list[tuple[int, int]], low: int, length: int) -> None:
    extents, expected = made(ranges)
    high = low + length
    wanted = set(range(low, high + 1))
    holes = extents.missing(low, high)
    assert {n for hole in holes for n in range(hole.low, hole.high + 1)} == wanted - expected
    assert extents.covers(low, high) == (wanted <= expected)
    assert extents.touches(low, high) == bool(wanted & expected)
    assert extents.count(low, high) == len(wanted & expected)
    at = extents.run_at(low)
    assert (at is not None) == (low in expected)
    before, after = extents.before(low), extents.after(low)
    assert (None if before is None else before.high) == max(
        (r.high for r in extents.runs() if r.high < low), default=None
    )
    assert (None if after is None else after.low) == min((r.low for r in extents.runs() if r.low > low), default=None)


def test_holes_lie_between_the_first_and_the_last_range() -> None:
    extents, _ = made([(5, 7), (10, 10), (20, 30)])
    assert extents.holes() == [Hole(8, 9), Hole(11, 19)]
    assert (extents.first, extents.last) == (Run(5, 7, 50, 70), Run(20, 30, 200, 300))


def test_a_later_counting_makes_the_earlier_one_mean_nothing() -> None:
    old, new = Claim((Run(1, 900, 1, 2),)), Claim((Run(1, 3, 8, 9),), since=7)
    assert old.merged(new) == new.merged(old) == new
