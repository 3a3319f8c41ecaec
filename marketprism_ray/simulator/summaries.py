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

from marketprism_ray.simulator.market import Listing, Symbol, TradeEvent, Truth

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


class RunningCandle:
    """The candle of the present interval, trade by trade.

    Quantities are in the venue's units; ``base_of_usd`` is their sum in base where those are USD.
    """

    def __init__(self, interval_ms: int) -> None:
        self.interval_ms = interval_ms
        self.listing: Listing | None = None
        self.open_ms = 0
        self.closed: list[Candle] = []
        """Candles that have ended and were not asked for yet."""
        self._clear()

    def _clear(self) -> None:
        self.open = self.high = self.low = self.close = "0"
        self.volume = self.turnover = self.bought = self.bought_turnover = self.base_of_usd = Decimal()
        self.trades = self.first_id = self.last_id = 0

    def add(self, event: TradeEvent) -> None:
        """Add a trade; the first one of the next interval closes the candle."""
        start = event.time_ms // self.interval_ms * self.interval_ms
        if start != self.open_ms:
            if self.trades:
                self.closed.append(self.candle())
            self._clear()
            self.open_ms, self.open, self.first_id = start, event.price, event.id
            self.high = self.low = event.price
        self.listing = event.listing
        price, quantity = Decimal(event.price), Decimal(event.quantity)
        self.close, self.last_id = event.price, event.id
        self.high, self.low = max(self.high, event.price, key=Decimal), min(self.low, event.price, key=Decimal)
        self.volume += quantity
        self.turnover += price * quantity
        self.base_of_usd += (quantity / price).quantize(Decimal("1e-8"))
        self.trades += 1
        if not event.taker_sold:
            self.bought += quantity
            self.bought_turnover += price * quantity

    def candle(self) -> Candle:
        """Give it as it is."""
        return Candle(
            self.open_ms,
            self.open,
            self.high,
            self.low,
            self.close,
            self.volume,
            self.turnover,
            self.bought,
            self.bought_turnover,
            self.trades,
            self.first_id,
            self.last_id,
        )


class RunningDay(RunningCandle):
    """Sums over all trades since the market began: a simulated market is younger than a day."""

    def __init__(self) -> None:
        super().__init__(10**15)
        self.open_ms = -1

    @property
    def last(self) -> str | None:
        """Last price; None before the first trade."""
        return self.close if self.trades else None

    @property
    def change_percent(self) -> Decimal | None:
        """Change since the first trade, percent points, 4 digits; None before the first trade."""
        if not self.trades:
            return None
        return (100 * (Decimal(self.close) / Decimal(self.open) - 1)).quantize(Decimal("1e-4"))

    def in_base(self, listing: Listing) -> Decimal:
        """Give the volume in base, 8 digits."""
        if listing.contract is None:
            return self.volume
        size, kind = listing.contract
        amount = (self.base_of_usd if kind == "inverse" else self.volume) * Decimal(size)
        return amount.quantize(Decimal("1e-8"))


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
