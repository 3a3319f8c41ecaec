"""REST answers about books, trades, candles and tickers."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from typing import Any

from marketprism_ray.simulator.binance.books import Levels
from marketprism_ray.simulator.binance.desk import Desk
from marketprism_ray.simulator.binance.facts import NO_SYMBOL, UNIVERSES, Ask
from marketprism_ray.simulator.binance.figures import pair_of
from marketprism_ray.simulator.binance.intervals import HOUR_MS, Interval
from marketprism_ray.simulator.binance.limits import Refused
from marketprism_ray.simulator.binance.rows import aggregate_row, kline_row, trade_row
from marketprism_ray.simulator.market import Symbol, padded
from marketprism_ray.simulator.summaries import DAY_MS


def time(desk: Desk, ask: Ask) -> Any:
    """Answer ``time``."""
    return {"serverTime": ask.now_ms}


def ping(desk: Desk, _: Ask) -> Any:
    """Answer ``ping``."""
    return {}


def depth(desk: Desk, ask: Ask) -> Any:
    """Answer ``depth`` of spot, from a server that lags behind the stream."""
    update_id, _, bids, asks = _book(desk, ask)
    return {"lastUpdateId": update_id, "bids": bids, "asks": asks}


def _book(desk: Desk, ask: Ask) -> tuple[int, int, Levels, Levels]:
    return desk.books.replica(desk.symbol(ask)).at(ask.now_ms - desk.lag.draw(), ask.limit)


def futures_depth(desk: Desk, ask: Ask) -> Any:
    """Answer ``depth`` of futures."""
    if int(ask.query.get("limit", ask.limit)) not in (5, 10, 20, 50, 100, 500, 1000):
        raise Refused(-4021, f"{ask.query['limit']} is not valid depth limit.")
    update_id, changed_ms, bids, asks = _book(desk, ask)
    named = desk.named(desk.symbol(ask)) if desk.facts.has_ids_of_pairs else {}
    times = {"E": ask.now_ms, "T": changed_ms or ask.now_ms}
    return {"lastUpdateId": update_id, **times, **named, "bids": bids, "asks": asks}


def trades(desk: Desk, ask: Ask) -> Any:
    """Answer ``historicalTrades``, and ``trades`` of spot: from an id on, or the newest."""
    symbol = desk.symbol(ask)
    ids = symbol.truth.ids
    from_id = ask.numbers.get("fromId")
    first = max(0, len(ids) - ask.limit) if from_id is None else bisect_left(ids, from_id)
    return [trade_row(symbol, i) for i in range(first, min(first + ask.limit, len(ids)))]


def newest_trades(desk: Desk, ask: Ask) -> Any:
    """Answer ``trades`` of futures."""
    symbol = desk.symbol(ask)
    count = len(symbol.truth.ids)
    return [trade_row(symbol, i) for i in range(max(0, count - ask.limit), count)]


def aggregates(desk: Desk, ask: Ask) -> Any:
    """Answer ``aggTrades``, with what was pushed: from an id, or from a time on, or the newest."""
    tape = desk.tapes[desk.symbol(ask)]
    times, ids = tape.told.times_ms, tape.told.ids
    last = bisect_right(times, ask.numbers["endTime"]) if "endTime" in ask.numbers else len(ids)
    if "fromId" in ask.numbers:
        first = bisect_left(ids, ask.numbers["fromId"])
    elif "startTime" in ask.numbers:
        first = bisect_left(times, ask.numbers["startTime"])
    else:
        first = max(0, last - ask.limit)
    return [aggregate_row(tape.rows[i]) for i in range(first, min(first + ask.limit, last))]


def futures_aggregates(desk: Desk, ask: Ask) -> Any:
    """Answer ``aggTrades`` of futures."""
    numbers = ask.numbers
    if "fromId" in numbers and ("startTime" in numbers or "endTime" in numbers):
        raise Refused(-1128, "Combination of optional parameters invalid.")
    if "startTime" in numbers and numbers.get("endTime", 0) - numbers["startTime"] >= HOUR_MS:
        raise Refused(-1127, "More than 1 hours between startTime and endTime.")
    return aggregates(desk, ask)


def klines(desk: Desk, ask: Ask) -> Any:
    """Answer ``klines``."""
    symbol, interval = desk.find(ask.query.get("symbol", "")), _interval(desk, ask)
    if symbol is None:
        raise Refused(*NO_SYMBOL)
    return _klines(desk, ask, symbol, interval)


def continuous_klines(desk: Desk, ask: Ask) -> Any:
    """Answer ``continuousKlines``: of a pair and kind of contract."""
    symbol = desk.contract(ask.query.get("pair", ""), ask.query.get("contractType", ""))
    if symbol is None:
        raise Refused(-1102, "Mandatory parameter 'contractType' was not sent, was empty/null, or malformed.")
    return _klines(desk, ask, symbol, _interval(desk, ask))


def _klines(desk: Desk, ask: Ask, symbol: Symbol, interval: Interval) -> Any:
    """Give whole candles, chosen by the time they open, also those without trades."""
    start, end = ask.numbers.get("startTime"), ask.numbers.get("endTime", ask.now_ms)
    is_from_end = start is None or desk.facts.has_ids_of_pairs
    if start is not None and desk.facts.has_ids_of_pairs and end - start > 200 * DAY_MS:
        raise Refused(-4088, "Maximum time interval is 200 days.")
    candles = desk.candles(symbol, interval).until(ask.now_ms)
    bars = [*candles.closed, *([] if candles.bar is None else [candles.bar])]
    first = bisect_left(bars, start or 0, key=lambda bar: bar.open_ms)
    last = bisect_right(bars, end, key=lambda bar: bar.open_ms)
    chosen = bars[max(first, last - ask.limit) : last] if is_from_end else bars[first : min(last, first + ask.limit)]
    return [kline_row(symbol, bar) for bar in chosen]


def _interval(desk: Desk, ask: Ask) -> Interval:
    name = ask.query.get("interval", "")
    if name not in desk.facts.intervals:
        raise Refused(-1120, "Invalid interval.")
    zone = "0" if desk.facts.has_pairs else ask.query.get("timeZone", "0")
    match = re.fullmatch(r"([+-]?)(\d{1,2})(?::(\d\d))?", zone)
    if match is None:
        raise Refused(-1100, "Illegal characters found in parameter 'timeZone'.")
    minutes = int(match[2]) * 60 + int(match[3] or 0)
    return Interval(name, minutes * 60_000 * (-1 if match[1] == "-" else 1))


def average_price(desk: Desk, ask: Ask) -> Any:
    """Answer ``avgPrice``: of five minutes."""
    price, last_ms = desk.window(desk.symbol(ask)).average(300_000, ask.now_ms)
    return {"mins": 5, "price": padded(price), "closeTime": last_ms}


def prices(desk: Desk, ask: Ask) -> Any:
    """Answer ``ticker/price``."""

    def row(symbol: Symbol) -> dict[str, Any]:
        last = symbol.truth.prices[-1] if symbol.truth.prices else symbol.price_text(symbol.listing.price)
        pair = {"ps": pair_of(symbol.listing)} if desk.facts.has_ids_of_pairs else {}
        time = {"time": ask.now_ms} if desk.name in UNIVERSES else {}
        return {"symbol": symbol.listing.venue_symbol, **pair, "price": last, **time}

    return desk.rows(ask, row)


def tickers(desk: Desk, ask: Ask) -> Any:
    """Answer ``ticker/24hr``."""

    def row(symbol: Symbol) -> dict[str, Any]:
        best: dict[str, Any] = {}
        if desk.name not in UNIVERSES:
            (bid, bid_size), (ask_, ask_size) = symbol.best()
            best = {"bidPrice": bid, "bidQty": bid_size, "askPrice": ask_, "askQty": ask_size}
        times = {"openTime": ask.now_ms - DAY_MS, "closeTime": ask.now_ms}
        return {**desk.named(symbol), **best, **times, **desk.window(symbol).until(ask.now_ms).figures()}

    return desk.rows(ask, row)


def book_tickers(desk: Desk, ask: Ask) -> Any:
    """Answer ``ticker/bookTicker``."""

    def row(symbol: Symbol) -> dict[str, Any]:
        (bid, bid_size), (ask_, ask_size) = symbol.best()
        best = {"bidPrice": bid, "bidQty": bid_size, "askPrice": ask_, "askQty": ask_size}
        more = {"time": ask.now_ms, "lastUpdateId": symbol.update_id} if desk.name in UNIVERSES else {}
        return {**desk.named(symbol), **best, **more}

    return desk.rows(ask, row)
