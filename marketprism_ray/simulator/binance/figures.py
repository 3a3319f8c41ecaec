"""Sums over trades: candles and windows of the last hours, in the units of a market."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from marketprism_ray.simulator.binance.intervals import Interval
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
    """Write a value: 8 digits, on USD-M as many as a price times a quantity has."""
    listing = symbol.listing
    if listing.market_type == "spot" or is_inverse(listing):
        return padded(value)
    return format(value, f".{digits(listing.tick) + digits(listing.lot)}f")


def digits(step: Decimal) -> int:
    """Give the number of digits after the point."""
    return max(0, -int(step.as_tuple().exponent))


def pair_of(listing: Listing) -> str:
    """Give the venue's name of a pair."""
    return f"{listing.base}{listing.quote}"


def contract_type(listing: Listing) -> str:
    """Give the venue's word for the kind of a contract."""
    return "PERPETUAL" if listing.market_type == "perpetual" else "CURRENT_QUARTER"


@dataclass
class Bar:
    """A candle; without trades its ids are -1 and its prices the last close."""

    open_ms: int
    end_ms: int
    """The first moment that is not part of it."""
    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal
    first_id: int = -1
    last_id: int = -1
    trades: int = 0
    volume: Decimal = Decimal()
    value: Decimal = Decimal()
    bought: Decimal = Decimal()
    bought_value: Decimal = Decimal()

    def add(self, trade_id: int, price: Decimal, quantity: Decimal, value: Decimal, *, taker_sold: bool) -> None:
        """Add a trade."""
        if not self.trades:
            self.open = self.high = self.low = price
            self.first_id = trade_id
        self.close, self.last_id = price, trade_id
        self.high, self.low = max(self.high, price), min(self.low, price)
        self.trades += 1
        self.volume += quantity
        self.value += value
        if not taker_sold:
            self.bought += quantity
            self.bought_value += value


class Candles:
    """The candles of a symbol and interval without a hole, from its first trade on."""

    def __init__(self, symbol: Symbol, interval: Interval) -> None:
        self.symbol = symbol
        self.interval = interval
        self.closed: list[Bar] = []
        self.bar: Bar | None = None
        """The one still open; None before the first trade."""
        self._next = 0

    def until(self, now_ms: int) -> Candles:
        """Take in what was traded since the last call; close what has ended by a time."""
        truth, listing = self.symbol.truth, self.symbol.listing
        for i in range(self._next, len(truth.ids)):
            price, quantity = Decimal(truth.prices[i]), Decimal(truth.quantities[i])
            if self.bar is None:
                start = self.interval.open_of(truth.times_ms[i])
                self.bar = Bar(start, self.interval.end_of(start), price, price, price, price)
            self._close(truth.times_ms[i])
            value = value_of(listing, price, quantity)
            self.bar.add(truth.ids[i], price, quantity, value, taker_sold=truth.taker_sold[i])
        self._next = len(truth.ids)
        self._close(now_ms)
        return self

    def _close(self, now_ms: int) -> None:
        while self.bar is not None and self.bar.end_ms <= now_ms:
            self.closed.append(self.bar)
            start, close = self.bar.end_ms, self.bar.close
            self.bar = Bar(start, self.interval.end_of(start), close, close, close, close)


class Window:
    """The last hours of a symbol, kept up to date by the trades that come and go."""

    def __init__(self, symbol: Symbol, length_ms: int = DAY_MS) -> None:
        self.symbol = symbol
        self.length_ms = length_ms
        self._volume = Decimal()
        self._value = Decimal()
        self._first = 0
        self._next = 0
        self._highs: deque[tuple[int, Decimal]] = deque()
        """Trades that no later one is above: the first is the highest. ``_lows`` likewise."""
        self._lows: deque[tuple[int, Decimal]] = deque()

    def until(self, now_ms: int) -> Window:
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
        while self._first < self._next and truth.times_ms[self._first] < now_ms - self.length_ms:
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
        average, quantity, ids = Decimal(), symbol.quantity_text(Decimal()), (-1, -1)
        before = Decimal()
        if self.trades:
            first, last = self._first, self._next - 1
            prices = [Decimal(truth.prices[first]), self._highs[0][1], self._lows[0][1], Decimal(truth.prices[last])]
            before = Decimal(truth.prices[max(0, first - 1)])
            average = self._value / self._volume
            if symbol.listing.contract is not None and is_inverse(symbol.listing):
                average = self._volume * Decimal(symbol.listing.contract[0]) / self._value
            quantity, ids = truth.quantities[last], (truth.ids[first], truth.ids[last])
        start, high, low, end = prices
        is_spot = symbol.listing.market_type == "spot"
        return {
            "priceChange": symbol.price_text(end - start),
            "priceChangePercent": f"{((end - start) * 100 / (start or 1)).quantize(Decimal('0.001')) + 0:f}",
            "weightedAvgPrice": padded(average) if is_spot else symbol.price_text(average),
            **({"prevClosePrice": symbol.price_text(before)} if is_spot else {}),
            "lastPrice": symbol.price_text(end),
            "lastQty": quantity,
            "openPrice": symbol.price_text(start),
            "highPrice": symbol.price_text(high),
            "lowPrice": symbol.price_text(low),
            "volume": symbol.quantity_text(self._volume),
            value_name: value_text(symbol, self._value),
            "firstId": ids[0],
            "lastId": ids[1],
            "count": self.trades,
        }

    def average(self, length_ms: int, now_ms: int) -> tuple[Decimal, int]:
        """Give the average price of the last minutes, and the time of the last trade; the last price without trades."""
        truth = self.symbol.truth
        if not truth.ids:
            return Decimal(), 0
        first = bisect_right(truth.times_ms, now_ms - length_ms)
        prices, quantities = map(Decimal, truth.prices[first:]), map(Decimal, truth.quantities[first:])
        volume = value = Decimal()
        for price, quantity in zip(prices, quantities, strict=True):
            volume, value = volume + quantity, value + price * quantity
        return (value / volume if volume else Decimal(truth.prices[-1])), truth.times_ms[-1]
