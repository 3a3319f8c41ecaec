"""Candles on the calendar: when the next one opens, and how many fit between two."""

from __future__ import annotations

from datetime import UTC, datetime

SECOND = 1_000_000_000
_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}


def following(open_time: int, interval: str, count: int = 1) -> int:
    """Give the open time of the candle that many further on, ns; negative counts go back.

    Parameters
    ----------
    open_time : ns since the epoch
    interval : ``1s``, ``15m``, ``1w``, ``1M`` (months are of the calendar), ...
    """
    number, unit = int(interval[:-1]), interval[-1]
    if unit != "M":
        return open_time + count * number * _UNITS[unit] * SECOND
    start = datetime.fromtimestamp(open_time // SECOND, UTC)
    months = start.year * 12 + start.month - 1 + count * number
    return int(start.replace(year=months // 12, month=months % 12 + 1).timestamp()) * SECOND


def before_opening(at: int, interval: str) -> int:
    """Give the open time of the last candle that had ended at a time, ns.

    Weeks begin on Monday, as the venues have them, months with the first; all others at multiples of their length.
    """
    number, unit = int(interval[:-1]), interval[-1]
    if unit == "M":
        start = datetime.fromtimestamp(at // SECOND, UTC).replace(day=1, hour=0, minute=0, second=0)
        return following(int(start.timestamp()) * SECOND, interval, -1)
    length = number * _UNITS[unit] * SECOND
    monday = 4 * _UNITS["d"] * SECOND if unit == "w" else 0
    return (at - monday) // length * length + monday - length


def shortest(interval: str) -> int:
    """Give the least length of a candle, ns: February's for months."""
    number, unit = int(interval[:-1]), interval[-1]
    return number * SECOND * (28 * 86_400 if unit == "M" else _UNITS[unit])


def candles_between(first: int, end: int, interval: str) -> int:
    """Give how many candles open from ``first`` on and before ``end``, both ns; ``first`` is one's open time."""
    if end <= first:
        return 0
    if interval[-1] != "M":
        return -(-(end - first) // shortest(interval))
    count = 0
    while following(first, interval, count) < end:
        count += 1
    return count
