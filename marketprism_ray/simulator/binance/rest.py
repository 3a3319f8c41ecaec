"""REST answers about books, trades, candles and tickers."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import Any

from marketprism_ray.simulator.binance.desk import Desk
from marketprism_ray.simulator.binance.facts import HOUR_MS, NO_SYMBOL, UNIVERSES, Ask
from marketprism_ray.simulator.binance.figures import Candles
from marketprism_ray.simulator.binance.frames import aggregate_row, kline_row, trade_row
from marketprism_ray.simulator.binance.limits import Refused
from marketprism_ray.simulator.market import Symbol
from marketprism_ray.simulator.summaries import DAY_MS


def time(desk: Desk, ask: Ask) -> Any:
    """Answer ``time``."""
    return {"serverTime": ask.now_ms}


def ping(desk: Desk, _: Ask) -> Any:
    """Answer ``ping``."""
    return {}


def depth(desk: Desk, ask: Ask) -> Any:
    """Answer ``depth`` of spot."""
    symbol = desk.symbol(ask)
    bids, asks = symbol.book(ask.limit)
    return {"lastUpdateId": symbol.update_id, "bids": bids, "asks": asks}


def futures_depth(desk: Desk, ask: Ask) -> Any:
    """Answer ``depth`` of futures."""
    if int(ask.query.get("limit", ask.limit)) not in (5, 10, 20, 50, 100, 500, 1000):
        raise Refused(-4021, f"{ask.query['limit']} is not valid depth limit.")
    book = depth(desk, ask)
    named = desk.named(desk.symbol(ask)) if desk.facts.has_ids_of_pairs else {}
    times = {"E": ask.now_ms, "T": ask.now_ms}
    return {"lastUpdateId": book["lastUpdateId"], **times, **named, "bids": book["bids"], "asks": book["asks"]}


def trades(desk: Desk, ask: Ask) -> Any:
    """Answer ``trades`` and ``historicalTrades`` of spot."""
    symbol = desk.symbol(ask)
    ids = symbol.truth.ids
    from_id = ask.numbers.get("fromId")
    first = max(0, len(ids) - ask.limit) if from_id is None or not ids else max(0, from_id - ids[0])
    return [trade_row(symbol, i) for i in range(first, min(first + ask.limit, len(ids)))]


def newest_trades(desk: Desk, ask: Ask) -> Any:
    """Answer ``trades`` of futures."""
    symbol = desk.symbol(ask)
    count = len(symbol.truth.ids)
    return [trade_row(symbol, i) for i in range(max(0, count - ask.limit), count)]


def aggregates(desk: Desk, ask: Ask) -> Any:
    """Give trades as aggregates of one: from an id, or from a time on, or the newest."""
    symbol = desk.symbol(ask)
    times, ids = symbol.truth.times_ms, symbol.truth.ids
    last = bisect_right(times, ask.numbers["endTime"]) if "endTime" in ask.numbers else len(ids)
    if "fromId" in ask.numbers:
        first = max(0, ask.numbers["fromId"] - ids[0]) if ids else 0
    elif "startTime" in ask.numbers:
        first = bisect_left(times, ask.numbers["startTime"])
    else:
        first = max(0, last - ask.limit)
    return [aggregate_row(symbol, i) for i in range(first, min(first + ask.limit, last))]


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
    symbol, interval_ms = desk.find(ask.query.get("symbol", "")), interval(desk, ask)
    if symbol is None:
        raise Refused(*NO_SYMBOL)
    start, end = ask.numbers.get("startTime"), ask.numbers.get("endTime", ask.now_ms)
    is_from_end = start is None or desk.facts.has_ids_of_pairs
    if start is not None and desk.facts.has_ids_of_pairs and end - start > 200 * DAY_MS:
        raise Refused(-4088, "Maximum time interval is 200 days.")
    # Whole candles, chosen by the time they open.
    candles = Candles(symbol, interval_ms, -(-(start or 0) // interval_ms) * interval_ms)
    bars = candles.closed_before(ask.now_ms)
    if candles.bar is not None:
        bars.append(candles.bar)
    bars = [bar for bar in bars if bar.open_ms <= end]
    chosen = bars[-ask.limit :] if is_from_end else bars[: ask.limit]
    return [kline_row(symbol, bar, interval_ms) for bar in chosen]


def interval(desk: Desk, ask: Ask) -> int:
    """Give the interval asked for, in ms."""
    interval_ms = desk.facts.intervals_ms.get(ask.query.get("interval", ""))
    if interval_ms is None:
        raise Refused(-1120, "Invalid interval.")
    return interval_ms


def tickers(desk: Desk, ask: Ask) -> Any:
    """Answer ``ticker/24hr``."""

    def row(symbol: Symbol) -> dict[str, Any]:
        best: dict[str, Any] = {}
        if desk.name not in UNIVERSES:
            (bid, bid_size), (ask_, ask_size) = symbol.best()
            best = {"bidPrice": bid, "bidQty": bid_size, "askPrice": ask_, "askQty": ask_size}
        times = {"openTime": ask.now_ms - DAY_MS, "closeTime": ask.now_ms}
        return {**desk.named(symbol), **best, **times, **desk.days[symbol].until(ask.now_ms).figures()}

    return desk.rows(ask, row)


def book_tickers(desk: Desk, ask: Ask) -> Any:
    """Answer ``ticker/bookTicker``."""

    def row(symbol: Symbol) -> dict[str, Any]:
        (bid, bid_size), (ask_, ask_size) = symbol.best()
        best = {"bidPrice": bid, "bidQty": bid_size, "askPrice": ask_, "askQty": ask_size}
        more = {"time": ask.now_ms, "lastUpdateId": symbol.update_id} if desk.name in UNIVERSES else {}
        return {**desk.named(symbol), **best, **more}

    return desk.rows(ask, row)
