"""The server side of Binance spot: combined and raw sockets, depth and trade endpoints, request weight.

What a wrong stream gets is an acknowledgement and silence, as in life.
"""

from __future__ import annotations

import json
import time
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from aiohttp import web

from marketprism_ray.simulator.market import BookEvent, Market, Symbol, TradeEvent, padded
from marketprism_ray.simulator.summaries import DAY_MS, Candle, candles, last_day
from marketprism_ray.simulator.wire import Client, Wire

VENUE = "binance_spot"
WEIGHT_PER_MINUTE = 6000
WEIGHTS = {"exchangeInfo": 20, "historicalTrades": 25, "trades": 25, "aggTrades": 4, "klines": 2, "ticker/24hr": 2}
INTERVALS_MS = {"1s": 1000, "1m": 60_000, "5m": 300_000, "15m": 900_000, "1h": 3_600_000, "1d": DAY_MS}


class BinanceSpot:
    """One simulated market of this house."""

    name = VENUE

    def __init__(self, market: Market, wire: Wire) -> None:
        self._market = market
        self._wire = wire
        self._spent: deque[tuple[float, int]] = deque()
        self.rate_limited = 0

    def routes(self) -> list[web.RouteDef]:
        """Give the HTTP routes."""
        return [
            web.get(f"/{VENUE}/{{mode:stream|ws}}", self._socket),
            web.get(f"/{VENUE}/ws/{{names:.+}}", self._socket),
            web.get(f"/{VENUE}/api/v3/{{endpoint:.+}}", self._rest),
        ]

    # --- sockets ---

    async def _socket(self, request: web.Request) -> web.StreamResponse:
        mode = request.match_info.get("mode", "ws")
        names = request.match_info.get("names") or request.query.get("streams") or ""
        started = [name for name in names.split("/") if name]
        return await self._wire.serve(
            request, VENUE, mode, self._command, idle_s=None, names=started, opened=self._subscribe
        )

    def _subscribe(self, client: Client, name: str) -> None:
        self._wire.subscribe(client, name)
        symbol, _, channel = name.partition("@")
        found = self._market.of_venue_symbol(VENUE, symbol.upper()) if symbol.islower() else None
        if found is not None and channel == "trade" and found.truth.subscribed_from is None:
            found.truth.subscribed_from = found.trade_id + 1

    def _command(self, client: Client, text: str) -> None:
        try:
            command = json.loads(text)
            method, identity = command["method"], command.get("id")
            names = [str(name) for name in command.get("params") or []]
        except (json.JSONDecodeError, KeyError, TypeError, AttributeError):
            client.send('{"code":3,"msg":"Invalid JSON: expected value","id":null}')
            return
        match method:
            case "SUBSCRIBE":
                for name in names:
                    self._subscribe(client, name)
                client.send(json.dumps({"result": None, "id": identity}))
            case "UNSUBSCRIBE":
                for name in names:
                    self._wire.unsubscribe(client, name)
                client.send(json.dumps({"result": None, "id": identity}))
            case "LIST_SUBSCRIPTIONS":
                client.send(json.dumps({"result": sorted(client.keys), "id": identity}))
            case _:
                client.send(json.dumps({"code": 2, "msg": "Invalid request: unknown variant", "id": identity}))

    def notice(self) -> None:
        """Announce a shutdown on every socket."""
        for client in self._wire.clients:
            if client.venue == VENUE:
                event = {"e": "serverShutdown", "E": int(time.time() * 1000)}
                client.send(
                    json.dumps({"stream": "!serverShutdown", "data": event} if client.path == "stream" else event)
                )

    def publish(self, event: TradeEvent | BookEvent) -> None:
        """Send an event to whoever subscribed it."""
        stream = event.listing.venue_symbol.lower()
        if isinstance(event, TradeEvent):
            self._send(f"{stream}@trade", event, _trade)
            self._send(f"{stream}@aggTrade", event, _aggregate)
            return
        self._send(f"{stream}@depth@100ms", event, _depth)
        self._send(f"{stream}@depth", event, _depth)
        self._send(f"{stream}@bookTicker", event, self._best)

    def _send(self, key: str, event: Any, body: Callable[[Any, int], str]) -> None:
        """Write each form of a frame once, and only if a socket wants it."""
        made: dict[tuple[str, bool], str] = {}

        def frame(client: Client) -> str:
            form = (client.path, client.in_microseconds)
            if form not in made:
                text = body(event, event.time_ms * 1000 if client.in_microseconds else event.time_ms)
                made[form] = f'{{"stream":"{key}","data":{text}}}' if client.path == "stream" else text
            return made[form]

        self._wire.publish(VENUE, key, frame)

    def _best(self, event: BookEvent, _: int) -> str:
        (bid, bid_size), (ask, ask_size) = self._market.symbols[VENUE, event.listing.symbol].best()
        return (
            f'{{"u":{event.last},"s":"{event.listing.venue_symbol}","b":"{bid}","B":"{bid_size}",'
            f'"a":"{ask}","A":"{ask_size}"}}'
        )

    # --- REST ---

    def _spend(self, weight: int) -> tuple[int, bool]:
        now = time.monotonic()
        while self._spent and self._spent[0][0] < now - 60:
            self._spent.popleft()
        used = sum(w for _, w in self._spent) + weight
        if used > WEIGHT_PER_MINUTE:
            self.rate_limited += 1
            return used, False
        self._spent.append((now, weight))
        return used, True

    async def _rest(self, request: web.Request) -> web.Response:
        endpoint, query = request.match_info["endpoint"], request.query
        try:
            limit = max(1, int(query.get("limit", 100 if endpoint == "depth" else 500)))
            numbers = {n: int(query[n]) for n in ("fromId", "startTime", "endTime") if n in query}
        except ValueError:
            return _json({"code": -1100, "msg": "Illegal characters found in a parameter."}, 400, {})
        depth_weight = 5 if limit <= 100 else 25 if limit <= 500 else 50 if limit <= 1000 else 250
        weight = depth_weight if endpoint == "depth" else WEIGHTS.get(endpoint, 1)
        used, allowed = self._spend(weight)
        headers = {"X-MBX-USED-WEIGHT-1M": str(used)}
        if not allowed:
            headers["Retry-After"] = "5"
            return _json({"code": -1003, "msg": "Too much request weight used."}, 429, headers)
        if endpoint == "time":
            return _json({"serverTime": int(time.time() * 1000)}, 200, headers)
        if endpoint == "ping":
            return _json({}, 200, headers)
        if endpoint == "exchangeInfo":
            return self._exchange(query.get("symbol"), headers)
        symbol = self._market.of_venue_symbol(VENUE, query.get("symbol", ""))
        if symbol is None:
            return _json({"code": -1121, "msg": "Invalid symbol."}, 400, headers)
        if endpoint == "depth":
            bids, asks = symbol.book(min(limit, 5000))
            return _json({"lastUpdateId": symbol.update_id, "bids": bids, "asks": asks}, 200, headers)
        if endpoint in ("trades", "historicalTrades"):
            return _json(_history(symbol, numbers.get("fromId"), min(limit, 1000)), 200, headers)
        if endpoint == "aggTrades":
            return _json(_aggregates(symbol, numbers, min(limit, 1000)), 200, headers)
        if endpoint == "klines":
            interval = INTERVALS_MS.get(query.get("interval", ""))
            if interval is None:
                return _json({"code": -1120, "msg": "Invalid interval."}, 400, headers)
            found = candles(symbol.truth, interval, numbers.get("startTime", 0), numbers.get("endTime"))
            chosen = found[:limit] if "startTime" in numbers else found[-limit:]
            return _json([_kline(candle, interval) for candle in chosen], 200, headers)
        if endpoint == "ticker/24hr":
            return _json(_ticker(symbol), 200, headers)
        return _json({"code": -1, "msg": f"unknown endpoint {endpoint}"}, 404, headers)

    def _exchange(self, name: str | None, headers: dict[str, str]) -> web.Response:
        symbols = [s for s in self._market.of_venue(VENUE) if name in (None, s.listing.venue_symbol)]
        if not symbols:
            return _json({"code": -1121, "msg": "Invalid symbol."}, 400, headers)
        limit = {"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1, "limit": WEIGHT_PER_MINUTE}
        answer = {
            "timezone": "UTC",
            "serverTime": int(time.time() * 1000),
            "rateLimits": [limit],
            "exchangeFilters": [],
        }
        return _json({**answer, "symbols": [_info(symbol) for symbol in symbols]}, 200, headers)


def _trade(event: TradeEvent, at: int) -> str:
    return (
        f'{{"e":"trade","E":{at},"s":"{event.listing.venue_symbol}","t":{event.id},"p":"{event.price}",'
        f'"q":"{event.quantity}","T":{at},"m":{str(event.taker_sold).lower()},"M":true}}'
    )


def _aggregate(event: TradeEvent, at: int) -> str:
    return (
        f'{{"e":"aggTrade","E":{at},"s":"{event.listing.venue_symbol}","a":{event.id},"p":"{event.price}",'
        f'"q":"{event.quantity}","f":{event.id},"l":{event.id},"T":{at},"m":{str(event.taker_sold).lower()},"M":true}}'
    )


def _depth(event: BookEvent, at: int) -> str:
    return (
        f'{{"e":"depthUpdate","E":{at},"s":"{event.listing.venue_symbol}","U":{event.first},"u":{event.last},'
        f'"b":{_levels(event.bids)},"a":{_levels(event.asks)}}}'
    )


def _levels(levels: Any) -> str:
    return "[" + ",".join(f'["{price}","{quantity}"]' for price, quantity in levels) + "]"


def _json(value: Any, status: int, headers: dict[str, str]) -> web.Response:
    return web.Response(
        text=json.dumps(value, separators=(",", ":")), status=status, headers=headers, content_type="application/json"
    )


def _history(symbol: Symbol, from_id: int | None, limit: int) -> list[dict[str, Any]]:
    truth = symbol.truth
    if not truth.ids:
        return []
    start = max(0, len(truth.ids) - limit) if from_id is None else max(0, from_id - truth.ids[0])
    return [
        {
            "id": truth.ids[i],
            "price": truth.prices[i],
            "qty": truth.quantities[i],
            "quoteQty": padded(Decimal(truth.prices[i]) * Decimal(truth.quantities[i])),
            "time": truth.times_ms[i],
            "isBuyerMaker": truth.taker_sold[i],
            "isBestMatch": True,
        }
        for i in range(start, min(start + limit, len(truth.ids)))
    ]


def _aggregates(symbol: Symbol, numbers: dict[str, int], limit: int) -> list[dict[str, Any]]:
    """Give trades as aggregates of one: from an id, or from a time on, or the newest."""
    times, ids = symbol.truth.times_ms, symbol.truth.ids
    last = bisect_right(times, numbers["endTime"]) if "endTime" in numbers else len(ids)
    if "fromId" in numbers:
        first = max(0, numbers["fromId"] - ids[0]) if ids else 0
    elif "startTime" in numbers:
        first = bisect_left(times, numbers["startTime"])
    else:
        first = max(0, last - limit)
    return [
        {
            "a": ids[i],
            "p": symbol.truth.prices[i],
            "q": symbol.truth.quantities[i],
            "f": ids[i],
            "l": ids[i],
            "T": times[i],
            "m": symbol.truth.taker_sold[i],
            "M": True,
        }
        for i in range(first, min(first + limit, last))
    ]


def _kline(candle: Candle, interval_ms: int) -> list[Any]:
    prices = (candle.open, candle.high, candle.low, candle.close, padded(candle.volume))
    bought = (padded(candle.bought), padded(candle.bought_turnover), "0")
    close_ms = candle.open_ms + interval_ms - 1
    return [candle.open_ms, *prices, close_ms, padded(candle.turnover), candle.trades, *bought]


def _ticker(symbol: Symbol) -> dict[str, Any]:
    now = int(time.time() * 1000)
    day, ((bid, bid_size), (ask, ask_size)) = last_day(symbol.truth, now), symbol.best()
    ticker = {
        "symbol": symbol.listing.venue_symbol,
        "bidPrice": bid,
        "bidQty": bid_size,
        "askPrice": ask,
        "askQty": ask_size,
        "openTime": now - DAY_MS,
        "closeTime": now,
    }
    if day is None:
        return {**ticker, "count": 0, "firstId": -1, "lastId": -1}
    return {
        **ticker,
        "priceChange": padded(Decimal(day.close) - Decimal(day.open)),
        "lastPrice": day.close,
        "lastQty": symbol.truth.quantities[-1],
        "openPrice": day.open,
        "highPrice": day.high,
        "lowPrice": day.low,
        "volume": padded(day.volume),
        "quoteVolume": padded(day.turnover),
        "firstId": day.first_id,
        "lastId": day.last_id,
        "count": day.trades,
    }


def _info(symbol: Symbol) -> dict[str, Any]:
    listing = symbol.listing
    return {
        "symbol": listing.venue_symbol,
        "status": "TRADING",
        "baseAsset": listing.base,
        "baseAssetPrecision": 8,
        "quoteAsset": listing.quote,
        "quotePrecision": 8,
        "quoteAssetPrecision": 8,
        "orderTypes": ["LIMIT", "MARKET"],
        "isSpotTradingAllowed": True,
        "isMarginTradingAllowed": False,
        "permissions": [],
        "permissionSets": [["SPOT"]],
        "filters": [
            {
                "filterType": "PRICE_FILTER",
                "minPrice": "0.00000001",
                "maxPrice": "1000000",
                "tickSize": f"{listing.tick:.8f}",
            },
            {
                "filterType": "LOT_SIZE",
                "minQty": f"{listing.lot:.8f}",
                "maxQty": "9000",
                "stepSize": f"{listing.lot:.8f}",
            },
        ],
    }
