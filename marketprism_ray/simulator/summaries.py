"""Candles, 24 h figures and the slow figures of derivatives, computed from the truth and the time alone.

Candles and 24 h figures are exact sums over trades; nothing is cached, so a call costs as much as there were trades.
Funding, open interest, ratios, greeks and volatility are plausible functions of symbol and time: the same question
always gets the same answer, so that a poll, a stream and a history endpoint agree.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from decimal import Decimal
from itertools import groupby
from zlib import crc32

from marketprism_ray.simulator.market import Listing, Symbol, Truth

DAY_MS = 86_400_000
FUNDING_MS = 28_800_000
STEP_MS = 5_000
"""Slow figures change this often."""


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


# --- slow figures ---


def _noise(name: str, step: int, span: int) -> int:
    """Give a whole number in [0, span) that depends on the arguments alone."""
    return crc32(f"{name}/{step}".encode()) % span


def index_price(symbol: Symbol) -> Decimal:
    """Give the index price: the last trade, or the listing price before the first; for options the underlying's."""
    if symbol.listing.market_type == "option":
        return Decimal("91252.4")
    truth = symbol.truth
    return Decimal(truth.prices[-1]) if truth.prices else symbol.listing.price


def mark_price(symbol: Symbol) -> Decimal:
    """Give the mark price: the middle of the book."""
    (bid, _), (ask, _) = symbol.best()
    return (Decimal(bid) + Decimal(ask)) / 2


def funding_rate(listing: Listing, at_ms: int) -> Decimal:
    """Give the funding rate of the 8-hour period that contains a time, a fraction."""
    return Decimal(_noise(f"funding/{listing.venue}/{listing.symbol}", at_ms // FUNDING_MS, 40_000) - 20_000).scaleb(-8)


def next_funding_ms(at_ms: int) -> int:
    """Give the end of the funding period that contains a time."""
    return (at_ms // FUNDING_MS + 1) * FUNDING_MS


def open_interest(listing: Listing, at_ms: int) -> Decimal:
    """Give the open interest in the venue's units."""
    lots = 1_000_000 + _noise(f"interest/{listing.venue}/{listing.symbol}", at_ms // STEP_MS, 100_000)
    return lots * listing.lot


def long_share(name: str, listing: Listing, at_ms: int) -> Decimal:
    """Give the share of longs, a fraction with 4 digits; ``name`` tells the kinds of ratio apart."""
    return Decimal(4_000 + _noise(f"{name}/{listing.venue}/{listing.symbol}", at_ms // 300_000, 3_000)).scaleb(-4)


def volatility(index_name: str, at_ms: int) -> Decimal:
    """Give a volatility index in percent points, 2 digits."""
    return Decimal(4_500 + _noise(f"volatility/{index_name}", at_ms // 1_000, 500)).scaleb(-2)


@dataclass(frozen=True)
class Greeks:
    """Greeks of an option; volatilities as fractions."""

    delta: Decimal
    gamma: Decimal
    vega: Decimal
    theta: Decimal
    rho: Decimal
    mark_iv: Decimal
    bid_iv: Decimal
    ask_iv: Decimal
    underlying: Decimal


def greeks(listing: Listing, at_ms: int) -> Greeks:
    """Give the greeks of an option, in the style of Black-Scholes: per quote, volatility point and day."""
    step = at_ms // STEP_MS
    sign = 1 if listing.option_type == "C" else -1
    iv = Decimal(4_700 + _noise(f"iv/{listing.symbol}", step, 200)).scaleb(-4)
    return Greeks(
        delta=sign * Decimal(2_000 + _noise(f"delta/{listing.symbol}", step, 500)).scaleb(-4),
        gamma=Decimal("0.00003"),
        vega=Decimal(9_000 + _noise(f"vega/{listing.symbol}", step, 500)).scaleb(-2),
        theta=-Decimal(5_000 + _noise(f"theta/{listing.symbol}", step, 500)).scaleb(-2),
        rho=sign * Decimal("18.1"),
        mark_iv=iv,
        bid_iv=iv - Decimal("0.006"),
        ask_iv=iv + Decimal("0.007"),
        underlying=Decimal("91810.4"),
    )
