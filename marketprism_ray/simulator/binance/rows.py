"""Rows of REST answers."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from aiohttp import web

from marketprism_ray.simulator.binance.facts import UNIVERSES
from marketprism_ray.simulator.binance.figures import Bar, is_inverse, value_of, value_text
from marketprism_ray.simulator.binance.frames import text_of
from marketprism_ray.simulator.binance.tape import Aggregate, is_rpi
from marketprism_ray.simulator.market import Symbol


def json_answer(value: Any, status: int, headers: dict[str, str]) -> web.Response:
    """Give an answer of the REST API."""
    return web.Response(text=text_of(value), status=status, headers=headers, content_type="application/json")


def trade_row(symbol: Symbol, place: int) -> dict[str, Any]:
    """Give a row of ``trades``."""
    truth, listing = symbol.truth, symbol.listing
    value = value_of(listing, Decimal(truth.prices[place]), Decimal(truth.quantities[place]))
    last = {"isBestMatch": True} if listing.venue not in UNIVERSES else {}
    if listing.venue == "binance_derivatives":
        last = {"isRPITrade": is_rpi(symbol, truth.ids[place])}
    return {
        "id": truth.ids[place],
        "price": truth.prices[place],
        "qty": truth.quantities[place],
        "baseQty" if is_inverse(listing) else "quoteQty": value_text(symbol, value),
        "time": truth.times_ms[place],
        "isBuyerMaker": truth.taker_sold[place],
        **last,
    }


def aggregate_row(one: Aggregate) -> dict[str, Any]:
    """Give a row of ``aggTrades``."""
    symbol = one.symbol
    venue = symbol.listing.venue
    return {
        "a": one.id,
        "p": one.price,
        "q": symbol.quantity_text(one.quantity),
        **({"nq": symbol.quantity_text(one.without_rpi)} if venue == "binance_derivatives" else {}),
        "f": one.first,
        "l": one.last,
        "T": one.time_ms,
        "m": one.taker_sold,
        **({"M": True} if venue not in UNIVERSES else {}),
    }


def kline_row(symbol: Symbol, bar: Bar) -> list[Any]:
    """Give a row of ``klines``."""
    prices = [symbol.price_text(price) for price in (bar.open, bar.high, bar.low, bar.close)]
    bought = (symbol.quantity_text(bar.bought), value_text(symbol, bar.bought_value), "0")
    value = value_text(symbol, bar.value)
    return [bar.open_ms, *prices, symbol.quantity_text(bar.volume), bar.end_ms - 1, value, bar.trades, *bought]
