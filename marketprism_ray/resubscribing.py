"""How often a socket may ask for its streams anew: the venue's hourly limit, and patience with what stays broken.

Pure: time is an argument, in ns.
"""

from __future__ import annotations

from collections import deque

HOUR_NS = 3_600_000_000_000
FIRST_NS = 1_000_000_000
LONGEST_NS = 300_000_000_000
CALM_NS = 600_000_000_000
"""A stream that was not asked for anew for this long is trusted again."""


class HourlyRequests:
    """Requests of one socket within the last hour.

    Parameters
    ----------
    limit : most of them; None if the venue has no such limit
    """

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self._times: deque[int] = deque()

    def allows(self, count: int, now: int) -> bool:
        """Tell whether so many more may be sent now."""
        if self._limit is None:
            return True
        while self._times and self._times[0] <= now - HOUR_NS:
            self._times.popleft()
        return len(self._times) + count <= self._limit

    def sent(self, now: int) -> None:
        """Count a request."""
        if self._limit is not None:
            self._times.append(now)

    def clock_stepped(self, moved: int) -> None:
        """Move the times along with the clock."""
        self._times = deque(time + moved for time in self._times)


class Patience:
    """When one stream may be asked for anew: at once, then after 1, 2, 4, ... 300 s while it does not get well."""

    def __init__(self) -> None:
        self._tries = 0
        self._last = 0
        self.wanted = False
        """It is to be asked for anew as soon as that is allowed."""

    def is_due(self, now: int) -> bool:
        """Tell whether it may be asked for now."""
        if self._tries and now - self._last > CALM_NS:
            self._tries = 0
        if not self._tries:
            return True
        return now - self._last >= min(FIRST_NS << (self._tries - 1), LONGEST_NS)

    def asked(self, now: int) -> None:
        """Note that it was asked for."""
        self._tries = min(self._tries + 1, 20)
        self._last = now
        self.wanted = False

    def clock_stepped(self, moved: int) -> None:
        """Move the times along with the clock."""
        self._last += moved
