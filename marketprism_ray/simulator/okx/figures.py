"""Running figures of one symbol: bars of every interval and the last 24 hours.

Sums are exact; the coin amount of an inverse trade is rounded to 12 digits before it is summed, so that every way of
summing gives the same text.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from decimal import Decimal

from marketprism_ray.simulator.market import BookEvent, Symbol, TradeEvent, plain
from marketprism_ray.simulator.okx.intervals import FORMS, end_of, open_of
from marketprism_ray.simulator.summaries import DAY_MS

_MINUTE_MS = 60_000
_NEVER = 1 << 62
MOST_EMPTY = 5_000
"""Bars without trades that are made in a row; of a longer silence only the end is."""
_COIN_UNIT = Decimal("1e-12")


@dataclass(slots=True)
class Bar:
    """Trades of an interval: ``volume`` as the venue counts, ``coin`` in base, ``money`` in quote."""

    open_ms: int
    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal
    volume: Decimal
    coin: Decimal
    money: Decimal

    @classmethod
    def without_trades(cls, open_ms: int, price: Decimal) -> Bar:
        """Give the bar of an interval in which nothing is traded: at the last price."""
        nothing = Decimal()
        return cls(open_ms, price, price, price, price, nothing, nothing, nothing)

    def extend(self, later: Bar) -> None:
        """Add trades that came after; the first ones are the bar's beginning."""
        if not later.volume:
            return
        if not self.volume:
            self.open = self.high = self.low = later.open
        if later.high > self.high:
            self.high = later.high
        if later.low < self.low:
            self.low = later.low
        self.close = later.close
        self.volume += later.volume
        self.coin += later.coin
        self.money += later.money


def _sum(*bars: Bar | None) -> Bar | None:
    """Put bars together, oldest first."""
    found: Bar | None = None
    for bar in bars:
        if bar is None or not bar.volume:
            continue
        if found is None:
            found = replace(bar)
        else:
            found.extend(bar)
    return found


class Figures:
    """Running figures of one symbol, fed event by event.

    A trade changes the bar of its second alone; a second that is over is added to the bar of every longer interval,
    and minutes that are over make up the last 24 hours.
    """

    def __init__(self, symbol: Symbol) -> None:
        self.symbol = symbol
        self.last: TradeEvent | None = None
        self.trades = 0
        self.books = 0
        self.closed: dict[str, list[Bar]] = {}
        """Bars that ended since somebody cleared it, by form."""
        size, kind = symbol.listing.contract or ("1", "linear")
        self._size = Decimal(size)
        self._is_inverse = kind == "inverse"
        self._second: Bar | None = None
        self._bars: dict[str, Bar] = {}
        self._ends: dict[str, int] = {}
        self._due = _NEVER
        self._minutes: deque[Bar] = deque()
        self._day: Bar | None = None

    def add(self, event: TradeEvent | BookEvent) -> None:
        """Take notice of an event."""
        if isinstance(event, BookEvent):
            self.books += 1
            return
        self.trades += 1
        self.last = event
        bar = self.bar(event.price, event.quantity, event.time_ms // 1000 * 1000)
        if self._second is not None and bar.open_ms <= self._second.open_ms:
            self._second.extend(bar)
            return
        self.roll(event.time_ms)
        self._second = bar
        self._due = min(self._due, bar.open_ms + 1000)

    def bar(self, price: str, quantity: str, open_ms: int) -> Bar:
        """Give the bar of one trade."""
        paid, volume = Decimal(price), Decimal(quantity)
        coin, money = self.amounts(volume, paid)
        return Bar(open_ms, paid, paid, paid, paid, volume, coin, money)

    def amounts(self, volume: Decimal, price: Decimal) -> tuple[Decimal, Decimal]:
        """Give base coins and quote of a quantity as the venue counts."""
        if self._is_inverse:
            money = volume * self._size
            return (money / price).quantize(_COIN_UNIT), money
        coin = volume * self._size
        return coin, coin * price

    def roll(self, now_ms: int) -> None:
        """Close what ended."""
        if now_ms < self._due:
            return
        second = self._second
        if second is not None and second.open_ms + 1000 <= now_ms:
            self._second = None
            for form in FORMS:
                if form in self._bars:
                    self._bars[form].extend(second)
                else:
                    opened = open_of(form, second.open_ms)
                    self._bars[form] = replace(second, open_ms=opened)
                    self._ends[form] = end_of(form, opened)
        for form in [form for form, end in self._ends.items() if end <= now_ms]:
            while (end := self._ends[form]) <= now_ms:
                bar = self._bars[form]
                self.closed.setdefault(form, []).append(bar)
                following = end_of(form, end)
                if (now_ms - end) // (following - end) > MOST_EMPTY:
                    end = open_of(form, now_ms - MOST_EMPTY * (following - end))
                    following = end_of(form, end)
                self._bars[form] = Bar.without_trades(end, bar.close)
                self._ends[form] = following
                if form == "1m" and bar.volume:
                    self._minutes.append(bar)
                    self._day = _sum(self._day, bar)
                    self._forget(now_ms)
        self._due = min(self._ends.values(), default=_NEVER)
        if self._second is not None:
            self._due = min(self._due, self._second.open_ms + 1000)

    def _forget(self, now_ms: int) -> None:
        """Drop minutes older than a day."""
        before = len(self._minutes)
        while self._minutes and self._minutes[0].open_ms + _MINUTE_MS <= now_ms - DAY_MS:
            self._minutes.popleft()
        if len(self._minutes) != before:
            self._day = _sum(*self._minutes)

    def current(self, form: str) -> Bar | None:
        """Give the unfinished bar."""
        found = _sum(self._bars.get(form), self._second)
        if found is None:
            return self._bars.get(form)
        found.open_ms = open_of(form, found.open_ms)
        return found

    def last_day(self, now_ms: int) -> Bar | None:
        """Sum up the last 24 h, by whole minutes."""
        self._forget(now_ms)
        return _sum(self._day, self._bars.get("1m"), self._second)

    def start_of_day(self, form: str) -> str:
        """Give the first price of the day: the day's first trade, or the last one before it; empty without any."""
        bar = self.current(form)
        return plain(bar.open) if bar is not None else self.last.price if self.last is not None else ""
