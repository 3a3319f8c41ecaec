"""What a market has on offer: its symbols and their figures, shared by sockets and REST."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from marketprism_ray.simulator.binance.facts import NO_SYMBOL, UNIVERSES, Ask, Facts
from marketprism_ray.simulator.binance.figures import Day, pair_of
from marketprism_ray.simulator.binance.limits import Refused
from marketprism_ray.simulator.market import Market, Symbol


class Desk:
    """The symbols of one market, and of the universe whose streams it carries."""

    def __init__(self, name: str, facts: Facts, market: Market) -> None:
        self.name = name
        self.facts = facts
        self.market = market
        self.own: list[Symbol] = []
        self.all: list[Symbol] = []
        """Those of both futures markets."""
        self.days: dict[Symbol, Day] = {}
        self.relist()

    def relist(self) -> None:
        """Look at the list of symbols again."""
        self.own = self.market.of_venue(self.name)
        universes = UNIVERSES if self.name in UNIVERSES else (self.name,)
        self.all = [symbol for venue in universes for symbol in self.market.of_venue(venue)]
        self.days = {symbol: self.days.get(symbol) or Day(symbol) for symbol in self.all}

    def find(self, name: str) -> Symbol | None:
        """Find a symbol of the universe."""
        return next((symbol for symbol in self.all if symbol.listing.venue_symbol == name), None)

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
