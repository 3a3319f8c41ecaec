"""Where a collector goes on after another, from what every sink has durably. Pure.

A sink tells of each stream what it has (`Stored`). What all of them have is what the successor builds on; everything
else between the first row that any of them has and the first live one is a hole, and has a gap row: one that was open
already, or a new one. A sink that has nothing of a stream lacks all of it, from its beginning; one that has something
lacks nothing before that: older rows may have left it by age, or were never wanted.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from marketprism_ray.extents import NOTHING, Claim, Extents, Hole, Run


class OpenGap(NamedTuple):
    """What a gap row says of a hole that may still be filled."""

    opened_at: int
    closed_at: int | None
    first: int
    last: int | None
    """None while it is not known how far the hole goes."""
    reason: str
    revision: int = 0


@dataclass(frozen=True, slots=True)
class Stored:
    """What a sink has of a stream."""

    claim: Claim = NOTHING
    """What is known row by row."""
    begin: Run | None = None
    """The first row, where rows before those of ``claim`` were there when the store was asked: between the two
    everything is there that no gap row says is missing. None if the sink had nothing before ``claim``."""

    def merged(self, claim: Claim) -> Stored:
        """Give it with what was written since."""
        found = self.claim.merged(claim)
        return Stored(found, self.begin if found.since == self.claim.since else None)


@dataclass(frozen=True, slots=True)
class Resume:
    """Where the successor of a collector goes on with one stream."""

    last: int
    """Everything after this, up to the first live record, is missing as far as anybody knows."""
    time: int
    """When ``last`` happened, ns; where no sink has it, when what follows it did."""
    stored: Claim = NOTHING
    """What every sink has."""
    gaps: tuple[OpenGap, ...] = ()
    """Holes with a row, to be filled."""


def newest_rows(sinks: Sequence[Iterable[OpenGap]]) -> tuple[list[OpenGap], list[OpenGap]]:
    """Give the rows that several sinks have, each hole once; then those of them that not every sink has.

    Of rows about one hole the one with the largest revision counts.
    """
    newest: dict[tuple[int, int], OpenGap] = {}
    having: dict[tuple[int, int], int] = {}
    for rows in sinks:
        for row in rows:
            key = (row.opened_at, row.first)
            having[key] = having.get(key, 0) + 1
            if key not in newest or row.revision > newest[key].revision:
                newest[key] = row
    return list(newest.values()), [row for key, row in newest.items() if having[key] < len(sinks)]


def resume_plan(
    sinks: Sequence[Stored], open_gaps: Sequence[OpenGap] = (), *, after_loss: bool = True
) -> tuple[Resume, list[OpenGap]] | None:
    """Decide where a stream goes on.

    Parameters
    ----------
    sinks : what each sink has; one that cannot be asked is left out
    open_gaps : rows about holes of this stream that are open, of which the newest revisions
    after_loss : the collector before was lost; else it has delivered everything, and what comes now may well follow

    Returns
    -------
    tuple or None
        Where it goes on, whose ``gaps`` are all that is open; then those of them that have no row yet. None if no sink
        has anything: the stream is new.
    """
    since = max((sink.claim.since for sink in sinks), default=0)
    counted = [sink if sink.claim.since == since else Stored(Claim((), since)) for sink in sinks]
    everything = Extents(run for sink in counted for run in _with_begin(sink))
    first, top = everything.first, everything.last
    if first is None or top is None:
        return None
    common = Extents([(first.low, top.high, first.began, top.ended)])
    for sink in counted:
        common = common.intersection(_presumed(sink, first, open_gaps))
    end = common.last
    last, time = (first.low - 1, first.began) if end is None else (end.high, end.ended)
    new = [
        _row(hole, common, first)
        for hole in common.missing(first.low, last)
        if not any(_tells_of(row, hole, common) for row in open_gaps)
    ]
    if after_loss and not any(row.last is None and row.first == last + 1 for row in open_gaps):
        new.append(OpenGap(time, None, last + 1, None, "collector_lost"))
    return Resume(last, time, Claim(common.runs(), since), (*open_gaps, *new)), new


def _with_begin(sink: Stored) -> tuple[Run, ...]:
    return sink.claim.runs if sink.begin is None else (sink.begin, *sink.claim.runs)


def _presumed(sink: Stored, first: Run, open_gaps: Sequence[OpenGap]) -> Extents:
    """Give what a sink has, with what it is not owed: what it had before it was asked, but for known holes."""
    known = Extents(sink.claim.runs)
    lowest = known.first
    if sink.begin is None or lowest is None:
        return known
    found = Extents([(first.low, lowest.high, first.began, lowest.ended)])
    for gap in open_gaps:
        last = lowest.low - 1 if gap.last is None else gap.last
        found.subtract(gap.first, last)
    found.update(known.runs())
    return found


def _row(hole: Hole, stored: Extents, first: Run) -> OpenGap:
    before, after = stored.before(hole.low), stored.after(hole.high)
    opened_at = first.began if before is None else before.ended
    return OpenGap(opened_at, None if after is None else after.began, hole.low, hole.high, "collector_lost")


def _tells_of(row: OpenGap, hole: Hole, stored: Extents) -> bool:
    """Tell whether a row is about all of a hole."""
    if row.first > hole.low:
        return False
    last = row.last
    if last is None:
        last = end_of(row.first, stored)
    return last is not None and last >= hole.high


def end_of(first: int, stored: Extents) -> int | None:
    """Give the last sequence of a hole of which only the first is known; None if nothing after it is stored.

    Where the first has been fetched meanwhile, the hole behind what was fetched is meant: the row was written when
    nothing after it was known.
    """
    run = stored.run_at(first)
    after = stored.after(first if run is None else run.high)
    if after is not None:
        return after.low - 1
    return None if run is None else run.high
