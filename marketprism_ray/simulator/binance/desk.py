"""What a market has on offer: its symbols and their figures, shared by sockets and REST."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from marketprism_ray.simulator.binance.books import Books, Lag
from marketprism_ray.simulator.binance.facts import NO_SYMBOL, UNIVERSES, Ask, Body, Facts
from marketprism_ray.simulator.binance.figures import Candles, Window, contract_type, pair_of
from marketprism_ray.simulator.binance.intervals import Interval
from marketprism_ray.simulator.binance.limits import Refused
from marketprism_ray.simulator.binance.tape import Tape
from marketprism_ray.simulator.market import Market, Symbol
from marketprism_ray.simulator.summaries import DAY_MS


class Desk:
    """The symbols of one market, and of the universe whose streams it carries.

    Parameters
    ----------
    push : sends a frame: (stream, writer of its text)
    """

    def __init__(self, name: str, facts: Facts, market: Market, push: Callable[[str, Body], None]) -> None:
        self.name = name
        self.facts = facts
        self.market = market
        self.books = Books(facts, push)
        self.lag = Lag(name)
        self.own: list[Symbol] = []
        self.all: list[Symbol] = []
        """Those of both futures markets."""
        self.tapes: dict[Symbol, Tape] = {}
        self._windows: dict[tuple[Symbol, int], Window] = {}
        self._candles: dict[tuple[Symbol, Interval], Candles] = {}
        self.relist()

    def relist(self) -> None:
        """Look at the list of symbols again."""
        self.own = self.market.of_venue(self.name)
        universes = UNIVERSES if self.name in UNIVERSES else (self.name,)
        self.all = [symbol for venue in universes for symbol in self.market.of_venue(venue)]
        for symbol in self.own:
            if symbol not in self.tapes:
                self.tapes[symbol] = Tape(symbol)  # kept when it is listed no more: its history can still be asked for

    def window(self, symbol: Symbol, length_ms: int = DAY_MS) -> Window:
        """Give the last hours of a symbol."""
        key = (symbol, length_ms)
        return self._windows.get(key) or self._windows.setdefault(key, Window(symbol, length_ms))

    def candles(self, symbol: Symbol, interval: Interval) -> Candles:
        """Give the candles of a symbol: those that are pushed and those of REST are the same."""
        key = (symbol, interval)
        return self._candles.get(key) or self._candles.setdefault(key, Candles(symbol, interval))

    def find(self, name: str) -> Symbol | None:
        """Find a symbol of the universe."""
        return next((symbol for symbol in self.all if symbol.listing.venue_symbol == name), None)

    def contract(self, pair: str, kind: str) -> Symbol | None:
        """Find a contract of the universe by pair and kind."""
        for symbol in self.all:
            if (pair_of(symbol.listing), contract_type(symbol.listing)) == (pair, kind):
                return symbol
        return None

    def symbol(self, ask: Ask) -> Symbol:
        """Find the symbol asked for, in this market."""
        symbol = self.market.of_venue_symbol(self.name, ask.query.get("symbol", ""))
        if symbol is None:
            raise Refused(*NO_SYMBOL)
        return symbol

    def chosen(self, ask: Ask) -> list[Symbol]:
        """Give the symbol asked for, those of the pair asked for, or all."""
        if "symbol" in ask.query:
            return [self.symbol(ask)]
        pair = ask.query.get("pair") if self.facts.has_ids_of_pairs else None
        return [symbol for symbol in self.own if pair in (None, pair_of(symbol.listing))]

    def rows(self, ask: Ask, row: Callable[[Symbol], dict[str, Any]]) -> Any:
        """Answer with one row, or with a list where several were asked for, and always on COIN-M."""
        rows = [row(symbol) for symbol in self.chosen(ask)]
        return rows[0] if "symbol" in ask.query and not self.facts.has_ids_of_pairs else rows

    def named(self, symbol: Symbol) -> dict[str, Any]:
        """Give what tells a symbol in an answer."""
        named = {"symbol": symbol.listing.venue_symbol}
        return {**named, "pair": pair_of(symbol.listing)} if self.facts.has_ids_of_pairs else named
