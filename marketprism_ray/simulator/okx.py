"""The server side of OKX v5: public and business sockets, one acknowledgement an argument, book chains, history."""

from __future__ import annotations

import json
import time
from collections import defaultdict, deque
from typing import Any

from aiohttp import web

from marketprism_ray.simulator.market import BookEvent, Market, Symbol, TradeEvent, plain
from marketprism_ray.simulator.wire import Client, Wire

PATH_OF = {"trades-all": "business", "trades": "public", "books": "public"}
LIMITS = {"market/books": 40, "market/history-trades": 10, "public/instruments": 20}


class Okx:
    """One simulated market of this house: ``okx_spot`` or ``okx_derivatives``."""

    def __init__(self, name: str, market: Market, wire: Wire) -> None:
        self.name = name
        self._market = market
        self._wire = wire
        self._spent: dict[str, deque[float]] = defaultdict(deque)
        self.rate_limited = 0

    def routes(self) -> list[web.RouteDef]:
        """Give the HTTP routes."""
        return [
            web.get(f"/{self.name}/ws/v5/{{path:public|business}}", self._socket),
            web.get(f"/{self.name}/api/v5/{{endpoint:.+}}", self._rest),
        ]

    # --- sockets ---

    async def _socket(self, request: web.Request) -> web.StreamResponse:
        return await self._wire.serve(request, self.name, request.match_info["path"], self._command, idle_s=30.0)

    def _command(self, client: Client, text: str) -> None:
        if text == "ping":
            client.send("pong")
            return
        try:
            command = json.loads(text)
            op, args = command["op"], command["args"]
        except (json.JSONDecodeError, KeyError, TypeError):
            client.send('{"event":"error","code":"60012","msg":"Illegal request","connId":"a4d3ae55"}')
            return
        identity = {"id": command["id"]} if "id" in command else {}
        for arg in args:
            channel, symbol = arg.get("channel", ""), arg.get("instId", "")
            found = self._market.of_venue_symbol(self.name, symbol)
            if found is None or PATH_OF.get(channel) != client.path:
                message = f"Wrong URL or channel:{channel},instId:{symbol} doesn't exist. Please use the correct URL"
                client.send(
                    _text({**identity, "event": "error", "code": "60018", "msg": message, "connId": "a4d3ae55"})
                )
                continue
            key = _key(channel, symbol)
            client.send(_text({**identity, "event": op, "arg": arg, "connId": "a4d3ae55"}))
            if op == "unsubscribe":
                self._wire.unsubscribe(client, key)
                continue
            self._wire.subscribe(client, key)
            if channel == "books":
                client.send(self._snapshot(found))
            elif channel == "trades-all" and found.truth.subscribed_from is None:
                found.truth.subscribed_from = found.trade_id + 1

    def _snapshot(self, symbol: Symbol) -> str:
        bids, asks = symbol.book(400)
        return (
            f'{{"arg":{_key("books", symbol.listing.venue_symbol)},'
            f'"action":"snapshot","data":[{{"asks":{_levels(asks)},'
            f'"bids":{_levels(bids)},"ts":"{_now()}","checksum":0,"prevSeqId":-1,"seqId":{symbol.update_id}}}]}}'
        )

    def notice(self) -> None:
        """Announce a service upgrade on every socket."""
        for client in self._wire.clients:
            if client.venue == self.name:
                message = "The connection will soon be closed for a service upgrade. Please reconnect."
                client.send(_text({"event": "notice", "code": "64008", "msg": message, "connId": "a4d3ae55"}))

    def publish(self, event: TradeEvent | BookEvent) -> None:
        """Send an event to whoever subscribed it."""
        symbol = event.listing.venue_symbol
        if isinstance(event, TradeEvent):
            side = "sell" if event.taker_sold else "buy"
            body = (
                f'"instId":"{symbol}","tradeId":"{event.id}","px":"{event.price}","sz":"{event.quantity}",'
                f'"side":"{side}","ts":"{event.time_ms}","source":"0"'
            )
            for channel, more in (("trades-all", ""), ("trades", f',"count":"1","seqId":{event.id}')):
                self._send(channel, symbol, f'{{"arg":{_key(channel, symbol)},"data":[{{{body}{more}}}]}}')
            return
        key = _key("books", symbol)
        self._send(
            "books",
            symbol,
            f'{{"arg":{key},"action":"update","data":[{{"asks":{_levels(event.asks)},"bids":{_levels(event.bids)},'
            f'"ts":"{event.time_ms}","checksum":0,"prevSeqId":{event.previous},"seqId":{event.last}}}]}}',
        )

    def _send(self, channel: str, symbol: str, frame: str) -> None:
        self._wire.publish(self.name, _key(channel, symbol), lambda _: frame)

    def reset(self) -> None:
        """Start the books' sequences afresh, as maintenance does: the next update's seqId is below its prevSeqId."""
        for symbol in self._market.of_venue(self.name):
            previous, symbol.update_id = symbol.update_id, 1000
            event = symbol.change(_now())
            self.publish(
                BookEvent(event.listing, event.first, event.last, previous, event.bids, event.asks, event.time_ms)
            )

    # --- REST ---

    async def _rest(self, request: web.Request) -> web.Response:
        endpoint, query = request.match_info["endpoint"], request.query
        spent, now = self._spent[endpoint], time.monotonic()
        while spent and spent[0] < now - 2:
            spent.popleft()
        if len(spent) >= LIMITS.get(endpoint, 20):
            self.rate_limited += 1
            return _answer([], code="50011", message="Too Many Requests", status=429)
        spent.append(now)
        if endpoint == "public/time":
            return _answer([{"ts": str(_now())}])
        if endpoint == "public/instruments":
            kind = query.get("instType", "")
            return _answer([_info(s) for s in self._market.of_venue(self.name) if _type(s) == kind])
        symbol = self._market.of_venue_symbol(self.name, query.get("instId", ""))
        if symbol is None:
            return _answer([], code="51001", message="Instrument ID does not exist")
        if endpoint == "market/books":
            bids, asks = symbol.book(min(int(query.get("sz", 1)), 400))
            book = {"asks": [[p, q, "0", "1"] for p, q in asks], "bids": [[p, q, "0", "1"] for p, q in bids]}
            return _answer([{**book, "ts": str(_now()), "seqId": symbol.update_id}])
        if endpoint in ("market/trades", "market/history-trades"):
            return _answer(_history(symbol, query.get("after"), min(int(query.get("limit", 100)), 100)))
        return _answer([], code="50014", message=f"unknown endpoint {endpoint}", status=404)


def _now() -> int:
    return int(time.time() * 1000)


def _key(channel: str, symbol: str) -> str:
    return f'{{"channel":"{channel}","instId":"{symbol}"}}'


def _text(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def _levels(levels: Any) -> str:
    return "[" + ",".join(f'["{p}","{q}","0","{0 if q == "0" else 1}"]' for p, q in levels) + "]"


def _answer(data: Any, *, code: str = "0", message: str = "", status: int = 200) -> web.Response:
    body = _text({"code": code, "msg": message, "data": data})
    return web.Response(text=body, status=status, content_type="application/json")


def _history(symbol: Symbol, after: str | None, limit: int) -> list[dict[str, Any]]:
    """Give trades older than ``after``, newest first."""
    truth = symbol.truth
    if not truth.ids:
        return []
    end = len(truth.ids) if after is None else min(len(truth.ids), int(after) - truth.ids[0])
    return [
        {
            "instId": symbol.listing.venue_symbol,
            "tradeId": str(truth.ids[i]),
            "px": truth.prices[i],
            "sz": truth.quantities[i],
            "side": "sell" if truth.taker_sold[i] else "buy",
            "source": "0",
            "ts": str(truth.times_ms[i]),
        }
        for i in range(end - 1, max(end - limit, 0) - 1, -1)
    ]


def _type(symbol: Symbol) -> str:
    return "SPOT" if symbol.listing.contract is None else "SWAP"


def _info(symbol: Symbol) -> dict[str, Any]:
    listing = symbol.listing
    size, kind = listing.contract or ("", "")
    swap = listing.contract is not None
    return {
        "instType": _type(symbol),
        "instId": listing.venue_symbol,
        "uly": f"{listing.base}-{listing.quote}" if swap else "",
        "instFamily": f"{listing.base}-{listing.quote}" if swap else "",
        "baseCcy": "" if swap else listing.base,
        "quoteCcy": "" if swap else listing.quote,
        "settleCcy": "" if not swap else listing.base if kind == "inverse" else listing.quote,
        "ctVal": size,
        "ctMult": "1" if swap else "",
        "ctValCcy": "" if not swap else listing.quote if kind == "inverse" else listing.base,
        "ctType": kind,
        "optType": "",
        "stk": "",
        "listTime": "1573557408000",
        "expTime": "",
        "lever": "10",
        "tickSz": plain(listing.tick),
        "lotSz": plain(listing.lot),
        "minSz": plain(listing.lot),
        "state": "live",
        "ruleType": "normal",
        "instCategory": "1",
    }
