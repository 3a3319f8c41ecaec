"""The texts of what is pushed.

A writer's last argument is the scale of times: 1 for milliseconds, 1000 where a socket asked for microseconds.
"""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

from marketprism_ray.simulator.binance.facts import UNIVERSES
from marketprism_ray.simulator.binance.figures import Bar, Window, contract_type, is_inverse, pair_of, value_text
from marketprism_ray.simulator.binance.tape import Aggregate, is_insurance
from marketprism_ray.simulator.market import BookEvent, Listing, Symbol, TradeEvent, padded
from marketprism_ray.simulator.summaries import funding_rate, index_price, mark_price, next_funding_ms
from marketprism_ray.simulator.wire import Client

BANKRUPT = Decimal("0.995")
"""The limit price of a forced order to sell, as a part of what it fetched."""


def is_combined(client: Client) -> bool:
    """Tell whether the socket names the stream of each frame."""
    return client.path.endswith("stream")


def text_of(value: Any) -> str:
    """Write JSON as the venue does."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


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


def _sent(event: TradeEvent) -> int:
    """Give the time at which a fill is told: a little after it happened."""
    return event.time_ms + 1 + event.id % 3


# --- trades ----------------------------------------------------------------------------------------------------------


def trade(event: TradeEvent, scale: int) -> str:
    """Write ``@trade`` of spot."""
    return (
        f'{{"e":"trade","E":{_sent(event) * scale},"s":"{event.listing.venue_symbol}","t":{event.id},'
        f'"p":"{event.price}","q":"{event.quantity}","T":{event.time_ms * scale},'
        f'"m":{str(event.taker_sold).lower()},"M":true}}'
    )


def futures_trade(event: TradeEvent, _: int) -> str:
    """Write ``@trade`` of futures."""
    kind = "INSURANCE_FUND" if is_insurance(event.id, is_liquidation=event.is_liquidation) else "MARKET"
    return (
        f'{{"e":"trade","E":{_sent(event)},"T":{event.time_ms},"s":"{event.listing.venue_symbol}","t":{event.id},'
        f'"p":"{event.price}","q":"{event.quantity}","X":"{kind}","m":{str(event.taker_sold).lower()}}}'
    )


def aggregate(one: Aggregate, sent_ms: int, scale: int) -> str:
    """Write ``@aggTrade`` of spot."""
    return (
        f'{{"e":"aggTrade","E":{sent_ms * scale},"s":"{one.symbol.listing.venue_symbol}","a":{one.id},'
        f'"p":"{one.price}","q":"{one.symbol.quantity_text(one.quantity)}","f":{one.first},"l":{one.last},'
        f'"T":{one.time_ms * scale},"m":{str(one.taker_sold).lower()},"M":true}}'
    )


def futures_aggregate(one: Aggregate, sent_ms: int, _: int) -> str:
    """Write ``@aggTrade`` of futures."""
    text = one.symbol.quantity_text
    listing = one.symbol.listing
    without_rpi = "" if is_inverse(listing) else f'"nq":"{text(one.without_rpi)}",'
    return (
        f'{{"e":"aggTrade","E":{sent_ms},"a":{one.id},"s":"{listing.venue_symbol}","p":"{one.price}",'
        f'"q":"{text(one.quantity)}",{without_rpi}"f":{one.first},"l":{one.last},"T":{one.time_ms},'
        f'"m":{str(one.taker_sold).lower()},"st":{UNIVERSES[listing.venue]}}}'
    )


# --- books -----------------------------------------------------------------------------------------------------------


def depth(event: BookEvent, sent_ms: int, scale: int) -> str:
    """Write ``@depth`` of spot."""
    return (
        f'{{"e":"depthUpdate","E":{sent_ms * scale},"s":"{event.listing.venue_symbol}","U":{event.first},'
        f'"u":{event.last},"b":{levels_of(event.bids)},"a":{levels_of(event.asks)}}}'
    )


def window(event: BookEvent, _: int, __: int) -> str:
    """Write ``@depth<levels>`` of spot, which names neither symbol nor time."""
    return f'{{"lastUpdateId":{event.last},"bids":{levels_of(event.bids)},"asks":{levels_of(event.asks)}}}'


def futures_depth(event: BookEvent, sent_ms: int, _: int) -> str:
    """Write ``@depth`` and ``@depth<levels>`` of futures."""
    return (
        f'{{"e":"depthUpdate","E":{sent_ms},"T":{event.time_ms},"s":"{event.listing.venue_symbol}",'
        f'"ps":"{pair_of(event.listing)}","U":{event.first},"u":{event.last},"pu":{event.previous},'
        f'"b":{levels_of(event.bids)},"a":{levels_of(event.asks)},"st":{UNIVERSES[event.listing.venue]}}}'
    )


def book_ticker(symbol: Symbol, time_ms: int, _: int) -> str:
    """Write ``@bookTicker``; spot has no time in it."""
    (bid, bid_size), (ask, ask_size) = symbol.best()
    best = f'"b":"{bid}","B":"{bid_size}","a":"{ask}","A":"{ask_size}"'
    listing = symbol.listing
    if listing.venue not in UNIVERSES:
        return f'{{"u":{symbol.update_id},"s":"{listing.venue_symbol}",{best}}}'
    return (
        f'{{"e":"bookTicker","u":{symbol.update_id},"s":"{listing.venue_symbol}","ps":"{pair_of(listing)}",{best},'
        f'"T":{time_ms},"E":{time_ms + 2},"st":{UNIVERSES[listing.venue]}}}'
    )


# --- candles and tickers ---------------------------------------------------------------------------------------------


def _candle(symbol: Symbol, bar: Bar, interval: str, now_ms: int, scale: int) -> dict[str, Any]:
    return {
        "t": bar.open_ms * scale,
        "T": bar.end_ms * scale - 1,
        "s": symbol.listing.venue_symbol,
        "i": interval,
        "f": bar.first_id,
        "L": bar.last_id,
        "o": symbol.price_text(bar.open),
        "c": symbol.price_text(bar.close),
        "h": symbol.price_text(bar.high),
        "l": symbol.price_text(bar.low),
        "v": symbol.quantity_text(bar.volume),
        "n": bar.trades,
        "x": bar.end_ms <= now_ms,
        "q": value_text(symbol, bar.value),
        "V": symbol.quantity_text(bar.bought),
        "Q": value_text(symbol, bar.bought_value),
        "B": "0",
    }


def kline(symbol: Symbol, bar: Bar, interval: str, now_ms: int, scale: int) -> str:
    """Write ``@kline_<interval>``."""
    k = _candle(symbol, bar, interval, now_ms, scale)
    return text_of({"e": "kline", "E": now_ms * scale, "s": k["s"], "k": k, **universe(symbol.listing)})


def continuous_kline(symbol: Symbol, bar: Bar, interval: str, now_ms: int, scale: int) -> str:
    """Write ``@continuousKline_<interval>``: of a pair and kind of contract."""
    k = _candle(symbol, bar, interval, now_ms, scale)
    del k["s"]
    pair = {"ps": pair_of(symbol.listing), "ct": contract_type(symbol.listing)}
    return text_of({"e": "continuous_kline", "E": now_ms * scale, **pair, "k": k, **universe(symbol.listing)})


def ticker(window: Window, now_ms: int, scale: int, event: str = "24hrTicker") -> dict[str, Any]:
    """Give ``@ticker``, and under another name the windows of fewer hours."""
    symbol, figures = window.symbol, window.until(now_ms).figures()
    best: dict[str, Any] = {}
    is_day = event == "24hrTicker"
    if is_day and symbol.listing.venue not in UNIVERSES:
        (bid, bid_size), (ask, ask_size) = symbol.best()
        best = {"x": figures["prevClosePrice"], "b": bid, "B": bid_size, "a": ask, "A": ask_size}
    return {
        "e": event,
        "E": now_ms * scale,
        **names(symbol.listing),
        "p": figures["priceChange"],
        "P": figures["priceChangePercent"],
        "w": figures["weightedAvgPrice"],
        "c": figures["lastPrice"],
        **({"Q": figures["lastQty"]} if is_day else {}),
        **best,
        "o": figures["openPrice"],
        "h": figures["highPrice"],
        "l": figures["lowPrice"],
        "v": figures["volume"],
        "q": figures.get("quoteVolume") or figures["baseVolume"],
        "O": (now_ms - window.length_ms) * scale,
        "C": now_ms * scale,
        "F": figures["firstId"],
        "L": figures["lastId"],
        "n": figures["count"],
        **universe(symbol.listing),
    }


def mini_ticker(window: Window, now_ms: int, scale: int) -> dict[str, Any]:
    """Give ``@miniTicker``."""
    whole = ticker(window, now_ms, scale)
    kept = ("E", "s", "ps", "c", "o", "h", "l", "v", "q", "st")
    return {"e": "24hrMiniTicker"} | {name: whole[name] for name in kept if name in whole}


def average_price(window: Window, now_ms: int, scale: int) -> str:
    """Write ``@avgPrice``: of five minutes."""
    price, last_ms = window.average(300_000, now_ms)
    named = {"e": "avgPrice", "E": now_ms * scale, "s": window.symbol.listing.venue_symbol, "i": "5m"}
    return text_of({**named, "w": padded(price), "T": last_ms * scale})


# --- futures ---------------------------------------------------------------------------------------------------------


def mark(symbol: Symbol, at: int) -> dict[str, Any]:
    """Give ``@markPrice``."""
    mark, index = mark_price(symbol), index_price(symbol)
    is_perpetual = symbol.listing.market_type == "perpetual"
    return {
        "e": "markPriceUpdate",
        "E": at,
        "s": symbol.listing.venue_symbol,
        "p": padded(mark),
        "ap": padded((3 * mark + index) / 4),
        "i": padded(index),
        "P": padded((mark + 3 * index) / 4),
        "r": padded(funding_rate(symbol.listing, at)) if is_perpetual else "",
        "T": next_funding_ms(at) if is_perpetual else 0,
        **universe(symbol.listing),
    }


def index(symbol: Symbol, at: int) -> str:
    """Write ``@indexPrice``."""
    return text_of({"e": "indexPriceUpdate", "E": at, "i": pair_of(symbol.listing), "p": padded(index_price(symbol))})


def forced(symbol: Symbol, place: int, at: int, *, is_of_all: bool = False) -> str:
    """Write ``@forceOrder``: ``p`` is the limit, ``ap`` what it fetched, ``l`` its last fill, ``z`` all of them."""
    truth, listing = symbol.truth, symbol.listing
    pair = {"ps": pair_of(listing)} if is_of_all or is_inverse(listing) else {}
    sold, price, lots = truth.taker_sold[place], Decimal(truth.prices[place]), truth.quantities[place]
    limit = (price * (BANKRUPT if sold else 2 - BANKRUPT) / listing.tick).to_integral_value() * listing.tick
    last = max(1, int(Decimal(lots) / listing.lot) * 2 // 3) * listing.lot
    order = {
        "s": listing.venue_symbol,
        **({} if is_of_all else pair),
        "S": "SELL" if sold else "BUY",
        "o": "LIMIT",
        "f": "IOC",
        "q": lots,
        "p": symbol.price_text(limit),
        "ap": truth.prices[place],
        "X": "FILLED",
        "l": symbol.quantity_text(last),
        "z": lots,
        "T": truth.times_ms[place],
        **({**pair, **universe(listing)} if is_of_all else {}),
    }
    return text_of({"e": "forceOrder", "E": at, "o": order})


def contract_event(symbol: Symbol, status: str, delivery_ms: int, onboard_ms: int, at: int) -> str:
    """Write ``!contractInfo``."""
    kind = {"ct": contract_type(symbol.listing), "dt": delivery_ms, "ot": onboard_ms, "cs": status}
    return text_of({"e": "contractInfo", "E": at, **names(symbol.listing), **kind, **universe(symbol.listing)})
