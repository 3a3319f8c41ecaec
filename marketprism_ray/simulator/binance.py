"""The server side of Binance spot: combined and raw sockets, depth and trade endpoints, request weight.

What a wrong stream gets is an acknowledgement and silence, as in life.
"""

from __future__ import annotations

import json
import time
from collections import deque
from typing import Any

from aiohttp import web

from marketprism_ray.simulator.market import BookEvent, Market, Symbol, TradeEvent
from marketprism_ray.simulator.wire import Client, Wire

VENUE = "binance_spot"
WEIGHT_PER_MINUTE = 6000


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
        found = self._market.of_venue_symbol(VENUE, symbol.upper())
        if found is not None and channel == "trade" and found.truth.subscribed_from is None:
            found.truth.subscribed_from = found.trade_id + 1

    def _command(self, client: Client, text: str) -> None:
        try:
            command = json.loads(text)
            method, identity = command["method"], command.get("id")
        except (json.JSONDecodeError, KeyError, TypeError):
            client.send('{"code":3,"msg":"Invalid JSON: expected value","id":null}')
            return
        match method:
            case "SUBSCRIBE":
                for name in command.get("params", []):
                    self._subscribe(client, name)
                client.send(json.dumps({"result": None, "id": identity}))
            case "UNSUBSCRIBE":
                for name in command.get("params", []):
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
        symbol = event.listing.venue_symbol
        if isinstance(event, TradeEvent):
            key = f"{symbol.lower()}@trade"
            body = (
                f'{{"e":"trade","E":{event.time_ms},"s":"{symbol}","t":{event.id},"p":"{event.price}","q":"{event.quantity}",'
                f'"T":{event.time_ms},"m":{str(event.taker_sold).lower()},"M":true}}'
            )
            self._send(key, body)
            return
        bids, asks = _levels(event.bids), _levels(event.asks)
        body = (
            f'{{"e":"depthUpdate","E":{event.time_ms},"s":"{symbol}","U":{event.first},"u":{event.last},'
            f'"b":{bids},"a":{asks}}}'
        )
        for key in (f"{symbol.lower()}@depth@100ms", f"{symbol.lower()}@depth"):
            self._send(key, body)

    def _send(self, key: str, body: str) -> None:
        combined = f'{{"stream":"{key}","data":{body}}}'
        self._wire.publish(VENUE, key, lambda client: combined if client.path == "stream" else body)

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
        limit = int(query.get("limit", 500))
        weights = {"exchangeInfo": 20, "historicalTrades": 25, "trades": 25, "time": 1, "ping": 1}
        depth_weight = 5 if limit <= 100 else 25 if limit <= 500 else 50 if limit <= 1000 else 250
        weight = depth_weight if endpoint == "depth" else weights.get(endpoint, 1)
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
            return _json({"timezone": "UTC", "symbols": [_info(s) for s in self._market.of_venue(VENUE)]}, 200, headers)
        symbol = self._market.of_venue_symbol(VENUE, query.get("symbol", ""))
        if symbol is None:
            return _json({"code": -1121, "msg": "Invalid symbol."}, 400, headers)
        if endpoint == "depth":
            bids, asks = symbol.book(min(limit, 5000))
            return _json({"lastUpdateId": symbol.update_id, "bids": bids, "asks": asks}, 200, headers)
        if endpoint in ("trades", "historicalTrades"):
            return _json(_history(symbol, query.get("fromId"), min(limit, 1000)), 200, headers)
        return _json({"code": -1, "msg": f"unknown endpoint {endpoint}"}, 404, headers)


def _levels(levels: Any) -> str:
    return "[" + ",".join(f'["{price}","{quantity}"]' for price, quantity in levels) + "]"


def _json(value: Any, status: int, headers: dict[str, str]) -> web.Response:
    return web.Response(
        text=json.dumps(value, separators=(",", ":")), status=status, headers=headers, content_type="application/json"
    )


def _history(symbol: Symbol, from_id: str | None, limit: int) -> list[dict[str, Any]]:
    truth = symbol.truth
    if not truth.ids:
        return []
    start = max(0, len(truth.ids) - limit) if from_id is None else max(0, int(from_id) - truth.ids[0])
    return [
        {
            "id": truth.ids[i],
            "price": truth.prices[i],
            "qty": truth.quantities[i],
            "quoteQty": "0",
            "time": truth.times_ms[i],
            "isBuyerMaker": truth.taker_sold[i],
            "isBestMatch": True,
        }
        for i in range(start, min(start + limit, len(truth.ids)))
    ]


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
