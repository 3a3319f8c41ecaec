"""Sums over trades: candles and the last 24 h, in the units of a market."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from marketprism_ray.simulator.market import Listing, Symbol, padded
from marketprism_ray.simulator.summaries import DAY_MS

DIGITS = Decimal("1E-8")


def is_inverse(listing: Listing) -> bool:
    """Tell whether contracts are worth a fixed sum of quote."""
    return listing.contract is not None and listing.contract[1] == "inverse"


def value_of(listing: Listing, price: Decimal, quantity: Decimal) -> Decimal:
    """Give a quantity's value: in quote, or in base where contracts are worth a fixed sum of quote."""
    if listing.contract is not None and is_inverse(listing):
        return (quantity * Decimal(listing.contract[0]) / price).quantize(DIGITS)
    return price * quantity


def value_text(symbol: Symbol, value: Decimal) -> str:
    """Write a value with the digits of its market."""
    return padded(value) if is_inverse(symbol.listing) else symbol.text(value)


def pair_of(listing: Listing) -> str:
    """Give the venue's name of a pair."""
    return f"{listing.base}{listing.quote}"


def contract_type(listing: Listing) -> str:
    """Give the venue's word for the kind of a contract."""
    return "PERPETUAL" if listing.market_type == "perpetual" else "CURRENT_QUARTER"


@dataclass
class Bar:
    """A candle that grows."""

    open_ms: int
    open: Decimal
    high: Decimal
    low: Decimal
    first_id: int
    close: Decimal = Decimal()
    last_id: int = 0
    trades: int = 0
    volume: Decimal = Decimal()
    value: Decimal = Decimal()
    bought: Decimal = Decimal()
    bought_value: Decimal = Decimal()

    def add(self, trade_id: int, price: Decimal, quantity: Decimal, value: Decimal, *, taker_sold: bool) -> None:
        """Add a trade."""
        self.close, self.last_id = price, trade_id
        self.high, self.low = max(self.high, price), min(self.low, price)
        self.trades += 1
        self.volume += quantity
        self.value += value
        if not taker_sold:
            self.bought += quantity
            self.bought_value += value


class Candles:
    """The candles of a symbol and interval, one trade after the other."""

    def __init__(self, symbol: Symbol, interval_ms: int, start_ms: int) -> None:
        self.symbol = symbol
        self.interval_ms = interval_ms
        self.bar: Bar | None = None
        """The one still open."""
        self._next = bisect_left(symbol.truth.times_ms, start_ms)

    def closed_before(self, now_ms: int) -> list[Bar]:
        """Take in what was traded since the last call; give the candles that ended by a time."""
        truth, listing = self.symbol.truth, self.symbol.listing
        closed = []
        for i in range(self._next, len(truth.ids)):
            price, quantity = Decimal(truth.prices[i]), Decimal(truth.quantities[i])
            open_ms = truth.times_ms[i] // self.interval_ms * self.interval_ms
            if self.bar is None or self.bar.open_ms != open_ms:
                if self.bar is not None:
                    closed.append(self.bar)
                self.bar = Bar(open_ms, price, price, price, truth.ids[i])
            self.bar.add(
                truth.ids[i], price, quantity, value_of(listing, price, quantity), taker_sold=truth.taker_sold[i]
            )
        self._next = len(truth.ids)
        if self.bar is not None and self.bar.open_ms + self.interval_ms <= now_ms:
            closed.append(self.bar)
            self.bar = None
        return closed


class Day:
    """The last 24 h of a symbol, kept up to date by the trades that come and go."""

    def __init__(self, symbol: Symbol) -> None:
        self.symbol = symbol
        self._volume = Decimal()
        self._value = Decimal()
        self._first = 0
        self._next = 0
        self._highs: deque[tuple[int, Decimal]] = deque()
        """Trades that no later one is above: the first is the highest. ``_lows`` likewise."""
        self._lows: deque[tuple[int, Decimal]] = deque()

    def until(self, now_ms: int) -> Day:
        """Move the window."""
        truth = self.symbol.truth
        for i in range(self._next, len(truth.ids)):
            price = self._count(i, 1)
            while self._highs and self._highs[-1][1] <= price:
                self._highs.pop()
            while self._lows and self._lows[-1][1] >= price:
                self._lows.pop()
            self._highs.append((i, price))
            self._lows.append((i, price))
        self._next = len(truth.ids)
        while self._first < self._next and truth.times_ms[self._first] < now_ms - DAY_MS:
            self._count(self._first, -1)
            self._first += 1
        for extremes in (self._highs, self._lows):
            while extremes and extremes[0][0] < self._first:
                extremes.popleft()
        return self

    def _count(self, place: int, sign: int) -> Decimal:
        truth = self.symbol.truth
        price, quantity = Decimal(truth.prices[place]), Decimal(truth.quantities[place])
        self._volume += sign * quantity
        self._value += sign * value_of(self.symbol.listing, price, quantity)
        return price

    @property
    def trades(self) -> int:
        """Number of trades."""
        return self._next - self._first

    def figures(self) -> dict[str, Any]:
        """Give the figures under the names of ``ticker/24hr``; zeros without trades."""
        symbol, truth = self.symbol, self.symbol.truth
        value_name = "baseVolume" if is_inverse(symbol.listing) else "quoteVolume"
        prices = [Decimal()] * 4
        average, quantity, ids = Decimal(), "0", (-1, -1)
        if self.trades:
            first, last = self._first, self._next - 1
            prices = [Decimal(truth.prices[first]), self._highs[0][1], self._lows[0][1], Decimal(truth.prices[last])]
            average = self._value / self._volume
            if symbol.listing.contract is not None and is_inverse(symbol.listing):
                average = self._volume * Decimal(symbol.listing.contract[0]) / self._value
            quantity, ids = truth.quantities[last], (truth.ids[first], truth.ids[last])
        start, high, low, end = prices
        return {
            "priceChange": symbol.text(end - start),
            "priceChangePercent": f"{(end - start) * 100 / (start or 1):.3f}",
            "weightedAvgPrice": symbol.text(average.quantize(DIGITS)),
            "lastPrice": symbol.text(end),
            "lastQty": quantity,
            "openPrice": symbol.text(start),
            "highPrice": symbol.text(high),
            "lowPrice": symbol.text(low),
            "volume": symbol.text(self._volume),
            value_name: value_text(symbol, self._value),
            "firstId": ids[0],
            "lastId": ids[1],
            "count": self.trades,
        }
