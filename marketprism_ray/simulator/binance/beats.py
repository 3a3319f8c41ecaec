"""What a market sends by the clock: candles, tickers, marks, forced orders, and what is said of all symbols."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

from marketprism_ray.simulator.binance.desk import Desk
from marketprism_ray.simulator.binance.facts import UNIVERSES, Body
from marketprism_ray.simulator.binance.figures import Bar, Candles, pair_of
from marketprism_ray.simulator.binance.frames import (
    book_ticker,
    forced,
    index,
    kline_row,
    mark,
    names,
    text_of,
    universe,
)
from marketprism_ray.simulator.market import Symbol
from marketprism_ray.simulator.summaries import DAY_MS
from marketprism_ray.simulator.wire import Wire

MARK_S, BOOK_TICKER_S = 3, 5
"""Seconds between messages of ``@markPrice`` and of ``!bookTicker``."""


class Beats:
    """The clock of one market.

    Parameters
    ----------
    push : sends a frame: (stream, its time in ms, event, writer of its text)
    """

    def __init__(self, desk: Desk, wire: Wire, push: Callable[[str, int, Any, Body], None]) -> None:
        self._desk = desk
        self._wire = wire
        self._push = push
        self._traded: dict[Symbol, int] = {}
        """Number of trades at the last beat."""
        self._quoted: dict[Symbol, int] = {}
        """Update id at the last ``!bookTicker``."""
        self._second = 0
        self._candles: dict[str, Candles] = {}
        """Stream -> its candles, while somebody listens."""
        self.relist()

    def relist(self) -> None:
        """Look at the list of symbols again."""
        self._traded = {symbol: self._traded.get(symbol, 0) for symbol in self._desk.all}
        self._quoted = {symbol: self._quoted.get(symbol, 0) for symbol in self._desk.all}

    def tick(self, now_ms: int) -> None:
        """Send what is due: candles, tickers, marks, liquidations. Does something once a second."""
        second = now_ms // 1000
        if second <= self._second:
            return
        self._second = second
        wanted = self._wire.known(self._desk.name)
        traded, self._traded = self._traded, {symbol: len(symbol.truth.ids) for symbol in self._desk.all}
        if not wanted:
            return
        self._send_candles(second, wanted)
        if second % self._desk.facts.ticker_s == 0:
            for symbol in self._desk.own:
                self._send_ticker(symbol, second * 1000)
        if self._desk.name in UNIVERSES:
            self._send_marks(second)
            self._send_liquidations(traded, second * 1000)
            self._send_all(traded, second)

    def _send_candles(self, second: int, wanted: set[str]) -> None:
        now_ms = second * 1000
        self._candles = {key: candles for key, candles in self._candles.items() if key in wanted}
        for key in sorted(wanted):
            name, _, interval = key.partition("@kline_")
            interval_ms = self._desk.facts.intervals_ms.get(interval)
            if interval_ms is None:
                continue
            if key not in self._candles:
                symbol = self._desk.find(name.upper()) if name.islower() else None
                if symbol is None:
                    continue
                # Whoever came in the last second before a candle's end gets its end.
                self._candles[key] = Candles(symbol, interval_ms, (now_ms - 1000) // interval_ms * interval_ms)
            candles = self._candles[key]
            for bar in candles.closed_before(now_ms):
                self._send_candle(key, now_ms, candles, bar, interval, is_closed=True)
            if candles.bar is not None and (interval == "1s" or second % self._desk.facts.kline_s == 0):
                self._send_candle(key, now_ms, candles, candles.bar, interval, is_closed=False)

    def _send_candle(
        self, key: str, now_ms: int, candles: Candles, bar: Bar, interval: str, *, is_closed: bool
    ) -> None:
        def body(_: Any, at: int) -> str:
            scale = at // now_ms
            name = candles.symbol.listing.venue_symbol
            start, open_, high, low, close, volume, _end, value, trades, bought, bought_value, _unused = kline_row(
                candles.symbol, bar, candles.interval_ms
            )
            k = {
                "t": start * scale,
                "T": (bar.open_ms + candles.interval_ms) * scale - 1,
                "s": name,
                "i": interval,
                "f": bar.first_id,
                "L": bar.last_id,
                "o": open_,
                "c": close,
                "h": high,
                "l": low,
                "v": volume,
                "n": trades,
                "x": is_closed,
                "q": value,
                "V": bought,
                "Q": bought_value,
                "B": "0",
            }
            return text_of({"e": "kline", "E": at, "s": name, "k": k})

        self._push(key, now_ms, None, body)

    def _send_ticker(self, symbol: Symbol, now_ms: int) -> None:
        stream = symbol.listing.venue_symbol.lower()
        if symbol.truth.ids:
            self._push(f"{stream}@ticker", now_ms, symbol, lambda s, at: text_of(self._ticker_event(s, now_ms, at)))
            self._push(f"{stream}@miniTicker", now_ms, symbol, lambda s, at: text_of(self._mini_ticker(s, now_ms, at)))

    def _ticker_event(self, symbol: Symbol, now_ms: int, at: int) -> dict[str, Any]:
        figures, scale = self._desk.days[symbol].until(now_ms).figures(), at // now_ms
        best: dict[str, Any] = {}
        if self._desk.name not in UNIVERSES:
            (bid, bid_size), (ask, ask_size) = symbol.best()
            best = {"x": figures["openPrice"], "b": bid, "B": bid_size, "a": ask, "A": ask_size}
        return {
            "e": "24hrTicker",
            "E": at,
            **names(symbol.listing),
            "p": figures["priceChange"],
            "P": figures["priceChangePercent"],
            "w": figures["weightedAvgPrice"],
            "c": figures["lastPrice"],
            "Q": figures["lastQty"],
            **best,
            "o": figures["openPrice"],
            "h": figures["highPrice"],
            "l": figures["lowPrice"],
            "v": figures["volume"],
            "q": figures.get("quoteVolume") or figures["baseVolume"],
            "O": (now_ms - DAY_MS) * scale,
            "C": at,
            "F": figures["firstId"],
            "L": figures["lastId"],
            "n": figures["count"],
            **universe(symbol.listing),
        }

    def _mini_ticker(self, symbol: Symbol, now_ms: int, at: int) -> dict[str, Any]:
        whole = self._ticker_event(symbol, now_ms, at)
        kept = ("E", "s", "ps", "c", "o", "h", "l", "v", "q", "st")
        return {"e": "24hrMiniTicker"} | {name: whole[name] for name in kept if name in whole}

    def _send_marks(self, second: int) -> None:
        now_ms = second * 1000
        ends = ("", "@1s") if second % MARK_S == 0 else ("@1s",)
        for end in ends:
            for symbol in self._desk.all:
                self._push(
                    f"{symbol.listing.venue_symbol.lower()}@markPrice{end}",
                    now_ms,
                    symbol,
                    lambda s, at: text_of(mark(s, at)),
                )
            self._push(
                f"!markPrice@arr{end}",
                now_ms,
                self._desk.own,
                lambda own, at: text_of([mark(symbol, at) for symbol in own]),
            )
            for symbol in self._desk.own if self._desk.facts.has_ids_of_pairs else ():
                if symbol.listing.market_type == "perpetual":
                    self._push(f"{pair_of(symbol.listing).lower()}@indexPrice{end}", now_ms, symbol, index)

    def _send_liquidations(self, traded: Mapping[Symbol, int], now_ms: int) -> None:
        """Send the largest forced order of each symbol since the last beat."""
        for symbol in self._desk.all:
            truth = symbol.truth
            places = [i for i in range(traded[symbol], len(truth.ids)) if truth.liquidations[i]]
            if not places:
                continue
            largest = max(places, key=lambda i: Decimal(truth.quantities[i]))
            if symbol.listing.venue == self._desk.name:
                stream = symbol.listing.venue_symbol.lower()
                self._push(f"{stream}@forceOrder", now_ms, symbol, lambda s, at, i=largest: forced(s, i, at))  # type: ignore[misc]
            self._push("!forceOrder@arr", now_ms, symbol, lambda s, at, i=largest: forced(s, i, at, is_of_all=True))  # type: ignore[misc]

    def _send_all(self, traded: Mapping[Symbol, int], second: int) -> None:
        """Send what both futures markets tell of each other's symbols: those that changed."""
        now_ms = second * 1000
        changed = [symbol for symbol in self._desk.all if len(symbol.truth.ids) > traded[symbol]]
        for key, make in (("!ticker@arr", self._ticker_event), ("!miniTicker@arr", self._mini_ticker)):
            if changed:
                self._push(
                    key,
                    now_ms,
                    changed,
                    lambda symbols, at, make=make: text_of([make(symbol, now_ms, at) for symbol in symbols]),  # type: ignore[misc]
                )
        if second % BOOK_TICKER_S == 0:
            quoted, self._quoted = self._quoted, {symbol: symbol.update_id for symbol in self._desk.all}
            for symbol in self._desk.all:
                if symbol.update_id != quoted[symbol]:
                    self._push("!bookTicker", now_ms, symbol, book_ticker)
