"""Holes of a trade stream, until every trade in them is stored. Pure: time is an argument, in ns.

A hole is never forgotten while the venue keeps its trades. One request is under way at a time; what comes back is
merged by sequence, so that pages may overlap, repeat and come late, and each trade is kept once. A hole is closed by
what is *durable*, not by what was fetched: its row says ``repaired`` no earlier than every sink has its trades.

A question (``last`` is None) is a hole of unknown length: has anything happened after the last trade? It goes on, page
after page, until the venue has nothing newer, and becomes a hole of what was found missing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from marketprism_ray.extents import Claim, Extents, Hole
from marketprism_ray.resume import OpenGap
from marketprism_ray.venue import TradeHistory

SECOND = 1_000_000_000
LONGEST_WAIT_S = 300.0
LARGE = 10_000
"""Trades of a hole that gives way to everything else: at the venue's limits it takes its time."""
PROGRESS_PAGES = 50
"""A row about a large hole is written anew after so many pages."""


@dataclass(slots=True, eq=False)
class TradeGap:
    """A hole that may still be filled."""

    opened_at: int
    closed_at: int | None
    first: int
    last: int | None
    reason: str
    due: int = 0
    """Not asked for before this."""
    failures: int = 0
    pages: int = 0
    is_expired: bool = False
    """The venue keeps these trades no longer."""
    is_written: bool = True
    """A row says that it is open."""
    since: int | None = None
    """A question about what came before the first trade, from this time (ns, the venue's) on; None of any other."""

    @property
    def size(self) -> int:
        """Sequences from its first to its last; 0 of a question."""
        return 0 if self.last is None else self.last - self.first + 1

    def holds(self, sequence: int) -> bool:
        """Tell whether a sequence lies in it."""
        return self.is_hole and self.last is not None and self.first <= sequence <= self.last

    @property
    def is_hole(self) -> bool:
        """Tell whether it is known what is missing: else it is a question."""
        return self.last is not None and self.since is None


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be fetched next: one page that begins or ends in this range."""

    gap: TradeGap
    hole: Hole

    @property
    def is_large(self) -> bool:
        """Tell whether it may wait for everything else."""
        return self.gap.size > LARGE


def wait_s(failures: int) -> float:
    """Give the seconds before a hole is asked for again."""
    return float(min(LONGEST_WAIT_S, 2.0 ** min(failures - 1, 10)))


class Repairs:
    """The holes of one stream, and what of it is there.

    Parameters
    ----------
    history : None if the venue has none: holes are only remembered
    first_of : trade -> first sequence that it covers
    """

    def __init__(self, history: TradeHistory | None, first_of: Callable[[Any], int]) -> None:
        self.gaps: list[TradeGap] = []
        self.taken = Extents()
        """Sequences that were accepted, by us or by those before us."""
        self.stored = Extents()
        """Those of them that every sink has."""
        self.since = 0
        self._history = history
        self._first_of = first_of
        self._unusable = Extents()
        """Sequences that cannot be records, however often they are fetched."""
        self._ranges = Extents()
        self._asked: Wanted | None = None

    # --- what is known of holes ---

    def resume(self, stored: Claim) -> None:
        """Begin with what every sink has."""
        self.since = stored.since
        self.taken = Extents(stored.runs)
        self.stored = Extents(stored.runs)

    def open(self, gap: TradeGap) -> None:
        """Remember a hole."""
        self.gaps.append(gap)
        if gap.last is not None and gap.is_hole:
            self._ranges.add(gap.first, gap.last, 0, 0)

    def find(self, row: OpenGap) -> TradeGap | None:
        """Give the hole that a row is about."""
        return next((g for g in self.gaps if (g.opened_at, g.first) == (row.opened_at, row.first)), None)

    def question(self) -> TradeGap | None:
        """Give the question that is being asked."""
        return next((gap for gap in self.gaps if gap.last is None), None)

    def close(self, gap: TradeGap) -> None:
        """Forget a hole."""
        self.gaps.remove(gap)
        if self._asked is not None and self._asked.gap is gap:
            self._asked = None
        self._ranges = Extents((g.first, g.last, 0, 0) for g in self.gaps if g.last is not None and g.is_hole)

    def start_over(self, since: int) -> list[TradeGap]:
        """Forget everything: the venue counts afresh. Gives the holes that nobody can ask for any more."""
        lost, self.gaps = [gap for gap in self.gaps if gap.is_hole], []
        self.since = since
        self.taken, self.stored, self._unusable, self._ranges = Extents(), Extents(), Extents(), Extents()
        self._asked = None
        return lost

    def rejected(self, sequence: int) -> bool:
        """Hear that an accepted trade could not be a record; True if it had been fetched for a hole."""
        self.taken.subtract(sequence, sequence)
        if any(gap.holds(sequence) for gap in self.gaps):
            self._unusable.add(sequence, sequence, 0, 0)
            return True
        return False

    def durable(self, claim: Claim) -> None:
        """Hear what every sink has."""
        if claim.since == self.since:
            self.stored.update(claim.runs)

    def finished(self) -> Iterable[tuple[TradeGap, str]]:
        """Give the holes of which nothing more will come, with the status of their row; they are forgotten."""
        for gap in list(self.gaps):
            if gap.last is None or not gap.is_hole:
                continue
            if self.stored.covers(gap.first, gap.last):
                self.close(gap)
                yield gap, "repaired"
            elif (gap.is_expired or not self._left(gap.first, gap.last)) and self._is_settled(gap):
                self.close(gap)
                yield gap, "unrepairable"

    def _is_settled(self, gap: TradeGap) -> bool:
        """Tell whether what was fetched of a hole is durable."""
        assert gap.last is not None
        return self._history is None or (
            self.stored.count(gap.first, gap.last) == self.taken.count(gap.first, gap.last)
            and (gap.is_expired or self._unusable.touches(gap.first, gap.last))
        )

    def repaired(self, gap: TradeGap) -> int:
        """Give how many sequences of a hole are durable."""
        return 0 if gap.last is None else self.stored.count(gap.first, gap.last)

    # --- what is asked of the venue ---

    def next(self, now: int) -> Wanted | None:
        """Give what to fetch now; None if nothing is due or an answer is awaited."""
        if self._asked is not None or self._history is None:
            return None
        best: Wanted | None = None
        for gap in self.gaps:
            if gap.due > now or gap.is_expired or (best is not None and gap.size >= best.gap.size):
                continue
            hole = self._piece(gap)
            if hole is not None:
                best = Wanted(gap, hole)
        self._asked = best
        return best

    def _piece(self, gap: TradeGap) -> Hole | None:
        """Give the part of a hole that is asked for next."""
        assert self._history is not None
        page = self._history.page
        if gap.last is None:
            return Hole(gap.first, gap.first + page - 1)
        if gap.since is not None:
            return Hole(gap.first, gap.last)
        left = self._left(gap.first, gap.last)
        if not left:
            return None
        # Where one end brings nothing the other may.
        if self._history.newest_first != bool(gap.failures % 2):
            return (
                left[-1]
                if self._history.newest_first
                else Hole(max(left[-1].low, left[-1].high - page + 1), left[-1].high)
            )
        low = left[0].low
        if self._history.newest_first:
            return Hole(low, min(left[0].high, low + page - 1))
        # Further holes on the same page cost nothing.
        near = [hole.high for hole in self._left_of_all(low, low + page - 1) if hole.high < low + page - 1]
        return Hole(low, max([left[0].high, *near]))

    def _left(self, first: int, last: int) -> list[Hole]:
        """Give what of a range is neither there nor known to be useless."""
        left = self.taken.missing(first, last)
        if not self._unusable:
            return left
        return [piece for hole in left for piece in self._unusable.missing(hole.low, hole.high)]

    def _left_of_all(self, low: int, high: int) -> Iterable[Hole]:
        for run in self._ranges.runs():
            if run.high >= low and run.low <= high:
                yield from self._left(max(low, run.low), min(high, run.high))

    def interrupted(self) -> None:
        """Hear that the answer will not come: its connection is gone."""
        self._asked = None

    def failed(self, now: int, asked: Wanted | None = None) -> None:
        """Hear that there is no answer, or none that can be understood."""
        asked, self._asked = asked or self._asked, None
        if asked is not None:
            # A venue that cannot be reached has not said that it has nothing.
            self._later(asked.gap, now, certain=2)

    def clock_stepped(self, moved: int) -> None:
        """Move the times along with the clock."""
        for gap in self.gaps:
            gap.due += moved if gap.due else 0

    def _later(self, gap: TradeGap, now: int, *, certain: int = 1) -> None:
        gap.failures += 1
        gap.due = now + int(wait_s(gap.failures) * SECOND)
        keeps_s = None if self._history is None else self._history.keeps_s
        newest = gap.opened_at if gap.closed_at is None else gap.closed_at
        if keeps_s is not None and gap.last is not None and now - newest > certain * keeps_s * SECOND:
            gap.is_expired = True

    def answered(self) -> Wanted | None:
        """Give what the page that has come was asked for; None if nobody waits for it any more."""
        asked, self._asked = self._asked, None
        return asked

    def wanted(self, page: Sequence[Any], asked: Wanted, now: int) -> list[Any]:
        """Give the trades of a page that fill holes, each once and in order; they count as taken."""
        found = []
        for trade in page:
            first, last = self._first_of(trade), int(trade.sequence)
            if self._ranges.touches(first, last) and not self.taken.covers(first, last):
                self.taken.add(first, last, 0, 0)
                found.append(trade)
        gap = asked.gap
        gap.pages += 1
        if any(gap.holds(int(trade.sequence)) for trade in found):
            gap.failures, gap.due = 0, 0
        else:
            self._later(gap, now)
        return found
