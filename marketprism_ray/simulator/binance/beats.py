"""What a market sends by the clock: candles, tickers, marks, forced orders, and what is said of all symbols."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from typing import Any

from marketprism_ray.simulator.binance import frames, info
from marketprism_ray.simulator.binance.desk import Desk
from marketprism_ray.simulator.binance.facts import UNIVERSES, Body
from marketprism_ray.simulator.binance.figures import Bar, Candles, pair_of
from marketprism_ray.simulator.binance.intervals import HOUR_MS, Interval
from marketprism_ray.simulator.market import Symbol
from marketprism_ray.simulator.summaries import DAY_MS

MARK_MS, BOOK_TICKER_MS = 3000, 5000
"""Between messages of ``@markPrice`` and of ``!bookTicker``."""
WINDOWS_MS = {"1h": HOUR_MS, "4h": 4 * HOUR_MS, "1d": DAY_MS}
_KLINE = re.compile(r"(kline|continuousKline)_(\w+?)(?:@([+-])(\d\d):(\d\d))?")


@dataclass
class _Stream:
    """A stream of candles."""

    candles: Candles
    every_ms: int
    write: Callable[[Symbol, Bar, str, int, int], str]
    told: int
    """Number of closed candles that were told, or ended before anybody asked: nobody gets those later."""
    last: tuple[int, int] | None = None
    """Beginning and number of trades of the open candle as it was last told."""


class Beats:
    """The clock of one market.

    Parameters
    ----------
    push : sends a frame: (stream, writer of its text)
    """

    def __init__(self, desk: Desk, push: Callable[[str, Body], None]) -> None:
        self._desk = desk
        self._push = push
        self._told: dict[tuple[str, Symbol], int] = {}
        """Number of trades, or update id, of each symbol when a stream was last told."""
        self._slots: dict[tuple[int, str], int] = {}
        self._klines: dict[str, _Stream] = {}
        self._states: dict[Symbol, str] = {}

    def watch(self, key: str, now_ms: int) -> None:
        """Begin a stream of candles, unless its name is wrong."""
        name, _, channel = key.partition("@")
        match = _KLINE.fullmatch(channel)
        facts = self._desk.facts
        if key in self._klines or match is None or match[2] not in facts.intervals or (match[3] and facts.has_pairs):
            return
        zone_ms = 0
        if match[3]:
            zone_ms = (int(match[4]) * 60 + int(match[5])) * 60_000 * (1 if match[3] == "+" else -1)
        write, symbol = frames.kline, self._desk.find(name.upper()) if name == name.lower() else None
        if match[1] == "continuousKline":
            pair, _, kind = name.upper().partition("_")
            write, symbol = frames.continuous_kline, self._desk.contract(pair, kind) if facts.has_pairs else None
        if symbol is None:
            return
        candles = self._desk.candles(symbol, Interval(match[2], zone_ms)).until(now_ms)
        every_ms = 1000 if match[2] == "1s" else facts.kline_ms
        self._klines[key] = _Stream(candles, every_ms, write, len(candles.closed))

    def tick(self, now_ms: int) -> None:
        """Send what is due."""
        desk = self._desk
        for symbol, tape in desk.tapes.items():
            for one in tape.until(now_ms):
                key = f"{symbol.listing.venue_symbol.lower()}@aggTrade"
                self._push(key, partial(desk.facts.aggregate, one, now_ms))
        desk.books.tick(now_ms)
        for every_ms in {1000, desk.facts.kline_ms}:
            if self._is_due(every_ms, now_ms):
                self._send_candles(every_ms, now_ms)
        if self._is_due(desk.facts.ticker_ms, now_ms, "ticker"):
            self._send_tickers(now_ms)
        if not self._is_due(1000, now_ms, "second"):
            return
        second_ms = now_ms // 1000 * 1000
        self._send_all(now_ms)
        if desk.name in UNIVERSES:
            self._send_marks(second_ms)
            self._send_liquidations(now_ms)
        else:
            self._send_windows(now_ms)

    def relist(self, now_ms: int) -> None:
        """Tell of contracts whose state has changed."""
        if self._desk.name not in UNIVERSES:
            return
        states = dict(info.told_of(self._desk, now_ms))
        known, self._states = self._states, states
        for symbol, status in states.items():
            if known and known.get(symbol) != status:
                write = partial(frames.contract_event, symbol, status, info.delivery_ms(symbol), info.ONBOARD_MS)
                self._push("!contractInfo", partial(_now, write, now_ms))

    def _is_due(self, every_ms: int, now_ms: int, what: str = "") -> bool:
        key = (every_ms, what)
        slot = now_ms // every_ms
        if slot <= self._slots.get(key, 0):
            return False
        self._slots[key] = slot
        return True

    def _changed(self, what: str, symbols: list[Symbol], state: Callable[[Symbol], int]) -> list[Symbol]:
        """Give the symbols whose state is another than at the last call about this."""
        found = [symbol for symbol in symbols if self._told.get((what, symbol), 0) != state(symbol)]
        self._told.update({(what, symbol): state(symbol) for symbol in found})
        return found

    def _send_candles(self, every_ms: int, now_ms: int) -> None:
        for key, stream in self._klines.items():
            if stream.every_ms != every_ms:
                continue
            candles = stream.candles.until(now_ms)
            for bar in candles.closed[stream.told :]:
                self._push_candle(key, stream, bar, now_ms)
            stream.told = len(candles.closed)
            growing = candles.bar
            if growing is not None and stream.last != (state := (growing.open_ms, growing.trades)):
                stream.last = state
                self._push_candle(key, stream, growing, now_ms)

    def _push_candle(self, key: str, stream: _Stream, bar: Bar, now_ms: int) -> None:
        symbol, name = stream.candles.symbol, stream.candles.interval.name
        self._push(key, partial(stream.write, symbol, bar, name, now_ms))

    def _send_tickers(self, now_ms: int) -> None:
        for symbol in self._desk.own:
            if symbol.truth.ids:
                stream, window = symbol.listing.venue_symbol.lower(), self._desk.window(symbol)
                self._push(f"{stream}@ticker", _written(frames.ticker, window, now_ms))
                self._push(f"{stream}@miniTicker", _written(frames.mini_ticker, window, now_ms))

    def _send_windows(self, now_ms: int) -> None:
        """Send what only spot has: windows of a few hours, average prices."""
        traded = [symbol for symbol in self._desk.own if symbol.truth.ids]
        for symbol in traded:
            stream = symbol.listing.venue_symbol.lower()
            self._push(f"{stream}@avgPrice", partial(frames.average_price, self._desk.window(symbol), now_ms))
        changed = self._changed("windows", self._desk.own, _trades)
        for name, length_ms in WINDOWS_MS.items():
            make = partial(frames.ticker, event=f"{name}Ticker")
            for symbol in traded:
                key = f"{symbol.listing.venue_symbol.lower()}@ticker_{name}"
                self._push(key, _written(make, self._desk.window(symbol, length_ms), now_ms))
            if changed:
                windows = [self._desk.window(symbol, length_ms) for symbol in changed]
                self._push(f"!ticker_{name}@arr", _all_written(make, windows, now_ms))

    def _send_all(self, now_ms: int) -> None:
        """Send what is told of all symbols that changed; both futures markets tell of each other's."""
        is_spot = self._desk.name not in UNIVERSES
        changed = self._changed("arrays", self._desk.all, _trades)
        windows = [self._desk.window(symbol) for symbol in changed]
        if windows:
            self._push("!miniTicker@arr", _all_written(frames.mini_ticker, windows, now_ms))
        if is_spot:
            return  # its !ticker@arr is no more since 2026-03-26
        if windows:
            self._push("!ticker@arr", _all_written(frames.ticker, windows, now_ms))
        if self._is_due(BOOK_TICKER_MS, now_ms, "quotes"):
            for symbol in self._changed("quotes", self._desk.all, _update_id):
                self._push("!bookTicker", partial(frames.book_ticker, symbol, now_ms))

    def _send_marks(self, second_ms: int) -> None:
        ends = ("", "@1s") if self._is_due(MARK_MS, second_ms, "marks") else ("@1s",)
        own = self._desk.own
        for end in ends:
            for symbol in self._desk.all:
                key = f"{symbol.listing.venue_symbol.lower()}@markPrice{end}"
                self._push(key, partial(_marks, symbol, second_ms))
            self._push(f"!markPrice@arr{end}", partial(_marks, own, second_ms))
            for pair in {pair_of(symbol.listing): None for symbol in own} if self._desk.facts.has_ids_of_pairs else ():
                contracts = [symbol for symbol in own if pair_of(symbol.listing) == pair]
                self._push(f"{pair.lower()}@markPrice{end}", partial(_marks, contracts, second_ms))
                self._push(f"{pair.lower()}@indexPrice{end}", partial(_index, contracts[0], second_ms))

    def _send_liquidations(self, now_ms: int) -> None:
        """Send the largest forced order of each symbol within the second: a sample."""
        for symbol in self._desk.all:
            truth = symbol.truth
            first = self._told.get(("forced", symbol), 0)
            self._told["forced", symbol] = len(truth.ids)
            places = [i for i in range(first, len(truth.ids)) if truth.liquidations[i]]
            if not places:
                continue
            largest = max(places, key=lambda i: Decimal(truth.quantities[i]))
            if symbol.listing.venue == self._desk.name:
                key = f"{symbol.listing.venue_symbol.lower()}@forceOrder"
                self._push(key, partial(_forced, symbol, largest, now_ms))
            self._push("!forceOrder@arr", partial(_forced, symbol, largest, now_ms, is_of_all=True))


def _trades(symbol: Symbol) -> int:
    return len(symbol.truth.ids)


def _update_id(symbol: Symbol) -> int:
    return symbol.update_id


def _written(make: Callable[..., dict[str, Any]], *arguments: Any) -> Body:
    return lambda scale: frames.text_of(make(*arguments, scale))


def _all_written(make: Callable[..., dict[str, Any]], items: list[Any], now_ms: int) -> Body:
    return lambda scale: frames.text_of([make(item, now_ms, scale) for item in items])


def _marks(symbols: Symbol | list[Symbol], at: int, _: int) -> str:
    if isinstance(symbols, Symbol):
        return frames.text_of(frames.mark(symbols, at))
    return frames.text_of([frames.mark(symbol, at) for symbol in symbols])


def _index(symbol: Symbol, at: int, _: int) -> str:
    return frames.index(symbol, at)


def _now(write: Callable[[int], str], at: int, _: int) -> str:
    return write(at)


def _forced(symbol: Symbol, place: int, at: int, _: int, *, is_of_all: bool = False) -> str:
    return frames.forced(symbol, place, at, is_of_all=is_of_all)
