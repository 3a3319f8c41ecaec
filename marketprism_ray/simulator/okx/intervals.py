"""Intervals of OKX: lengths, origins, and where each one begins and ends."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from marketprism_ray.simulator.summaries import DAY_MS

_MINUTE_MS = 60_000
_HOUR_MS = 3_600_000


def _forms() -> dict[str, tuple[int, int]]:
    """Give length (0 for a month) and origin of each form of candle, ms; 6 hours and more follow UTC+8 or say utc."""
    minutes = {"1m": 1, "3m": 3, "5m": 5, "15m": 15, "30m": 30, "1H": 60, "2H": 120, "4H": 240}
    found = {"1s": (1_000, 0), **{form: (number * _MINUTE_MS, 0) for form, number in minutes.items()}}
    for suffix, origin in (("", -8 * _HOUR_MS), ("utc", 0)):
        found[f"6H{suffix}"] = (6 * _HOUR_MS, origin)
        found[f"12H{suffix}"] = (12 * _HOUR_MS, origin)
        found[f"1D{suffix}"] = (DAY_MS, origin)
        found[f"1W{suffix}"] = (7 * DAY_MS, origin + 4 * DAY_MS)  # weeks begin on Monday, the epoch on a Thursday
        found[f"1M{suffix}"] = (0, origin)
    return found


FORMS = _forms()


def open_of(form: str, at_ms: int) -> int:
    """Give the beginning of the interval that contains a time."""
    length, origin = FORMS[form]
    if length:
        return (at_ms - origin) // length * length + origin
    month = datetime.fromtimestamp((at_ms - origin) // 1000, UTC).replace(day=1, hour=0, minute=0, second=0)
    return int(month.timestamp()) * 1000 + origin


def end_of(form: str, open_ms: int) -> int:
    """Give the end of the interval that begins at a time."""
    return open_ms + FORMS[form][0] if FORMS[form][0] else open_of(form, open_ms + 32 * DAY_MS)


def opens_before(form: str, at_ms: int) -> Iterator[int]:
    """Give the beginnings of intervals, from the one that contains a time into the past."""
    while True:
        at_ms = open_of(form, at_ms)
        yield at_ms
        at_ms -= 1
