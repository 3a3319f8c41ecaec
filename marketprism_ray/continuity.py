"""Where rows without a sequence are missing: one line of time a stream, and the holes in it. Pure: time is an argument.

Three kinds of lines, because venues deliver in three ways:

==========  ================================================  =====================================================
line        what is told                                      what is a hole
==========  ================================================  =====================================================
`Pushes`    accepted, row, interrupted, malformed, tick       time without a subscription; silence of a channel that
                                                              has a cadence; a frame that was not understood
`Bars`      row, tick                                         a candle that is missing, or whose end was not seen
`Polls`     succeeded, failed, tick                           a poll that failed or was not made in its time
==========  ================================================  =====================================================

Each call gives the holes to write down: one that opens has no ``closed_at``, and is given again under the same
``opened_at`` when it ends. A hole that turns out to be none after it was written down is given with ``missing`` 0.
Bounds are in the venue's time: the last good row before and the first good one after. Where only our clock knows
(a socket was cut, a subscription accepted), it is translated by the least delay with which rows have come.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from marketprism_ray.bars import SECOND, candles_between, following

MARGIN_NS = 3 * SECOND // 4
"""By how much a row's own time may be before that of another row that was sent earlier: venues gather rows."""
SETTLE_NS = 2 * SECOND
"""An accepted subscription gets this long to bring the row that ends a hole; then the acceptance ends it."""
WRITE_AFTER_NS = SECOND
"""A hole that ends sooner is written once."""
SILENT_CADENCES = 3
SILENT_LEAST_NS = 5 * SECOND
LATE_NS = 5 * SECOND
"""A candle whose end was not seen this long after it is missing."""


@dataclass(frozen=True, slots=True)
class Hole:
    """Rows that are missing strictly between two times, ns; ``closed_at`` is None while it lasts."""

    opened_at: int
    closed_at: int | None
    reason: str
    missing: int | None = None
    """Rows that are missing; None if nobody knows; 0 if the hole turned out to be none."""
    is_routine: bool = False
    """The venue never says it by itself: its history is asked, and only if that fails is it worth a row."""


Holes = tuple[Hole, ...]
NONE: Holes = ()


class Pushes:
    """The line of what a venue pushes.

    Parameters
    ----------
    cadence_ns : the longest time between two rows that the venue promises; None if rows come only with events
    spacing_ns : the shortest time between two rows, where there is one: rows that are not much further apart than this
        have none between them
    repeats : a row of the time of the one before says the same again, and that there is no newer one; not so where
        rows are events, of which several may have one time
    """

    def __init__(self, cadence_ns: int | None = None, spacing_ns: int | None = None, *, repeats: bool = True) -> None:
        self.last = 0
        """Time of the newest row."""
        self._patience = None if cadence_ns is None else max(SILENT_LEAST_NS, SILENT_CADENCES * cadence_ns)
        self._nearest = None if spacing_ns is None else spacing_ns * 3 // 2
        self._repeats = repeats
        self._received = 0
        self._delay: int | None = None
        self._usual = 0
        """Least delay of other rows of the venue, until this line has one."""
        self._is_ours = False
        """Its rows carry no time of the venue's: they are stamped by our clock."""
        self._floor = 0
        """Nothing before this is missing: the line begins here, or the last hole ended here."""
        self._begin = 0
        """Where the line begins that is ours."""
        self._accepted: int | None = None
        """When the present subscription was accepted, our clock; None while there is none."""
        self._begun = False
        self._opened_at = 0
        self._reason = ""
        """Empty while there is no hole."""
        self._since = 0
        self._written = False

    def resume(self, last: int, opened_at: int | None = None, reason: str = "collector_lost") -> Holes:
        """Continue after a predecessor; also when it is found out late how far that one came.

        Parameters
        ----------
        last : time of the last durable row, ns
        opened_at, reason : of a hole that lasted when the predecessor ended
        """
        opened_at = last if opened_at is None else opened_at
        if self._begun:
            return (Hole(opened_at, self._begin, reason),) if opened_at < self._begin else NONE
        self.last = last
        self._opened_at = self._floor = max(last, opened_at)
        self._reason, self._begun, self._written = reason, True, False
        self._since = 0
        return NONE

    def row(self, at: int, received: int) -> Holes:
        """Take a row: its time and when it came, ns."""
        delay = received - at
        self._is_ours = not delay
        if self._delay is None:
            self._floor = min(self._floor, at)  # it was in our clock's time
            self._begin = min(self._begin, at)
            self._delay = delay
        elif delay < self._delay:
            self._delay = delay
        self._received = received
        before = self.last
        if at > before:
            self.last = at
        return self._end_by_row(at, before, received) if self._reason else NONE

    def accepted(self, now: int, usual: int | None = None) -> None:
        """Hear that the subscription stands.

        Parameters
        ----------
        usual : least delay of any row of the venue, ns; None if nobody knows
        """
        self._usual = usual or 0
        if not self._begun:
            self._begun = True
            self._floor = self._begin = self._venue(now)
        if self._accepted is None:
            self._accepted = now

    def interrupted(self, now: int, reason: str, heard: int) -> None:
        """Hear that the subscription is over; anything was last heard from its socket at ``heard``, our clock."""
        if self._accepted is None:
            return
        self._accepted = None
        if self._reason:
            return
        floor = max(self.last, self._floor)
        self._open(floor if self._nearest else max(floor, self._venue(heard) - MARGIN_NS), reason, now)

    def malformed(self, now: int) -> None:
        """Hear that a frame came that nobody understands: one row or more of about now."""
        if not self._reason:
            self._accepted = now
            self._begun = True
            self._open(max(self.last, self._floor, self._venue(now) - MARGIN_NS), "malformed", now)

    def tick(self, now: int) -> Holes:
        """Look at the time."""
        if self._reason:
            accepted = self._accepted
            if accepted is not None and not self._waits_for_row and now - accepted >= SETTLE_NS:
                return self._end(self._limit())
            if not self._written and now - self._since >= max(WRITE_AFTER_NS, self._nearest or 0):
                self._written = True
                return (Hole(self._opened_at, None, self._reason),)
            return NONE
        if self._patience is not None and self._accepted is not None:
            heard = max(self._received, self._accepted)
            if now - heard > self._patience:
                self._open(max(self.last, self._floor), "silent", now)
                self._written = True
                return (Hole(self._opened_at, None, "silent"),)
        return NONE

    def clock_stepped(self, moved: int) -> None:
        """Move what is in our clock's time along with it."""
        self._received += moved
        self._since += moved
        if self._accepted is not None:
            self._accepted += moved
        self._usual += moved
        if self._is_ours:
            # What is said from now on has times of the new clock.
            self.last += moved
            self._floor += moved
            self._begin += moved
        elif self._delay is not None:
            self._delay += moved

    @property
    def _waits_for_row(self) -> bool:
        return self._nearest is not None or self._reason == "silent"

    def _venue(self, moment: int) -> int:
        return moment - (self._usual if self._delay is None else self._delay)

    def _limit(self) -> int:
        assert self._accepted is not None
        # Rows may be late, the first ones above all: only what is more than that is another clock.
        delay = self._usual if self._delay is None else self._delay
        wrong = max(0, delay - SETTLE_NS) if delay > 0 else delay
        return self._accepted - wrong + (MARGIN_NS if self._reason == "malformed" else 0)

    def _open(self, opened_at: int, reason: str, now: int) -> None:
        self._opened_at, self._reason, self._since, self._written = opened_at, reason, now, False

    def _end_by_row(self, at: int, before: int, received: int) -> Holes:
        if self._accepted is None:
            self._accepted = received
        if at == before and self._repeats and self._reason != "malformed":
            return self._end(None)  # the venue repeats its newest row to a new subscriber: there is no newer one
        if at <= self._opened_at:
            return NONE
        distance = at - self._opened_at
        if self._nearest is not None and distance <= self._nearest:
            return self._end(None)
        if self._reason == "silent":
            return self._end(at if self._patience is None or distance > self._patience else None)
        return self._end(at if self._nearest else min(at, self._limit()))

    def _end(self, closed_at: int | None) -> Holes:
        opened_at, reason, written = self._opened_at, self._reason, self._written
        self._reason, self._written = "", False
        if closed_at is None or closed_at <= opened_at:
            self._floor = max(self._floor, opened_at)
            return (Hole(opened_at, opened_at, reason, 0),) if written else NONE
        self._floor = closed_at
        return (Hole(opened_at, closed_at, reason),)


class Counted(Pushes):
    """The line of rows that come with others whose sequence shows every hole: it has none of its own."""

    def resume(self, last: int, opened_at: int | None = None, reason: str = "collector_lost") -> Holes:
        """Do nothing."""
        return NONE

    def row(self, at: int, received: int) -> Holes:
        """Do nothing."""
        return NONE

    def interrupted(self, now: int, reason: str, heard: int) -> None:
        """Do nothing."""

    def malformed(self, now: int) -> None:
        """Do nothing."""


class Bars:
    """The line of one length of candles. Bounds of its holes are open times.

    Parameters
    ----------
    interval : ``1m``, ``1h``, ...
    says_closed : the venue says which update of a candle is the final one; where it does not, each candle is a routine
        hole after its end
    """

    def __init__(self, interval: str, *, says_closed: bool = True) -> None:
        self.interval = interval
        self._says_closed = says_closed
        self._expected: int | None = None
        """Open time of the first candle that is not stored with its final values."""
        self._why = ""
        self._lasting = ""
        """Reason of the hole that was written down and lasts; empty if there is none."""
        self._first: int | None = None
        """Open time of the first candle that was ours to see."""

    def resume(self, last: int, opened_at: int | None = None, reason: str = "collector_lost") -> Holes:
        """Continue after a predecessor; also when it is found out late how far that one came.

        Parameters
        ----------
        last : open time of the last durable final candle, ns
        opened_at, reason : of a hole that lasted when the predecessor ended
        """
        first = following(last if opened_at is None else opened_at, self.interval)
        if self._first is not None:
            count = candles_between(first, self._first, self.interval)
            return (Hole(following(first, self.interval, -1), self._first, reason, count),) if count else NONE
        self._expected, self._why = first, reason
        self._lasting = "" if opened_at is None else reason
        return NONE

    def interrupted(self, reason: str) -> None:
        """Remember why the next candle may be missing."""
        self._why = self._why or reason

    def row(self, open_time: int, close_time: int, is_closed: bool) -> Holes:
        """Take an update of a candle.

        Parameters
        ----------
        open_time, close_time : of the candle, ns
        is_closed : it is the final one
        """
        if self._first is None:
            self._first = open_time
        if self._expected is None:
            self._expected = open_time
        if open_time < self._expected:
            return NONE
        holes = NONE
        if open_time > self._expected:
            holes = (self._hole(open_time, self._lasting or self._why or "bar_missing"),)
            self._expected, self._lasting, self._why = open_time, "", ""
        if is_closed and self._says_closed:
            if self._lasting:
                opened_at = following(self._expected, self.interval, -1)
                holes = (Hole(opened_at, opened_at, self._lasting, 0),)
                self._lasting = ""
            self._expected, self._why = close_time, ""
        return holes

    def tick(self, now: int) -> Holes:
        """Look at the time at the venue, ns: a candle may be overdue."""
        if self._expected is None or self._lasting:
            return NONE
        if now < following(self._expected, self.interval) + LATE_NS:
            return NONE
        if not self._says_closed and not self._why:
            end = following(self._expected, self.interval)
            hole, self._expected = self._hole(end, "bar_missing"), end
            return (hole,)
        self._lasting = self._why or "bar_missing"
        return (Hole(following(self._expected, self.interval, -1), None, self._lasting),)

    def clock_stepped(self, moved: int) -> None:
        """Do nothing: it knows the venue's time alone."""

    def _hole(self, end: int, reason: str) -> Hole:
        assert self._expected is not None
        count = candles_between(self._expected, end, self.interval)
        is_routine = count == 1 and reason == "bar_missing" and not self._says_closed
        return Hole(following(self._expected, self.interval, -1), end, reason, count, is_routine)


class Polls:
    """The line of one thing that is asked for by the clock.

    Parameters
    ----------
    every_ns : the period
    shows_past : an answer holds the last rows, so that it makes up for polls that were missed
    """

    def __init__(self, every_ns: int, *, shows_past: bool) -> None:
        self._every = every_ns
        self._shows_past = shows_past
        self._last = 0
        """Time of the newest row."""
        self._begin = 0
        """Time of the first row that was ours to see."""
        self._good = 0
        """When an answer last came, our clock."""
        self._missed = "poll_missed"
        self._reason = ""
        self._opened_at = 0
        self._written = False

    def resume(self, last: int, opened_at: int | None = None, reason: str = "") -> Holes:
        """Continue after a predecessor; also when it is found out late how far that one came.

        Parameters
        ----------
        last : time of the last durable row, ns
        opened_at, reason : of a hole that lasted when the predecessor ended
        """
        if self._last:
            late = self._begin - last > self._every * 3 // 2
            return (Hole(last, self._begin, "collector_lost"),) if late and not self._shows_past else NONE
        self._last = self._good = last
        self._missed = "collector_lost"
        if opened_at is not None:
            self._open(reason, opened_at)
            self._written = True
        return NONE

    def failed(self, now: int) -> Holes:
        """Hear that a poll gave nothing."""
        if not self._last:
            return NONE  # it never gave a row: nobody can say that one is missing
        if not self._reason:
            self._open("poll_failed")
        return self._write()

    def succeeded(self, times: Sequence[int], now: int) -> Holes:
        """Take the times of an answer's rows."""
        late, self._good = self._good and now - self._good > self._every * 3 // 2, now
        known, newest = self._last, max(times, default=0)
        self._begin = self._begin or newest
        self._last = max(known, newest)
        if not known or (not self._reason and not late) or newest <= known:
            # Nothing new is no hole: the venue has no newer row.
            return self._none() if self._reason and times else NONE
        if not self._reason:
            self._open(self._missed, known)
        first = min((at for at in times if at > known), default=newest)
        if self._shows_past and min(times) <= known:
            return self._none()
        return self._end(first)

    def tick(self, now: int) -> Holes:
        """Look at the time: a poll may not have been made."""
        if not self._last or now - self._good <= 2 * self._every:
            return NONE
        if not self._reason:
            self._open(self._missed)
        return self._write()

    def clock_stepped(self, moved: int) -> None:
        """Move what is in our clock's time along with it."""
        self._good += moved if self._good else 0

    def _open(self, reason: str, at: int | None = None) -> None:
        self._reason, self._opened_at, self._written = reason, self._last if at is None else at, False

    def _write(self) -> Holes:
        if self._written:
            return NONE
        self._written = True
        return (Hole(self._opened_at, None, self._reason),)

    def _none(self) -> Holes:
        written, reason, opened_at = self._written, self._reason, self._opened_at
        self._reason, self._written = "", False
        return (Hole(opened_at, opened_at, reason, 0),) if written else NONE

    def _end(self, closed_at: int) -> Holes:
        self._missed = "poll_missed"
        reason, opened_at = self._reason, self._opened_at
        self._reason, self._written = "", False
        missing = None if self._shows_past else max(1, round((closed_at - opened_at) / self._every) - 1)
        return (Hole(opened_at, closed_at, reason, missing),)
