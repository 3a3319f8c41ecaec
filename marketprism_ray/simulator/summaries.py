"""Candles and 24 h figures of a simulated symbol, computed exactly from the truth.

They exist to make clients of the real venues happy; nothing is cached, so a call costs as much as there were trades.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from decimal import Decimal
from itertools import groupby

from marketprism_ray.simulator.market import Truth

DAY_MS = 86_400_000


@dataclass(frozen=True)
class Candle:
    """Trades of one interval; prices as the venue wrote them, sums exact."""

    open_ms: int
    open: str
    high: str
    low: str
    close: str
    volume: Decimal
    turnover: Decimal
    """Sum of price times quantity."""
    bought: Decimal
    """Part of ``volume`` whose taker bought."""
    bought_turnover: Decimal
    trades: int
    first_id: int
    last_id: int


def candles(truth: Truth, interval_ms: int, start_ms: int = 0, end_ms: int | None = None) -> list[Candle]:
    """Give the candles of intervals with trades in them, oldest first.

    Parameters
    ----------
    start_ms, end_ms : trades from the first to the last, both included
    """
    times = truth.times_ms
    first = bisect_left(times, start_ms)
    last = len(times) if end_ms is None else bisect_left(times, end_ms + 1)
    grouped = groupby(range(first, last), key=lambda i: times[i] // interval_ms)
    return [_candle(truth, number * interval_ms, list(places)) for number, places in grouped]


def last_day(truth: Truth, now_ms: int) -> Candle | None:
    """Sum up the last 24 h; None without trades."""
    start = bisect_left(truth.times_ms, now_ms - DAY_MS)
    places = range(start, len(truth.ids))
    return _candle(truth, now_ms - DAY_MS, list(places)) if places else None


def _candle(truth: Truth, open_ms: int, places: list[int]) -> Candle:
    prices = [truth.prices[i] for i in places]
    quantities = [Decimal(truth.quantities[i]) for i in places]
    turnovers = [Decimal(price) * quantity for price, quantity in zip(prices, quantities, strict=True)]
    bought = [not truth.taker_sold[i] for i in places]
    return Candle(
        open_ms,
        prices[0],
        max(prices, key=Decimal),
        min(prices, key=Decimal),
        prices[-1],
        sum(quantities, Decimal()),
        sum(turnovers, Decimal()),
        sum((q for q, b in zip(quantities, bought, strict=True) if b), Decimal()),
        sum((t for t, b in zip(turnovers, bought, strict=True) if b), Decimal()),
        len(places),
        truth.ids[places[0]],
        truth.ids[places[-1]],
    )
