"""Lengths of candles: when each begins and ends."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from marketprism_ray.simulator.summaries import DAY_MS

HOUR_MS = 3_600_000
_MONDAY_MS = 4 * DAY_MS
"""The first Monday of 1970: weeks begin on Mondays."""
LENGTHS_MS = {
    "1s": 1000,
    "1m": 60_000,
    "3m": 180_000,
    "5m": 300_000,
    "15m": 900_000,
    "30m": 1_800_000,
    "1h": HOUR_MS,
    "2h": 2 * HOUR_MS,
    "4h": 4 * HOUR_MS,
    "6h": 6 * HOUR_MS,
    "8h": 8 * HOUR_MS,
    "12h": 12 * HOUR_MS,
    "1d": DAY_MS,
    "3d": 3 * DAY_MS,
    "1w": 7 * DAY_MS,
    "1M": 31 * DAY_MS,
}
"""``1m`` is a minute and ``1M`` a month of the calendar, here with its greatest length."""


@dataclass(frozen=True)
class Interval:
    """A length of candles.

    Parameters
    ----------
    zone_ms : by how much the clock that days are counted on is ahead of UTC
    """

    name: str
    zone_ms: int = 0

    def open_of(self, at_ms: int) -> int:
        """Give the beginning of the candle that contains a time."""
        local = at_ms + self.zone_ms
        if self.name == "1M":
            day = datetime.fromtimestamp(local / 1000, UTC)
            start = int(datetime(day.year, day.month, 1, tzinfo=UTC).timestamp()) * 1000
        else:
            length, phase = LENGTHS_MS[self.name], _MONDAY_MS if self.name == "1w" else 0
            start = (local - phase) // length * length + phase
        return start - self.zone_ms

    def end_of(self, open_ms: int) -> int:
        """Give the end of the candle that begins at a time: the beginning of the next."""
        if self.name != "1M":
            return open_ms + LENGTHS_MS[self.name]
        return self.open_of(open_ms + LENGTHS_MS["1M"])
