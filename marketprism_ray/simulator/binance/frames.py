"""The texts of the market data: pushed events, and the rows of REST answers that repeat them."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

from aiohttp import web

from marketprism_ray.simulator.binance.facts import UNIVERSES
from marketprism_ray.simulator.binance.figures import Bar, is_inverse, pair_of, value_of, value_text
from marketprism_ray.simulator.market import BookEvent, Listing, Symbol, TradeEvent, padded
from marketprism_ray.simulator.summaries import funding_rate, index_price, mark_price, next_funding_ms
from marketprism_ray.simulator.wire import Client


def is_combined(client: Client) -> bool:
    """Tell whether the socket names the stream of each frame."""
    return client.path.endswith("stream")


def text_of(value: Any) -> str:
    """Write JSON as the venue does."""
    return json.dumps(value, separators=(",", ":"))


def json_answer(value: Any, status: int, headers: dict[str, str]) -> web.Response:
    """Give an answer of the REST API."""
    return web.Response(text=text_of(value), status=status, headers=headers, content_type="application/json")


def levels_of(levels: Any) -> str:
    """Write levels of a book."""
    return "[" + ",".join(f'["{price}","{quantity}"]' for price, quantity in levels) + "]"


def universe(listing: Listing) -> dict[str, int]:
    """Give what tells the futures markets apart; nothing on spot."""
    return {"st": UNIVERSES[listing.venue]} if listing.venue in UNIVERSES else {}


def names(listing: Listing) -> dict[str, str]:
    """Give what tells a symbol in an event."""
    names = {"s": listing.venue_symbol}
    return {**names, "ps": pair_of(listing)} if listing.venue in UNIVERSES else names


def trade(event: TradeEvent, at: int) -> str:
    """Write ``@trade`` of spot."""
    return (
        f'{{"e":"trade","E":{at},"s":"{event.listing.venue_symbol}","t":{event.id},"p":"{event.price}",'
        f'"q":"{event.quantity}","T":{at},"m":{str(event.taker_sold).lower()},"M":true}}'
    )


def aggregate(event: TradeEvent, at: int) -> str:
    """Write ``@aggTrade`` of spot."""
    return (
        f'{{"e":"aggTrade","E":{at},"s":"{event.listing.venue_symbol}","a":{event.id},"p":"{event.price}",'
        f'"q":"{event.quantity}","f":{event.id},"l":{event.id},"T":{at},"m":{str(event.taker_sold).lower()},"M":true}}'
    )


def futures_trade(event: TradeEvent, at: int) -> str:
    """Write ``@trade`` of futures."""
    return (
        f'{{"e":"trade","E":{at},"T":{at},"s":"{event.listing.venue_symbol}","t":{event.id},"p":"{event.price}",'
        f'"q":"{event.quantity}","X":"MARKET","m":{str(event.taker_sold).lower()}}}'
    )


def futures_aggregate(event: TradeEvent, at: int) -> str:
    """Write ``@aggTrade`` of futures."""
    without_rpi = "" if is_inverse(event.listing) else f'"nq":"{event.quantity}",'
    return (
        f'{{"e":"aggTrade","E":{at},"s":"{event.listing.venue_symbol}","a":{event.id},"p":"{event.price}",'
        f'"q":"{event.quantity}",{without_rpi}"f":{event.id},"l":{event.id},"T":{at},'
        f'"m":{str(event.taker_sold).lower()},"st":{UNIVERSES[event.listing.venue]}}}'
    )


def depth(event: BookEvent, at: int) -> str:
    """Write ``@depth`` of spot."""
    return (
        f'{{"e":"depthUpdate","E":{at},"s":"{event.listing.venue_symbol}","U":{event.first},"u":{event.last},'
        f'"b":{levels_of(event.bids)},"a":{levels_of(event.asks)}}}'
    )


def futures_depth(event: BookEvent, at: int) -> str:
    """Write ``@depth`` of futures."""
    return (
        f'{{"e":"depthUpdate","E":{at},"T":{at},"s":"{event.listing.venue_symbol}","ps":"{pair_of(event.listing)}",'
        f'"U":{event.first},"u":{event.last},"pu":{event.previous},"b":{levels_of(event.bids)},'
        f'"a":{levels_of(event.asks)},"st":{UNIVERSES[event.listing.venue]}}}'
    )


def book_ticker(symbol: Symbol, at: int) -> str:
    """Write ``@bookTicker``."""
    (bid, bid_size), (ask, ask_size) = symbol.best()
    best = f'"b":"{bid}","B":"{bid_size}","a":"{ask}","A":"{ask_size}"'
    listing = symbol.listing
    if listing.venue not in UNIVERSES:
        return f'{{"u":{symbol.update_id},"s":"{listing.venue_symbol}",{best}}}'
    return (
        f'{{"e":"bookTicker","u":{symbol.update_id},"s":"{listing.venue_symbol}","ps":"{pair_of(listing)}",{best},'
        f'"T":{at},"E":{at},"st":{UNIVERSES[listing.venue]}}}'
    )


def mark(symbol: Symbol, at: int) -> dict[str, Any]:
    """Give ``@markPrice``."""
    mark, index = padded(mark_price(symbol)), padded(index_price(symbol))
    is_perpetual = symbol.listing.market_type == "perpetual"
    return {
        "e": "markPriceUpdate",
        "E": at,
        "s": symbol.listing.venue_symbol,
        "p": mark,
        "ap": mark,
        "i": index,
        "P": index,
        "r": padded(funding_rate(symbol.listing, at)) if is_perpetual else "",
        "T": next_funding_ms(at) if is_perpetual else 0,
        **universe(symbol.listing),
    }


def index(symbol: Symbol, at: int) -> str:
    """Write ``@indexPrice``."""
    return text_of({"e": "indexPriceUpdate", "E": at, "i": pair_of(symbol.listing), "p": padded(index_price(symbol))})


def forced(symbol: Symbol, place: int, at: int, *, is_of_all: bool = False) -> str:
    """Write ``@forceOrder``."""
    truth, listing = symbol.truth, symbol.listing
    pair = {"ps": pair_of(listing)} if is_of_all or is_inverse(listing) else {}
    order = {
        "s": listing.venue_symbol,
        **pair,
        "S": "SELL" if truth.taker_sold[place] else "BUY",
        "o": "LIMIT",
        "f": "IOC",
        "q": truth.quantities[place],
        "p": truth.prices[place],
        "ap": truth.prices[place],
        "X": "FILLED",
        "l": truth.quantities[place],
        "z": truth.quantities[place],
        "T": truth.times_ms[place],
        **(universe(listing) if is_of_all else {}),
    }
    return text_of({"e": "forceOrder", "E": at, "o": order})


def trade_row(symbol: Symbol, place: int) -> dict[str, Any]:
    """Give a row of ``trades``."""
    truth, listing = symbol.truth, symbol.listing
    value = value_of(listing, Decimal(truth.prices[place]), Decimal(truth.quantities[place]))
    last = {"isBestMatch": True} if listing.venue not in UNIVERSES else {}
    return {
        "id": truth.ids[place],
        "price": truth.prices[place],
        "qty": truth.quantities[place],
        "baseQty" if is_inverse(listing) else "quoteQty": padded(value),
        "time": truth.times_ms[place],
        "isBuyerMaker": truth.taker_sold[place],
        **last,
    }


def aggregate_row(symbol: Symbol, place: int) -> dict[str, Any]:
    """Give a row of ``aggTrades``."""
    truth = symbol.truth
    last = {"M": True} if symbol.listing.venue not in UNIVERSES else {}
    return {
        "a": truth.ids[place],
        "p": truth.prices[place],
        "q": truth.quantities[place],
        "f": truth.ids[place],
        "l": truth.ids[place],
        "T": truth.times_ms[place],
        "m": truth.taker_sold[place],
        **last,
    }


def kline_row(symbol: Symbol, bar: Bar, interval_ms: int) -> list[Any]:
    """Give a row of ``klines``."""
    prices = [symbol.text(price) for price in (bar.open, bar.high, bar.low, bar.close)]
    bought = (symbol.text(bar.bought), value_text(symbol, bar.bought_value), "0")
    close_ms = bar.open_ms + interval_ms - 1
    value = value_text(symbol, bar.value)
    return [bar.open_ms, *prices, symbol.text(bar.volume), close_ms, value, bar.trades, *bought]
