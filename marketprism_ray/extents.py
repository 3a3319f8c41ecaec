"""Sets of sequence numbers as ranges: what of a stream is stored, what is missing, what a batch carries.

Pure. Ranges are inclusive. A range knows when its first and its last record happened, so that a hole between two of
them can say since when and until when it lasts. Where ranges meet they become one, so that a stream without a hole is
one range however long it is.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple


class Run(NamedTuple):
    """Sequences without a hole."""

    low: int
    high: int
    began: int
    """Time of the record at ``low``, ns."""
    ended: int
    """Time of the record at ``high``, ns."""


class Hole(NamedTuple):
    """Sequences that are missing."""

    low: int
    high: int


class Claim(NamedTuple):
    """What a batch carries of a stream, or what a sink has of it."""

    runs: tuple[Run, ...]
    since: int = 0
    """When the venue began to count as it does now, ns; 0 if it has counted on ever since. A later beginning makes
    earlier sequences mean nothing."""

    def merged(self, other: Claim) -> Claim:
        """Give both together; of two countings only the later one."""
        if self.since != other.since:
            return max(self, other, key=lambda claim: claim.since)
        together = Extents(self.runs)
        together.update(other.runs)
        return Claim(together.runs(), self.since)

    def without(self, ranges: Iterable[tuple[int, int]]) -> Claim:
        """Give it without some ranges, first and last sequence each."""
        left = Extents(self.runs)
        for low, high in ranges:
            left.subtract(low, high)
        return Claim(left.runs(), self.since)


NOTHING = Claim(())


class Extents:
    """A set of sequences.

    Parameters
    ----------
    runs : in any order, overlapping or not
    """

    __slots__ = ("_highs", "_runs")

    def __init__(self, runs: Iterable[Sequence[int]] = ()) -> None:
        self._runs: list[Run] = []
        self._highs: list[int] = []
        self.update(runs)

    def update(self, runs: Iterable[Sequence[int]]) -> None:
        """Add ranges."""
        for run in runs:
            self.add(*run)

    def add(self, low: int, high: int, began: int, ended: int) -> None:
        """Add a range; where it meets others they become one."""
        if low > high:
            return
        runs, highs = self._runs, self._highs
        # The usual case first: it continues the last range.
        if runs and runs[-1].high == low - 1:
            runs[-1] = Run(runs[-1].low, high, runs[-1].began, ended)
            highs[-1] = high
            return
        start = end = bisect_left(highs, low - 1)
        while end < len(runs) and runs[end].low <= high + 1:
            other = runs[end]
            if other.low < low:
                low, began = other.low, other.began
            if other.high > high:
                high, ended = other.high, other.ended
            end += 1
        runs[start:end] = [Run(low, high, began, ended)]
        highs[start:end] = [high]

    def subtract(self, low: int, high: int) -> None:
        """Take a range out. The edges that this makes get the times of what was next to them."""
        runs, highs = self._runs, self._highs
        start = end = bisect_left(highs, low)
        left: list[Run] = []
        while end < len(runs) and runs[end].low <= high:
            run = runs[end]
            if run.low < low:
                left.append(Run(run.low, low - 1, run.began, run.began))
            if run.high > high:
                left.append(Run(high + 1, run.high, run.ended, run.ended))
            end += 1
        if end > start and low <= high:
            runs[start:end] = left
            highs[start:end] = [run.high for run in left]

    def missing(self, low: int, high: int) -> list[Hole]:
        """Give what of a range is not there, in order."""
        holes = []
        at = bisect_left(self._highs, low)
        while low <= high:
            if at == len(self._runs) or self._runs[at].low > high:
                holes.append(Hole(low, high))
                break
            run = self._runs[at]
            if run.low > low:
                holes.append(Hole(low, run.low - 1))
            low = run.high + 1
            at += 1
        return holes

    def covers(self, low: int, high: int) -> bool:
        """Tell whether a whole range is there."""
        at = bisect_left(self._highs, low)
        return low > high or (at < len(self._runs) and self._runs[at].low <= low and high <= self._runs[at].high)

    def touches(self, low: int, high: int) -> bool:
        """Tell whether anything of a range is there."""
        at = bisect_left(self._highs, low)
        return low <= high and at < len(self._runs) and self._runs[at].low <= high

    def run_at(self, sequence: int) -> Run | None:
        """Give the range that holds a sequence."""
        at = bisect_left(self._highs, sequence)
        return self._runs[at] if at < len(self._runs) and self._runs[at].low <= sequence else None

    def before(self, sequence: int) -> Run | None:
        """Give the last range that ends before a sequence."""
        at = bisect_left(self._highs, sequence)
        return self._runs[at - 1] if at else None

    def after(self, sequence: int) -> Run | None:
        """Give the first range that begins after a sequence."""
        at = bisect_left(self._highs, sequence)
        if at < len(self._runs) and self._runs[at].low <= sequence:
            at += 1
        return self._runs[at] if at < len(self._runs) else None

    def intersection(self, other: Extents) -> Extents:
        """Give what is in both."""
        found = Extents()
        mine, theirs = iter(self._runs), iter(other._runs)
        one, two = next(mine, None), next(theirs, None)
        while one is not None and two is not None:
            low, began = max((one.low, one.began), (two.low, two.began), key=_sequence)
            high, ended = min((one.high, one.ended), (two.high, two.ended), key=_sequence)
            if low <= high:
                found.add(low, high, began, ended)
            if one.high < two.high:
                one = next(mine, None)
            else:
                two = next(theirs, None)
        return found

    def count(self, low: int, high: int) -> int:
        """Give how many sequences of a range are there."""
        return max(0, high - low + 1) - sum(hole.high - hole.low + 1 for hole in self.missing(low, high))

    def holes(self) -> list[Hole]:
        """Give what is missing between the first and the last range."""
        runs = self._runs
        return [Hole(one.high + 1, two.low - 1) for one, two in pairwise(runs)]

    def runs(self) -> tuple[Run, ...]:
        """Give the ranges in order."""
        return tuple(self._runs)

    @property
    def first(self) -> Run | None:
        """The lowest range: up to its end nothing is missing."""
        return self._runs[0] if self._runs else None

    @property
    def last(self) -> Run | None:
        """The highest range."""
        return self._runs[-1] if self._runs else None

    def __len__(self) -> int:
        return len(self._runs)

    def __eq__(self, other: Any) -> bool:
        return isinstance(other, Extents) and self._runs == other._runs

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Extents({', '.join(f'{run.low}..{run.high}' for run in self._runs)})"


def _sequence(edge: tuple[int, int]) -> int:
    return edge[0]


def runs_of(rows: Iterable[tuple[int, int, int]]) -> tuple[Run, ...]:
    """Give the ranges of single rows: (first sequence, last sequence, time ns) each, in any order."""
    found = Extents()
    for low, high, time in rows:
        found.add(low, high, time, time)
    return found.runs()
