"""A venue's clock, seen from here: ours minus the least delay with which anything came that carries its time. Pure.

Whether a candle has ended is the venue's to say, and its clock may differ from ours by any amount. What it says of the
time is never ahead of what it is there, so the least delay seen is the longest that clock and way can differ: the time
worked out with it may be early, never late. Rows tell it to the millisecond; the head of a HTTP answer (`Date`, whole
seconds, and often the clock of somebody in between) counts only until a row has come.
"""

from __future__ import annotations


class VenueClock:
    """The time at a venue."""

    def __init__(self) -> None:
        self._rows: int | None = None
        self._heads: int | None = None

    def row(self, at: int, received: int) -> None:
        """Take a row's own time and when it came, ns. A row stamped by its receipt tells nothing."""
        delay = received - at
        if delay and (self._rows is None or delay < self._rows):
            self._rows = delay

    def head(self, at: int, received: int) -> None:
        """Take the time that an answer was sent by its own word, and when it came, ns."""
        delay = received - at
        if self._heads is None or delay < self._heads:
            self._heads = delay

    @property
    def delay(self) -> int | None:
        """Least delay, ns; None before anything told it."""
        return self._heads if self._rows is None else self._rows

    def at(self, moment: int) -> int | None:
        """Give the time there at a moment of our clock, ns; None while nobody knows."""
        delay = self.delay
        return None if delay is None else moment - delay

    def clock_stepped(self, moved: int) -> None:
        """Hear that our clock has stepped."""
        self._rows = None if self._rows is None else self._rows + moved
        self._heads = None if self._heads is None else self._heads + moved
