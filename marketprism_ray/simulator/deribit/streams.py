"""What Deribit's channels are called and what those that go by the clock have to say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from marketprism_ray.simulator.deribit.books import GROUPS, grouped
from marketprism_ray.simulator.deribit.channels import VOLATILITY_INDEXES, Channel, is_group
from marketprism_ray.simulator.deribit.combos import Combo
from marketprism_ray.simulator.deribit.listed import (
    INTERVALS_MS,
    RESOLUTIONS_MS,
    Listed,
    current_funding,
    index_name_of,
)
from marketprism_ray.simulator.deribit.rows import candle_text, ticker, window
from marketprism_ray.simulator.deribit.text import Raw, exponent, json_text
from marketprism_ray.simulator.market import plain
from marketprism_ray.simulator.summaries import STEP_MS, greeks, index_price, mark_price, volatility

BEAT_MS = 100
"""What is sent by the clock is looked at this often."""
SECOND_MS = 1_000


class Streams:
    """Channels over what is listed.

    Parameters
    ----------
    listed, combos : by the venue's name
    indexes : the symbol whose trades stand in for each index
    """

    def __init__(
        self, listed: Mapping[str, Listed], combos: Mapping[str, Combo], indexes: Mapping[str, Listed]
    ) -> None:
        self._listed = listed
        self._combos = combos
        self._indexes = indexes
        self._told: dict[str, dict[str, Any]] = {}
        """What listeners of a ticker that is sent by its differences know."""

    def channel(self, key: str) -> Channel | None:
        """Read a key; None if there is no such channel."""
        match key.split("."):
            case ["trades", name, every] if name in (*self._listed, *self._combos) and every in INTERVALS_MS:
                return Channel("trades", name)
            case ["book", name, every] if name in self._listed and every in INTERVALS_MS:
                return Channel("book", name, detail=every)
            case ["ticker", name, every] if name in self._listed and every in INTERVALS_MS:
                return Channel("ticker", name, INTERVALS_MS[every])
            case ["incremental_ticker", name] if name in self._listed:
                return Channel("incremental", name, BEAT_MS)
            case ["perpetual", name, every] if name in self._listed and every in INTERVALS_MS:
                is_perpetual = self._listed[name].symbol.listing.market_type == "perpetual"
                return Channel("perpetual", name, INTERVALS_MS[every]) if is_perpetual else None
            case ["quote", name] if name in self._listed:
                return Channel("quote", name)
            case ["book", name, group, "1" | "10" | "20" as depth, every] if name in self._listed and group in GROUPS:
                return Channel("window", name, INTERVALS_MS[every], depth, group) if every in INTERVALS_MS else None
            case ["trades", kind, currency, every] if is_group(kind, currency) and every in INTERVALS_MS:
                return Channel("trades", f"{kind}.{currency}")
            case ["instrument", "state" | "creation", kind, currency] if is_group(kind, currency):
                return Channel("state", f"{kind}.{currency}")
            case ["chart", "trades", name, resolution] if name in self._listed and resolution in RESOLUTIONS_MS:
                return Channel("chart", name, SECOND_MS, resolution)
            case ["deribit_volatility_index", index] if index in VOLATILITY_INDEXES:
                return Channel("volatility", index, SECOND_MS)
            case ["deribit_price_index", index] if index in self._indexes:
                return Channel("index", index, SECOND_MS)
            case ["markprice", "options", index] if index in self._indexes:
                return Channel("marks", index, SECOND_MS)
            case ["platform_state"]:
                return Channel("platform", "")
        return None

    def members(self, place: str) -> list[Listed]:
        """Give the symbols of a group, or the one of that name."""
        if place in self._listed:
            return [self._listed[place]]
        kind, _, currency = place.partition(".")
        return [one for one in self._listed.values() if one.is_in(kind, currency)]

    def state(self, channel: Channel, now_ms: int) -> Any:
        """Give what differs when a stream has something new to say; None if it always has."""
        match channel.topic:
            case "ticker" | "perpetual" | "incremental":
                one = self._listed[channel.place]
                return one.trades, one.books, one.symbol.state, now_ms // STEP_MS
            case "window":
                return self._listed[channel.place].books
            case "chart":
                return self._listed[channel.place].trades
        return None

    def text(self, channel: Channel, now_ms: int) -> str | None:
        """Write what a stream has to say now; None if that is nothing yet."""
        match channel.topic:
            case "incremental":
                return self._difference(channel.place, now_ms)
            case "ticker":
                return json_text(ticker(self._listed[channel.place], now_ms))
            case "perpetual":
                symbol = self._listed[channel.place].symbol
                rate, index = current_funding(symbol.listing, now_ms), Raw(plain(index_price(symbol)))
                return json_text({"timestamp": now_ms, "interest": exponent(rate), "index_price": index})
            case "window":
                symbol = self._listed[channel.place].symbol
                levels = grouped(symbol, channel.group, int(channel.detail))
                return json_text(window(symbol, levels, symbol.update_id, now_ms))
            case "chart":
                candle = self._listed[channel.place].candle(channel.detail, now_ms)
                return candle_text(candle) if candle.trades else None
            case "volatility":
                value = Raw(plain(volatility(channel.place, now_ms)))
                return json_text({"timestamp": now_ms, "volatility": value, "index_name": channel.place})
            case "index":
                value = Raw(plain(index_price(self._indexes[channel.place].symbol)))
                return json_text({"timestamp": now_ms, "price": value, "index_name": channel.place})
            case _:
                return json_text(self._marks(channel.place, now_ms))

    def first_text(self, channel: Channel, now_ms: int) -> str | None:
        """Write what a new listener of a stream gets at once, as those know it who listen already."""
        if channel.topic == "incremental":
            return json_text({"type": "snapshot", **self._told[channel.place]})
        return self.text(channel, now_ms)

    def _difference(self, name: str, now_ms: int) -> str | None:
        """Write what has changed of a ticker, and keep what is known now."""
        now, told = ticker(self._listed[name], now_ms), self._told.get(name, {})
        self._told[name] = now
        changed = {key: value for key, value in now.items() if json_text(value) != json_text(told.get(key))}
        changed.pop("timestamp", None)
        if not changed:
            return None
        return json_text({"type": "change", "timestamp": now_ms, "instrument_name": name, **changed})

    def _marks(self, index: str, now_ms: int) -> list[dict[str, Any]]:
        """Give the marks of options; here volatilities are fractions."""
        return [
            {
                "timestamp": now_ms,
                "instrument_name": one.name,
                "mark_price": Raw(plain(mark_price(one.symbol))),
                "iv": Raw(plain(greeks(one.symbol.listing, now_ms).mark_iv)),
            }
            for one in self._listed.values()
            if one.kind == "option" and index_name_of(one.symbol.listing) == index
        ]
